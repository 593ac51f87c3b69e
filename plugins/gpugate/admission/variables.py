"""A site from the inventory's variables: the same that playbooks/admit.yml gives its module.

The field NAME of `Site` is the variable `gpugate_admission_NAME`. Beside these, `gpugate_state_file` is the state
store and `gpugate_report` the report; `gpugate_allowed_signers` and `gpugate_revoked_signers` say whose signatures on
it count. Paths that are not absolute, as those that no variable names, are below the project's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..errors import AdmissionError
from ..report import Signers
from ..report.reader import Report, read_report
from ..report.signed import read_signed
from ..report.text import one_line
from .site import Site

PREFIX = "gpugate_admission_"
STORE, REPORT = "gpugate_state_file", "gpugate_report"
ALLOWED, REVOKED = "gpugate_allowed_signers", "gpugate_revoked_signers"
_FIELDS = {field.name for field in fields(Site)}
_SITE = TypeAdapter(Site)


@dataclass(frozen=True)
class Settled:
    """How nodes are put into service, the gate's state store, the report that it goes by, and whose signatures on it
    count (None: it needs none)."""

    site: Site
    store: Path
    report: Path
    signers: Signers | None = None

    def read(self) -> Report:
        """The report, with its signature where one is asked for; raises ReportError."""
        return read_signed(self.report, self.signers) if self.signers else read_report(self.report)


def settle(variables: Mapping[str, Mapping[str, object]], folder: Path) -> Settled:
    """What the variables of these hosts, by host, say; raises AdmissionError where they differ or are not valid.

    `folder` is where the command was started: the project's, or nothing below it is meant.
    """
    project = folder if (folder / "ansible.cfg").is_file() else None
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
    report = _path(chosen.get(REPORT, "reports/latest/junit.xml"), REPORT, project)
    return Settled(site, store, report, _signers(chosen, project))


def _ours(variables: Mapping[str, object]) -> dict[str, object]:
    ours = (STORE, REPORT, ALLOWED, REVOKED)
    return {name: value for name, value in variables.items() if name in ours or name.startswith(PREFIX)}


def _signers(chosen: Mapping[str, object], project: Path | None) -> Signers | None:
    paths = {name: _path(chosen[name], name, project) for name in (ALLOWED, REVOKED) if name in chosen}
    if REVOKED in paths and ALLOWED not in paths:
        raise AdmissionError(f"{REVOKED} without {ALLOWED} checks nothing: give both")
    return Signers(paths[ALLOWED], paths.get(REVOKED)) if paths else None


def _site(given: Mapping[str, object]) -> Site:
    for name in given.keys() - _FIELDS:
        raise AdmissionError(f"{PREFIX}{name}: no back end has such a setting")
    try:
        return _SITE.validate_python(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]  # a command may hold a secret
        where = ".".join(map(str, first["loc"]))
        raise AdmissionError(f"{PREFIX}{where}: {one_line(first['msg'])}") from None


def _path(value: object, name: str, project: Path | None) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise AdmissionError(f"{name}: {value!r} is no path")
    path = Path(os.path.expandvars(value)).expanduser()
    if path.is_absolute():
        return path
    if project is None:
        raise AdmissionError(
            f"{name}: {path} is below the project's folder, and this one has no ansible.cfg: start gpugate in the "
            "project's, or make the path absolute"
        )
    return project / path
