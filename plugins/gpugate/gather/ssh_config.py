"""What the ssh configuration says about a host, in the words of OpenSSH itself: `ssh -G`.

So Host, Match, Include, canonical names and defaults mean here what they mean to `ssh`, whichever transport carries
them out. Asking costs a process of about 5 ms, so hosts that the configuration cannot tell apart share one answer.
"""

from __future__ import annotations

import asyncio
import glob
import os
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import NotGathered
from .streams import printable

ASK_DEADLINE_S = 20.0  # a `Match exec` may take its time
_AT_ONCE = 2 * (os.cpu_count() or 1)

Options = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Settings:
    """One destination: the arguments that `ssh` would be given, and what it makes of them.

    `options` are the lines of `ssh -G` by lower-case keyword (some come more than once); `defaults` those of a
    configuration that says nothing.
    """

    arguments: tuple[str, ...]
    destination: str
    options: Options
    defaults: Options

    def get(self, keyword: str, default: str = "") -> str:
        """The first value of a keyword; `default` also where ssh says "none"."""
        value = self.options.get(keyword, ("",))[0]
        return default if value in ("", "none") else value

    def chosen(self, keyword: str) -> bool:
        """Whether the configuration says something else than ssh's default."""
        return self.options.get(keyword) != self.defaults.get(keyword)

    @cached_property
    def host(self) -> str:
        return self.get("hostname")

    @cached_property
    def port(self) -> int:
        return int(self.get("port", "22"))

    @cached_property
    def user(self) -> str:
        return self.get("user")

    @property
    def config_file(self) -> tuple[str, ...]:
        """The arguments that name the configuration file: all that ssh hands on to a jump host."""
        found = _config_file(self.arguments)
        return () if found is None else ("-F", found)

    def files(self, keyword: str) -> list[Path]:
        """A list of files, such as UserKnownHostsFile. `ssh -G` parts them by spaces, and does not quote their own."""
        found, parts = [], self.get(keyword).split(" ")
        while parts and parts != [""]:
            sizes = [size for size in range(1, len(parts) + 1) if home(" ".join(parts[:size])).is_file()]
            size = max(sizes, default=1)
            found.append(home(" ".join(parts[:size])))
            parts = parts[size:]
        return found

    def expand(self, text: str) -> str:
        """A value with ssh's %-tokens and ${VARIABLES} filled in; raises NotGathered for one that is not known."""
        tokens = {"%": "%", "h": self.host, "n": self.destination, "p": str(self.port), "r": self.user,
                  "u": pwd.getpwuid(os.getuid()).pw_name, "d": str(home("~")), "i": str(os.getuid()),
                  "k": self.get("hostkeyalias", self.host), "l": os.uname().nodename,
                  "L": os.uname().nodename.split(".")[0]}  # fmt: skip

        def token(match: re.Match[str]) -> str:
            if match[1] not in tokens:
                raise NotGathered(f"{match[0]} in {text!r} of the ssh configuration is not known here")
            return tokens[match[1]]

        def variable(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise NotGathered(f"the ssh configuration uses {match[0]}, which is not set")
            return os.environ[match[1]]

        return re.sub(r"\$\{(\w+)\}", variable, re.sub(r"%(.)", token, text))


class Configs:
    """Answers of `ssh -G`, each asked for once."""

    def __init__(self) -> None:
        self._answers: dict[object, tuple[str, asyncio.Task[Options]]] = {}
        self._shapes: dict[str | None, _Shape] = {}
        self._door = asyncio.Semaphore(_AT_ONCE)

    async def settings(self, arguments: Iterable[str], destination: str) -> Settings:
        """What `ssh ARGUMENTS DESTINATION` would do; raises NotGathered where it would refuse."""
        given = tuple(arguments)
        _, defaults = await self._answer("defaults", ("-F", "none"), "defaults.invalid")
        likes = self._likes(given, destination)
        asked, options = await self._answer((given, likes or destination), given, destination)
        name = options["hostname"][0]
        if asked != destination and name != asked:  # renamed by something that all who share the answer have in common
            asked, options = await self._answer((given, destination), given, destination)
        elif asked != destination:
            options = {**options, "host": (destination,), "hostname": (destination,)}
        return Settings(given, destination, options, defaults)

    def close(self) -> None:
        """Give up the questions that are still open."""
        for _, answer in self._answers.values():
            answer.cancel()

    async def _answer(self, key: object, arguments: tuple[str, ...], destination: str) -> tuple[str, Options]:
        known = self._answers.get(key)
        if known is None or _failed(known[1]):
            self._answers[key] = destination, asyncio.create_task(self._ask(arguments, destination))
        asked, answer = self._answers[key]
        return asked, await asyncio.shield(answer)

    async def _ask(self, arguments: tuple[str, ...], destination: str) -> Options:
        pipe = asyncio.subprocess.PIPE
        command = ("ssh", "-G", *arguments, "--", destination)
        async with self._door:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
                )
            except FileNotFoundError as error:
                raise NotGathered(
                    "the OpenSSH client (ssh) is not installed on this machine, and only it knows what an ssh "
                    "configuration means: install openssh-client"
                ) from error
            try:
                async with asyncio.timeout(ASK_DEADLINE_S):
                    stdout, stderr = await process.communicate()
            except TimeoutError as error:
                raise NotGathered(
                    f"`ssh -G` did not tell the configuration within {ASK_DEADLINE_S:g} s (a Match exec that hangs?)"
                ) from error
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
        if process.returncode != 0:
            lines = [printable(line) for line in stderr.splitlines() if not line.startswith(b"Pseudo-terminal")]
            raise NotGathered(f"the ssh configuration is not valid: {'; '.join(lines)}")
        options: dict[str, tuple[str, ...]] = {}
        for line in stdout.decode(errors="surrogateescape").splitlines():
            keyword, _, value = line.partition(" ")
            options[keyword.lower()] = (*options.get(keyword.lower(), ()), value)
        return options

    def _likes(self, arguments: tuple[str, ...], destination: str) -> tuple[bool, ...] | None:
        """What of the destination's name the configuration looks at; None: its answer is its own."""
        file = _config_file(arguments)
        if file not in self._shapes:
            self._shapes[file] = _Shape.of(file)
        shape = self._shapes[file]
        named = any(_looks_at_names(argument) for argument in arguments)
        if not shape.shared or named or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", destination):
            return None
        likes = tuple(bool(pattern.fullmatch(destination)) for pattern in shape.patterns)
        return None if shape.renames and any(likes) else (True, *likes)


def _failed(answer: asyncio.Task[Options]) -> bool:
    return answer.done() and (answer.cancelled() or answer.exception() is not None)


@dataclass(frozen=True)
class _Shape:
    """How configuration files tell hosts apart: by the patterns after `Host`, or in ways that only ssh itself knows."""

    patterns: tuple[re.Pattern[str], ...]
    shared: bool
    renames: bool

    @classmethod
    def of(cls, file: str | None) -> _Shape:
        files = [home(file)] if file else [home("~/.ssh/config"), Path("/etc/ssh/ssh_config")]
        words: set[str] = set()
        shared, renames = True, False
        for keyword, rest in (line for path in files for line in _lines(path, 0)):
            if keyword == "host":
                words |= set(re.split(r'[\s,"]+', rest)) - {"", "*"}
            elif keyword == "hostname":
                renames = True
            if keyword in ("match", "canonicalizehostname") or ("%" in rest and keyword != "proxycommand"):
                shared = False
        return cls(tuple(re.compile(_expression(word)) for word in sorted(words)), shared, renames)


def _lines(path: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Keyword and value of every line of a configuration, what it includes too."""
    if depth > 16 or not path.is_file():
        return
    try:
        text = path.read_text(errors="surrogateescape")
    except OSError:
        yield "match", ""  # ssh will say why
        return
    for line in text.splitlines():
        keyword, _, rest = re.sub(r"[\s=]+", " ", line.strip(), count=1).partition(" ")
        if keyword.lower() == "include":
            base = Path("/etc/ssh") if path.is_relative_to("/etc/ssh") else home("~/.ssh")
            if '"' in rest:
                yield "match", ""
            for pattern in rest.split():
                for found in glob.glob(str(base / home(pattern))):  # noqa: PTH207 - absolute patterns
                    yield from _lines(Path(found), depth + 1)
        elif keyword and not keyword.startswith("#"):
            yield keyword.lower(), rest


def _expression(pattern: str) -> str:
    """ssh's pattern as a regular expression; a negated one looks at the same thing."""
    kinds = {"*": ".*", "?": "."}
    return "".join(kinds.get(character, re.escape(character)) for character in pattern.removeprefix("!").lower())


def _looks_at_names(argument: str) -> bool:
    option = argument.removeprefix("-o").lstrip().lower()
    return option.startswith(("canonicalizehostname", "include", "match", "hostname")) or (
        "%" in option and not option.startswith("proxycommand")
    )


def _config_file(arguments: tuple[str, ...]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument.startswith("-F"):
            return argument[2:] or next(iter(arguments[index + 1 :]), None)
    return None


def home(path: str) -> Path:
    """A path with ~ as ssh understands it: the home that the user database names, whatever $HOME says."""
    if path == "~" or path.startswith("~/"):
        return Path(pwd.getpwuid(os.getuid()).pw_dir + path[1:])
    return Path(path)
