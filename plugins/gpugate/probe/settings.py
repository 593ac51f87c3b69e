"""Persistence and power limits: all of it checked before anything is changed, and read back afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import ProbeError
from ..evidence.facts import Gap, to_json
from . import orders
from .node import Node
from .nvml import Device
from .reading import Result, T
from .session import session

_TOLERANCE_W = 0.5
_NO_PERMISSION = 4


@dataclass(frozen=True)
class Settings:
    """What is wanted of every GPU. None leaves a thing as it is; the limit "default" is each card's own."""

    device_id: str
    gpu_count: int
    persistence: bool | None
    power_limit_w: float | Literal["default"] | None


@dataclass(frozen=True)
class State:
    """One GPU's settings; a Gap may stand only where nothing is asked for."""

    persistence: Result[bool]
    power_limit_w: Result[float]

    def as_json(self) -> dict[str, Any]:
        return {"persistence": to_json(self.persistence), "power_limit_w": to_json(self.power_limit_w)}


@dataclass(frozen=True)
class Card:
    """A GPU, who it is, what it has now and what it shall have."""

    device: Device
    uuid: str
    bus_id: str
    before: State
    wanted: State

    def __str__(self) -> str:
        return f"GPU {self.device.index} ({self.uuid}, {self.bus_id})"


def settings_request(text: str) -> Settings:
    """The request in a JSON document. Raises ProbeError naming the first key that is wrong."""

    def persistence(where: str, value: Any) -> bool | None:
        return None if value is None else orders.flag(where, value)

    def limit(where: str, value: Any) -> float | str | None:
        return value if value in (None, "default") else orders.positive(where, value)

    required: dict[str, orders.Check] = {
        "device_id": orders.words,
        "gpu_count": orders.count,
        "persistence": persistence,
        "power_limit_w": limit,
    }
    return Settings(**orders.members("the request", orders.plain(text), required, {}))


def apply(node: Node, settings: Settings, check: bool = False) -> dict[str, Any]:
    """Bring every GPU to `settings`, or with `check` say what would change.

    Returns `{changed, gpus: [{index, uuid, bus_id, before, after}], notes}`. Raises ProbeError: before anything was
    changed where a GPU does not fit the request; else with the GPUs that were changed already.
    """
    with session(node) as ml:
        if isinstance(ml, Gap):
            raise ProbeError(f"the GPUs cannot be read: {ml.unavailable}")
        devices = ml.devices()
        if isinstance(devices, Gap):
            raise ProbeError(f"the GPUs cannot be read: {devices.unavailable}")
        if len(devices) != settings.gpu_count:
            raise ProbeError(f"NVML shows {len(devices)} GPUs, policy has {settings.gpu_count}: nothing was changed")
        cards = [_card(device, settings) for device in devices]
        due = [card for card in cards if card.wanted != card.before]
        changed: list[Card] = []
        for card in [] if check else due:
            _change(card, changed)
        notes = [note for card in cards for note in _notes(card, check)]
        return {"changed": bool(due), "gpus": [_row(card, check) for card in cards], "notes": notes}


def _card(device: Device, settings: Settings) -> Card:
    """The GPU as it is and as it shall be. Raises ProbeError where the request does not fit it."""
    name = f"GPU {device.index}"
    uuid = _known(device.uuid(), f"{name}: its UUID")
    name = f"GPU {device.index} ({uuid})"
    bus_id = _known(device.bus_id(), f"{name}: its bus id")
    found = _known(device.device_id(), f"{name}: its device id")
    if found != settings.device_id:
        raise ProbeError(
            f"{name} is a board {found}, policy is for {settings.device_id}: nothing was changed; fix the inventory"
        )
    before = _state(device, settings, name)
    wanted = before
    if settings.persistence is not None:
        wanted = replace(wanted, persistence=settings.persistence)
    asked = settings.power_limit_w
    if asked is not None:
        answer = device.default_limit() if asked == "default" else asked
        limit = _known(answer, f"{name}: its default power limit")
        low, high = (_known(end, f"{name}: its power constraints") for end in device.power_constraints())
        if not low <= limit <= high:
            raise ProbeError(
                f"{name} takes power limits from {low:g} to {high:g} W, policy wants {limit:g} W: "
                "nothing was changed; fix the policy"
            )
        if not _holds(limit, before.power_limit_w):
            wanted = replace(wanted, power_limit_w=limit)
    return Card(device, uuid, bus_id, before, wanted)


def _state(device: Device, settings: Settings, name: str) -> State:
    persistence, limit = device.persistence(), device.power_limit()
    if settings.persistence is not None:
        persistence = _known(persistence, f"{name}: its persistence mode")
    if settings.power_limit_w is not None:
        limit = _known(limit, f"{name}: its power limit")
    return State(persistence, limit)


def _known(reading: Result[T], what: str) -> T:
    if isinstance(reading, Gap):
        raise ProbeError(f"{what} cannot be read: {reading.unavailable}: nothing was changed")
    return reading


def _change(card: Card, changed: list[Card]) -> None:
    """Set what differs, read it back. Persistence comes first: without it a limit goes when the driver unloads."""
    device = card.device
    on = card.wanted.persistence
    if on != card.before.persistence and not isinstance(on, Gap):
        _accepted(card, f"persistence mode {'on' if on else 'off'}", device.set_persistence(on), changed)
        _stuck(card, "persistence mode", on, device.persistence(), changed)
    limit = card.wanted.power_limit_w
    if limit != card.before.power_limit_w and not isinstance(limit, Gap):
        _accepted(card, f"power limit {limit:g} W", device.set_power_limit(limit), changed)
        _stuck(card, "power limit", limit, device.power_limit(), changed)


def _accepted(card: Card, what: str, refusal: Gap | None, changed: list[Card]) -> None:
    if refusal is not None:
        advice = "; run it as root" if refusal.code == _NO_PERMISSION else ""
        raise ProbeError(f"{card}: {what} could not be set: {refusal.unavailable}{advice}; {_so_far(changed)}")
    if card not in changed:
        changed.append(card)


def _stuck(card: Card, what: str, wanted: float, found: Result[float], changed: list[Card]) -> None:
    if isinstance(found, Gap):
        raise ProbeError(
            f"{card}: {what} was set to {wanted!r}, but cannot be read back: {found.unavailable}; {_so_far(changed)}"
        )
    if not _holds(wanted, found):
        raise ProbeError(
            f"{card}: {what} was set to {wanted!r} and the driver accepted, but it reads back as {found!r}; "
            f"{_so_far(changed)}"
        )


def _holds(wanted: float, found: Result[float]) -> bool:
    return not isinstance(found, Gap) and abs(found - wanted) <= _TOLERANCE_W


def _so_far(changed: list[Card]) -> str:
    names = ", ".join(str(card) for card in changed)
    return f"changed so far: {names}" if changed else "nothing was changed"


def _row(card: Card, check: bool) -> dict[str, Any]:
    after = card.wanted if check else State(card.device.persistence(), card.device.power_limit())
    return {
        "index": card.device.index,
        "uuid": card.uuid,
        "bus_id": card.bus_id,
        "before": card.before.as_json(),
        "after": after.as_json(),
    }


def _notes(card: Card, check: bool) -> list[str]:
    """What the operator should know beside the change: a cap from outside holds whatever is requested."""
    requested, enforced = card.wanted.power_limit_w, card.device.enforced_limit()
    if check or isinstance(requested, Gap):
        return []
    if isinstance(enforced, Gap):
        return [f"{card}: the enforced limit cannot be read: {enforced.unavailable}"]
    if enforced >= requested - _TOLERANCE_W:
        return []
    return [f"{card}: the driver enforces {enforced:g} W, below the {requested:g} W requested: a cap from outside"]
