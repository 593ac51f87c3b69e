"""Every shipped check: green on a healthy node, red for what it is there for, an error for what it cannot know."""

from __future__ import annotations

import importlib.util
import inspect
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from gpugate.errors import NotGathered
from gpugate.evidence import types as t
from gpugate.evidence.codec import parse, serialise
from gpugate.evidence.facts import Gap
from gpugate.policy import CATALOGUE
from gpugate.verdict import Gathered, Outcome, Verdict, judge
from healthy import GIB, NONCE, NOW, healthy, policy, with_fact

CHECKS = Path(__file__).parents[2] / "checks"
TODAY = date(2026, 9, 21)
LOST = Gap("nvmlDeviceGetX: GPU is lost", 15)


def _load() -> dict[str, Callable[..., None]]:
    found: dict[str, Callable[..., None]] = {}
    for path in sorted(CHECKS.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"shipped_checks_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in vars(module).items():
            if name.startswith("check_") and inspect.isfunction(function):
                found[f"{path.stem}.{name.removeprefix('check_')}"] = function
    return found


SHIPPED = _load()


def verdict(check: str, evidence: t.Evidence, **changes: Any) -> Verdict:
    gathered = Gathered("gpu0", evidence, None, NONCE, NOW - 1, NOW + 60)
    return judge(check, SHIPPED[check], gathered, policy(**changes), TODAY)


def stranger(command: str = "python train.py", memory: Any = GIB) -> t.Process:
    return t.Process(4242, "compute", memory, "mallory", command, "session-7.scope")


# check, what is spoilt, with what, on which GPU the finding has to be (None: the node), policy
FAULTS: list[tuple[str, str, Any, int | None, dict[str, Any]]] = [
    ("compute.known_answer", "burn.gpus.3.mismatches", 1, 3, {}),
    ("compute.known_answer", "burn.gpus.2.threads_completed", 9_999_999, 2, {}),
    ("compute.siblings", "burn.gpus.4.rates.f16", 530.0, 4, {}),
    ("compute.throughput", "burn.gpus.4.rates.fma", 44.0, 4, {}),
    ("driver.kernel_launch", "launches.5.correct", False, 5, {}),
    ("driver.kernel_launch", "launches", [], 0, {}),
    ("driver.loaded_matches_installed", "driver.installed_module_version", "580.99.01", None, {}),
    ("driver.loaded_matches_libraries", "driver.libcuda.version", "580.99.01", None, {}),
    ("driver.loaded_matches_libraries", "driver.nvml_library.version", "580.99.01", None, {}),
    ("driver.loaded_matches_libraries", "driver.nvml_version", "580.99.01", None, {}),
    ("driver.nouveau_absent", "driver.nouveau_loaded", True, None, {}),
    ("driver.runs_cuda", "driver.cuda_version", 12020, None, {"cuda_versions": ["13.0"]}),
    ("driver.supports_gpu", "gpus.1.compute_capability", "8.0", 1, {}),
    ("driver.version_allowed", "driver.module_version", "535.54.03", None, {}),
    ("driver.version_allowed", "schema", 1, None, {"driver_denied": ["580.95.05"]}),
    ("errors.ecc", "gpus.4.ecc.volatile_uncorrected", 1, 4, {}),
    ("errors.ecc", "gpus.4.ecc.volatile_corrected", 5000, 4, {}),
    ("errors.ecc", "burn.gpus.6.ecc_uncorrected_gained", 2, 6, {}),
    ("errors.nvlink", "burn.gpus.0.nvlink_states", [1] * 17 + [0], 0, {}),
    ("errors.nvlink", "burn.gpus.0.nvlink_states", [1] * 17 + [3], 0, {}),
    ("errors.pcie", "burn.gpus.0.pcie_generation", 3, 0, {}),
    ("errors.pcie", "burn.gpus.0.pcie_width", 8, 0, {}),
    ("errors.pcie", "burn.gpus.3.pcie_replays_gained", 200, 3, {}),
    ("errors.recovery_action", "gpus.0.recovery_action", 1, 0, {}),
    ("errors.recovery_action", "gpus.0.recovery_action", 99, 0, {}),
    ("errors.row_remap", "gpus.0.row_remap.pending", True, 0, {}),
    ("errors.row_remap", "gpus.0.row_remap.failed", True, 0, {}),
    ("errors.row_remap", "burn.gpus.2.rows_remapped_gained", 1, 2, {}),
    ("errors.xid", "kernel_log.lines", ["NVRM: Xid (PCI:0000:10:00): 79, GPU has fallen off the bus."], None, {}),
    ("evidence.fresh", "nonce", "another run's", None, {}),
    ("evidence.whole", "host.privileged", False, None, {}),
    ("evidence.whole", "probe.version", "0.0.1", None, {}),
    ("evidence.whole", "schema", 1, None, {"probe_builds": ["ef" * 32]}),
    ("host.clock", "host.clock_unix_s", NOW + 3600, None, {}),
    ("host.clock", "host.clock_unix_s", NOW - 3600, None, {}),
    ("identity.firmware", "gpus.7.gsp_firmware", "580.65.06", 7, {}),
    ("identity.firmware", "gpus.7.vbios", "96.00.00.00.01", 0, {}),
    ("identity.firmware", "schema", 1, 0, {"vbios_allowed": ["96.00.00.00.01"]}),
    ("identity.gpu_count", "driver.gpu_count", 7, None, {}),
    ("identity.gpu_count", "pci_gpus", [], None, {}),
    ("identity.gpu_model", "gpus.0.device_id", "10de:2331", 0, {}),
    ("identity.gpu_model", "gpus.0.memory.total_bytes", 40 * GIB, 0, {}),
    ("identity.inforom", "gpus.0.inforom_valid", False, 0, {}),
    ("identity.modes", "gpus.0.modes.mig_current", True, 0, {}),
    ("identity.modes", "gpus.0.modes.mig_pending", True, 0, {}),
    ("identity.modes", "gpus.0.modes.ecc_current", False, 0, {}),
    ("identity.modes", "gpus.0.modes.ecc_pending", False, 0, {}),
    ("identity.modes", "gpus.0.modes.compute_mode", "prohibited", 0, {}),
    ("memory.allocatable", "allocations.6.correct", False, 6, {}),
    ("memory.allocatable", "allocations.6.asked_bytes", GIB, 6, {}),
    ("memory.host", "host.memory_total_bytes", 512 * GIB, None, {}),
    ("memory.host", "host.shm_bytes", 64 * 2**20, None, {}),
    ("memory.margin", "gpus.0.memory.used_bytes", 79 * GIB, 0, {}),
    ("memory.margin", "gpus.0.memory.free_bytes", 1 * GIB, 0, {"memory_margin_mib": 2048}),
    ("memory.pattern", "burn.gpus.1.memory_test.mismatches", 1, 1, {}),
    ("memory.pattern", "burn.gpus.1.memory_test.tested_bytes", 40 * GIB, 1, {}),
    ("memory.pattern", "burn.gpus.1.memory_test.patterns", ["random"], 1, {}),
    ("memory.pattern", "burn.gpus.1.ecc_corrected_gained", 11, 1, {}),
    ("memory.pattern", "burn.gpus.1.ecc_uncorrected_gained", 1, 1, {}),
    ("memory.returns", "burn.gpus.0.used_after_bytes", GIB, 0, {}),
    ("placement.expected_workloads", "schema", 1, 0, {"workloads": [{"name": "vllm", "pattern": "vllm serve"}]}),
    ("placement.no_cpu_fallback", "workloads", [t.Workload("vllm", [t.HostProcess(7, "vllm serve", "svc")])], 0,
     {"workloads": [{"name": "vllm", "pattern": "vllm serve"}]}),
    ("placement.no_orphans", "gpus.0.memory.used_bytes", 8 * GIB, 0, {}),
    ("placement.no_strangers", "gpus.0.processes", [stranger()], 0, {}),
    ("settings.persistence", "gpus.0.modes.persistence", False, 0, {}),
    ("settings.persistence", "driver.persistence_daemon.active", False, None, {}),
    ("settings.persistence", "driver.persistence_daemon.enabled", False, None, {}),
    ("settings.persistence", "driver.persistence_daemon.command_line", "daemon --no-persistence-mode", None, {}),
    ("settings.power_limit", "gpus.0.power.limit_w", 700.0, 0, {}),
    ("settings.power_limit", "gpus.0.power.max_limit_w", 600.0, 0, {}),
    ("settings.power_limit", "gpus.0.power.enforced_limit_w", 500.0, 0, {"outside_cap": "fail"}),
    ("settings.survive_reboot", "driver.boot_unit.installed", False, None, {}),
    ("settings.survive_reboot", "driver.boot_unit.enabled", False, None, {}),
    ("settings.survive_reboot", "driver.boot_unit.settings_digest", "00" * 32, None, {}),
    ("thermal.headroom", "burn.gpus.5.below_slowdown_c", t.SteadyState(1.0, 0.5, 1.5, 15.0, 0.3), 5, {}),
    ("thermal.headroom", "burn.gpus.5.below_slowdown_c", t.SteadyState(6.0, 4.0, 8.0, 15.0, 0.3), 5, {}),
    ("thermal.memory_headroom", "burn.gpus.5.memory_c", t.SteadyState(94.0, 93.0, 95.0, 15.0, 0.3), 5, {}),
    ("thermal.no_throttle", "burn.gpus.5.event_shares.power_brake", 0.5, 5, {}),
    ("thermal.no_throttle", "burn.gpus.5.event_shares.sw_thermal", 0.02, 5, {}),
    ("thermal.no_throttle", "burn.gpus.5.event_shares.hw_thermal", 0.02, 5, {}),
    ("thermal.no_throttle", "burn.gpus.5.event_shares.hw_slowdown", 0.02, 5, {}),
    ("thermal.power_reached", "burn.gpus.5.power_w", 300.0, 5, {}),
    ("thermal.siblings", "burn.gpus.5.below_slowdown_c", t.SteadyState(9.0, 8.5, 9.5, 15.0, 0.3), 5, {}),
]  # fmt: skip

# check, the fact that cannot be read
GAPS = [
    ("compute.known_answer", "burn"),
    ("compute.siblings", "burn.gpus.5.rates"),
    ("compute.throughput", "burn.gpus.5.rates"),
    ("driver.kernel_launch", "launches"),
    ("driver.kernel_launch", "launches.0.correct"),
    ("driver.loaded_matches_installed", "driver.installed_module_version"),
    ("driver.loaded_matches_libraries", "driver.nvml_library"),
    ("driver.nouveau_absent", "driver.nouveau_loaded"),
    ("driver.runs_cuda", "driver.cuda_version"),
    ("driver.supports_gpu", "gpus"),
    ("driver.version_allowed", "driver.module_version"),
    ("errors.ecc", "gpus.7.ecc.volatile_uncorrected"),
    ("errors.ecc", "burn"),
    ("errors.nvlink", "burn.gpus.1.nvlink_states"),
    ("errors.pcie", "burn.gpus.1.pcie_width"),
    ("errors.recovery_action", "gpus.7.recovery_action"),
    ("errors.row_remap", "gpus.7.row_remap.failed"),
    ("errors.xid", "kernel_log"),
    ("errors.xid", "kernel_log.complete"),
    ("evidence.whole", "probe.digest"),
    ("identity.firmware", "gpus.7.gsp_firmware"),
    ("identity.gpu_count", "pci_gpus"),
    ("identity.gpu_model", "gpus.7.device_id"),
    ("identity.inforom", "gpus.7.inforom_valid"),
    ("identity.modes", "gpus.7.modes.mig_pending"),
    ("memory.allocatable", "allocations"),
    ("memory.allocatable", "allocations.3.correct"),
    ("memory.host", "host.shm_bytes"),
    ("memory.margin", "gpus.7.memory.used_bytes"),
    ("memory.pattern", "burn.gpus.7.memory_test"),
    ("memory.returns", "burn.gpus.7.used_after_bytes"),
    ("placement.expected_workloads", "gpus.7.processes"),
    ("placement.no_cpu_fallback", "workloads"),
    ("placement.no_orphans", "host.initial_pid_namespace"),
    ("placement.no_strangers", "gpus.7.processes"),
    ("settings.persistence", "driver.persistence_daemon.installed"),
    ("settings.power_limit", "gpus.7.power.enforced_limit_w"),
    ("settings.survive_reboot", "driver.boot_unit.installed"),
    ("thermal.headroom", "burn.gpus.7.below_slowdown_c"),
    ("thermal.memory_headroom", "gpus.7.thermal.memory_max_c"),
    ("thermal.no_throttle", "burn.gpus.7.event_shares"),
    ("thermal.power_reached", "burn.gpus.7.power_w"),
    ("thermal.siblings", "burn.gpus.7.below_slowdown_c"),
]
ALWAYS_KNOWN = {"evidence.fresh", "host.clock"}  # what they read, the document cannot leave out


def test_catalogue_lists_exactly_the_checks_on_disk() -> None:
    """A check without an entry would never be missed, an entry without a check never be green."""
    assert set(SHIPPED) == set(CATALOGUE)


def test_every_check_documents_itself() -> None:
    """Every check says in its docstring what it measures."""
    assert [check for check, function in SHIPPED.items() if not function.__doc__] == []


@pytest.mark.parametrize("check", CATALOGUE)
def test_healthy_node_passes(check: str) -> None:
    """A healthy node passes every check, from a document that went through the codec."""
    judged = verdict(check, parse(serialise(healthy())))
    assert judged.outcome is Outcome.PASS, judged.detail
    assert not judged.marginal


@pytest.mark.parametrize(("check", "path", "value", "gpu", "changes"), FAULTS)
def test_fault_fails_its_check(check: str, path: str, value: Any, gpu: int | None, changes: dict[str, Any]) -> None:
    """What a check is there for makes it fail, on the right GPU, with a next step."""
    judged = verdict(check, parse(serialise(with_fact(healthy(), path, value))), **changes)
    assert judged.outcome is Outcome.FAIL, judged.detail
    assert (judged.bad[0].gpu.index if judged.bad[0].gpu else None) == gpu
    assert judged.bad[0].next


@pytest.mark.parametrize(("check", "path"), GAPS)
def test_gap_is_an_error(check: str, path: str) -> None:
    """A fact that the node could not give makes the check an ERROR with the node's own reason."""
    changes = {"probe_builds": ["ab" * 32]} if check == "evidence.whole" else {}
    judged = verdict(check, with_fact(healthy(), path, LOST), **changes)
    assert judged.outcome is Outcome.ERROR, judged.detail
    assert "lost" in judged.reason or "initial_pid" in judged.reason


def test_every_check_is_turned_red_and_unknown_above() -> None:
    """No check ships that no fault can turn red, or that has never been denied a fact."""
    assert set(CATALOGUE) == {fault[0] for fault in FAULTS}
    assert set(CATALOGUE) == {gap[0] for gap in GAPS} | ALWAYS_KNOWN


@pytest.mark.parametrize("check", CATALOGUE)
def test_node_that_lists_no_gpu_is_never_green_on_gpus(check: str) -> None:
    """A node whose NVML lists nothing passes no check that looks at GPUs."""
    evidence = with_fact(with_fact(with_fact(healthy(), "gpus", []), "launches", []), "burn.gpus", [])
    assert (verdict(check, evidence).outcome is Outcome.PASS) == (check not in _looks_at_gpus())


@pytest.mark.parametrize("check", sorted(CATALOGUE))
def test_one_gpu_less_is_never_green_on_gpus(check: str) -> None:
    """Seven good GPUs where policy expects eight pass no check that looks at GPUs."""
    evidence = with_fact(healthy(), "gpus", healthy().gpus[:7])
    assert (verdict(check, evidence).outcome is Outcome.PASS) == (check not in _looks_at_gpus())


def _looks_at_gpus() -> set[str]:
    return {
        name
        for name, function in SHIPPED.items()
        if any(n in inspect.getsource(function) for n in ("node.gpus", "burnt()"))
    }


@pytest.mark.parametrize("check", CATALOGUE)
def test_unreachable_host_is_missing(check: str) -> None:
    """A host that never reported is MISSING in every check."""
    gathered = Gathered("gpu0", None, NotGathered("gpu0 cannot be reached: connection refused"))
    judged = judge(check, SHIPPED[check], gathered, policy(), TODAY)
    assert judged.outcome is Outcome.MISSING
    assert "connection refused" in judged.headline


def test_lost_gpu_is_named_by_count() -> None:
    """A GPU that NVML still counts but cannot talk to fails the count, with the driver's reason."""
    judged = verdict("identity.gpu_count", with_fact(healthy(), "gpus.3.uuid", LOST))
    assert judged.outcome is Outcome.FAIL
    assert judged.headline.startswith("GPU 3 (uuid unknown, ")
    assert "nvmlDeviceGetX: GPU is lost" in judged.headline


def test_idle_downshift_is_healthy() -> None:
    """PCIe at generation 1 on an idle card is fine; only the link under load is judged."""
    assert verdict("errors.pcie", with_fact(healthy(), "gpus.*.pcie.generation", 1)).outcome is Outcome.PASS


def test_cap_from_outside_is_marginal_unless_policy_forbids_it() -> None:
    """An enforced limit under the requested one is green but marginal by default."""
    judged = verdict("settings.power_limit", with_fact(healthy(), "gpus.0.power.enforced_limit_w", 500.0))
    assert judged.outcome is Outcome.PASS
    assert judged.marginal


def test_expected_workload_in_its_place_is_green() -> None:
    """A workload of policy on exactly its GPUs is neither a stranger nor misplaced."""
    workload = [{"name": "vllm", "pattern": "vllm serve", "gpus": [2]}]
    evidence = with_fact(healthy(), "gpus.2.processes", [stranger("vllm serve llama")])
    for check in ("placement.expected_workloads", "placement.no_strangers"):
        assert verdict(check, evidence, workloads=workload).outcome is Outcome.PASS
    elsewhere = with_fact(evidence, "gpus.3.processes", [stranger("vllm serve llama")])
    judged = verdict("placement.expected_workloads", elsewhere, workloads=workload)
    assert judged.bad[0].gpu is not None
    assert judged.bad[0].gpu.index == 3


def test_minor_version_compatibility_says_which() -> None:
    """A 550 driver runs CUDA 12.8 by minor-version compatibility, but never 13.0."""
    evidence = with_fact(with_fact(healthy(), "driver.cuda_version", 12040), "driver.module_version", "550.163.01")
    assert verdict("driver.runs_cuda", evidence, cuda_versions=["12.8"]).outcome is Outcome.PASS
    assert verdict("driver.runs_cuda", evidence, cuda_versions=["12.8", "13.0"]).outcome is Outcome.FAIL


def test_what_a_short_kernel_log_does_hold_counts() -> None:
    """An Xid in a log that lost lines was measured: it fails, and is not hidden behind what was lost."""
    lines = ["NVRM: Xid (PCI:0000:12:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."]
    evidence = with_fact(with_fact(healthy(), "kernel_log.lines", lines), "kernel_log.complete", False)
    assert verdict("errors.xid", evidence).outcome is Outcome.FAIL


def test_burn_that_ended_early_proves_no_right_answers() -> None:
    """A burn shorter than policy's least proves nothing, but a wrong answer in it counts; siblings are not blamed."""
    short = with_fact(healthy(), "burn.gpus.2.seconds", 4.0)
    judged = verdict("compute.known_answer", short)
    assert judged.outcome is Outcome.ERROR
    assert "burnt for 4 of 30 s" in judged.reason
    assert verdict("compute.known_answer", with_fact(short, "burn.gpus.2.mismatches", 1)).outcome is Outcome.FAIL


def test_refused_burn_hides_no_counted_error() -> None:
    """Without a burn, what the counters say still fails; without errors it is an error that none was gained."""
    refused = with_fact(healthy(), "burn", Gap("the burn did not start: GPU 1 is in use"))
    assert verdict("errors.ecc", refused).outcome is Outcome.ERROR
    assert verdict("errors.ecc", with_fact(refused, "gpus.3.ecc.volatile_uncorrected", 1)).outcome is Outcome.FAIL


def test_truncated_kernel_log_is_an_error() -> None:
    """A kernel log that lost lines proves no absence of Xids."""
    assert verdict("errors.xid", with_fact(healthy(), "kernel_log.truncated", True)).outcome is Outcome.ERROR
    assert verdict("errors.xid", with_fact(healthy(), "kernel_log.complete", False)).outcome is Outcome.ERROR


def test_unknown_toolkit_is_an_error() -> None:
    """A CUDA generation whose needs nobody knows is not taken to need nothing."""
    judged = verdict("driver.supports_gpu", healthy(), cuda_versions=["14.0"])
    assert judged.outcome is Outcome.ERROR
    assert "CUDA 14" in judged.reason


def test_workload_that_nobody_looked_for_is_no_pass() -> None:
    """Evidence that was gathered without looking for a workload's processes cannot show that none runs on the CPU."""
    workload = [{"name": "vllm", "pattern": "vllm serve"}]
    judged = verdict("placement.no_cpu_fallback", healthy(), workloads=workload)
    assert judged.outcome is Outcome.ERROR
    assert "not asked to look for the processes of vllm" in judged.headline


@pytest.mark.parametrize(
    ("age_s", "outcome"),
    [(60, Outcome.PASS), (-2, Outcome.PASS), (-60, Outcome.FAIL), (90_000, Outcome.FAIL)],
)
def test_age_of_evidence_that_was_gathered_by_other_means(age_s: float, outcome: Outcome) -> None:
    """Such evidence is judged by its age; clocks may differ by as much as policy allows."""
    evidence = with_fact(healthy(), "started_unix_s", time.time() - age_s)
    judged = judge("evidence.fresh", SHIPPED["evidence.fresh"], Gathered("gpu0", evidence), policy(), TODAY)
    assert judged.outcome is outcome, judged.headline


def test_siblings_of_which_none_was_measured() -> None:
    """Where no GPU's headroom is known there is no median, and the reason is the gap, not the arithmetic."""
    judged = verdict("thermal.siblings", with_fact(healthy(), "burn.gpus.*.below_slowdown_c", LOST))
    assert judged.outcome is Outcome.ERROR
    assert "broke" not in judged.reason
    assert judged.reason.startswith("GPU 0 (")


def test_wrong_word_is_told_with_its_place_and_its_bits() -> None:
    """A wrong answer names work, multiprocessor, block, thread, launch, round and word, and the bits that differ."""
    wrong = t.Mismatch("f16", 17, 17, 96, 240, 3, 41, 0x48200000, 0x48200400)
    evidence = with_fact(with_fact(healthy(), "burn.gpus.3.mismatches", 2), "burn.gpus.3.wrong", [wrong])
    judged = verdict("compute.known_answer", parse(serialise(evidence)))
    place = "first in f16, SM 17, block 17, thread 96, launch 240, round 3, word 41"
    assert place in judged.headline
    assert "expected 0x48200000, found 0x48200400, xor 0x00000400" in judged.headline
    assert judged.headline.startswith("GPU 3 (")


def test_throughput_without_a_reference_is_an_error() -> None:
    """A policy that knows no good rate cannot find a rate good."""
    judged = verdict("compute.throughput", healthy(), rates={})
    assert judged.outcome is Outcome.ERROR
    assert "gpugate_rates" in judged.reason


def test_work_that_policy_refers_to_has_to_be_measured() -> None:
    """A reference for a work that the burn has no rate of is an error on that GPU, not one reference less."""
    rates = {"fma": 51.0, "stream": 2900.0}
    judged = verdict("compute.throughput", with_fact(healthy(), "burn.gpus.2.rates", rates))
    assert judged.outcome is Outcome.ERROR
    assert "GPU 2" in judged.reason
    assert "no rate of f16" in judged.reason


def test_single_gpu_owes_no_comparison_with_siblings() -> None:
    """Policy for one GPU expects no check that could only compare it with itself; for two it does."""
    assert {"compute.siblings", "thermal.siblings"} & set(policy(gpu_count=1).expected("admission")) == set()
    assert {"compute.siblings", "thermal.siblings"} <= set(policy(gpu_count=2).expected("admission"))


def test_slow_one_of_two_is_found() -> None:
    """Each GPU is compared with the others only, so that of two the slow one is named and the good one is not."""
    evidence = with_fact(healthy(gpus=2), "burn.gpus.1.rates.fma", 45.0)
    judged = verdict("compute.siblings", evidence, gpu_count=2)
    assert [finding.gpu.index for finding in judged.bad if finding.gpu] == [1]
