"""Whose burn may begin: hosts of a power domain take their turns, across all controllers that share a state store.

One task asks the store for all waiting hosts of the gather together. The store is only ever touched by one thread, in
order, so that giving back cannot overtake asking.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..errors import EvidenceError, NotGathered, StateBusy, StateError
from ..evidence.codec import parse
from ..evidence.request import ProbeRequest
from ..inventory import Target
from ..state import Cap, Holder, Leases, Store, Wish

POLL_S = 2.0
MARGIN_S = 120.0  # for a login that hangs, and for a burn that takes its time to begin and to end

NOT_STARTED = "the burn did not start"  # so begins what the probe says where nothing was started

Progress = Callable[[str, str, bool], None]
T = TypeVar("T")


class Turn:
    """One host's turn to burn. It is given back at the end, unless a burn may still be running on the node then."""

    may_burn = False

    async def begins(self) -> None:
        """The request goes out now: from here on the node may burn until it is known not to. Raises StateError."""

    def never_began(self) -> None:
        """Nothing was started on the node."""

    def heard(self, document: bytes) -> None:
        """The node has answered: what it says of its burn."""


class Stagger:
    """The turns of one gather. `default` is the state file of targets that name none; its folder is made."""

    def __init__(self, targets: Iterable[Target], default: Path, progress: Progress) -> None:
        paths = {target.state_file or default for target in targets if target.policy.power_domains}
        self._refusal = ""
        if len(paths) > 1:
            self._refusal = (
                f"hosts of power domains name different state stores ({', '.join(map(str, sorted(paths)))}), and a cap "
                "holds only within one: set gpugate_state_file for all of them alike"
            )
        elif paths == {default}:
            with suppress(OSError):  # the store will tell
                default.parent.mkdir(parents=True, exist_ok=True)
        path = min(paths, default=default)
        self._leases = Leases(Store(path), Holder.here(secrets.token_hex(4)))
        self._progress = progress
        self._asking: dict[str, _Leased] = {}  # their burns have not begun
        self._returned: list[Wish] = []
        self._thread = ThreadPoolExecutor(1, "gpugate-state")
        self._wake = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def turn(self, target: Target, request: ProbeRequest) -> AsyncIterator[Turn]:
        """Wait until this host may burn, and give its turn back; hosts that burn without a power domain just go on.

        Raises NotGathered after waiting for longer than policy allows, StateError where the store cannot be used.
        """
        if request.burn is None or not target.policy.power_domains:
            yield Turn()
            return
        if self._refusal:
            raise StateError(f"{target.name} did not burn: {self._refusal}")
        leased = _Leased(self, target, _wish(target, request.nonce), request.burn.longest_s + MARGIN_S)
        self._asking[leased.wish.key] = leased
        self._poll_soon()
        try:
            await leased.granted
            yield leased
        finally:
            if not leased.may_burn:
                self._asking.pop(leased.wish.key, None)
                self._returned.append(leased.wish)
                self._poll_soon()

    async def begin(self, leased: _Leased) -> None:
        """Write down that this burn begins; raises StateError where the lease was lost."""
        await self._in_thread(partial(self._leases.begin, leased.wish, leased.lasts_s))
        del self._asking[leased.wish.key]
        leased.may_burn = True

    def close(self) -> None:
        """Give everything back but the leases of burns that may still run."""
        if self._poller is not None:
            self._poller.cancel()
        left = [*self._returned, *(leased.wish for leased in self._asking.values())]
        if left:
            self._thread.submit(_quietly, partial(self._leases.release, left))
        self._thread.shutdown(wait=True)

    def _poll_soon(self) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        self._wake.set()

    async def _poll(self) -> None:
        while self._asking or self._returned:
            self._wake.clear()
            wishes, returned = [leased.wish for leased in self._asking.values()], list(self._returned)
            try:
                answers = await self._in_thread(partial(self._exchange, wishes, returned))
                self._returned = [wish for wish in self._returned if wish not in returned]
                self._answer(answers)
            except StateBusy as error:
                self._answer({wish.key: f"waits: {error}" for wish in wishes})
            except Exception as error:
                known = isinstance(error, StateError)
                why = str(error) if known else f"the state store broke: {type(error).__name__}: {error}"
                for leased in self._asking.values():
                    leased.refuse(StateError(f"{leased.target.name} did not burn: {why}"))
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S * random.uniform(0.5, 1.5)):  # noqa: S311 - no secret
                    await self._wake.wait()

    def _exchange(self, wishes: list[Wish], returned: list[Wish]) -> dict[str, str]:
        if returned:
            self._leases.release(returned)
        return self._leases.ask(wishes) if wishes else {}

    def _answer(self, answers: dict[str, str]) -> None:
        for key, why in answers.items():
            leased = self._asking.get(key)
            if leased is None or leased.granted.done():
                continue
            host, patience_s = leased.target.name, leased.target.policy.burn_wait_s
            if not why:
                leased.granted.set_result(None)
            elif time.monotonic() - leased.since > patience_s:
                sentence = f"{host} did not burn within {patience_s:g} s (gpugate_burn_wait_s): it {why}"
                leased.refuse(NotGathered(sentence))
            else:
                self._progress(host, why, False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


@dataclass(eq=False)
class _Leased(Turn):
    """A turn that needs a lease."""

    stagger: Stagger
    target: Target
    wish: Wish
    lasts_s: float
    since: float = field(default_factory=time.monotonic)
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def refuse(self, error: Exception) -> None:
        """End the waiting with an error; nothing to do for one that waits no more."""
        if not self.granted.done():
            self.granted.set_exception(error)

    async def begins(self) -> None:
        """See Turn.begins."""
        await self.stagger.begin(self)

    def never_began(self) -> None:
        """See Turn.never_began."""
        self.may_burn = False

    def heard(self, document: bytes) -> None:
        """See Turn.heard. A burn that the probe lost sight of may go on, in processes of its own."""
        with suppress(EvidenceError):
            gap = parse(document).gap("burn")
            self.may_burn = gap is not None and not gap.unavailable.startswith(NOT_STARTED)


def _wish(target: Target, nonce: str) -> Wish:
    """What policy says of a node's burn; a gather that goes on with an interrupted one finds its lease by the nonce.

    Raises StateError where it could never come true.
    """
    policy = target.policy
    caps = {
        domain: Cap(cap.nodes, cap.gpus, None if cap.kw is None else round(cap.kw * 1000))
        for domain, cap in policy.power_domains.items()
    }
    watts = math.ceil(policy.gpu_count * policy.requested_power_w)
    return Wish(nonce, target.name, policy.gpu_count, watts, caps)


def _quietly(work: Callable[[], None]) -> None:
    """Do it if it can be done: what is not given back lapses."""
    with suppress(StateError):
        work()
