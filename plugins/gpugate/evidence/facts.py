"""Records in which a fact is either a value or a named gap.

A record's attribute has its plain type for the reader and for mypy; reading one that the node could not
measure raises `Unavailable` with the node's own reason. Nothing here can turn a gap into None, 0 or "N/A".
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union

from ..errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True)
class Gap:
    """Stands in a document where a reading could not be taken.

    `unavailable` is the reason in words; `code` the number that the refusing interface gave (an nvmlReturn_t,
    a CUresult or an errno, named in the reason), or None where there is none.
    """

    unavailable: str
    code: int | None = None


if TYPE_CHECKING:
    from typing import Annotated

    Reading = Annotated[T, "or a Gap"]
else:

    class Reading:
        """`Reading[float]` is a float to whoever reads it, and `float | Gap` to whoever validates it."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return Union[kind, Gap]


class Facts:
    """Base of every record of evidence: construct it with values and Gaps, read values only."""

    _gaps: ClassVar[dict[str, Gap]] = {}  # of a record without any; the others have their own

    def __post_init__(self) -> None:
        values = self.__dict__
        if Gap in map(type, values.values()):
            gaps = {name: value for name, value in values.items() if type(value) is Gap}
            for name in gaps:
                del values[name]
            values["_gaps"] = gaps

    def __getattr__(self, name: str) -> Any:
        gap = self._gaps.get(name)
        if gap is None:
            raise AttributeError(f"{type(self).__name__} has no fact {name!r}")
        raise Unavailable(f"{name} could not be measured: {gap.unavailable}")

    def gap(self, name: str) -> Gap | None:
        """The gap that stands in place of fact `name`, or None where it was measured."""
        return self._gaps.get(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({to_json(self)})"


def to_json(value: Any) -> Any:
    """Plain JSON data (dicts, lists, strings, numbers) of a record, in the order of its fields."""
    if isinstance(value, Facts):
        gaps = value._gaps
        return {f.name: to_json(gaps[f.name] if f.name in gaps else value.__dict__[f.name]) for f in fields(value)}  # type: ignore[arg-type]  # every record is a dataclass
    if isinstance(value, Gap):
        return {"unavailable": value.unavailable, "code": value.code}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value
