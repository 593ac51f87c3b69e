"""The boards that can be simulated, with the values their real drivers report.

From `nvidia-smi -x` captures that NVIDIA publishes (k8s-test-infra) and from data sheets. Not confirmed by a capture:
subsystem ids, VBIOS versions, idle power and clocks, H200's power range, A100's and H200's reserved memory;
B200's share of `mma.sync` is a guess, Hopper's is published, the others' follow from cuBLAS's.
"""

from __future__ import annotations

from dataclasses import dataclass

TURING, AMPERE, ADA, HOPPER, BLACKWELL = 6, 7, 8, 9, 10  # nvmlDeviceArchitecture_t


@dataclass(frozen=True)
class Board:
    """What is the same on every board of a kind. W, MiB, MHz, degrees Celsius; TFLOP/s and GB/s of a data sheet."""

    name: str  # as the driver says it
    architecture: int
    compute_capability: tuple[int, int]
    device_id: int
    subsystem_id: int
    part: str
    vbios: str
    inforom: str
    power_w: tuple[float, float, float]  # default, minimum, maximum
    idle_w: float
    memory_mib: int
    reserved_mib: int
    bar1_mib: int
    memory_bus_bits: int
    context_mib: int  # what a CUDA context takes
    slowdown_c: float  # software slowdown starts: margin 0, or NVML's GPU_MAX
    hw_slowdown_c: float
    shutdown_c: float
    memory_max_c: float | None  # None: no sensor in the memory
    has_margin: bool  # the driver reports margins (Ada and later)
    settles_c: float  # at the maximum limit with a clean heat sink and AMBIENT_C
    tau_s: float
    sm_count: int
    cores_per_sm: int
    sm_mhz: tuple[int, int]  # idle, maximum
    memory_mhz: tuple[int, int]
    fp32_tflops: float
    tensor_tops: tuple[float, float, float]  # f16, bf16, s8: dense; 0 where there is none
    mma_efficiency: float  # what `mma.sync` reaches of them: Hopper's and Blackwell's need newer instructions for more
    memory_gb_s: float
    pcie_gen: int
    nvlinks: int
    nvlink_version: int
    mig: bool
    row_remap: bool
    fabric: bool
    oldest_driver: int = 535  # branch

    @property
    def thermal_resistance(self) -> float:
        """K/W of a clean heat sink."""
        return (self.settles_c - AMBIENT_C) / self.power_w[2]


AMBIENT_C = 27.0

BOARDS: dict[str, Board] = {
    "A100-SXM4-80GB": Board(
        name="NVIDIA A100-SXM4-80GB",
        architecture=AMPERE,
        compute_capability=(8, 0),
        device_id=0x20B210DE,
        subsystem_id=0x147F10DE,
        part="692-2G506-0212-002",
        vbios="92.00.45.00.05",
        inforom="G506.0212.00.02",
        power_w=(400, 100, 400),
        idle_w=58,
        memory_mib=81920,
        reserved_mib=616,
        bar1_mib=131072,
        memory_bus_bits=5120,
        context_mib=420,
        slowdown_c=85,
        hw_slowdown_c=89,
        shutdown_c=92,
        memory_max_c=95,
        has_margin=False,
        settles_c=65,
        tau_s=16,
        sm_count=108,
        cores_per_sm=64,
        sm_mhz=(210, 1410),
        memory_mhz=(1593, 1593),
        fp32_tflops=19.5,
        tensor_tops=(312, 312, 624),
        mma_efficiency=0.9,
        memory_gb_s=2039,
        pcie_gen=4,
        nvlinks=12,
        nvlink_version=3,
        mig=True,
        row_remap=True,
        fabric=False,
    ),
    "H100-SXM5-80GB": Board(
        name="NVIDIA H100 80GB HBM3",
        architecture=HOPPER,
        compute_capability=(9, 0),
        device_id=0x233010DE,
        subsystem_id=0x16C110DE,
        part="692-2G520-0200-000",
        vbios="96.00.89.00.01",
        inforom="G520.0200.00.05",
        power_w=(700, 200, 700),
        idle_w=70,
        memory_mib=81559,
        reserved_mib=480,
        bar1_mib=131072,
        memory_bus_bits=5120,
        context_mib=520,
        slowdown_c=87,
        hw_slowdown_c=89,
        shutdown_c=95,
        memory_max_c=95,
        has_margin=True,
        settles_c=67,
        tau_s=18,
        sm_count=132,
        cores_per_sm=128,
        sm_mhz=(345, 1980),
        memory_mhz=(2619, 2619),
        fp32_tflops=67,
        tensor_tops=(989, 989, 1979),
        mma_efficiency=0.63,
        memory_gb_s=3350,
        pcie_gen=5,
        nvlinks=18,
        nvlink_version=4,
        mig=True,
        row_remap=True,
        fabric=True,
    ),
    "H200-SXM-141GB": Board(
        name="NVIDIA H200",
        architecture=HOPPER,
        compute_capability=(9, 0),
        device_id=0x233510DE,
        subsystem_id=0x18BE10DE,
        part="692-2G520-0280-001",
        vbios="96.00.BC.00.02",
        inforom="G520.0280.00.05",
        power_w=(700, 200, 700),
        idle_w=75,
        memory_mib=143771,
        reserved_mib=615,
        bar1_mib=262144,
        memory_bus_bits=6144,
        context_mib=530,
        slowdown_c=87,
        hw_slowdown_c=89,
        shutdown_c=95,
        memory_max_c=95,
        has_margin=True,
        settles_c=67,
        tau_s=18,
        sm_count=132,
        cores_per_sm=128,
        sm_mhz=(345, 1980),
        memory_mhz=(3201, 3201),
        fp32_tflops=67,
        tensor_tops=(989, 989, 1979),
        mma_efficiency=0.63,
        memory_gb_s=4800,
        pcie_gen=5,
        nvlinks=18,
        nvlink_version=4,
        mig=True,
        row_remap=True,
        fabric=True,
    ),
    "B200": Board(
        name="NVIDIA B200",
        architecture=BLACKWELL,
        compute_capability=(10, 0),
        device_id=0x290110DE,
        subsystem_id=0x199910DE,
        part="692-2G525-0220-002",
        vbios="97.00.AF.00.01",
        inforom="G525.0220.00.03",
        power_w=(1000, 200, 1000),
        idle_w=140,
        memory_mib=183359,
        reserved_mib=728,
        bar1_mib=262144,
        memory_bus_bits=7680,
        context_mib=620,
        slowdown_c=88,
        hw_slowdown_c=91,
        shutdown_c=93,
        memory_max_c=95,
        has_margin=True,
        settles_c=70,
        tau_s=22,
        sm_count=148,
        cores_per_sm=128,
        sm_mhz=(120, 1965),
        memory_mhz=(3996, 3996),
        fp32_tflops=80,
        tensor_tops=(2250, 2250, 4500),
        mma_efficiency=0.5,
        memory_gb_s=8000,
        pcie_gen=5,
        nvlinks=18,
        nvlink_version=5,
        mig=True,
        row_remap=True,
        fabric=True,
        oldest_driver=570,
    ),
    "L40S": Board(
        name="NVIDIA L40S",
        architecture=ADA,
        compute_capability=(8, 9),
        device_id=0x26B910DE,
        subsystem_id=0x185110DE,
        part="900-2G133-0080-000",
        vbios="95.02.66.00.02",
        inforom="G133.0242.00.03",
        power_w=(350, 100, 350),
        idle_w=34,
        memory_mib=46068,
        reserved_mib=609,
        bar1_mib=65536,
        memory_bus_bits=384,
        context_mib=390,
        slowdown_c=88,
        hw_slowdown_c=90,
        shutdown_c=93,
        memory_max_c=None,
        has_margin=True,
        settles_c=68,
        tau_s=24,
        sm_count=142,
        cores_per_sm=128,
        sm_mhz=(210, 2520),
        memory_mhz=(405, 9001),
        fp32_tflops=91.6,
        tensor_tops=(362, 362, 733),
        mma_efficiency=0.9,
        memory_gb_s=864,
        pcie_gen=4,
        nvlinks=0,
        nvlink_version=0,
        mig=False,
        row_remap=True,
        fabric=False,
    ),
    "T4": Board(
        name="Tesla T4",
        architecture=TURING,
        compute_capability=(7, 5),
        device_id=0x1EB810DE,
        subsystem_id=0x12A210DE,
        part="900-2G183-0000-001",
        vbios="90.04.A7.00.01",
        inforom="G183.0200.00.02",
        power_w=(70, 60, 70),
        idle_w=10,
        memory_mib=15360,
        reserved_mib=448,
        bar1_mib=256,
        memory_bus_bits=256,
        context_mib=110,
        slowdown_c=85,
        hw_slowdown_c=93,
        shutdown_c=96,
        memory_max_c=None,
        has_margin=False,
        settles_c=70,
        tau_s=25,
        sm_count=40,
        cores_per_sm=64,
        sm_mhz=(300, 1590),
        memory_mhz=(405, 5001),
        fp32_tflops=8.1,
        tensor_tops=(65, 0, 130),
        mma_efficiency=0.9,
        memory_gb_s=320,
        pcie_gen=3,
        nvlinks=0,
        nvlink_version=0,
        mig=False,
        row_remap=False,
        fabric=False,
    ),
}
