"""A gather in which nodes of a power domain take turns to burn; the nodes are answered for by written evidence."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from gpugate.errors import NotGathered
from gpugate.evidence.codec import serialise
from gpugate.evidence.facts import Gap
from gpugate.evidence.frame import pack
from gpugate.gather import GatherLog, Limits, Pool, fleet, gather, pool, stagger
from gpugate.gather.hops import Hops
from gpugate.gather.transport import Answer
from gpugate.inventory import Target
from gpugate.policy import Profile
from gpugate.state import Cap, Holder, Leases, Store, Wish
from healthy import healthy, policy, with_fact

SAFETY_S = 60  # deadlines that must not come
RACK = {"power_domains": {"rack7": {"nodes": 1}}}
DROPPED = "gpu1 dropped the connection"


@dataclass
class Nodes:
    """A fleet that a gather meets: what each node says, and what was open and what burnt at the same time."""

    folder: Path
    says: dict[str, Callable[[], Answer]] = field(default_factory=dict)
    connected: int = 0
    connected_when_asked: list[int] = field(default_factory=list)
    burning: int = 0
    most_burning: int = 0
    asked: list[str] = field(default_factory=list)
    heard: list[tuple[str, str]] = field(default_factory=list)
    hangs: asyncio.Event | None = None

    @property
    def state_file(self) -> Path:
        return self.folder / "state" / "gpugate.sqlite"

    def gather(self, *targets: Target, profile: Profile = "admission") -> GatherLog:
        """Gather these hosts."""

        async def run() -> GatherLog:
            async with asyncio.timeout(SAFETY_S):
                return await self.begin(*targets, profile=profile)

        return asyncio.run(run())

    async def begin(self, *targets: Target, profile: Profile = "admission") -> GatherLog:
        """One gather, in a folder and with connections of its own."""
        folder, connections = self.folder / str(len(list(self.folder.iterdir()))), Pool(Limits(logins_per_s=1e6))
        folder.mkdir()
        try:
            return await gather(
                list(targets), profile, folder, lambda host, text, _: self.heard.append((host, text)), self.state_file,
                connections,
            )  # fmt: skip
        finally:
            await connections.close()

    async def open(self, target: Target, hops: Hops) -> Connection:
        self.connected += 1
        return Connection(self, target.name)

    def leases(self) -> list[tuple[str, str]]:
        """Node and state of every lease that is written down."""
        with sqlite3.connect(self.state_file) as db:
            return db.execute("SELECT node, state FROM leases ORDER BY ticket").fetchall()


@dataclass
class Connection:
    """A Transport to one of the nodes."""

    nodes: Nodes
    name: str
    closed: bool = False

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        self.nodes.burning += 1
        self.nodes.most_burning = max(self.nodes.burning, self.nodes.most_burning)
        self.nodes.asked.append(self.name)
        self.nodes.connected_when_asked.append(self.nodes.connected)
        try:
            if self.nodes.hangs is not None:
                self.nodes.hangs.set()
                await asyncio.sleep(SAFETY_S)
            await asyncio.sleep(0.02)
            return self.nodes.says.get(self.name, answer(self.name))()
        finally:
            self.nodes.burning -= 1

    async def close(self) -> None:
        self.closed = True
        self.nodes.connected -= 1


def answer(name: str, burn: Gap | None = None) -> Callable[[], Answer]:
    """A node's answer: evidence of a good burn, or of this gap in its place."""
    evidence = healthy(name) if burn is None else with_fact(healthy(name), "burn", burn)
    return lambda: Answer(0, pack(serialise(evidence)), b"")


def lost() -> Answer:
    """The connection breaks while the probe runs."""
    raise NotGathered(DROPPED)


def host(name: str, **variables: Any) -> Target:
    """A host with this policy."""
    state_file = variables.pop("state_file", None)
    return Target(name=name, policy=policy(**variables), state_file=state_file)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    met = Nodes(tmp_path)
    monkeypatch.setattr(pool, "open_transport", met.open)
    monkeypatch.setattr(stagger, "POLL_S", 0.02)
    monkeypatch.setattr(fleet, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(fleet, "AGAIN_S", 0.02)
    return met


def problems(log: GatherLog) -> dict[str, str]:
    """What went wrong, by host."""
    return {name: why for name, receipt in log.hosts.items() if (why := receipt.missing or receipt.problem)}


def test_nodes_of_a_rack_take_turns(nodes: Nodes) -> None:
    """One node of the rack burns at a time, in inventory order, and who waits is not even connected and says why."""
    names = ["gpu1", "gpu2", "gpu3", "gpu4"]
    log = nodes.gather(*(host(name, **RACK) for name in names))
    assert problems(log) == {}
    assert nodes.asked == names
    assert nodes.most_burning == 1
    assert nodes.connected_when_asked == [1, 2, 3, 4]
    waiting = [text for name, text in nodes.heard if name == "gpu2" and text.startswith("waits")]
    assert waiting[0].startswith("waits for power domain rack7: 1 of 1 nodes burn (gpu1; held by ")
    assert nodes.leases() == []


def test_hosts_without_a_domain_burn_at_once(nodes: Nodes) -> None:
    """Without a power domain nothing waits, and no state store is made."""
    log = nodes.gather(*(host(f"gpu{n}") for n in range(5)))
    assert problems(log) == {}
    assert nodes.most_burning == 5
    assert not nodes.state_file.parent.exists()


def test_a_profile_without_burn_needs_no_lease(nodes: Nodes) -> None:
    """Only burns take turns: a nightly look at a rack asks all of it at once."""
    evidence = with_fact(healthy("gpu1"), "profile", "nightly")
    nodes.says = {f"gpu{n}": lambda: Answer(0, pack(serialise(evidence)), b"") for n in range(3)}
    log = nodes.gather(*(host(f"gpu{n}", **RACK) for n in range(3)), profile="nightly")
    assert problems(log) == {}
    assert nodes.most_burning == 3
    assert not nodes.state_file.exists()


def test_caps_in_gpus_and_kilowatts(nodes: Nodes) -> None:
    """Two nodes of eight GPUs at 650 W fit into 16 GPUs, and one into 10 kW."""
    assert problems(nodes.gather(*(host(f"a{n}", power_domains={"a": {"gpus": 16}}) for n in range(4)))) == {}
    assert nodes.most_burning == 2
    nodes.most_burning = 0
    assert problems(nodes.gather(*(host(f"b{n}", power_domains={"b": {"kw": 10}}) for n in range(3)))) == {}
    assert nodes.most_burning == 1


def test_lost_contact_keeps_the_lease(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was lost in mid-burn may burn on: it is asked again until its deadline, and nobody else of its rack
    burns before its lease ends."""
    monkeypatch.setattr(fleet, "ANSWER_MARGIN_S", 0.5 - host("gpu1").policy.request("n", "admission").patience_s)
    nodes.says = {"gpu1": lost}
    log = nodes.gather(host("gpu1", **RACK), host("gpu2", **RACK, burn_wait_s=0.2))
    assert set(nodes.asked) == {"gpu1"}
    assert len(nodes.asked) > 1
    assert log.hosts["gpu1"].missing == f"gpu1 (gpu1) gave no evidence within 0.5 s ({DROPPED})"
    assert log.hosts["gpu2"].missing.startswith(
        "gpu2 did not burn within 0.2 s (gpugate_burn_wait_s): it waits for power domain rack7: 1 of 1 nodes burn "
        "(gpu1; held by "
    )
    assert nodes.leases() == [("gpu1", "burns")]
    with sqlite3.connect(nodes.state_file) as db:
        ((lasts_s,),) = db.execute("SELECT lasts_s FROM leases").fetchall()
    wanted = policy(**RACK).request("n", "admission")
    assert wanted.burn is not None
    assert lasts_s > wanted.burn.longest_s


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (answer("gpu1", Gap("the burn was lost: its keeper was killed")), True),
        (answer("gpu1", Gap("the driver gave no answer within 420 s; the probe was at this: burning in")), True),
        (answer("gpu1", Gap("the burn did not start: GPU 3 is in use by process 77")), False),
        (lambda: Answer(-9, b"", b"burning in\n"), True),
        (lambda: Answer(1, b"", b"Traceback\nRuntimeError: no\n"), True),
        (lambda: Answer(0, pack(b"{}"), b""), True),
        (lambda: Answer(1, b"", b"sudo: a password is required\n"), False),
        (lambda: Answer(2, b"", b"python3: can't open file '/opt/x.pyz': no such file\n"), False),
        (lambda: Answer(127, b"", b"python3: not found\n"), False),
    ],
)  # fmt: skip
def test_a_lease_ends_early_only_where_nothing_burns(nodes: Nodes, said: Callable[[], Answer], kept: bool) -> None:
    """The lease is given back when the burn is known to be over or never to have begun, and else stays."""
    nodes.says = {"gpu1": said}
    nodes.gather(host("gpu1", **RACK))
    assert nodes.leases() == ([("gpu1", "burns")] if kept else [])


def test_a_node_that_cannot_be_reached_gives_its_turn_back(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection nothing burns, and the next node's turn comes."""

    async def refuse(target: Target, hops: Hops) -> Connection:
        if target.name == "gpu1":
            raise NotGathered("gpu1 cannot be reached")
        return await nodes.open(target, hops)

    monkeypatch.setattr(pool, "open_transport", refuse)
    log = nodes.gather(host("gpu1", **RACK), host("gpu2", **RACK))
    assert problems(log) == {"gpu1": "gpu1 cannot be reached"}
    assert nodes.leases() == []


def test_a_store_that_cannot_be_used_lets_nobody_burn(nodes: Nodes) -> None:
    """Hosts with a cap are missing with the reason, never burnt without a lease; the others are gathered."""
    nodes.state_file.parent.mkdir()
    nodes.state_file.write_bytes(b"no database" * 500)
    log = nodes.gather(host("gpu1", **RACK), host("gpu2", **RACK), host("gpu3"))
    assert nodes.asked == ["gpu3"]
    for name in ("gpu1", "gpu2"):
        assert log.hosts[name].missing.startswith(f"{name} did not burn: the state store {nodes.state_file} is corrupt")
    assert log.hosts["gpu3"].missing == log.hosts["gpu3"].problem == ""


def test_a_chosen_folder_has_to_be_there(nodes: Nodes) -> None:
    """The folder of a state file that the inventory names is not made: a share that is not mounted is an error."""
    chosen = nodes.folder / "share" / "gpugate.sqlite"
    log = nodes.gather(host("gpu1", **RACK, state_file=chosen))
    assert "is no folder: mount it, or make it once" in log.hosts["gpu1"].missing
    assert not chosen.parent.exists()
    chosen.parent.mkdir()
    assert problems(nodes.gather(host("gpu1", **RACK, state_file=chosen))) == {}
    assert chosen.exists()
    assert not nodes.state_file.exists()


def test_one_gather_has_one_store(nodes: Nodes) -> None:
    """Hosts that name different state stores would not see each other's leases: none of them burns."""
    log = nodes.gather(host("gpu1", **RACK), host("gpu2", **RACK, state_file=nodes.folder / "other.sqlite"))
    assert nodes.asked == []
    assert all("name different state stores" in receipt.missing for receipt in log.hosts.values())


def test_more_than_the_cap_alone_is_missing_at_once(nodes: Nodes) -> None:
    """A node that can never burn within its cap does not wait for it."""
    log = nodes.gather(host("gpu1", power_domains={"rack7": {"kw": 4.5}}), host("gpu2", **RACK))
    assert log.hosts["gpu1"].missing == (
        "gpu1 burns 5.2 kW by itself and would wait for ever: its power domain rack7 may burn 4.5 at once "
        "(gpugate_power_domains)"
    )
    assert nodes.asked == ["gpu2"]


def test_a_locked_store_is_waited_for(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that others keep locked for a while delays burns, and says so, and fails none."""
    monkeypatch.setattr("gpugate.state.store.BUSY_S", 0.05)
    nodes.state_file.parent.mkdir()
    Leases(Store(nodes.state_file), Holder("ann", "ctl1", 1, "r")).ask([Wish("k", "n", 1, 1, {"other": Cap()})])

    async def run() -> GatherLog:
        other = sqlite3.connect(nodes.state_file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(nodes.begin(host("gpu1", **RACK)))
        async with asyncio.timeout(SAFETY_S):
            while not any("has been locked by another process" in text for _, text in nodes.heard):
                await asyncio.sleep(0.01)
            other.close()
            return await task

    assert problems(asyncio.run(run())) == {}


def test_an_interrupted_gather_gives_places_back_and_leaves_burns_their_leases(nodes: Nodes) -> None:
    """Ctrl-C: the node that was asked may burn on and keeps its lease, those that waited leave the queue."""

    async def run() -> None:
        nodes.hangs = asyncio.Event()
        task = asyncio.create_task(nodes.begin(*(host(f"gpu{n}", **RACK) for n in range(4))))
        async with asyncio.timeout(SAFETY_S):
            await nodes.hangs.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert nodes.leases() == [("gpu0", "burns")]
    assert nodes.connected == 0


def test_two_gathers_share_the_cap(nodes: Nodes) -> None:
    """Two controllers' gathers over one rack, at once, burn one node at a time and finish both."""

    async def run() -> list[GatherLog]:
        async with asyncio.timeout(SAFETY_S):
            first = nodes.begin(*(host(f"gpu{n}", **RACK) for n in range(4)))
            second = nodes.begin(*(host(f"gpu{n}", **RACK) for n in range(2, 6)))
            return list(await asyncio.gather(first, second))

    assert [problems(log) for log in asyncio.run(run())] == [{}, {}]
    assert len(nodes.asked) == 8
    assert nodes.most_burning == 1
    assert nodes.leases() == []
