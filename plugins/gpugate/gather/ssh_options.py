"""Ansible's ssh arguments to an ssh configuration that asyncssh reads."""

from __future__ import annotations

from pathlib import Path

from ..errors import NotGathered
from ..inventory import Target

# What only concerns the OpenSSH client's own multiplexing and terminal: without meaning for one pooled connection.
_IRRELEVANT = {"controlmaster", "controlpath", "controlpersist", "batchmode", "loglevel", "stricthostkeychecking",
               "preferredauthentications", "requesttty", "checkhostip", "updatehostkeys", "hashknownhosts",
               "visualhostkey", "gssapiauthentication", "passwordauthentication", "kbdinteractiveauthentication",
               "identityagent", "addressfamily"}  # fmt: skip
_HONOURED = {"user", "port", "hostname", "identityfile", "identitiesonly", "userknownhostsfile", "globalknownhostsfile",
             "proxyjump", "proxycommand", "connecttimeout", "serveraliveinterval", "serveralivecountmax", "ciphers",
             "macs", "kexalgorithms", "hostkeyalgorithms", "pubkeyacceptedalgorithms", "compression", "certificatefile",
             "bindaddress", "forwardagent", "casignaturealgorithms", "hostkeyalias", "tcpkeepalive"}  # fmt: skip


def config_text(target: Target) -> tuple[str, list[Path], bool]:
    """The `-o` options as ssh configuration text, the configuration files to read, and whether the agent may be used.

    The files are the user's and the system's, or what `-F` names (`none`: no file).

    Raises NotGathered for an argument that this transport cannot honour, so that none is ignored by mistake.
    Host keys are always verified, whatever StrictHostKeyChecking says.
    """
    lines, agent = [], True
    files = [path for path in (Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")) if path.is_file()]
    arguments = iter(target.ssh_args)
    for argument in arguments:
        flag, value = argument[:2], argument[2:]
        if flag not in ("-o", "-F", "-i", "-J", "-p", "-l"):
            raise _unsupported(target, argument)
        if not value:
            value = next(arguments, "")
        if not value:
            raise NotGathered(f"{target.name}: the ssh argument {argument} has no value")
        if flag == "-F":
            files = [] if value == "none" else [Path(value).expanduser()]
            continue
        if flag == "-o":
            key, _, setting = value.replace("=", " ", 1).partition(" ")
        else:
            key = {"-i": "IdentityFile", "-J": "ProxyJump", "-p": "Port", "-l": "User"}[flag]
            setting = value
        name, setting = key.strip().lower(), setting.strip()
        if name == "identityagent":
            agent = setting.lower() != "none"
        elif name == "globalknownhostsfile" and setting == "none":
            continue  # asyncssh reads none unless told to
        elif name in _HONOURED:
            lines.append(f"{key.strip()} {setting}")
        elif name not in _IRRELEVANT:
            raise _unsupported(target, value)
    return "".join(f"{line}\n" for line in lines), files, agent


def _unsupported(target: Target, argument: str) -> NotGathered:
    return NotGathered(
        f"{target.name}: the ssh argument {argument!r} is not supported here; put what it does into an ssh "
        "configuration file and name that with -F"
    )
