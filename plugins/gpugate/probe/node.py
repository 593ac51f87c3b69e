"""Where the node's files are: everything is read below one root, and no link leads out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ProbeError

_MAX_LINKS = 40  # as many as the kernel follows


@dataclass(frozen=True)
class Node:
    """`root` is the node's `/` as the probe sees it; results that stay on the node go below `state_dir`."""

    root: Path
    state_dir: Path

    @property
    def is_own(self) -> bool:
        """Whether the probe runs in the very root that it measures, so that commands speak of the same node."""
        return self.root == Path("/")

    def path(self, inside: str) -> Path:
        """The place of the node's `inside` (as `etc/machine-id`), links resolved as the node itself would."""
        if self.is_own:
            return self.root / inside
        place, pending, links = self.root, inside.strip("/").split("/")[::-1], 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                place = place.parent if place != self.root else place
                continue
            step = place / part
            if not step.is_symlink():
                place = step
                continue
            links += 1
            if links > _MAX_LINKS:
                raise ProbeError(f"{inside}: too many symbolic links below {self.root}")
            target = str(step.readlink())
            if target.startswith("/"):
                place = self.root
            pending.extend(target.strip("/").split("/")[::-1])
        return place

    def text(self, inside: str) -> str:
        """The file's text; raises OSError. Bytes that are no UTF-8 come back escaped."""
        return self.path(inside).read_bytes().decode("utf-8", "backslashreplace")

    def line(self, inside: str) -> str:
        """The file's first line, stripped. Raises OSError, or ProbeError where it is empty."""
        line = self.text(inside).partition("\n")[0].strip()
        if not line:
            raise ProbeError(f"/{inside} is empty")
        return line
