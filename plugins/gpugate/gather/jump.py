"""The jump host in front of a destination, whichever way the ssh configuration names it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .ssh_config import Settings

_FLAGS_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"


@dataclass(frozen=True)
class Jump:
    """A jump host as it is asked for: the arguments and the destination that `ssh` would be given."""

    arguments: tuple[str, ...]
    destination: str

    @property
    def where(self) -> str:
        """Its name, for a sentence about reaching it."""
        return f"the jump host {self.destination.removeprefix('ssh://')}"


def jump_of(settings: Settings) -> Jump | None:
    """The jump host next to a destination: of ProxyJump, or of a ProxyCommand that is nothing but `ssh -W`."""
    if chain := settings.get("proxyjump"):
        *before, last = chain.split(",")
        through = ("-J", ",".join(before)) if before else ()
        place = last if last.startswith("ssh://") else f"ssh://{last}"
        return Jump((*settings.config_file, *through), place)
    return _of_command(settings.get("proxycommand"))


def without_jump(arguments: Iterable[str]) -> tuple[str, ...]:
    """The arguments of ssh without -J, which it refuses beside a ProxyCommand."""
    return tuple(part for flag, *value in _split(arguments) for part in (flag, *value) if flag != "-J")


def _of_command(command: str) -> Jump | None:
    """`ssh [OPTIONS] -W %h:%p HOST`; None for any other command, which is then run as it is."""
    if re.search(r"[$`;&|<>()*?~\n]", command):  # a shell's work
        return None
    try:
        program, *words = shlex.split(command) or [""]
    except ValueError:
        return None
    parts = list(_split(words))
    places = [part[0] for part in parts if not part[0].startswith("-")]
    forwards = [part[1:] for part in parts if part[0] == "-W"]
    options = [word for part in parts if part[0].startswith("-") and part[0] != "-W" for word in part]
    if program.rpartition("/")[2] != "ssh" or forwards not in ([["%h:%p"]], [["[%h]:%p"]]) or len(places) != 1:
        return None
    if any("%" in word for word in [*options, *places]):
        return None
    return Jump(tuple(options), places[0])


def _split(arguments: Iterable[str]) -> Iterator[list[str]]:
    """Arguments of ssh one by one: a flag with its value, if it takes one, or a word."""
    rest = iter(arguments)
    for argument in rest:
        if len(argument) > 1 and argument[0] == "-" and argument[1] in _FLAGS_WITH_VALUE:
            yield [argument[:2], argument[2:] or next(rest, "")]
        else:
            yield [argument]
