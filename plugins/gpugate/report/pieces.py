"""The folder of a run, read: opened once, so that whichever links are switched meanwhile, every piece is of one run."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from ..errors import ReportError

_PIECE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Pieces:
    """The files below a folder. The folder may be reached by links, as `latest` is one; the files may not."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where there is no such folder."""
        self._folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Pieces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, name: str, max_bytes: int) -> bytes:
        """The content of a file, once; raises OSError, and ReportError for what is no file of this folder's own."""
        path = self._folder / name
        try:
            descriptor = self._open(name)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ReportError(f"{path} is reached by a link, and a run has files of its own alone") from error
            raise
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            os.close(descriptor)
            raise ReportError(f"{path} is not a file")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(max_bytes + 1) if about.st_size <= max_bytes else b""
        if max(len(data), about.st_size) > max_bytes:  # it may have grown since
            raise ReportError(f"{path} is larger than {max_bytes} bytes: that is no file of this run")
        return data

    def _open(self, name: str) -> int:
        *folders, last = name.split("/")
        at, opened = self._descriptor, []
        try:
            for folder in folders:
                at = os.open(folder, _PIECE | os.O_DIRECTORY, dir_fd=at)
                opened.append(at)
            return os.open(last, _PIECE | os.O_NONBLOCK, dir_fd=at)  # a pipe would block
        finally:
            for descriptor in opened:
                os.close(descriptor)
