"""site: what this site asks of its nodes beside gpugate's own checks."""

from __future__ import annotations

from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_pcie_replays(node: Node, policy: Policy, expect: Expect) -> None:
    """Few PCIe packets had to be sent again: the risers of our second rack row work loose."""
    for gpu in node.gpus:
        expect("PCIe replays", gpu.pcie.replays, at=gpu).at_most(1000, next=Next.HARDWARE)
