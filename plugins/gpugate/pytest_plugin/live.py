"""What talks to nodes in a session: the loop's thread, the connections, the gather, testinfra's hosts."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pytest

from ..errors import EvidenceError, Unavailable
from ..gather import Limits, Pool, gather, merge
from ..gather.journal import profile_of, unfinished
from ..gather.loop import Loop
from ..gather.testinfra_host import Hosts
from ..policy import Profile
from ..report import new_run_id
from .progress import FleetProgress
from .state import State

_LOOP = pytest.StashKey[Loop]()
_POOL = pytest.StashKey[Pool]()
_HOSTS = pytest.StashKey[Hosts]()
_GATHERING = pytest.StashKey[Path]()
_MERGED = pytest.StashKey[Path]()
_KEEP_UNFINISHED_S = 7 * 86400.0


def add_options(parser: pytest.Parser, group: pytest.OptionGroup) -> None:
    """What a person may say about reaching nodes."""
    group.addoption(
        "--resume", nargs="?", const="", metavar="ID", help="go on with an interrupted gather (the newest, or ID)"
    )
    usual = Limits()
    parser.addini("gpugate_connections", "connections open at once", default=str(usual.connections))
    parser.addini("gpugate_logins_per_s", "new connections a second", default=f"{usual.logins_per_s:g}")


def gather_now(config: pytest.Config, state: State, hosts: list[str]) -> None:
    """Gather the evidence of these hosts, with progress on the terminal, and judge it from then on.

    The folder is kept until `finished`: an interrupted gather is gone on with by --resume.
    """
    try:
        folder = config.stash[_GATHERING] = resumed_folder(config) or _new_folder(config, state)
        targets = [state.targets[host] for host in hosts]
        progress = FleetProgress(config, targets)
        state_file = config.rootpath / "state" / "gpugate.sqlite"
        try:
            _loop(config).call(gather(targets, state.profile, folder, progress, state_file, _pool(config)))
        finally:
            progress.close()
    except EvidenceError as error:
        raise pytest.UsageError(str(error)) from error
    except OSError as error:
        sentence = f"evidence cannot be kept below {reports_folder(config)}: {error.strerror or error}"
        pytest.exit(sentence, pytest.ExitCode.INTERNAL_ERROR)
    state.use_folder(folder)


def finished(config: pytest.Config) -> None:
    """The report holds all that was gathered: its folder may go."""
    if _GATHERING in config.stash:
        shutil.rmtree(config.stash[_GATHERING], ignore_errors=True)
        del config.stash[_GATHERING]


def resumed_folder(config: pytest.Config) -> Path | None:
    """The folder that --resume means, None without it; raises EvidenceError where there is none."""
    chosen = config.getoption("resume")
    if chosen is None:
        return None
    root = _unfinished(config)
    found = [root / chosen] if chosen else unfinished(root)
    if not found or not found[0].is_dir():
        there = ", ".join(folder.name for folder in unfinished(root)) or "none"
        raise EvidenceError(f"--resume: no interrupted gather {chosen or 'is there'} below {root} (there: {there})")
    return found[0]


def resumed_profile(config: pytest.Config) -> Profile | None:
    """The profile of the gather that --resume means, None without it."""
    folder = resumed_folder(config)
    return profile_of(folder) if folder is not None else None


def given_evidence(config: pytest.Config) -> Path | None:
    """The folder that --evidence names; several are merged into one. Raises EvidenceError where they do not fit."""
    given = [Path(folder) for folder in config.getoption("evidence")]
    for folder in given:
        if not folder.is_dir():
            raise EvidenceError(f"--evidence: {folder} is no folder")
    if len(given) > 1:
        config.stash[_MERGED] = Path(tempfile.mkdtemp(prefix="gpugate-evidence-"))
        merge(given, config.stash[_MERGED])
        return config.stash[_MERGED]
    return given[0] if given else None


def hosts_of(config: pytest.Config) -> Hosts:
    """testinfra's hosts; raises Unavailable in a replay, which touches no host."""
    if config.getoption("evidence"):
        raise Unavailable("this check needs the live host, and --evidence touches none")
    if _HOSTS not in config.stash:
        config.stash[_HOSTS] = Hosts(_loop(config), _pool(config))
    return config.stash[_HOSTS]


def close(config: pytest.Config) -> None:
    """Give back connections, thread and temporary folder, and say how to go on with a gather that was interrupted."""
    if _POOL in config.stash:
        _loop(config).call(config.stash[_POOL].close())
        del config.stash[_POOL]
    if _LOOP in config.stash:
        config.stash[_LOOP].close()
        del config.stash[_LOOP]
    if _GATHERING in config.stash and (terminal := config.pluginmanager.get_plugin("terminalreporter")) is not None:
        kept = config.stash[_GATHERING].name
        terminal.write_line(f"what was gathered is kept: the same command with --resume={kept} goes on with it")
        del config.stash[_GATHERING]
    if _MERGED in config.stash:
        shutil.rmtree(config.stash[_MERGED], ignore_errors=True)  # the report has its own copy


def reports_folder(config: pytest.Config) -> Path:
    """Where reports go: --reports, else `reports` in the project."""
    chosen = config.getoption("reports")
    return Path(chosen) if chosen else config.rootpath / "reports"


def _unfinished(config: pytest.Config) -> Path:
    return reports_folder(config) / "unfinished"


def _new_folder(config: pytest.Config, state: State) -> Path:
    root = _unfinished(config)
    root.mkdir(parents=True, exist_ok=True)
    for old in unfinished(root):
        if time.time() - old.stat().st_mtime > _KEEP_UNFINISHED_S:
            shutil.rmtree(old, ignore_errors=True)
    folder = root / new_run_id(state.started)
    folder.mkdir()
    return folder


def _pool(config: pytest.Config) -> Pool:
    if _POOL not in config.stash:
        config.stash[_POOL] = Pool(limits(config))
    return config.stash[_POOL]


def limits(config: pytest.Config) -> Limits:
    """How many nodes at once, from the project's settings; raises UsageError for what is no number above 0."""
    given = {name: config.getini(f"gpugate_{name}") for name in ("connections", "logins_per_s")}
    try:
        return Limits(int(given["connections"]), float(given["logins_per_s"]))
    except ValueError as error:
        raise pytest.UsageError(f"gpugate_connections and gpugate_logins_per_s have to be above 0: {given}") from error


def _loop(config: pytest.Config) -> Loop:
    if _LOOP not in config.stash:
        config.stash[_LOOP] = Loop()
    return config.stash[_LOOP]
