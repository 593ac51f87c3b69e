"""An open NVML, or why there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..evidence.facts import Gap
from . import loader, nvml
from .driver import module_version
from .node import Node
from .nvml import Nvml
from .reading import Result, attempt, printable


@contextlib.contextmanager
def session(node: Node) -> Iterator[Result[Nvml]]:
    """An open NVML, or the Gap that says why there is none; closed afterwards."""
    ml = attempt("NVML", nvml.start)
    if isinstance(ml, Gap):
        yield _explained(node, ml)
        return
    try:
        yield ml
    finally:
        ml.close()


def _explained(node: Node, refusal: Gap) -> Gap:
    """nvmlInit's refusal with what the node's files tell about its cause."""
    addition = ""
    if refusal.code == nvml.VERSION_MISMATCH:
        module = attempt("kernel module", lambda: module_version(node))
        library = attempt(loader.LIBNVML, lambda: loader.load(loader.LIBNVML).library)
        version = library if isinstance(library, Gap) else library.gap("version") or library.version
        addition = f": the running kernel module is {_say(module)}, the library {_say(version)}"
    elif refusal.code == nvml.LIBRARY_NOT_FOUND:
        addition = loader.explain(loader.LIBNVML)
    return Gap(printable(refusal.unavailable + addition), refusal.code)


def _say(reading: str | Gap) -> str:
    return f"unknown ({reading.unavailable})" if isinstance(reading, Gap) else reading
