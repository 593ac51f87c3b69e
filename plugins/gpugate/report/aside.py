"""Verdicts of a fleet whose findings were put aside, already written as they will stand in the report."""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from ..verdict import Verdict

_AT_ONCE = 1 << 20  # bytes
_FIELDS = [each.name for each in fields(Verdict)]
Row = tuple[dict[str, Any], int, int]  # the values of a verdict, and where in the file its element is: offset and size


@dataclass(frozen=True, slots=True)
class Kept(Verdict):
    """A verdict whose `testcase` is written already: of its findings only the bad and the marginal are in memory."""

    cases: Cases = field(kw_only=True, compare=False, repr=False)
    offset: int = field(kw_only=True, compare=False)
    size: int = field(kw_only=True, compare=False)

    def row(self) -> Row:
        """All of it but the file, for `Cases.kept` in another process that has the same file."""
        return {name: getattr(self, name) for name in _FIELDS}, self.offset, self.size

    def xml(self) -> bytes:
        """The element; raises OSError where it cannot be read back."""
        return self.cases.read(self.offset, self.size)


class Cases:
    """The `testcase` elements of a run, in a file without a name that goes with the process: as text, the findings of
    10,000 hosts are a gigabyte. The file is in `folder`, where the report will need that room too; where it cannot be
    written, verdicts stay in memory as they are, and the report itself tells what is wrong there. `waiting` bytes wait
    to be written at once."""

    def __init__(self, folder: Path, waiting: int = _AT_ONCE) -> None:
        self._folder, self._end, self._most = folder, 0, waiting
        self._waiting = bytearray()  # the end of the file, not written yet

    @cached_property
    def file(self) -> IO[bytes]:
        """Opened when it is first needed, and for as long as its verdicts live; raises OSError where it cannot be."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder)

    def keep(self, verdict: Verdict, xml: bytes) -> Verdict:
        """The verdict, and its element `xml` in the file."""
        if len(self._waiting) + len(xml) > self._most and not self.written():
            return verdict
        offset, self._end = self._end, self._end + len(xml)
        self._waiting += xml
        known = {name: getattr(verdict, name) for name in _FIELDS}
        known["findings"] = tuple(finding for finding in verdict.findings if finding.marginal or not finding.ok)
        return self.kept(known, offset, len(xml))

    def kept(self, known: dict[str, Any], offset: int, size: int) -> Kept:
        """The verdict of a `Row`."""
        return Kept(**known, cases=self, offset=offset, size=size)

    def read(self, offset: int, size: int) -> bytes:
        """What was written there, by this process or by a fork of it."""
        begins = self._end - len(self._waiting)
        if self._waiting and offset >= begins:
            xml = bytes(self._waiting[offset - begins : offset - begins + size])
        else:
            xml = os.pread(self.file.fileno(), size, offset)
        if len(xml) < size:
            raise OSError(errno.EIO, "a verdict that was put aside is not there any more", str(self._folder))
        return xml

    def written(self) -> bool:
        """Whether what waits is in the file now; where it is not, it waits on."""
        try:
            if os.pwrite(self.file.fileno(), self._waiting, self._end - len(self._waiting)) < len(self._waiting):
                return False
        except OSError:
            return False
        self._waiting = bytearray()
        return True
