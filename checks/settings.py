"""settings: are persistence and power as provisioned?"""

from __future__ import annotations

from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_persistence(node: Node, policy: Policy, expect: Expect) -> None:
    """Persistence mode is as policy wants it; where the platform has the daemon, the daemon holds it.

    NVML cannot tell the daemon from the legacy mode, and Ubuntu's unit starts it with --no-persistence-mode.
    """
    for gpu in node.gpus:
        expect("persistence mode", gpu.modes.persistence, at=gpu).equals(policy.persistence, next=Next.REPROVISION)
    daemon = node.driver.persistence_daemon
    if policy.persistence and daemon.installed:
        expect("persistence daemon enabled", daemon.enabled).equals(True, next=Next.REPROVISION)
        expect("persistence daemon active", daemon.active).equals(True, next=Next.REPROVISION)
        expect("persistence daemon's command", daemon.command_line).holds(
            "--no-persistence-mode" not in daemon.command_line, "without --no-persistence-mode", next=Next.REPROVISION
        )


def check_power_limit(node: Node, policy: Policy, expect: Expect) -> None:
    """The limit that was requested of each card is policy's, within what the card takes, and nothing caps it lower.

    An enforced limit below the requested one is a cap from outside (BMC, rack): no playbook can lift it.
    """
    for gpu in node.gpus:
        power = gpu.power
        expect("requested limit", power.limit_w, at=gpu).within(policy.requested_power_w, 1, "W", next=Next.REPROVISION)
        expect("policy's limit", float(policy.requested_power_w), at=gpu).holds(
            power.min_limit_w <= policy.requested_power_w <= power.max_limit_w,
            f"between {power.min_limit_w:g} and {power.max_limit_w:g} W", unit="W",
            next=Next.FIX_POLICY, origin="the card's constraints",
        )  # fmt: skip
        capped = power.enforced_limit_w < power.limit_w - 1
        expect("enforced limit", power.enforced_limit_w, at=gpu).equals(
            power.enforced_limit_w if not capped else power.limit_w, "W", or_marginal=policy.outside_cap == "marginal",
            next=Next.POWER, origin="the requested limit; policy gpugate_outside_cap",
        )  # fmt: skip


def check_survive_reboot(node: Node, policy: Policy, expect: Expect) -> None:
    """What re-applies the settings at boot is installed, enabled, and carries this policy's settings."""
    unit = node.driver.boot_unit
    expect("gpugate-settings.service installed", unit.installed).equals(True, next=Next.REPROVISION)
    expect("gpugate-settings.service enabled", unit.enabled).equals(True, next=Next.REPROVISION)
    expect("digest of /etc/gpugate/settings.json", unit.settings_digest).equals(
        policy.settings_digest, next=Next.REPROVISION, origin="what this policy would write"
    )
