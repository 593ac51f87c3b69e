"""What hardware a simulated fleet consists of: `fleet.yml`, strictly read.

This is what really is there; Ansible's inventory is what the operator believes. Shape:

    port: 2271                 # one port, each node an address of its own
    time_scale: 20             # device seconds per second
    nodes:
      - name: gpu0
        address: 127.71.0.1
        board: H100-SXM5-80GB
        gpus: 8
        driver: '580'
        faults: [{fault: fouled_heatsink, gpu: 5}]     # optional
        state: {gpu.5.thermal_resistance: 0.11}        # optional
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gpusim.errors import GpusimError, unknown

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MAX_GPUS = 16
Scalar = str | int | float | bool


@dataclass(frozen=True)
class FaultDescription:
    """A fault that is there from the start; `gpu` is an index, None for faults of the whole node."""

    fault: str
    gpu: int | None = None


@dataclass(frozen=True)
class NodeDescription:
    """One node's hardware and driver branch."""

    name: str
    address: str
    board: str
    gpus: int
    driver: str
    faults: tuple[FaultDescription, ...] = ()
    state: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class FleetDescription:
    """The whole fleet; `time_scale` is device seconds per second."""

    port: int
    time_scale: float
    nodes: tuple[NodeDescription, ...]

    def as_json(self) -> dict[str, Any]:
        """The description as JSON values: two equal descriptions give equal ones."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FleetDescription:
        """The description that `as_json` gave."""
        nodes = (
            NodeDescription(**node | {"faults": tuple(FaultDescription(**fault) for fault in node["faults"])})
            for node in data["nodes"]
        )
        return cls(**data | {"nodes": tuple(nodes)})

    def only(self, names: Iterable[str]) -> FleetDescription:
        """The same fleet with these nodes alone."""
        wanted = list(names)
        have = [node.name for node in self.nodes]
        for name in wanted:
            if name not in have:
                raise unknown("node", name, have)
        return dataclasses.replace(self, nodes=tuple(node for node in self.nodes if node.name in wanted))


@dataclass(frozen=True)
class Allowed:
    """The names that the simulated driver knows."""

    boards: tuple[str, ...]
    drivers: tuple[str, ...]
    faults: tuple[str, ...]


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, not the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path, allowed: Allowed) -> FleetDescription:
    """Read a description.

    :raises GpusimError: the file is missing, is no YAML, or a key or value is not one of those allowed.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise GpusimError(f"cannot read the fleet description {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GpusimError(f"{path} is not a YAML document: {error}") from error
    return parse(data, allowed, str(path))


def parse(data: Any, allowed: Allowed, source: str) -> FleetDescription:
    """Check a description that is already in memory; `source` names it in errors."""
    reader = _Reader(source, allowed)
    fleet = reader.fields(data, "", {"port": reader.port, "time_scale": reader.scale, "nodes": reader.nodes})
    return FleetDescription(**fleet)


class _Reader:
    """Checks values; each method takes a value and where it stands, and returns it or raises."""

    def __init__(self, source: str, allowed: Allowed) -> None:
        self.source = source
        self.allowed = allowed

    def wrong(self, at: str, sentence: str) -> GpusimError:
        return GpusimError(f"{self.source}: {at or 'the document'}: {sentence}")

    def fields(
        self,
        data: Any,
        at: str,
        required: dict[str, Callable[[Any, str], Any]],
        optional: dict[str, Callable[[Any, str], Any]] | None = None,
    ) -> dict[str, Any]:
        known = required | (optional or {})
        if not isinstance(data, dict):
            raise self.wrong(at, f"must be a mapping with the keys {', '.join(known)}")
        for key in data:
            if key not in known:
                raise self.wrong(at, str(unknown("key", str(key), known)))
        missing = [key for key in required if key not in data]
        if missing:
            raise self.wrong(at, f"lacks {', '.join(missing)}")
        return {key: known[key](value, f"{at}.{key}" if at else key) for key, value in data.items()}

    def integer(self, value: Any, at: str, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(at, f"must be a whole number from {low} to {high}, not {value!r}")
        return value

    def port(self, value: Any, at: str) -> int:
        return self.integer(value, at, 1, 65535)

    def scale(self, value: Any, at: str) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 10000:
            raise self.wrong(at, f"must be a number above 0, at most 10000, not {value!r}")
        return float(value)

    def one_of(self, value: Any, at: str, names: tuple[str, ...]) -> str:
        if value not in names:
            raise self.wrong(at, str(unknown("name", str(value), names)))
        return str(value)

    def name(self, value: Any, at: str) -> str:
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise self.wrong(at, f"must be a host name of a-z, 0-9 and -, not {value!r}")
        return value

    def address(self, value: Any, at: str) -> str:
        try:
            loopback = isinstance(value, str) and ipaddress.IPv4Address(value).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise self.wrong(at, f"must be a loopback address such as 127.71.0.1, not {value!r}")
        return str(value)

    def faults(self, value: Any, at: str) -> tuple[FaultDescription, ...]:
        if not isinstance(value, list):
            raise self.wrong(at, "must be a list of mappings with the keys fault, gpu")
        return tuple(
            FaultDescription(
                **self.fields(
                    item,
                    f"{at}[{i}]",
                    {"fault": lambda v, a: self.one_of(v, a, self.allowed.faults)},
                    {"gpu": lambda v, a: self.integer(v, a, 0, MAX_GPUS - 1)},
                )
            )
            for i, item in enumerate(value)
        )

    def state(self, value: Any, at: str) -> dict[str, Scalar]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.wrong(at, "must be a mapping from state keys (see `gpusim show`) to values")
        for key, item in value.items():
            if not isinstance(item, (str, int, float, bool)):
                raise self.wrong(f"{at}.{key}", f"must be a number or text, not {item!r}")
        return dict(value)

    def node(self, value: Any, at: str) -> NodeDescription:
        fields = self.fields(
            value,
            at,
            {
                "name": self.name,
                "address": self.address,
                "board": lambda v, a: self.one_of(v, a, self.allowed.boards),
                "gpus": lambda v, a: self.integer(v, a, 1, MAX_GPUS),
                "driver": lambda v, a: self.one_of(v, a, self.allowed.drivers),
            },
            {"faults": self.faults, "state": self.state},
        )
        node = NodeDescription(**fields)
        for i, fault in enumerate(node.faults):
            if fault.gpu is not None and fault.gpu >= node.gpus:
                raise self.wrong(f"{at}.faults[{i}].gpu", f"{node.name} has GPUs 0 to {node.gpus - 1}, not {fault.gpu}")
        return node

    def nodes(self, value: Any, at: str) -> tuple[NodeDescription, ...]:
        if not isinstance(value, list) or not value:
            raise self.wrong(at, "must be a list of at least one node")
        nodes = tuple(self.node(item, f"{at}[{i}]") for i, item in enumerate(value))
        for what in ("name", "address"):
            seen: dict[str, int] = {}
            for i, node in enumerate(nodes):
                first = seen.setdefault(getattr(node, what), i)
                if first != i:
                    raise self.wrong(f"{at}[{i}].{what}", f"{getattr(node, what)!r} is already that of {at}[{first}]")
        return nodes
