"""How long gathering takes, beside what people use now, in one run, as ratios. Prints Markdown for docs/performance.md.

On hosts in namespaces with a real sshd (root and Debian packages: see tests/namespaces), for each fleet's size:

- gpugate's gather of everybody's evidence, beside one bare asyncssh `true` on each, and beside the probe's own run time
  on all hosts at once without any connection: these two are what no gather can be faster than. In the profile quick,
  which reads facts alone, and in nightly, which also launches a kernel and allocates memory on every GPU;
- `true` on each, and the probe with the request of quick on each, by xargs and ssh, ClusterShell, Ansible;
- testinfra with twenty one-command checks a host.

All hosts share this machine's processors, so that the probe's time grows with their number. On nodes it does not.

Then on hosts that only answer (one asyncssh server, tools/answering_fleet.py): growth of time and memory to 1000.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "namespaces")]

from answering_fleet import answering_fleet  # noqa: E402  # the paths above come first
from gather_engines import Engine, engines, testinfra  # noqa: E402
from gpugate.gather.fleet import collect_command  # noqa: E402
from gpugate.inventory import Target, resolve, use_project  # noqa: E402
from gpugate.policy import Profile  # noqa: E402
from hostfleet import HostSpec, namespace_fleet, needs  # noqa: E402

WORKER = ROOT / "tools" / "gather_worker.py"
DEADLINE_S = 3600
SAMPLE = 16  # hosts, of which testinfra's time is scaled up: it asks one after the other
GATHER, BARE, PROBE = "gpugate's gather, {}", "bare asyncssh, `true`", "the probe alone on all at once, {}"
WHOLE = "`pytest --hosts=gpu_fleet --profile={}`: inventory, gather, judging, report"
PROFILES: tuple[Profile, ...] = ("quick", "nightly")
FACTS: Profile = "quick"  # reads facts and does nothing else, as the other engines here


class Fleet(Protocol):
    """What the bench needs of a fleet: hosts by name with the pid of their init, and programs run in its network."""

    @property
    def inventory(self) -> Path: ...
    @property
    def ssh_config(self) -> Path: ...
    @property
    def env(self) -> dict[str, str]: ...
    @property
    def hosts(self) -> Mapping[str, Any]: ...
    def command(self, command: Sequence[str | Path]) -> list[str]: ...


@dataclass(frozen=True)
class Row:
    """A line of a table: wall seconds, how many of how many hosts answered, and what else is to be said."""

    name: str
    seconds: float
    answered: int
    asked: int
    note: str = ""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="*", default=[32, 128], help="sizes of namespace fleets")
    parser.add_argument("--gpus", type=int, default=8, help="of each host")
    parser.add_argument("--rounds", type=int, default=2, help="of gpugate, asyncssh and the probe; the median counts")
    parser.add_argument("--answering", type=int, nargs="*", default=[32, 128, 1000], help="sizes of answering fleets")
    parser.add_argument("--testinfra-whole", action="store_true", help="let it ask every host, however long that takes")
    options = parser.parse_args()
    if options.hosts:
        try:
            needs.check(systemd=False)
        except needs.FleetError as error:
            raise SystemExit(f"{error}; or leave them out: --hosts with no number") from error
    print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}; command: {shlex.join(sys.argv)}\n")
    use_project(ROOT)
    for count in options.hosts:
        with tempfile.TemporaryDirectory(prefix="gb-") as folder:  # short: ControlPath has to fit into a socket's name
            namespaces(Path(folder), count, options)
    growth(options.answering, options.rounds)


def namespaces(folder: Path, count: int, options: argparse.Namespace) -> None:
    """The table of one fleet of hosts in namespaces."""
    specs = [HostSpec(f"gpu{n:03d}", gpus=options.gpus) for n in range(1, count + 1)]
    (folder / "fleet").mkdir()
    _say(f"{count} hosts come up")
    with namespace_fleet(
        folder / "fleet", specs, provisioned=True, policy={"gpugate_gpu_count": options.gpus}
    ) as fleet:
        target = resolve("gpu_fleet", str(fleet.inventory))[0]
        times = ours_and_floor(folder, fleet, target, options.rounds)
        ours, bare = times[GATHER.format(FACTS)], times[BARE]
        rows = [Row(name, seconds, count, count) for name, seconds in times.items()]
        rows += [whole(folder, fleet, profile) for profile in PROFILES]
        rows += others(folder, fleet, "true", "`true`")
        rows += others(folder, fleet, probe_command(target, FACTS), f"the probe, {FACTS},")
        naive = [naively(folder, fleet, options.testinfra_whole, control_path=control) for control in (False, True)]
        again = _worker(fleet, "gather", fleet.inventory, FACTS)  # tells whether the machine was busier meanwhile
    rows += [*naive, Row(f"{GATHER.format(FACTS)}, again at the end", again, count, count)]
    print(f"### {count} hosts in namespaces, {options.gpus} GPUs each\n")
    print("| | wall | times ours | hosts that answered |\n|---|---|---|---|")
    for row in rows:
        note = f" ({row.note})" if row.note else ""
        print(f"| {row.name}{note} | {row.seconds:.1f} s | {row.seconds / ours:.2f} | {row.answered} of {row.asked} |")
    print()
    for profile in PROFILES:
        ratio = times[GATHER.format(profile)] / (bare + times[PROBE.format(profile)])
        print(f"Evidence of all, {profile}: {ratio:.2f} times a bare `true` on each plus the probe's own run time.")
    plain, shared = (row.seconds / max(ours, again) for row in naive)
    print(f"Facts of all: {plain:.0f} times as fast as naive testinfra, {shared:.1f} times as fast as testinfra with a "
          "ControlPath, by the slower one of the gathers before and after it.\n", flush=True)  # fmt: skip


def ours_and_floor(folder: Path, fleet: Fleet, target: Target, rounds: int) -> dict[str, float]:
    """Our gather, a bare `true`, and the probe alone: in turn, round by round, medians; a gather before warms up."""
    command = collect_command(target)
    turns: dict[str, Callable[[], float]] = {BARE: lambda: _worker(fleet, "true", fleet.inventory)}
    for profile in PROFILES:
        turns[GATHER.format(profile)] = partial(_worker, fleet, "gather", fleet.inventory, profile)
        request = _request(target, profile, "alone")
        turns[PROBE.format(profile)] = partial(probes_alone, folder, fleet, request, command)
    _worker(fleet, "gather", fleet.inventory, FACTS)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name, measure in turns.items():
            seconds[name].append(measure())
            _say(f"round {number + 1}: {name}: {seconds[name][-1]:.2f} s")
    return {name: median(found) for name, found in seconds.items()}


def probes_alone(folder: Path, fleet: Fleet, request: str, command: list[str]) -> float:
    """Every host's probe, started at once from outside the hosts: seconds until the last is over.

    Each in a session of its own, as sshd starts it: Linux shares processors out by session.
    """
    asked = folder / "request"
    asked.write_text(request)
    with ExitStack() as open_files:
        began = time.monotonic()
        running = []
        for name, host in fleet.hosts.items():
            given, said = (open_files.enter_context(path.open(mode)) for path, mode in
                           ((asked, "rb"), (folder / f"{name}.frame", "wb")))  # fmt: skip
            entered = ["nsenter", "--all", "--target", str(host.pid), "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/bin"]
            running.append(
                subprocess.Popen(
                    [*entered, *command], stdin=given, stdout=said, stderr=subprocess.DEVNULL, start_new_session=True
                )
            )
        failed = [process for process in running if process.wait(DEADLINE_S)]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(running)} probes failed")
    return time.monotonic() - began


def whole(folder: Path, fleet: Fleet, profile: Profile) -> Row:
    """What a person waits for."""
    reports = folder / f"reports-{profile}"
    command: list[str | Path] = [
        "pytest", "-q", "--hosts=gpu_fleet", f"--ansible-inventory={fleet.inventory}", f"--profile={profile}",
        f"--reports={reports}", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", ROOT / "pyproject.toml",
    ]  # fmt: skip
    seconds, _ = _run(fleet, command)
    manifest = json.loads((reports / "latest" / "run.json").read_text())
    green = sum(host["green"] for host in manifest["hosts"].values())
    _say(f"{profile}, whole: {seconds:.1f} s, {green} hosts green")
    return Row(WHOLE.format(profile), seconds, green, len(fleet.hosts), "answered: green")


def others(folder: Path, fleet: Fleet, command: str, what: str) -> list[Row]:
    """What other engines take for this command, cold."""
    place = Path(tempfile.mkdtemp(dir=folder))
    rows = []
    for engine in engines(place, list(fleet.hosts), fleet.ssh_config, fleet.inventory, command):
        seconds, output = _run(fleet, engine.command, engine.environment)
        rows.append(Row(f"{what} by {engine.name}", seconds, engine.answers(output), len(fleet.hosts)))
        _say(f"{rows[-1].name}: {seconds:.1f} s, {rows[-1].answered} hosts")
    return rows


def naively(folder: Path, fleet: Fleet, every_host: bool, *, control_path: bool) -> Row:
    """testinfra on all hosts, or on some and scaled up: it asks one host after the other."""
    names = list(fleet.hosts)
    asked = names if every_host or len(names) <= 2 * SAMPLE else names[:SAMPLE]
    place = Path(tempfile.mkdtemp(dir=folder))
    engine: Engine = testinfra(place, asked, fleet.ssh_config, control_path=control_path)
    seconds, output = _run(fleet, engine.command)
    answered = engine.answers(output)
    if answered != len(asked):
        raise SystemExit(f"testinfra had answers of {answered} of {len(asked)} hosts:\n{output[-2000:]}")
    scale = len(names) / len(asked)
    note = f"{seconds:.1f} s on {len(asked)} hosts, scaled up" if scale != 1 else ""
    _say(f"{engine.name}: {seconds:.1f} s on {len(asked)} hosts")
    return Row(engine.name, seconds * scale, answered, len(asked), note)


def growth(sizes: list[int], rounds: int) -> None:
    """The table of hosts that only answer."""
    if not sizes:
        return
    print("### Growth, on hosts that only answer (one asyncssh server on loopback addresses)\n")
    print("| hosts | wall | processor time of the controller | its peak memory |\n|---|---|---|---|")
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="gb-") as folder, answering_fleet(Path(folder), count) as inventory:
            found = []
            for _ in range(rounds):
                done = subprocess.run(
                    [sys.executable, WORKER, "gather", inventory, FACTS], capture_output=True, text=True,
                    timeout=DEADLINE_S, check=False, env=os.environ | {"HOME": folder},
                )  # fmt: skip
                found.append(_answer(done.stdout, done.stderr, count))
                _say(f"{count} answering hosts: {found[-1]}")
        seconds, cpu_s, rss_mb = (median(each[key] for each in found) for key in ("seconds", "cpu_s", "rss_mb"))
        print(f"| {count} | {seconds:.1f} s | {cpu_s:.1f} s | {rss_mb:.0f} MB |", flush=True)


def probe_command(target: Target, profile: Profile) -> str:
    """The very probe with the very request, as one line of shell."""
    collect = shlex.join(["sudo", "-n", "--", *collect_command(target)])
    return f"printf %s {shlex.quote(_request(target, profile, 'engines'))} | {collect}"


def _request(target: Target, profile: Profile, nonce: str) -> str:
    return json.dumps(asdict(target.policy.request(f"bench-{nonce}", profile)))


def _worker(fleet: Fleet, *arguments: str | Path) -> float:
    command = ["python", WORKER, *arguments]
    done = subprocess.run(
        fleet.command(command), capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=fleet.env
    )
    return _answer(done.stdout, done.stderr, len(fleet.hosts))["seconds"]


def _answer(output: str, errors: str, hosts: int) -> dict[str, float]:
    """What the worker measured; where hosts are missing, the comparison would be of nothing."""
    found: dict[str, float] = json.loads(output) if output.strip() else {}
    if found.get("answered") != hosts:
        raise SystemExit(f"only {found.get('answered', 0)} of {hosts} hosts answered:\n{output}{errors}")
    return found


def _run(
    fleet: Fleet, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> tuple[float, str]:
    began = time.monotonic()
    done = subprocess.run(
        fleet.command(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=fleet.env | dict(environment or {}), timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    return time.monotonic() - began, done.stdout.decode(errors="replace")


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
