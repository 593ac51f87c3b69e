"""What talks to nodes in a session: the loop's thread, the gather, testinfra's hosts."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pytest

from ..errors import Unavailable
from ..gather import gather
from ..gather.loop import Loop
from ..gather.testinfra_host import Hosts
from ..inventory import Target
from .state import State

_LOOP = pytest.StashKey[Loop]()
_HOSTS = pytest.StashKey[Hosts]()
_FOLDER = pytest.StashKey[Path]()
_QUIET_S = 5.0


def gather_now(config: pytest.Config, state: State, hosts: list[str]) -> None:
    """Gather the evidence of these hosts, with progress on the terminal, and judge it from then on."""
    try:
        reports = reports_folder(config)
        reports.mkdir(parents=True, exist_ok=True)
        folder = config.stash[_FOLDER] = Path(tempfile.mkdtemp(prefix=".gathering-", dir=reports))
        targets = [state.targets[host] for host in hosts]
        progress = _Progress(config, targets)
        state_file = config.rootpath / "state" / "gpugate.sqlite"
        _loop(config).call(gather(targets, state.profile, folder, progress, state_file))
    except OSError as error:
        sentence = f"evidence cannot be kept below {reports_folder(config)}: {error.strerror or error}"
        pytest.exit(sentence, pytest.ExitCode.INTERNAL_ERROR)
    state.use_folder(folder)


def hosts_of(config: pytest.Config) -> Hosts:
    """testinfra's hosts; raises Unavailable in a replay, which touches no host."""
    if config.getoption("evidence"):
        raise Unavailable("this check needs the live host, and --evidence touches none")
    if _HOSTS not in config.stash:
        config.stash[_HOSTS] = Hosts(_loop(config))
    return config.stash[_HOSTS]


def close(config: pytest.Config) -> None:
    """Give back connections, thread and temporary folder; nothing to do the second time."""
    if _HOSTS in config.stash:
        config.stash[_HOSTS].close()
        del config.stash[_HOSTS]
    if _LOOP in config.stash:
        config.stash[_LOOP].close()
        del config.stash[_LOOP]
    if _FOLDER in config.stash:
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)  # the report has its own copy


def reports_folder(config: pytest.Config) -> Path:
    """Where reports go: --reports, else `reports` in the project."""
    chosen = config.getoption("reports")
    return Path(chosen) if chosen else config.rootpath / "reports"


def _loop(config: pytest.Config) -> Loop:
    if _LOOP not in config.stash:
        config.stash[_LOOP] = Loop()
    return config.stash[_LOOP]


class _Progress:
    """Lines about the gather: every host's end, and every few seconds what the others are at."""

    def __init__(self, config: pytest.Config, targets: list[Target]) -> None:
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")
        self._total, self._done, self._spoke = len(targets), 0, time.monotonic()
        self._line(f"gathering evidence of {self._total} host{'s' * (self._total != 1)}")

    def __call__(self, host: str, text: str, done: bool) -> None:
        self._done += done
        if done and (self._total <= 64 or not text.startswith("evidence after")):
            self._line(f"  {host}: {text} ({self._done} of {self._total})")
        elif time.monotonic() - self._spoke >= _QUIET_S:
            self._line(f"  {host}: {text} ({self._done} of {self._total} done)")

    def _line(self, text: str) -> None:
        self._spoke = time.monotonic()
        if self._terminal is not None:
            self._terminal.write_line(text)
