"""Boards that gpugate knows: the reference that policy starts from.

Values come from published `nvidia-smi -x` captures and data sheets; a site whose boards differ (one product name
has several power limits) adds its own under `gpugate_boards`, keyed by PCI device and subsystem id.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import ConfigDict


@dataclass(frozen=True, kw_only=True)
class Board:
    """One kind of GPU board, as its maker describes it.

    `device_id` is PCI vendor:device in hex; `subsystem_ids` the allowed subsystems (empty: any). `memory_mib` is
    NVML's total. `memory_temperature`: whether the card reports its HBM's. `mig`, `ecc`: whether it has the mode.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    device_id: str
    name: str
    memory_mib: int
    compute_capability: str
    power_limit_w: float
    pcie_generation: int
    pcie_width: int
    nvlinks: int
    memory_temperature: bool
    mig: bool
    ecc: bool = True
    subsystem_ids: list[str] = field(default_factory=list)


BOARDS = {
    "A100-SXM4-80GB": Board(
        device_id="10de:20b2", name="NVIDIA A100-SXM4-80GB", memory_mib=81920, compute_capability="8.0",
        power_limit_w=400, pcie_generation=4, pcie_width=16, nvlinks=12, memory_temperature=True, mig=True,
    ),
    "H100-SXM5-80GB": Board(
        device_id="10de:2330", name="NVIDIA H100 80GB HBM3", memory_mib=81559, compute_capability="9.0",
        power_limit_w=700, pcie_generation=5, pcie_width=16, nvlinks=18, memory_temperature=True, mig=True,
    ),
    "H200-SXM-141GB": Board(
        device_id="10de:2335", name="NVIDIA H200", memory_mib=143771, compute_capability="9.0",
        power_limit_w=700, pcie_generation=5, pcie_width=16, nvlinks=18, memory_temperature=True, mig=True,
    ),
    "B200": Board(
        device_id="10de:2901", name="NVIDIA B200", memory_mib=183359, compute_capability="10.0",
        power_limit_w=1000, pcie_generation=5, pcie_width=16, nvlinks=18, memory_temperature=True, mig=True,
    ),
    "L40S": Board(
        device_id="10de:26b9", name="NVIDIA L40S", memory_mib=46068, compute_capability="8.9",
        power_limit_w=350, pcie_generation=4, pcie_width=16, nvlinks=0, memory_temperature=False, mig=False,
    ),
    "T4": Board(
        device_id="10de:1eb8", name="Tesla T4", memory_mib=15360, compute_capability="7.5",
        power_limit_w=70, pcie_generation=3, pcie_width=16, nvlinks=0, memory_temperature=False, mig=False,
    ),
}  # fmt: skip
