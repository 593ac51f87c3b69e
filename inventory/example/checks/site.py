"""site: what this site asks of its nodes beside gpugate's own checks."""

from __future__ import annotations

from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_idle_temperature(node: Node, policy: Policy, expect: Expect) -> None:
    """Before the burn-in no GPU is warmer than 55 C: else the inlet is warm, or something runs."""
    for gpu in node.gpus:
        expect("idle temperature", gpu.thermal.temperature_c, at=gpu).at_most(55, "C", next=Next.COOLING)
