"""What a person sees while a fleet is gathered: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpugate.pytest_plugin.progress import FAILURES, At, Tally

DEADLINE_S = 60  # a safety only
ESCAPE = "\x1b"
HIDE, SHOW, UP = f"{ESCAPE}[?25l", f"{ESCAPE}[?25h", f"{ESCAPE}[1A"

# A pytest session whose "gather" is the story below; STORY lines call `progress` from another thread, as the loop does.
CONFTEST = """
import os, threading, time
from types import SimpleNamespace

import pytest
from gpugate.pytest_plugin import progress as module

module.EVERY_S = float(os.environ.get("EVERY_S", module.EVERY_S))

class Session:
    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session):
        hosts = [f"gpu{n:04d}" for n in range(int(os.environ["HOSTS"]))]
        progress = module.FleetProgress(session.config, [SimpleNamespace(name=host) for host in hosts])
        def story():
            exec(os.environ["STORY"], {"progress": progress, "hosts": hosts, "sleep": time.sleep})
        thread = threading.Thread(target=story, daemon=True)
        thread.start()
        thread.join()
        if "close" in os.environ["STORY_ENDS"]:
            progress.close()
        return (yield)

def pytest_configure(config):
    config.pluginmanager.register(Session())
"""
USUAL = """
progress(hosts[0], "waits for power domain rack7: 3 of 3 nodes burn", False)
progress(hosts[1], "GPU 3 (GPU-ab, serial 1): mix 3.0 s, \\x1b[31m64 C\\u202e", False)
progress(hosts[2], hosts[2] + " (10.0.0.2:22) cannot be reached: \\x1b[2Jno route\\nto host", True)
sleep(0.6)
for host in hosts[3:]:
    progress(host, "evidence after 3.1 s", True)
progress(hosts[0], "evidence after 3.1 s", True)
progress(hosts[1], "evidence after 3.1 s", True)
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start pytest in a folder with one passing test and the story as its gather."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text("def test_it():\n    print('captured')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def begin(
        *args: str, to: int, hosts: int = 128, story: str = USUAL, ends: str = "close", **more: str
    ) -> subprocess.Popen[bytes]:
        theirs = ("CI", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "COLUMNS", "LINES")  # whoever runs these tests has them
        usual = {k: v for k, v in os.environ.items() if k not in theirs}
        usual = {k: v for k, v in usual.items() if not k.startswith("PYTEST_")}
        env = usual | {"TERM": "xterm", "HOSTS": str(hosts), "STORY": story, "STORY_ENDS": ends} | more
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
        return subprocess.Popen(command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=to, stderr=to)

    return begin


def piped(start: Start, *args: str, **more: Any) -> str:
    """What a log holds; the session has to end well."""
    with start(*args, to=subprocess.PIPE, **more) as process:
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said.decode()
    return said.decode()


def on_terminal(start: Start, *args: str, columns: int = 100, interrupt: str = "", **more: Any) -> tuple[str, int]:
    """Everything that a terminal of this width got, and the exit status; with `interrupt`, Ctrl-C when that is seen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with start(*args, to=theirs, **more) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how a terminal says that the other side is gone
                break
            said += chunk
            if interrupt and interrupt.encode() in said:
                interrupt = ""
                process.send_signal(signal.SIGINT)
        process.wait(timeout=DEADLINE_S)
    os.close(ours)
    return said.decode(), process.returncode


def test_the_fleet_in_one_sentence() -> None:
    """The sentence counts who answered, burns, waits for whom, is logged in and failed, and names the domains."""
    tally = Tally(f"gpu{n}" for n in range(10))
    assert tally.sentence() == "0 of 10 answered, 10 are being logged in"
    for n, (text, done) in enumerate(
        [
            ("evidence after 3.1 s", True),
            ("evidence gathered before", True),
            ("GPU 0 (GPU-ab): mix 3.0 s, 64 C", False),
            ("preparing GPU-ab", False),
            ("not yet: the burn goes on", False),
            ("waits for power domain rack10: 3 of 3 nodes burn; power domain pdu: 4 of 4 kW burn", False),
            ("waits for power domain rack7: 3 of 3 nodes burn", False),
            ("lost, is asked again: gpu7 dropped the connection", False),
            ("gpu8 (10.0.0.8) cannot be reached", True),
            ("collecting facts", False),
        ]
    ):
        tally.hears(f"gpu{n}", text, done)
    assert tally.sentence() == (
        "2 of 10 answered, 3 burn, 2 wait for a turn of pdu, rack7, rack10, 1 is measured, "
        "1 was lost and is asked again, 1 failed"
    )
    assert (tally.done, tally.count(At.FAILED)) == (3, 1)


def test_the_longest_silent_stand_first() -> None:
    """The hosts shown are the open ones that said nothing for longest, safely written."""
    tally = Tally(["a", "b", "c"])
    tally.hears("a", "GPU 0: \x1b[31mhot", False)
    tally.hears("b", "evidence after 1 s", True)
    assert [(name, text) for name, text, _ in tally.silent(5)] == [
        ("c", "is being logged in"), ("a", "GPU 0: \\x1b[31mhot"),
    ]  # fmt: skip


@pytest.mark.parametrize("args", [[], ["-q"], ["-v", "-s"]], ids=" ".join)
def test_a_terminal_gets_one_table(start: Start, args: list[str]) -> None:
    """On a terminal one table is redrawn and taken away; failures and the result stay, and pytest goes on as ever."""
    said, status = on_terminal(start, *args)
    assert status == 0, said
    assert said.count(HIDE) == said.count(SHOW) == 1
    assert UP in said
    assert "wait for a turn of rack7" in said or "waits for a turn of rack7" in said
    assert "gpu0002 (10.0.0.2:22) cannot be reached: \\x1b[2Jno route to host (1 of 128)\r\n" in said
    assert "127 of 128 answered, 1 failed, after" in said.rpartition(SHOW)[2]
    assert "1 passed" in said.rpartition(SHOW)[2]
    assert f"{ESCAPE}[2J" not in said
    assert "\u202e" not in said


def test_a_narrow_terminal(start: Start) -> None:
    """No row of the table is broken by a narrow terminal, or it could not be redrawn in place."""
    columns = 20
    said, status = on_terminal(start, columns=columns)
    assert status == 0, said
    table = said[said.index(HIDE) : said.index(SHOW)]
    rows = [re.sub(rf"{ESCAPE}\[[0-9;?]*[A-Za-z]", "", row) for row in re.split(r"[\r\n]+", table) if "gpu0000" in row]
    assert rows
    assert max(map(len, rows)) <= columns


@pytest.mark.parametrize(
    ("args", "environment"),
    [([], {"CI": "true"}), ([], {"TERM": "dumb"}), ([], {"NO_COLOR": "1"}), (["--color=no"], {}), (["-qq"], {})],
)
def test_terminals_that_want_plain_lines(start: Start, args: list[str], environment: dict[str, Any]) -> None:
    """CI, a dumb terminal and one without colours get no table; -qq gets nothing of the gather at all."""
    said, status = on_terminal(start, *args, **environment)
    assert status == 0, said
    assert HIDE not in said
    assert UP not in said
    assert ("127 of 128 answered, 1 failed, after" in said) == ("-qq" not in args)


def test_ctrl_c_gives_the_terminal_back(start: Start) -> None:
    """Whoever interrupts a gather gets the cursor back, and pytest's own words."""
    said, status = on_terminal(start, story="sleep(600)", ends="never", interrupt=HIDE)
    assert status == 2, said
    assert said.count(HIDE) == said.count(SHOW) == 1
    assert "KeyboardInterrupt" in said


def test_a_log_gets_plain_lines(start: Start) -> None:
    """A log gets each failure when it happens, where the fleet stands from time to time, and no control character."""
    said = piped(start, EVERY_S="0.2")
    assert ESCAPE not in said
    lines = [line.strip() for line in said.splitlines()]
    failed = lines.index("gpu0002 (10.0.0.2:22) cannot be reached: \\x1b[2Jno route to host (1 of 128)")
    standing = "0 of 128 answered, 1 burns, 1 waits for a turn of rack7, 125 are being logged in, 1 failed, for"
    assert any(line.startswith(standing) for line in lines[failed:]), said
    assert not any("evidence after" in line for line in lines)


def test_a_large_fleet_never_gets_a_line_a_host(start: Start) -> None:
    """However many hosts of a large fleet fail, a log gets some of the failures and then only counts."""
    story = "for host in hosts:\n    progress(host, 'cannot be reached', True)\n"
    said = piped(start, hosts=5000, story=story)
    assert said.count("cannot be reached") == FAILURES
    assert "only counted" in said
    assert "0 of 5000 answered, 5000 failed, after" in said


def test_a_small_fleet_gets_a_line_a_host(start: Start) -> None:
    """Of a handful of hosts, each is told when it has answered."""
    said = piped(start, hosts=4)
    assert [host for host in ("gpu0000", "gpu0001", "gpu0003") if f"  {host}: evidence after 3.1 s (" in said] == [
        "gpu0000", "gpu0001", "gpu0003",
    ]  # fmt: skip


def test_without_a_terminal_reporter(start: Start) -> None:
    """A session without pytest's terminal is silent and ends as ever."""
    assert "gathering" not in piped(start, "-p", "no:terminal")
