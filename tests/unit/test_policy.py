"""Policy: every mistake has a sentence that names host and variable, and nothing is assumed."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from gpugate.errors import PolicyError
from gpugate.policy import CATALOGUE, policy_from_variables
from gpugate.policy.resolve import FIELDS, _policy
from healthy import VARIABLES, policy

DOCS = Path(__file__).parents[2] / "docs"
WAIVER = {"check": "thermal.*", "host": "gpu[0-3]", "who": "ann", "why": "fan ordered", "ticket": "OPS-1",
          "expires": "2026-12-24"}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"gpugate_bord": "x"}, "gpugate_bord is no policy variable; did you mean gpugate_board"),
        ({"gpugate_board": "H100-SXM5-80Gb"}, "did you mean H100-SXM5-80GB"),
        ({"gpugate_gpu_count": "8"}, "gpugate_gpu_count"),
        ({"gpugate_gpu_count": True}, "gpugate_gpu_count"),
        ({"gpugate_power_limit_w": "600"}, "'600' is a text: with -e write JSON"),
        ({"gpugate_gpu_count": 0}, "not between 1 and 64"),
        ({"gpugate_driver_allowed": "550"}, "gpugate_driver_allowed"),
        ({"gpugate_driver_allowed": ""}, "is empty"),
        ({"gpugate_cuda_versions": []}, "is empty"),
        ({"gpugate_cuda_versions": ["twelve"]}, "'twelve' is no version"),
        ({"gpugate_headroom_c": float("nan")}, "gpugate_headroom_c"),
        ({"gpugate_headroom_c": -5}, "not above 0"),
        ({"gpugate_burn_max_s": 1}, "below gpugate_burn_min_s"),
        ({"gpugate_power_limit_w": 0}, "not above 0"),
        ({"gpugate_checks": {"thermal.hedroom": "admit"}}, "did you mean thermal.headroom"),
        ({"gpugate_checks": {"thermal.headroom": "ignore"}}, "gpugate_checks"),
        ({"gpugate_checks": dict.fromkeys(CATALOGUE, "absent")}, "leaves no check"),
        ({"gpugate_workloads": [{"name": "x", "pattern": "("}]}, "pattern"),
        ({"gpugate_workloads": [{"name": "x", "pattern": "vllm|"}]}, "fits every process"),
        ({"gpugate_memory_headroom_c": -5}, "not above 0"),
        ({"gpugate_throttle_share": 5}, "not between 0 and 1"),
        ({"gpugate_memory_failed_percent": 950}, "not between 0 and 100"),
        ({"gpugate_checks": {"my-site.rack": "admit"}}, "cannot be the name of a check"),
        ({"gpugate_checks": {"site.rack[gpu0]": "admit"}}, "cannot be the name of a check"),
        ({"gpugate_waivers": [WAIVER | {"who": " "}]}, "who is empty"),
        ({"gpugate_waivers": [WAIVER | {"expires": "soon"}]}, "gpugate_waivers"),
        ({"gpugate_waivers": [{k: v for k, v in WAIVER.items() if k != "ticket"}]}, "ticket"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], complaint: str) -> None:
    """A wrong variable is an error that names the host, the variable and what is allowed."""
    with pytest.raises(PolicyError, match=f"^gpu7: .*{complaint}"):
        policy_from_variables("gpu7", VARIABLES | change)


@pytest.mark.parametrize("name", ["board", "gpu_count", "driver_allowed", "cuda_versions"])
def test_required_variables_have_no_default(name: str) -> None:
    """What nobody said about a node is an error, not a pass."""
    with pytest.raises(PolicyError, match=f"gpugate_{name}"):
        policy_from_variables("gpu7", {k: v for k, v in VARIABLES.items() if k != f"gpugate_{name}"})


def test_new_site_starts_at_observe() -> None:
    """Where policy says nothing, no check keeps a node out or throws one out."""
    variables = {k: v for k, v in VARIABLES.items() if k != "gpugate_level"}
    bare = policy_from_variables("gpu0", variables)
    assert {bare.level_of(check) for check in bare.expected("admission")} == {"observe"}


def test_policy_of_equal_variables_is_made_once() -> None:
    """Hosts with the same variables share a policy, which is the one that would be made anew; others do not."""
    first, second = (policy_from_variables(host, dict(VARIABLES)) for host in ("gpu0", "gpu1"))
    _policy.cache_clear()
    anew, other = policy_from_variables("gpu0", VARIABLES), policy(headroom_c=7)
    assert first is second
    assert anew is not first
    assert (anew, anew.digest, anew.settings_digest) == (first, first.digest, first.settings_digest)
    assert (other, other.digest) != (first, first.digest)
    for host in ("gpu0", "gpu1"):
        with pytest.raises(PolicyError, match=f"^{host}: gpugate_headroom_c: -5"):
            policy_from_variables(host, VARIABLES | {"gpugate_headroom_c": -5})


def test_expected_matrix_is_policys() -> None:
    """Absent checks, site checks and the board decide what a node owes; profiles shorten it."""
    assert "settings.survive_reboot" not in policy(checks={"settings.survive_reboot": "absent"}).expected("admission")
    assert "site.rack" in policy(checks={"site.rack": "observe"}).expected("quick")
    assert "thermal.memory_headroom" not in policy(board="L40S").expected("admission")
    assert "errors.nvlink" not in policy(board="T4").expected("admission")
    assert "thermal.headroom" not in policy().expected("nightly")
    assert set(policy().expected("quick")) < set(policy().expected("nightly")) < set(policy().expected("admission"))


def test_only_admission_burns() -> None:
    """A busy node's profiles never ask for a burn."""
    assert policy().request("n", "admission").burn is not None
    assert policy().request("n", "nightly").burn is None
    assert not policy().request("n", "quick").launch


def test_waiver_covers_its_cells_until_its_day() -> None:
    """A waiver holds for the checks and hosts of its patterns, through its last day."""
    owner = policy(waivers=[WAIVER])
    assert owner.waiver_for("gpu2", "thermal.headroom", date(2026, 12, 24)) is not None
    assert owner.waiver_for("gpu2", "thermal.headroom", date(2026, 12, 25)) is None
    assert owner.waiver_for("gpu7", "thermal.headroom", date(2026, 12, 1)) is None
    assert owner.waiver_for("gpu2", "errors.ecc", date(2026, 12, 1)) is None


def test_digest_changes_with_what_it_covers() -> None:
    """Any change of what policy resolves to changes the digest, the same policy keeps it."""
    assert policy().digest == policy().digest
    assert policy().digest != policy(headroom_c=6.0).digest
    assert policy().settings_digest == policy(headroom_c=6.0).settings_digest
    assert policy().settings_digest != policy(power_limit_w=600.0).settings_digest


def test_every_variable_is_documented() -> None:
    """docs/policy.md has an entry for every policy variable."""
    text = (DOCS / "policy.md").read_text()
    assert [name for name in sorted(FIELDS) if f"`gpugate_{name}`" not in text] == []


def test_every_check_is_documented() -> None:
    """docs/checks.md has an entry for every shipped check."""
    text = (DOCS / "checks.md").read_text()
    assert [check for check in CATALOGUE if f"`{check}`" not in text] == []


@pytest.mark.parametrize("name", ["burn_max_s", "burn_deadline_s", "probe_deadline_s"])
def test_longer_than_a_day_is_refused(name: str) -> None:
    """No probe burns or waits for longer than a day, whoever asks: policy says so before a node does."""
    with pytest.raises(PolicyError, match=rf"gpugate_{name}: 90000\.0 is above 86400 s"):
        policy(**{name: 90000.0})


def test_cap_that_no_burn_fits_under_is_refused() -> None:
    """A power domain's cap of nothing would keep every node waiting for ever."""
    with pytest.raises(PolicyError, match=r"gpugate_power_domains: rack7: kw: 0\.0 is not above 0"):
        policy(power_domains={"rack7": {"nodes": 2, "kw": 0}})
    with pytest.raises(PolicyError, match=r"gpugate_power_domains\.rack7\.racks"):
        policy(power_domains={"rack7": {"racks": 2}})
