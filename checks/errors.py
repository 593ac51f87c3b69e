"""errors: has the hardware complained?"""

from __future__ import annotations

from gpugate.errors import Unavailable
from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node
from gpugate.xid import complaints

# nvmlDeviceGetFieldValues 230, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION.
_RECOVERY = {
    0: "none", 1: "reset the GPU", 2: "reboot the node", 3: "drain peer-to-peer work", 4: "drain and reset the GPU",
    5: "restart IMEX", 6: "reset the bus", 7: "reboot the system",
}  # fmt: skip


def check_xid(node: Node, policy: Policy, expect: Expect) -> None:
    """The kernel log since boot holds no Xid, SXid or bus loss that needs somebody; application faults do not count
    unless they repeat on one GPU, an unknown code does."""
    log = node.kernel_log
    found = complaints(log.lines)
    if not found and (log.truncated or not log.complete):
        raise Unavailable(f"the kernel log ({log.source}) does not reach back to boot: what it lost is unknown")
    expect("complaints in the kernel log", [c.sentence for c in found]).none(
        next=found[0].action if found else "", origin="NVIDIA's Xid catalogue"
    )


def check_ecc(node: Node, policy: Policy, expect: Expect) -> None:
    """No uncorrectable memory error since the driver was loaded, none gained under load, few corrected ones.

    Volatile counters restart when the driver is loaded.
    """
    for gpu in node.gpus:
        expect("uncorrectable errors", gpu.ecc.volatile_uncorrected, at=gpu).equals(0, next=Next.RESET_GPU)
        expect("corrected errors", gpu.ecc.volatile_corrected, at=gpu).at_most(
            policy.ecc_corrected_max, next=Next.HARDWARE
        )
    for gpu, burn in node.burnt() if node.profile == "admission" else []:
        gained = burn.ecc_uncorrected_gained
        expect("uncorrectable errors gained under load", gained, at=gpu).equals(0, next=Next.HARDWARE)


def check_row_remap(node: Node, policy: Policy, expect: Expect) -> None:
    """No row remap failed (field diagnostics, then RMA), none waits for a reset, none happened under load."""
    for gpu in node.gpus:
        expect("row remap failed", gpu.row_remap.failed, at=gpu).equals(False, next="run field diagnostics; RMA")
        expect("row remap pending", gpu.row_remap.pending, at=gpu).equals(False, next=Next.RESET_GPU)
    for gpu, burn in node.burnt() if node.profile == "admission" else []:
        expect("rows remapped under load", burn.rows_remapped_gained, at=gpu).equals(0, next=Next.RESET_GPU)


def check_recovery_action(node: Node, policy: Policy, expect: Expect) -> None:
    """The driver asks for nothing; an action that we do not know counts as asking."""
    for gpu in node.gpus:
        action = gpu.recovery_action
        expect("recovery action", action, at=gpu).equals(
            0, next=_RECOVERY.get(action, Next.SUPPORT), origin="NVML: 0 is none"
        )


def check_pcie(node: Node, policy: Policy, expect: Expect) -> None:
    """Under load, the link runs at policy's generation and width, and repeats hardly anything; idle cards shift down on
    purpose, and the card's own maximum would hide a bad slot. A healthy card has replays too: their rate is judged."""
    board = policy.reference
    generation = board.pcie_generation if policy.pcie_generation is None else policy.pcie_generation
    width = board.pcie_width if policy.pcie_width is None else policy.pcie_width
    for gpu, burn in node.burnt():
        expect("PCIe generation under load", burn.pcie_generation, at=gpu).equals(
            generation, next=Next.HARDWARE, origin=f"policy gpugate_pcie_generation, else board {policy.board}"
        )
        expect("PCIe width under load", burn.pcie_width, at=gpu).equals(
            width, next=Next.HARDWARE, origin=f"policy gpugate_pcie_width, else board {policy.board}"
        )
        expect("PCIe replays a second under load", burn.pcie_replays_gained / burn.seconds, at=gpu).at_most(
            policy.pcie_replays_per_s, next=Next.HARDWARE
        )


def check_nvlink(node: Node, policy: Policy, expect: Expect) -> None:
    """Every NVLink that policy expects was up under load: active or asleep, not down, not stuck without traffic."""
    links = policy.reference.nvlinks if policy.nvlinks is None else policy.nvlinks
    for gpu, burn in node.burnt():
        up = sum(state in (1, 2) for state in burn.nvlink_states)
        expect("NVLinks up under load", up, at=gpu).equals(
            links, next=Next.HARDWARE, origin=f"policy gpugate_nvlinks, else board {policy.board}"
        )
