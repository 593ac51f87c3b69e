"""Burning from the command line: progress, summary, exit codes, and the commands for detached burns."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faking import GPU
from gpugate.probe.burn import runs
from gpugate.probe.burn.live import row
from gpugate.probe.burn.screen import Screen
from gpugate.probe.summary import burn_summary
from keeping import ENDLESS, Burning, as_json, await_
from probing import DEADLINE_S, Machine, interpreters

ID = r"\d{8}T\d{6}Z-[0-9a-f]{8}"


@pytest.fixture
def make(machine: Callable[..., Machine]) -> Iterator[Callable[..., Burning]]:
    """Makes a node."""
    made: list[Burning] = []

    def one(gpus: int = 2, zipapp: Path | None = None, python: str = sys.executable, scale: float = 20) -> Burning:
        burning = Burning(dataclasses.replace(machine(gpus=gpus), zipapp=zipapp, python=python))
        burning.machine.state.set("time_scale", scale)
        made.append(burning)
        return burning

    yield one
    for burning in made:
        burning.end()


@pytest.fixture
def node(make: Callable[..., Burning]) -> Burning:
    """A node with two GPUs."""
    return make()


def test_burn_of_eight_gpus_on_a_terminal(make: Callable[..., Burning], probe: Path) -> None:
    """The zipapp draws one row a GPU in place, within 80 columns, and ends with a summary of all of them."""
    node = make(gpus=8, zipapp=probe, scale=20)
    told = _on_a_terminal(node, "burn", "--duration", "60")
    shown, _, summary = told.rpartition("\x1b[J")
    frames = [_plain(frame) for frame in shown.split("\x1b[J")]
    tables = [frame for frame in frames if "GPU phase" in frame]
    assert len(tables) > 2
    for table in tables:
        lines = [line.strip("\r") for line in table.strip("\r\n").split("\n")]
        assert [line.split()[0] for line in lines[2:]] == [str(index) for index in range(8)]
        assert max(map(len, lines)) < 80
    assert "\x1b[10A" in shown  # drawn over what stood there before
    assert re.search(r"^  7 (mix|rates|memory) +\d+\.\d +\d+ +\d+ +\d+ +\d+ .*/s +0$", tables[-1], re.MULTILINE)
    for index in range(8):
        assert re.search(rf"GPU {index}    {node.machine.state.get(f'gpu.{index}.uuid')}: .*no mismatch", summary)
    assert re.search(r" C below slowdown once steady, \d{3} W at \d+ MHz, fma [\d.]+, f16 [\d.]+, bf16", summary)
    assert "GiB free tested in one piece" in summary
    assert "0 Xids" in summary


def _on_a_terminal(node: Burning, *arguments: str, **environment: str) -> str:
    """All that the probe writes to a terminal of 80 columns; it has to succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*node.command(), *arguments]
    environment = {**node.environment(), "TERM": "xterm", **environment}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    node.started.append(process)
    os.close(theirs)
    told = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how a terminal ends
            break
        told += piece
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0, told
    return told.decode()


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "")


def test_burn_without_a_terminal(make: Callable[..., Burning], probe: Path) -> None:
    """Into a file go plain lines, one a GPU now and then, on the oldest Python that a node may have as well."""
    oldest = next((python for python in interpreters() if "3.9" in python), sys.executable)
    node = make(zipapp=probe, python=oldest)
    code, out, err = node.run("burn", "--duration", "5", "--work", "f16", "--no-memory", "--json")
    assert code == 0, err
    burn = json.loads(out)
    assert (burn["work"], len(burn["gpus"])) == ("f16", 2)
    assert "unavailable" in burn["gpus"][0]["memory_test"]
    assert "\x1b" not in out + err
    uuid = node.machine.state.get("gpu.1.uuid")
    assert re.search(rf"^GPU 1 \({uuid}\): \w+ [\d.]+ s, \d+ C, \d+ C below slowdown, \d+ W, \d+ MHz, ", err, re.M)


def test_places_are_those_of_the_other_commands(node: Burning, tmp_path: Path) -> None:
    """--state-dir has the results, --driver-root the libraries: of the burn, its keeper and all that they start."""
    (tmp_path / "driver/usr").mkdir(parents=True)
    (tmp_path / "driver/usr/lib64").symlink_to(node.machine.libdir)
    places = ["--state-dir", str(tmp_path / "elsewhere"), "--driver-root", str(tmp_path / "driver")]
    code, out, err = node.run("burn", *places, "--duration", "5", "--no-memory", LD_LIBRARY_PATH="")
    assert code == 0, err
    (run,) = (tmp_path / "elsewhere/burns").iterdir()
    assert run.name in out
    assert not node.state_dir.exists()


def test_life_of_a_detached_burn(node: Burning) -> None:
    """Started, seen, not yet to be fetched, stopped, then fetched with what was measured."""
    run = node.begin(burner="endless")
    assert re.fullmatch(ID, run.id)
    code, out, _ = node.run("burn", "status", run.id)
    assert code == 0
    assert f"{run.id}  burning, keeper {node.keeper(run)}, heard" in out
    assert "GPU 1 (" in out
    code, out, err = node.run("burn", "fetch", run.id)
    assert (code, out) == (1, "")
    assert "still under way" in err
    code, out, _ = node.run("burn", "stop")
    assert (code, out) == (0, f"burn {run.id} stopped: done\n")
    code, out, _ = node.run("burn", "stop", run.id)
    assert (code, out) == (0, f"burn {run.id} is over already: done\n")
    code, out, _ = node.run("burn", "fetch", run.id)
    assert code == 0
    assert json.loads(out)["gpus"][0]["reason"] == "it was told to stop"
    assert "aborted: it was told to stop (all GPUs)" in node.run("burn", "status", run.id)[1]


def test_status_of_all(node: Burning) -> None:
    """A node without burns says so; one with several tells of each, the newest first."""
    code, out, _ = node.run("burn", "status")
    assert (code, out) == (0, f"no burn is kept below {node.state_dir}\n")
    node.run("burn", burner="good")
    node.run("burn", burner="crash")
    await_(lambda: not node.processes())
    running = node.begin(burner="endless")
    code, out, _ = node.run("burn", "status", "--json")
    told = json.loads(out)["burns"]
    assert code == 0
    assert {burn["id"]: burn["state"] for burn in told}[running.id] == "burning"
    assert sorted(burn["state"] for burn in told) == ["burning", "done", "failed"]
    assert [burn["id"] for burn in told] == sorted((burn["id"] for burn in told), reverse=True)
    (crashed,) = (burn for burn in told if burn["state"] == "failed")
    assert "SIGSEGV" in crashed["why"]
    words = node.run("burn", "status")[1]
    assert f"{crashed['id']}  failed: the burn was lost" in words
    assert "done: see `gpugate-probe burn status" in words


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("status", "../../../../etc"),
        ("stop", "20261122T010203Z-1a2b3c4d/.."),
        ("fetch", "20261122T010203Z-1a2b3c4d\n"),
        ("stop", ""),
        ("fetch", "x" * 5000),
    ],
)
def test_what_is_no_id_is_refused(node: Burning, command: str, name: str) -> None:
    """An id is a name of its own form, never a path."""
    code, out, err = node.run("burn", command, name)
    assert (code, out) == (2, "")
    assert "is no id of a burn" in err


@pytest.mark.parametrize("command", ["status", "fetch", "stop"])
def test_an_id_that_is_not_there(node: Burning, command: str) -> None:
    """Another burn than those that are kept is not done, and those that there are get named."""
    known = runs.create(node.state_dir, {})
    code, out, err = node.run("burn", command, "20200101T000000Z-00000000")
    assert (code, out) == (1, "")
    assert "burn 20200101T000000Z-00000000 is not kept" in err
    assert known.id in err


@pytest.mark.parametrize("command", ["fetch", "stop"])
def test_nothing_to_fetch_or_stop(node: Burning, command: str) -> None:
    """Without any burn there is nothing, and that is said."""
    code, _, err = node.run("burn", command)
    assert code == 1
    assert "no burn is kept below" in err


def test_mismatches_are_located_and_not_forgiven(node: Burning) -> None:
    """A wrong word fails the command; the summary has its place and the bits that differ."""
    code, out, _ = node.run("burn", burner="wrong")
    assert code == 1
    assert "3 MISMATCHES, the first in s8 on SM 17, block 17, thread 40, launch 3, round 2, word 5" in out
    assert "0x000000ff xor 0x000000f0 = 0x0000000f" in out
    assert "aborted: it calculated wrong (all GPUs)" in out


def _burn(gpus: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    node = {"sampler_core_share": 0.004, "xids_gained": 0, "samples": {"unavailable": "not stored", "code": 28}}
    return {"id": "x", "work": "mix", "seconds": 60.0, "gpus": gpus, **node, **facts}


def test_summary_groups_its_gaps() -> None:
    """What could not be measured on both GPUs is one line with its reason."""
    told = burn_summary(_burn([{"uuid": "GPU-1", **GPU}, {"uuid": "GPU-2", **GPU}]))
    assert "gpus[0].max_fan_percent, gpus[1].max_fan_percent: the card has no fan [3]" in told
    assert "78.0 of 80.0 GiB free tested in one piece at ? GB/s" in told
    assert "maximum: the burn reached its maximum of 60 s (all GPUs)" in told


def test_summary_of_a_burn_that_measured_nothing() -> None:
    """Where everything is a gap, nothing reads as a value."""
    gap = {"unavailable": "the GPU was lost", "code": 15}
    gpu = dict.fromkeys(GPU, gap) | {"uuid": "GPU-1", "ended": "aborted", "reason": "lost", "seconds": 0.0}
    burn = _burn([gpu], samples=gap, sampler_core_share=gap, xids_gained=gap)
    lines = burn_summary(burn).split("\n")
    assert lines[2:5] == [
        "GPU 0    GPU-1: aborted, 0.0 s, mismatches ?",
        "         ? C below slowdown once steady, ? W at ? MHz, rates ?, memory test ?",
        "node     ? samples a second of each GPU or more, ? % of a core for that, ? Xids",
    ]
    assert "the GPU was lost [15]" in lines[-1]


def test_interrupt_stops_in_good_order(node: Burning) -> None:
    """Ctrl-C ends the burn, which keeps what it has measured; the command has not done what it was asked."""
    process = node.start("burn", burner="endless")
    run = node.only()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "aborted: it was told to stop (all GPUs)" in out
    assert "stopping; press Ctrl-C again to leave it to that" in err
    assert node.over(run) == "done"


def test_second_interrupt_leaves(node: Burning) -> None:
    """Whoever does not want to wait for the end may go; the burn ends all the same."""
    process = node.start("burn", burner="deaf", FAKE_PATIENCE_S="3")
    run = node.only()
    process.send_signal(signal.SIGINT)
    await_(lambda: run.asked_to_stop)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert f"left while it stops: see `gpugate-probe burn status {run.id}`" in err
    assert node.over(run) == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--duration", "0"], "0 is not between 0 and 86400 seconds"),
        (["--duration", "nan"], "nan is not between"),
        (["--duration", "soon"], "invalid _seconds value: 'soon'"),
        (["--headroom", "inf"], "inf is no number of degrees"),
        (["--work", "memory"], "invalid choice: 'memory'"),
        (["start"], "--request"),
        (["start", "--request", "/nonexistent"], "/nonexistent cannot be read"),
    ],
)
def test_wrong_usage_is_refused(node: Burning, arguments: list[str], words: str) -> None:
    """A wish that cannot be is a usage error; nothing burns."""
    code, out, err = node.run("burn", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not node.state_dir.exists()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("{}", "lacks 'min_s'"),
        ("[1", "is not JSON"),
        (as_json(ENDLESS).replace('"work": "mix"', '"work": "wgmma"'), "work must be one of mix, fma"),
        (as_json(ENDLESS).replace('"max_s": 10000', '"max_s": 1e9'), "max_s must be at most 86400 s"),
        (as_json(ENDLESS).replace('"min_s"', '"mins"'), "unknown key 'mins'"),
    ],
)
def test_wrong_request_is_refused(node: Burning, request_: str, words: str) -> None:
    """A misspelt wish is an error, never a default."""
    code, out, err = node.run("burn", "start", "--request", "-", stdin=request_)
    assert (code, out) == (2, "")
    assert words in err


def test_help_says_the_exit_codes(node: Burning) -> None:
    """A person finds the exit codes, and what becomes of a burn when a connection ends."""
    code, out, _ = node.run("burn", "--help")
    assert code == 0
    for words in ("exit codes:", "start", "status", "fetch", "stop", "--duration", "goes on to its"):
        assert words in out


def test_damaged_result_is_no_result(node: Burning) -> None:
    """A result file that somebody has changed is refused by its reason."""
    node.run("burn", burner="good")
    (place,) = (node.state_dir / "burns").glob("*/result.json")
    result = json.loads(place.read_text())
    del result["burn"]["gpus"][0]["mismatches"]
    place.write_text(json.dumps(result))
    code, out, err = node.run("burn", "fetch")
    assert (code, out) == (1, "")
    assert "cannot be read: the result.gpus[0] is no BurnGpu: missing or unknown mismatches" in err


class _Terminal(io.StringIO):
    """A stream on a terminal of 80 columns."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor


@pytest.fixture
def terminal() -> Iterator[_Terminal]:
    """A terminal of 80 columns and 24 lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    yield _Terminal(theirs)
    os.close(theirs)
    os.close(ours)


def _live(gpus: int, **values: Any) -> dict[str, Any]:
    rows = [row({"index": index, "uuid": f"GPU-{index}", "mismatches": 0, **values}) for index in range(gpus)]
    return {"state": "burning", "words": "", "gpus": rows}


def test_wrong_gpus_stand_out(terminal: _Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with mismatches is in red, unless NO_COLOR forbids; what is not known is a question mark."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    live = _live(2, phase="mix")
    live["gpus"][1]["mismatches"] = 7
    Screen(terminal).show("burn", live)
    red = [line for line in terminal.getvalue().split("\n") if "\x1b[1;31m" in line]
    assert [_plain(line).split() for line in red] == [["1", "mix", "?", "?", "?", "?", "?", "?", "7"]]
    terminal.truncate(0)
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(terminal).show("burn", live)
    assert "\x1b[1;31m" not in terminal.getvalue()
    assert "\x1b[K" in terminal.getvalue()


@pytest.mark.parametrize(("term", "gpus"), [("dumb", 2), ("", 2), ("xterm", 30)])
def test_no_redrawing_where_it_cannot_be(
    terminal: _Terminal, monkeypatch: pytest.MonkeyPatch, term: str, gpus: int
) -> None:
    """A dumb terminal, and one with too few lines, gets plain lines, and not with each news."""
    monkeypatch.setenv("TERM", term)
    screen = Screen(terminal)
    for _ in range(3):
        screen.show("burn", _live(gpus, temperature_c=61))
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().count("61 C") == gpus


def test_hostile_rows_are_harmless(terminal: _Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a burning process says about a GPU, nothing of it controls the terminal or breaks the line."""
    monkeypatch.setenv("TERM", "xterm")
    live = _live(1, phase="\x1b[2J\nx" * 50, rate="fast" * 1000, temperature_c=float("nan"), power_w="much")
    Screen(terminal).show("burn", live)
    assert "\x1b[2J" not in terminal.getvalue()
    assert max(len(_plain(line)) for line in terminal.getvalue().split("\n")) < 80
