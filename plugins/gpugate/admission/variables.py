"""A site from the inventory's variables: the same that playbooks/admit.yml gives its module.

The field NAME of `Site` is the variable `gpugate_admission_NAME`; beside these, `gpugate_state_file` is the state store
and `gpugate_report` the report. Paths that are not absolute are below the folder in which the command was started, as
everything is that no variable names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..errors import AdmissionError
from ..report.text import one_line
from .site import Site

PREFIX = "gpugate_admission_"
STORE, REPORT = "gpugate_state_file", "gpugate_report"
_FIELDS = {field.name for field in fields(Site)}
_SITE = TypeAdapter(Site)


@dataclass(frozen=True)
class Settled:
    """How nodes are put into service, the gate's state store, and the report that it goes by."""

    site: Site
    store: Path
    report: Path


def settle(variables: Mapping[str, Mapping[str, object]], project: Path) -> Settled:
    """What the variables of these hosts, by host, say; raises AdmissionError where they differ or are not valid."""
    (first, chosen), *others = [(host, _ours(known)) for host, known in variables.items()]
    for host, known in others:
        for name in sorted(chosen.keys() | known.keys()):
            if chosen.get(name) != known.get(name):
                raise AdmissionError(
                    f"{name} of {host} differs from that of {first}: the two are put into service in different ways; "
                    "name them in two commands"
                )
    given: dict[str, object] = {"backend": "state_file", "state": "state/admission.json"}
    given |= {name.removeprefix(PREFIX): value for name, value in chosen.items() if name.startswith(PREFIX)}
    given["state"] = _path(given["state"], f"{PREFIX}state", project)
    site = _site(given)
    store = _path(chosen.get(STORE, site.state.with_name("gpugate.sqlite")), STORE, project)
    return Settled(site, store, _path(chosen.get(REPORT, "reports/latest/junit.xml"), REPORT, project))


def _ours(variables: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in variables.items() if name in (STORE, REPORT) or name.startswith(PREFIX)}


def _site(given: Mapping[str, object]) -> Site:
    for name in given.keys() - _FIELDS:
        raise AdmissionError(f"{PREFIX}{name}: no back end has such a setting")
    try:
        return _SITE.validate_python(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]  # a command may hold a secret
        where = ".".join(map(str, first["loc"]))
        raise AdmissionError(f"{PREFIX}{where}: {one_line(first['msg'])}") from None


def _path(value: object, name: str, project: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise AdmissionError(f"{name}: {value!r} is no path")
    return project / Path(os.path.expandvars(value)).expanduser()
