"""identity: is it the machine that we think it is?"""

from __future__ import annotations

from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_gpu_count(node: Node, policy: Policy, expect: Expect) -> None:
    """NVML's count, PCI's count and policy's agree, and NVML still talks to every GPU that it counts."""
    expect("GPUs on the PCI bus", len(node.pci_gpus)).equals(policy.gpu_count, next=Next.HARDWARE)
    expect("GPUs that NVML counts", node.driver.gpu_count).equals(policy.gpu_count, next=Next.HARDWARE)
    for gpu in node.gpus:
        gap = gpu.gap("uuid")
        expect("its answer to NVML", gap.unavailable if gap else gpu.uuid, at=gpu).holds(
            gap is None, "its UUID", next=Next.HARDWARE
        )


def check_gpu_model(node: Node, policy: Policy, expect: Expect) -> None:
    """Every GPU is the policy's board: PCI device, subsystem, and memory size (NVML's total, within 1 %)."""
    board = policy.reference
    for gpu in node.gpus:
        expect("PCI device", gpu.device_id, at=gpu).equals(
            board.device_id, next=Next.FIX_INVENTORY, origin=f"board {policy.board}"
        )
        if board.subsystem_ids:
            expect("PCI subsystem", gpu.subsystem_id, at=gpu).one_of(
                board.subsystem_ids, next=Next.FIX_INVENTORY, origin=f"board {policy.board}"
            )
        expect("memory", gpu.memory.total_bytes / 2**20, at=gpu).within(
            board.memory_mib, board.memory_mib / 100, "MiB", next=Next.HARDWARE, origin=f"board {policy.board}"
        )


def check_modes(node: Node, policy: Policy, expect: Expect) -> None:
    """MIG and ECC are as policy wants them, now and after the next reset; compute mode is the policy's.

    Compute mode has no pending state and falls back to default at a reboot.
    """
    for gpu in node.gpus:
        expect("compute mode", gpu.modes.compute_mode, at=gpu).equals(policy.compute_mode, next=Next.REPROVISION)
        if policy.reference.ecc:
            expect("ECC", gpu.modes.ecc_current, at=gpu).equals(policy.ecc, next=Next.REBOOT)
            expect("ECC after the next reset", gpu.modes.ecc_pending, at=gpu).equals(policy.ecc, next=Next.REPROVISION)
        if policy.reference.mig:
            expect("MIG", gpu.modes.mig_current, at=gpu).equals(False, next=Next.RESET_GPU)
            expect("MIG after the next reset", gpu.modes.mig_pending, at=gpu).equals(False, next=Next.REPROVISION)


def check_firmware(node: Node, policy: Policy, expect: Expect) -> None:
    """One VBIOS on all boards, an allowed one where policy lists them (flash it); boards that run a GSP run the
    driver's own firmware (reinstall the driver: nothing is flashed)."""
    versions = sorted({gpu.vbios for gpu in node.gpus})
    for gpu in node.gpus:
        if policy.vbios_allowed:
            expect("VBIOS", gpu.vbios, at=gpu).one_of(
                policy.vbios_allowed, next=Next.HARDWARE, origin="policy gpugate_vbios_allowed"
            )
        else:
            expect("VBIOS versions on this node", ", ".join(versions), at=gpu).holds(
                len(versions) == 1, "one for all boards", next=Next.HARDWARE
            )
        expect("GSP firmware", gpu.gsp_firmware, at=gpu).equals(
            node.driver.nvml_version, next=Next.DRIVER, origin="the driver's own version"
        )


def check_inforom(node: Node, policy: Policy, expect: Expect) -> None:
    """The InfoROM validates (nvmlDeviceValidateInforom; NVML 14 is corrupted)."""
    for gpu in node.gpus:
        expect("InfoROM valid", gpu.inforom_valid, at=gpu).equals(
            True, next="reset the GPU or reflash its InfoROM; RMA if it recurs"
        )
