"""GPUs through NVML, end to end: the probe on a simulated driver, its document read as the controller reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpugate.evidence.codec import parse
from gpugate.evidence.facts import Gap, to_json
from gpugate.evidence.frame import MAX_DOCUMENT_BYTES
from gpugate.evidence.request import BurnRequest, ProbeRequest, WorkloadPattern
from probing import QUIET, Machine, interpreters, write

Make = Callable[..., Machine]
BOARDS = [
    ("535", "A100-SXM4-80GB", "gpu_max", "nvmlDeviceGetTemperature"),
    ("535", "T4", "gpu_max", "nvmlDeviceGetTemperature"),
    ("550", "H100-SXM5-80GB", "gpu_max", "nvmlDeviceGetTemperature"),
    ("580", "H100-SXM5-80GB", "margin", "nvmlDeviceGetTemperatureV"),
    ("580", "B200", "margin", "nvmlDeviceGetTemperatureV"),
]


@pytest.mark.parametrize(("driver", "board", "scale", "answered_by"), BOARDS)
def test_every_driver_generation_is_measured(
    machine: Make, driver: str, board: str, scale: str, answered_by: str
) -> None:
    """Older drivers lack functions: the readings are the same facts, and the document says who answered."""
    node = machine(driver, board)

    found = node.evidence()

    assert [gpu.uuid for gpu in found.gpus] == node.state.get("gpu.*.uuid")
    for gpu in found.gpus:
        assert gpu.thermal.scale == scale
        assert gpu.answered_by["temperature_c"] == answered_by
        assert gpu.thermal.below_slowdown_c > 30
        assert gpu.power.min_limit_w < gpu.power.limit_w <= gpu.power.max_limit_w
        assert gpu.memory.total_bytes == gpu.memory.reserved_bytes + gpu.memory.used_bytes + gpu.memory.free_bytes
    assert found.driver.nvml_version == found.driver.nvml_library.version == found.driver.libcuda.version
    assert found.driver.nvml_version.startswith(driver)
    assert found.driver.gpu_count == 2


def test_identity_of_a_gpu(machine: Make) -> None:
    """Ids are written as the kernel writes them, so that NVML's list and the PCI bus's can be matched."""
    gpu = machine().evidence().gpus[1]

    assert (gpu.bus_id, gpu.device_id, gpu.subsystem_id) == ("0000:25:00.0", "10de:2330", "10de:16c1")
    assert (gpu.compute_capability, gpu.name) == ("9.0", "NVIDIA H100 80GB HBM3")


def test_what_a_card_does_not_have_is_a_gap_with_its_code(machine: Make) -> None:
    """A T4 has no MIG, no HBM sensor and no row remapper: gaps with NVML's code, never zeros."""
    gpu = machine("535", "T4").evidence().gpus[0]

    for record, fact in (
        (gpu.modes, "mig_current"),
        (gpu.thermal, "memory_temperature_c"),
        (gpu.row_remap, "failed"),
        (gpu, "recovery_action"),
    ):
        gap = record.gap(fact)
        assert gap is not None, fact
        assert gap.code == 3, fact
    assert gpu.nvlink_states == []


@pytest.mark.parametrize(("key", "code"), [("lost", 15), ("reset_required", 16)])
def test_a_gpu_that_was_lost_stays_in_the_list(machine: Make, key: str, code: int) -> None:
    """A lost GPU keeps its place with a gap for each fact, and its siblings are measured as ever."""
    node = machine(gpus=3)
    node.state.set(f"gpu.1.{key}", True)

    found = node.evidence()

    assert [gpu.index for gpu in found.gpus] == [0, 1, 2]
    gap = found.gpus[1].thermal.gap("temperature_c")
    assert gap is not None
    assert gap.code == code
    assert found.gpus[2].thermal.temperature_c > 0
    assert found.driver.gpu_count == 3


@pytest.mark.parametrize(("code", "words"), [(9, "Driver Not Loaded"), (18, "mismatch"), (999, "Unknown Error")])
def test_an_nvml_that_does_not_start_is_a_gap(machine: Make, code: int, words: str) -> None:
    """Without NVML there is no list of GPUs, never an empty one; the host's facts stay."""
    node = machine()
    node.state.set("nvml_init_code", code)

    found = node.evidence()

    for gap in (found.gap("gpus"), found.driver.gap("gpu_count"), found.driver.gap("nvml_version")):
        assert gap is not None
        assert gap.code == code
        assert words in gap.unavailable
    assert found.host.hostname == "gpu7"


def test_a_version_mismatch_names_both_versions(machine: Make) -> None:
    """Libraries upgraded under a running module: the reason names the module's version and the library's."""
    node = machine("580")
    node.state.set("nvml_init_code", 18)
    write(node.root, {"sys/module/nvidia/version": "550.54.15\n"})

    gap = node.evidence().gap("gpus")

    assert gap is not None
    assert "kernel module is 550.54.15, the library 580." in gap.unavailable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xff\x00", "is built for another machine"),
        (b"no library at all, but text", "is no ELF library"),
        (None, "there is no libnvidia-ml.so.1"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_looked_at(machine: Make, content: bytes | None, words: str) -> None:
    """NVML says 12 for each of these; the file tells them apart."""
    node = machine()
    library = node.libdir / "libnvidia-ml.so.1"
    library.unlink()
    if content is not None:
        library.write_bytes(content)

    found = node.evidence()

    gap = found.gap("gpus")
    assert gap is not None
    assert gap.code == 12
    assert words in gap.unavailable
    assert found.driver.libcuda.version.startswith("580")


def test_an_error_of_the_card_is_not_asked_away(machine: Make) -> None:
    """A second function is asked only where the first does not exist, never after an error of the card."""
    node = machine()
    node.state.inject("nvmlDeviceGetTemperatureV", 999, gpu=0)

    gpus = node.evidence().gpus

    gap = gpus[0].thermal.gap("temperature_c")
    assert gap is not None
    assert gap.code == 999
    assert "temperature_c" not in gpus[0].answered_by
    assert gpus[1].thermal.temperature_c > 0


def test_a_margin_in_error_never_turns_into_the_other_scale(machine: Make) -> None:
    """A card whose margin cannot be read has no headroom on any scale."""
    node = machine()
    node.state.inject("nvmlDeviceGetMarginTemperature", 999, gpu=0)

    thermal = node.evidence().gpus[0].thermal

    for fact in ("below_slowdown_c", "scale"):
        gap = thermal.gap(fact)
        assert gap is not None
        assert gap.code == 999


@pytest.mark.parametrize("code", [3, 13, 26])
def test_a_function_that_does_not_exist_has_its_stand_in(machine: Make, code: int) -> None:
    """Not supported, not found and deprecated each lead to the older function, which is named."""
    node = machine()
    node.state.inject("nvmlDeviceGetCurrentClocksEventReasons", code)

    gpu = node.evidence().gpus[0]

    assert gpu.clocks.event_reasons >= 0
    assert gpu.answered_by["event_reasons"] == "nvmlDeviceGetCurrentClocksThrottleReasons"


def test_memory_of_the_old_call_cannot_tell_used_from_reserved(machine: Make) -> None:
    """Where only version 1 answers, total and free are facts and the two that it mixes are gaps."""
    node = machine()
    node.state.inject("nvmlDeviceGetMemoryInfo_v2", 13)

    memory = node.evidence().gpus[0].memory

    assert memory.total_bytes > memory.free_bytes > 0
    for fact in ("used_bytes", "reserved_bytes"):
        gap = memory.gap(fact)
        assert gap is not None
        assert "includes the reserved" in gap.unavailable


def test_processes_come_from_every_table_with_their_memory(machine: Make) -> None:
    """Compute, graphics and MPS rows stand in one list; memory that the driver does not know is a gap, never None."""
    node = machine()
    node.state.add_process(0, 1001, 512.0)
    node.state.add_process(0, 1002, 16.0, "graphics")
    node.state.add_process(0, 1003, 64.0, "mps")
    node.state.add_process(0, 1004, 64.0, memory_unavailable=True)

    processes = {process.pid: process for process in node.evidence().gpus[0].processes}

    assert {pid: process.kind for pid, process in processes.items()} == {
        1001: "compute",
        1002: "graphics",
        1003: "mps",
        1004: "compute",
    }
    assert processes[1001].memory_bytes == 512 << 20
    gap = processes[1004].gap("memory_bytes")
    assert gap is not None
    assert "1004" in gap.unavailable


def test_a_table_that_cannot_be_read_is_no_empty_list(machine: Make) -> None:
    """Permission denied for one table makes the list a gap that names the table."""
    node = machine()
    node.state.inject("nvmlDeviceGetGraphicsRunningProcesses_v3", 4)

    gap = node.evidence().gpus[0].gap("processes")

    assert gap is not None
    assert gap.code == 4
    assert "graphics processes" in gap.unavailable


@pytest.mark.parametrize(("times", "measured"), [(2, True), (None, False)])
def test_a_list_that_grows_is_read_again_but_not_for_ever(machine: Make, times: int | None, measured: bool) -> None:
    """Insufficient size is asked again; a driver that never stops saying it is a gap with code 7."""
    node = machine(gpus=1)
    node.state.add_process(0, 1001, 512.0)
    node.state.inject("nvmlDeviceGetComputeRunningProcesses_v3", 7, after=1, times=times)

    gpu = node.evidence().gpus[0]

    gap = gpu.gap("processes")
    if measured:
        assert gap is None
        assert [process.pid for process in gpu.processes] == [1001]
    else:
        assert gap is not None
        assert gap.code == 7


def test_a_corrupt_inforom_is_measured_and_an_error_is_not(machine: Make) -> None:
    """Code 14 is the answer that the InfoROM is corrupt; any other error is a gap."""
    node = machine()
    node.state.set("gpu.0.inforom_corrupt", True)
    node.state.inject("nvmlDeviceValidateInforom", 999, gpu=1)

    gpus = node.evidence().gpus

    assert gpus[0].inforom_valid is False
    gap = gpus[1].gap("inforom_valid")
    assert gap is not None
    assert gap.code == 999


def test_one_unreadable_link_makes_the_list_a_gap(machine: Make) -> None:
    """A list of link states is whole or a gap, never shorter."""
    node = machine()
    node.state.inject("nvmlDeviceGetFieldValues", 999, gpu=0)

    gpus = node.evidence().gpus

    assert gpus[0].gap("nvlink_states") is not None
    assert gpus[1].nvlink_states == [1] * 18


def test_a_cap_from_outside_shows_as_the_enforced_limit(machine: Make) -> None:
    """What was requested and what holds are two facts."""
    node = machine()
    node.state.set("gpu.0.cap_w", 450)

    power = node.evidence().gpus[0].power

    assert (power.limit_w, power.enforced_limit_w) == (700.0, 450.0)


@pytest.mark.parametrize("python", list(interpreters()))
def test_every_supported_python_gives_the_same_facts(machine: Make, probe: Path, python: str) -> None:
    """The zipapp runs with each Python found on this machine and parses on the controller."""
    node = replace(machine(), python=python, zipapp=probe)

    found = node.evidence()

    assert len(found.gpus) == 2
    assert len(found.probe.digest) == 64
    assert not [reason for reason in _gaps(to_json(found)) if "probe error" in reason]


def _gaps(value: Any) -> list[str]:
    if isinstance(value, dict):
        if set(value) == {"unavailable", "code"}:
            return [value["unavailable"]]
        return [gap for item in value.values() for gap in _gaps(item)]
    return [gap for item in value for gap in _gaps(item)] if isinstance(value, list) else []


def test_sixteen_busy_gpus_with_a_flooded_log_fit_under_the_cap(machine: Make) -> None:
    """The document of the largest node stays under its cap, whatever processes and log lines there are."""
    node = machine(gpus=16)
    for gpu in range(16):
        for pid in range(64):
            node.state.add_process(gpu, 5000 + pid, 10.0)
    lines = (
        f"6,{i},{i},-;NVRM: Xid (PCI:0000:18:00): 13, pid={i}, Graphics Exception {'x' * 300}\n" for i in range(5000)
    )
    for pid in range(64):
        command = f"python3 {'--argument=' + 'y' * 500}".replace(" ", "\0")
        status = "Uid:\t1000\t1000\t1000\t1000\n"
        write(node.root, {f"proc/{5000 + pid}/cmdline": command, f"proc/{5000 + pid}/status": status})
    write(node.root, {"dev/kmsg": "6,0,0,-;Linux version 6.8\n" + "".join(lines)})
    request = replace(QUIET, workloads=[WorkloadPattern("python", "python3")])

    found = node.evidence(request)  # unpack and parse both hold the cap

    assert len(found.gpus) == 16
    assert found.kernel_log.truncated is True


def test_the_document_repeats_the_request(machine: Make) -> None:
    """Nonce and profile come back, and what was not asked for says so."""
    found = machine().evidence(ProbeRequest(nonce="abc123", profile="nightly", launch=False))

    assert (found.nonce, found.profile) == ("abc123", "nightly")
    assert found.gap("burn") == Gap("not asked for in profile nightly")
    assert found.gap("launches") == Gap("not asked for in profile nightly")


def test_the_packed_probe_launches_and_burns(machine: Make, probe: Path, tmp_path: Path) -> None:
    """A whole request from the one file: kernels launched, burnt in, the samples left below the state folder."""
    node = replace(machine(), zipapp=probe)
    node.state.set("time_scale", 100)
    burn = BurnRequest(min_s=20, max_s=60, headroom_c=5, abort_below_slowdown_c=0, deadline_s=60)

    found = node.evidence(replace(QUIET, launch=True, burn=burn))

    uuids = [gpu.uuid for gpu in found.gpus]
    assert [(launch.uuid, launch.correct) for launch in found.launches] == [(uuid, True) for uuid in uuids]
    assert [gpu.uuid for gpu in found.burn.gpus] == uuids
    assert all(gpu.mismatches == 0 for gpu in found.burn.gpus)
    assert Path(found.burn.samples.path).is_relative_to(node.root / "var/lib/gpugate")


def test_by_hand_it_prints_a_summary_that_names_every_gap(machine: Make) -> None:
    """A person sees each GPU and, at the end, what could not be measured and why."""
    node = machine("535", "T4")
    done = node.run()
    text = done.stdout.decode()

    assert done.returncode == 0
    for uuid in node.state.get("gpu.*.uuid"):  # type: ignore[union-attr]  # `*` names several
        assert str(uuid) in text
    assert "field 82 answered 3 (Not Supported) [3]" in text


def test_by_hand_it_prints_the_document(machine: Make) -> None:
    """`--json` prints the very document, before or after the command."""
    node = machine()
    for arguments in (["--json"], ["collect", "--json"], ["--json", "collect"]):
        done = node.run(*arguments)
        assert done.returncode == 0
        assert len(parse(done.stdout).gpus) == 2
        assert len(done.stdout) < MAX_DOCUMENT_BYTES


@pytest.mark.parametrize(
    ("request_text", "words"),
    [
        ("", "not JSON"),
        ("[]", "no JSON object"),
        ('{"nonce": "a"}', "lacks 'profile'"),
        ('{"nonce": "a", "profile": "p", "deadline_s": 1e6}', "deadline_s must be at most 86400 s, not 1000000.0"),
        ('{"nonce": "a", "profile": "p", "workloads": [' + ",".join(["{}"] * 300) + "]}", "a list of 256 at most"),
        ('{"nonce": "a", "profile": "p", "burns": null}', "unknown key 'burns'"),
        ('{"nonce": "a", "nonce": "b", "profile": "p"}', "a key stands twice"),
        ('{"nonce": "a", "profile": "p", "launch": 1}', "launch must be true or false"),
        ('{"nonce": "a\\u001b", "profile": "p"}', "nonce must be printable"),
        ('{"nonce": "a", "profile": "p", "burn": {"min_s": 1}}', "burn lacks 'max_s'"),
        (
            '{"nonce": "a", "profile": "p", "burn": '
            '{"min_s": 9, "max_s": 1, "deadline_s": 1, "headroom_c": 5, "abort_below_slowdown_c": 0}}',
            "min_s 9 is above max_s 1",
        ),
        (
            '{"nonce": "a", "profile": "p", "burn": '
            '{"min_s": NaN, "max_s": 1, "deadline_s": 1, "headroom_c": 5, "abort_below_slowdown_c": 0}}',
            "NaN is no JSON number",
        ),
        ('{"nonce": "a", "profile": "p", "workloads": [{"name": "x"}]}', "workloads[0] lacks 'pattern'"),
    ],
)
def test_a_wrong_request_is_an_error(machine: Make, request_text: str, words: str) -> None:
    """A request that is not exactly understood is refused with a sentence, and no document is sent."""
    done = machine().run("collect", "--request", "-", stdin=request_text)

    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert done.stdout == b""


def test_identity_is_quick_and_whole(machine: Make) -> None:
    """`identity` names machine, boot, host and every GPU; a lost GPU is a gap in its place."""
    node = machine()
    node.state.inject("nvmlDeviceGetUUID", 15, gpu=1)

    done = node.run("identity", "--json")

    found = json.loads(done.stdout)
    assert found["machine_id"] == "0123456789abcdef0123456789abcdef"
    assert found["boot_id"] == "11111111-2222-3333-4444-555555555555"
    assert found["hostname"] == "gpu7"
    assert found["gpu_uuids"][0] == node.state.get("gpu.0.uuid")
    assert found["gpu_uuids"][1]["code"] == 15


@pytest.mark.parametrize("packed", [True, False])
def test_the_drivers_libraries_may_lie_below_another_root(
    machine: Make, tmp_path: Path, probe: Path, packed: bool
) -> None:
    """`--driver-root` puts the library folders of a driver container before the loader's own."""
    node = replace(machine(), zipapp=probe if packed else None)
    below = tmp_path / "driver/usr/lib/x86_64-linux-gnu"
    below.parent.mkdir(parents=True)
    node.libdir.rename(below)

    done = node.run("collect", "--json", "--driver-root", str(tmp_path / "driver"))

    found = parse(done.stdout)
    assert len(found.gpus) == 2
    assert found.driver.libcuda.path.startswith(str(below))


def test_a_driver_root_without_libraries_is_an_error(machine: Make, tmp_path: Path) -> None:
    """A mistyped `--driver-root` is refused, not passed over."""
    done = machine().run("--driver-root", str(tmp_path / "nothing"))

    assert done.returncode == 2
    assert "holds none of the usual library folders" in done.stderr.decode()
