"""Signatures of reports, made and checked by OpenSSH's `ssh-keygen -Y`, detached, in a namespace of our own.

Keys are those that people and controllers have already, also in an agent or on a token; who may sign is a file that
ssh-keygen reads too. Whatever ssh-keygen is asked about has been read once and is handed to it as a private copy, so
that what was looked at here is what it decides on.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ReportError, SigningError
from .text import one_line

NAMESPACE = "gpugate-report"
DEADLINE_S = 60.0  # a key on a token waits for a finger
_TRIAL = "gpugate-trial"  # a namespace in which nothing is ever trusted
_MOST_BYTES = 1 << 20
_PATTERN = re.compile(rb"[*?!]")
_GOOD = re.compile(rf'Good "{NAMESPACE}" signature for (.+)')


@dataclass(frozen=True)
class Signer:
    """Signs with a private key, or by the agent that has the private half of a public one."""

    key: Path
    deadline_s: float = DEADLINE_S

    def sign(self, data: bytes, namespace: str = NAMESPACE) -> bytes:
        """The signature of `data`; raises SigningError."""
        try:
            done = _ssh_keygen(["-Y", "sign", "-f", str(self.key), "-n", namespace], data, self.deadline_s)
        except ReportError as error:
            raise SigningError(f"nothing can be signed with {self.key}: {error}") from error
        if done.returncode or not done.stdout:
            raise SigningError(f"nothing can be signed with {self.key}: {_said(done)}")
        return done.stdout


def usable_signer(key: Path, project: Path, deadline_s: float = DEADLINE_S) -> Signer:
    """The signer of a key, which has signed something already; raises SigningError.

    A private key in the project would sooner or later be in its repository, and one that others can read signs for
    them too.
    """
    private = [path for path in (key, key.with_suffix("") if key.suffix == ".pub" else key) if _is_private(path)]
    for path in dict.fromkeys(private):
        real = path.resolve()
        if real.is_relative_to(project.resolve()):
            raise SigningError(f"the signing key {path} lies in the project {project}: move it out, and make a new one")
        mode = real.stat()
        if mode.st_mode & 0o077 or mode.st_uid not in (0, os.geteuid()):
            raise SigningError(f"others can read or change the signing key {path}: chmod 600 it, or make a new one")
    signer = Signer(key, deadline_s)
    signer.sign(b"may this key be used?\n", _TRIAL)
    return signer


def _is_private(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"PRIVATE KEY" in file.read(_MOST_BYTES)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SigningError(f"the signing key {path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Signers:
    """Whose signatures count: a file of allowed signers, and one of revoked keys, both as ssh-keygen has them."""

    allowed: Path
    revoked: Path | None = None
    deadline_s: float = DEADLINE_S

    def signer_of(self, data: bytes, signature: bytes) -> str:
        """Who signed `data`, and with which key; raises ReportError where nobody did who may, now."""
        with tempfile.TemporaryDirectory(prefix="gpugate-signature-") as name:
            folder = Path(name)
            allowed = folder / "allowed_signers"
            allowed.write_bytes(_without_patterns(self.allowed, _trusted(self.allowed)))
            (folder / "signature").write_bytes(signature)
            given = ["-f", str(allowed), "-s", str(folder / "signature")]
            found = _ssh_keygen(["-Y", "find-principals", *given], b"", self.deadline_s)
            principals = found.stdout.decode(errors="replace").splitlines()
            if found.returncode or not principals:
                raise ReportError(f"nobody signed it whom {self.allowed} allows to, now: {_said(found)}")
            if self.revoked is not None:
                (folder / "revoked").write_bytes(_trusted(self.revoked))
                given += ["-r", str(folder / "revoked")]
            # All of them stand in the line of the key that counts, the first.
            done = _ssh_keygen(["-Y", "verify", "-n", NAMESPACE, "-I", principals[0], *given], data, self.deadline_s)
            if not done.returncode and (good := _GOOD.search(done.stdout.decode(errors="replace"))):
                return one_line(good[1])
            revoked = f", or its key stands in {self.revoked}" if self.revoked is not None else ""
            raise ReportError(f"the signature of {one_line(principals[0])} does not hold{revoked}: {_said(done)}")


def _without_patterns(path: Path, signers: bytes) -> bytes:
    """The file's content; raises ReportError where it would let in more than the keys of those whom it names."""
    for number, line in enumerate(signers.split(b"\n"), 1):
        if line.lstrip(b" \t").startswith(b"#"):
            continue
        if pattern := _PATTERN.search(line):
            raise ReportError(
                f"{path}, line {number}, has a {pattern[0].decode()}: a pattern lets in whoever fits it, so name each "
                "signer"
            )
        if b"cert-authority" in line.lower():
            raise ReportError(f"{path}, line {number}, is a certificate authority: name each signer's own key")
    return signers


def _trusted(path: Path) -> bytes:
    """The content of a file that nobody else can change; raises ReportError for any other."""
    try:
        real = path.resolve(strict=True)
        for each in dict.fromkeys((path.absolute(), *path.absolute().parents, real, *real.parents)):
            if _others_change(each.lstat()):
                raise ReportError(
                    f"others may change {each}, and so who signs: give it to root or to this user, and chmod go-w"
                )
        if not real.is_file():
            raise ReportError(f"{path} is no file")
        with real.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ReportError(f"{path}, which says whose signatures count, cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ReportError(f"{path} is larger than {_MOST_BYTES} bytes")
    return data


def _others_change(about: os.stat_result) -> bool:
    if about.st_uid not in (0, os.geteuid()):
        return True
    if stat.S_ISLNK(about.st_mode):
        return False
    sticky = stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX
    return bool(about.st_mode & 0o022 and not sticky)


def _ssh_keygen(arguments: Sequence[str], data: bytes, deadline_s: float) -> subprocess.CompletedProcess[bytes]:
    """What it answered; raises ReportError where there is none, or none in time. It never asks a person on a terminal:
    a run that waits for a passphrase is a run that hangs."""
    env = {name: value for name, value in os.environ.items() if name not in ("SSH_ASKPASS", "DISPLAY")}
    env |= {"SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"}
    try:
        process = subprocess.Popen(["ssh-keygen", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=env, start_new_session=True)  # fmt: skip
    except OSError as error:
        raise ReportError(f"ssh-keygen, of OpenSSH, cannot be run: {error.strerror}") from error
    with process:
        try:
            output, problem = process.communicate(data, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise ReportError(f"ssh-keygen took longer than {deadline_s:g} s and was ended") from None
    return subprocess.CompletedProcess(process.args, process.returncode, output, problem)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What ssh-keygen said in its last lines, the names of our private copies left out."""
    told = re.sub(r"\S*/gpugate-signature-[^/\s]*/", "", done.stderr.decode(errors="replace"))
    lines = [line for line in map(one_line, told.splitlines()) if line and not line.startswith("Signing data")]
    return "; ".join(lines[-3:])[:500] or f"ssh-keygen exited {done.returncode} and said nothing"
