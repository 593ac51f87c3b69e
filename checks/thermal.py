"""thermal: will it hold its clocks at full load?

All headroom is in degrees below software slowdown: the card's own margin where it gives one, else GPU_MAX minus
temperature. Hardware slowdown lies 2 to 8 degrees further.
"""

from __future__ import annotations

from statistics import median

from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node

_THERMAL_REASONS = {
    "hw_slowdown": "hardware slowdown (0x8)",
    "hw_thermal": "hardware thermal slowdown (0x40)",
    "power_brake": "power brake (0x80)",
    "sw_thermal": "software thermal slowdown (0x20)",
}


def check_headroom(node: Node, policy: Policy, expect: Expect) -> None:
    """The predicted steady temperature at full load stays far enough under software slowdown, for the whole of the
    prediction's 95 % interval."""
    for gpu, burn in node.burnt():
        steady = burn.below_slowdown_c
        expect("predicted headroom at full load", steady.value, at=gpu).at_least(
            policy.headroom_c, "C", next=Next.COOLING
        )
        if steady.value >= policy.headroom_c:
            expect("lower end of its 95 % interval", steady.low, at=gpu).at_least(
                policy.headroom_c, "C", next=f"{Next.COOLING}; or burn longer (gpugate_burn_max_s)"
            )


def check_memory_headroom(node: Node, policy: Policy, expect: Expect) -> None:
    """The same for HBM, against the card's own MEM_MAX threshold."""
    for gpu, burn in node.burnt():
        headroom = gpu.thermal.memory_max_c - burn.memory_c.high
        expect("predicted HBM headroom at full load", headroom, at=gpu).at_least(
            policy.memory_headroom_c, "C", next=Next.COOLING
        )


def check_no_throttle(node: Node, policy: Policy, expect: Expect) -> None:
    """Thermal slowdowns and the power brake held for under 1 % of the burn; the software power cap at the limit is
    normal and not judged."""
    for gpu, burn in node.burnt():
        for key, reason in _THERMAL_REASONS.items():
            step = Next.POWER if key == "power_brake" else Next.COOLING
            expect(f"share of the burn under {reason}", burn.event_shares[key], at=gpu).at_most(
                policy.throttle_share, next=step
            )


def check_power_reached(node: Node, policy: Policy, expect: Expect) -> None:
    """The burn drew the policy's share of the power limit, or it proved nothing about cooling."""
    for gpu, burn in node.burnt():
        expect("mean power of the plateau", burn.power_w, at=gpu).at_least(
            policy.power_share * gpu.power.enforced_limit_w, "W", next=Next.POWER,
            origin="policy gpugate_power_share of the enforced limit",
        )  # fmt: skip


def check_siblings(node: Node, policy: Policy, expect: Expect) -> None:
    """No GPU settles much hotter than its siblings on the node do at the median."""
    burnt = node.burnt()
    middle = median(burn.below_slowdown_c.value for _, burn in burnt)
    for gpu, burn in burnt:
        expect("headroom less than the siblings' median", middle - burn.below_slowdown_c.value, at=gpu).at_most(
            policy.siblings_c, "C", next=Next.COOLING
        )
