"""What the ssh configuration asks for, as asyncssh takes it; what asyncssh lacks is named, never ignored."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from .ssh_config import Settings, home

KEEPALIVE_S = 10
KEEPALIVE_TIMES = 3

# keyword of ssh: name of the option of asyncssh
_ALGORITHMS = {
    "ciphers": "encryption_algs",
    "macs": "mac_algs",
    "kexalgorithms": "kex_algs",
    "hostkeyalgorithms": "server_host_key_algs",
    "pubkeyacceptedalgorithms": "signature_algs",
    "pubkeyacceptedkeytypes": "signature_algs",
}
_METHODS = {
    "pubkeyauthentication": "public_key_auth",
    "passwordauthentication": "password_auth",
    "kbdinteractiveauthentication": "kbdint_auth",
    "challengeresponseauthentication": "kbdint_auth",
}
_HONOURED = {*_ALGORITHMS, *_METHODS, "addressfamily", "bindaddress", "casignaturealgorithms", "certificatefile",
              "compression", "connecttimeout", "forwardagent", "globalknownhostsfile", "host", "hostkeyalias",
              "hostname", "identitiesonly", "identityagent", "identityfile", "port", "preferredauthentications",
              "proxycommand", "proxyjump", "requiredrsasize", "sendenv", "setenv", "user",
              "userknownhostsfile"}  # fmt: skip
# Of no meaning for one command without terminal, forwarding or question; done in our own way (keepalive, retries,
# strict host keys: those are never off); or settled by `ssh -G` already (canonical names, tags).
_IRRELEVANT = {"addkeystoagent", "batchmode", "canonicaldomains", "canonicalizefallbacklocal", "canonicalizehostname",
              "canonicalizemaxdots", "canonicalizepermittedcnames", "clearallforwardings", "connectionattempts",
              "controlmaster", "controlpath", "controlpersist", "dynamicforward", "enableescapecommandline",
              "enablesshkeysign", "escapechar", "exitonforwardfailure", "fingerprinthash", "forwardx11",
              "forwardx11timeout", "forwardx11trusted", "gatewayports", "hashknownhosts",
              "hostbasedacceptedalgorithms", "ignoreunknown", "ipqos", "localcommand", "localforward", "loglevel",
              "logverbose", "nohostauthenticationforlocalhost", "numberofpasswordprompts", "obscurekeystroketiming",
              "permitlocalcommand", "permitremoteopen", "rekeylimit", "remotecommand", "remoteforward", "requesttty",
              "serveralivecountmax", "serveraliveinterval", "stricthostkeychecking", "streamlocalbindmask",
              "streamlocalbindunlink", "syslogfacility", "tag", "tcpkeepalive", "tunnel", "tunneldevice",
              "updatehostkeys", "visualhostkey", "warnweakcrypto", "xauthlocation"}  # fmt: skip


def lacking(settings: Settings, known: KnownHosts) -> str:
    """What only the OpenSSH client can do of what this configuration asks for; "" where asyncssh can do all of it."""
    if settings.get("controlpath") and home(settings.get("controlpath")).is_socket():
        return f"the open master connection {settings.get('controlpath')}"
    if _fips():
        return "this machine's FIPS mode"
    if settings.get("gssapiauthentication") == "yes" and _ticket():
        return "GSSAPIAuthentication with the Kerberos ticket at hand"
    for keyword in settings.options:
        settled = keyword in _HONOURED or keyword in _IRRELEVANT or keyword.startswith("gssapi")
        if not settled and settings.chosen(keyword):
            return f"{keyword} {settings.get(keyword)}"
    if settings.chosen("casignaturealgorithms") and known.trusted(settings)[1]:
        return f"CASignatureAlgorithms {settings.get('casignaturealgorithms')}"
    for keyword in settings.options.keys() & _ALGORITHMS.keys():
        if settings.chosen(keyword) and not _supported(keyword, settings.get(keyword)):
            return f"{keyword} {settings.get(keyword)}"
    return ""


def options(settings: Settings, trusted: tuple[Any, ...], keys: Keys, password: str | None) -> dict[str, Any]:
    """Arguments of asyncssh.connect, complete: it reads no configuration itself. Host keys are always verified."""
    chosen: dict[str, Any] = {
        "config": None,
        "host": settings.host,
        "port": settings.port,
        "username": settings.user,
        "password": password,
        "known_hosts": trusted,
        "host_key_alias": settings.get("hostkeyalias") or None,
        "x509_trusted_certs": None,
        "host_based_auth": False,
        "gss_kex": False,
        "gss_auth": False,
        "client_keys": iter(keys.own),  # a list that is empty would mean the default keys
        "agent_path": keys.agent,
        "agent_identities": list(keys.identities) or None,
        "agent_forwarding": settings.get("forwardagent") == "yes" and bool(keys.agent),
        "compression_algs": "zlib@openssh.com,zlib,none" if settings.get("compression") == "yes" else "none",
        "send_env": [name for line in settings.options.get("sendenv", ()) for name in line.split()],
        "env": dict(pair.split("=", 1) for pair in settings.options.get("setenv", ()) if "=" in pair),
        "keepalive_interval": KEEPALIVE_S,
        "keepalive_count_max": KEEPALIVE_TIMES,
    }
    if not keys.own and not keys.agent:
        chosen["client_keys"] = None
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(settings.get("addressfamily"))
    if family is not None:
        chosen["family"] = family
    if settings.get("bindaddress"):
        chosen["local_addr"] = (settings.get("bindaddress"), 0)
    if settings.get("preferredauthentications"):
        chosen["preferred_auth"] = settings.get("preferredauthentications")
    for keyword, name in _METHODS.items():
        if keyword in settings.options:
            chosen[name] = settings.get(keyword) not in ("no", "false")
    for keyword, name in _ALGORITHMS.items():
        if keyword in settings.options and settings.chosen(keyword):
            chosen[name] = _supported(keyword, settings.get(keyword))
    return chosen


def _supported(keyword: str, wanted: str) -> list[str]:
    """Those of a list of algorithms that asyncssh has: never more than the configuration allows."""
    have = {"ciphers": get_encryption_algs, "macs": get_mac_algs, "kexalgorithms": get_kex_algs}.get(keyword)
    names = have() if have else [*get_public_key_algs(), *get_certificate_algs()]
    return [name for name in wanted.split(",") if name.encode() in names]


@dataclass(frozen=True)
class Keys:
    """What to log in with: pairs of private key and certificate (or None), and an agent.

    `identities` are the public keys that the agent may be asked for, empty for all of them. `unread` names key files
    that could not be used, for the sentence of a refusal.
    """

    own: tuple[Any, ...]
    agent: str | None
    identities: tuple[bytes, ...]
    unread: tuple[str, ...]


class Credentials:
    """Key files and known hosts, each read once for all hosts."""

    def __init__(self) -> None:
        self._keys: dict[object, Keys] = {}
        self._known: dict[object, KnownHosts] = {}

    def keys(self, settings: Settings) -> Keys:
        """The keys that a configuration names, as far as they can be read."""
        files = [home(settings.expand(name)) for name in settings.options.get("identityfile", ()) if name != "none"]
        certificates = [home(settings.expand(name)) for name in settings.options.get("certificatefile", ())]
        only = settings.get("identitiesonly") == "yes"
        agent = _agent(settings)
        key = (*files, None, *certificates, only, agent)
        if key not in self._keys:
            self._keys[key] = _read_keys(files, [c for c in certificates if c.is_file()], only, agent)
        return self._keys[key]

    def known_hosts(self, settings: Settings) -> KnownHosts:
        """The known hosts of a configuration's files."""
        files = [*settings.files("userknownhostsfile"), *settings.files("globalknownhostsfile")]
        least = int(settings.get("requiredrsasize", "0"))
        key = (*files, least)
        if key not in self._known:
            self._known[key] = KnownHosts(files, least)
        return self._known[key]


class KnownHosts:
    """Host keys by name, of some files."""

    def __init__(self, files: Iterable[Path], least_rsa_bits: int) -> None:
        self._least = least_rsa_bits
        self._hosts = asyncssh.SSHKnownHosts()
        self.authorities = False
        for path in files:
            text = ""
            with suppress(OSError):  # as ssh: a file that is missing holds no keys
                text = path.read_text(errors="surrogateescape")
            self.authorities = self.authorities or "@cert-authority" in text
            try:
                self._hosts.load(text)
            except ValueError:
                for line in text.splitlines():
                    with suppress(ValueError):  # as ssh: a broken line holds no key
                        self._hosts.load(line)

    def trusted(self, settings: Settings) -> tuple[Any, ...]:
        """Keys, authorities and revoked keys of a host, as asyncssh takes them (with four kinds of X.509, all empty).

        OpenSSH looks a host up by its name alone, never by its address, and with its port only where that is not 22.
        """
        name = settings.host if settings.port == 22 else f"[{settings.host}]:{settings.port}"
        keys, authorities, revoked, *_ = self._hosts.match(settings.get("hostkeyalias", name), "", None)
        return [key for key in keys if self._long_enough(key)], authorities, revoked, [], [], [], []

    def _long_enough(self, key: asyncssh.SSHKey) -> bool:
        return key.algorithm != b"ssh-rsa" or getattr(key.pyca_key, "key_size", 0) >= self._least


def _read_keys(files: list[Path], certificates: list[Path], only: bool, agent: str | None) -> Keys:
    own: list[Any] = []
    identities: list[bytes] = []
    unread: list[str] = []
    loaded = [certificate for path in certificates for certificate in _certificates(path)]
    for path in files:
        if not path.is_file():
            continue
        public = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
        with suppress(OSError, ValueError):
            identities.append(asyncssh.read_public_key(public).public_data)
        try:
            key = asyncssh.read_private_key(path)
        except (OSError, ValueError) as error:
            if path.suffix != ".pub":
                encrypted = "assphrase" in str(error)  # asyncssh has no class for it
                unread.append(f"{path} ({'encrypted: load it into an agent' if encrypted else error})")
        else:
            identities.append(key.public_data)
            beside = _certificates(path.with_name(f"{path.name}-cert.pub"))
            own += [(key, one) for one in [*beside, *loaded] if one.key.public_data == key.public_data]
            own.append(key)
    if only and not identities:
        agent = None  # to asyncssh an empty list of identities means all of them
    return Keys(tuple(own), agent, tuple(dict.fromkeys(identities)) if only else (), tuple(unread))


def _certificates(path: Path) -> list[Any]:
    with suppress(OSError, ValueError):
        return [asyncssh.read_certificate(path)]
    return []


def _agent(settings: Settings) -> str | None:
    """The agent's socket: IdentityAgent, else what the environment names."""
    named = settings.options.get("identityagent", ("SSH_AUTH_SOCK",))[0]
    if named == "none":
        return None
    if named == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK") or None
    if named.startswith("$") and not named.startswith("${"):
        return os.environ.get(named[1:]) or None
    return str(home(settings.expand(named)))


@cache
def _ticket() -> bool:
    """Whether Kerberos has a ticket that GSSAPI would use: distributions switch GSSAPI on for everybody."""
    if shutil.which("klist") is None:
        return bool(os.environ.get("KRB5CCNAME")) or Path(f"/tmp/krb5cc_{os.getuid()}").exists()  # noqa: S108 - Kerberos' own
    try:
        return subprocess.run(["klist", "-s"], check=False, capture_output=True, timeout=5).returncode == 0
    except subprocess.TimeoutExpired:
        return True


@cache
def _fips() -> bool:
    with suppress(OSError):
        return Path("/proc/sys/crypto/fips_enabled").read_text().strip() == "1"
    return False
