"""The pool: one connection a node, no more than its limits, and none that is known to be broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from gpugate.errors import NotGathered
from gpugate.gather import Limits, Pool, pool
from gpugate.gather.transport import Answer
from gpugate.inventory import Target
from healthy import policy

SAFETY_S = 60  # a deadline that must not come
UNLIMITED = 1e6


@dataclass(eq=False)
class Line:
    """An open connection to a node."""

    net: Net
    name: str
    closed: bool = False

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        await asyncio.sleep(0)
        return Answer(0, b"", b"")

    async def close(self) -> None:
        self.closed = True
        self.net.open.remove(self)


@dataclass
class Net:
    """What was logged in to, and what is open."""

    logins: list[str] = field(default_factory=list)
    open: list[Line] = field(default_factory=list)
    most: int = 0

    async def connect(self, target: Target, hops: object) -> Line:
        self.logins.append(target.name)
        await asyncio.sleep(0)
        if target.name == "dead":
            raise NotGathered("dead is dead")
        self.open.append(Line(self, target.name))
        self.most = max(self.most, len(self.open))
        return self.open[-1]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    met = Net()
    monkeypatch.setattr(pool, "open_transport", met.connect)
    return met


def host(name: str) -> Target:
    return Target(name=name, policy=policy())


def run(work: Callable[[Pool], Coroutine[Any, Any, None]], connections: int = 256) -> None:
    """Do something with a pool, and close it."""

    async def safely() -> None:
        async with asyncio.timeout(SAFETY_S):
            used = Pool(Limits(connections, UNLIMITED))
            await work(used)
            await used.close()

    asyncio.run(safely())


async def use(used: Pool, name: str) -> None:
    async with used.of(host(name)) as line:
        await line.run("true", b"", 1)


def test_second_use_needs_no_second_login(net: Net) -> None:
    """A node that is used again, also at the same time, is used on the same connection; the end closes it."""

    async def work(used: Pool) -> None:
        await asyncio.gather(*(use(used, "gpu0") for _ in range(5)))
        await use(used, "gpu0")

    run(work)
    assert net.logins == ["gpu0"]
    assert net.open == []


def test_never_more_than_the_limit(net: Net) -> None:
    """Two hundred nodes come through five places, the least recently used giving way."""

    async def work(used: Pool) -> None:
        await asyncio.gather(*(use(used, f"gpu{n}") for n in range(200)))
        await use(used, "gpu199")
        await use(used, "gpu0")

    run(work, connections=5)
    assert net.most == 5
    assert len(net.logins) == 201
    assert net.logins[-1] == "gpu0"


def test_broken_connection_is_not_used_again(net: Net) -> None:
    """Where the node stopped answering, or closed the connection meanwhile, the next use logs in anew."""

    async def work(used: Pool) -> None:
        with pytest.raises(NotGathered):
            async with used.of(host("gpu0")):
                raise NotGathered("gpu0 stopped answering")
        assert net.open == []
        await use(used, "gpu0")
        net.open.pop().closed = True  # by the other side
        await use(used, "gpu0")

    run(work)
    assert net.logins == ["gpu0"] * 3


def test_dead_node_takes_no_place(net: Net) -> None:
    """Logins that fail leave nothing behind, however many come."""

    async def work(used: Pool) -> None:
        for _ in range(10):
            with pytest.raises(NotGathered, match="dead is dead"):
                await use(used, "dead")
        await use(used, "gpu0")

    run(work, connections=2)
    assert net.logins.count("gpu0") == 1


def test_cancelled_wait_leaves_its_place(net: Net) -> None:
    """A user that is cancelled, waiting or working, makes room for the next."""

    async def work(used: Pool) -> None:
        async with used.of(host("gpu0")):
            waiting = asyncio.create_task(use(used, "gpu1"))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await use(used, "gpu2")

    run(work, connections=1)
    assert net.logins == ["gpu0", "gpu2"]


def test_logins_are_paced(net: Net) -> None:
    """So many logins a second and no more: the last of eleven at a hundred a second comes after a tenth of a second."""

    async def work() -> float:
        used, loop = Pool(Limits(256, 100.0)), asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(use(used, f"gpu{n}") for n in range(11)))
        await used.close()
        return loop.time() - began

    assert asyncio.run(work()) >= 0.099


@pytest.mark.parametrize("limits", [(0, 1.0), (1, 0.0), (1, float("nan")), (1, float("inf"))])
def test_limits_that_let_nobody_in_are_refused(limits: tuple[int, float]) -> None:
    """A limit below one, or none at all, is a mistake."""
    with pytest.raises(ValueError, match="above 0"):
        Limits(*limits)
