"""The ssh configuration means to gpugate what it means to ssh, and nothing that it asks for is ignored."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleets import DEADLINE_S, until
from gpugate.errors import NotGathered
from gpugate.gather import ssh_options
from gpugate.gather.hops import Hops
from gpugate.gather.open import open_transport
from gpugate.gather.openssh import OpenSshTransport
from gpugate.gather.ssh_config import Configs
from gpugate.gather.ssh_options import Credentials, lacking
from gpugate.inventory import Target
from sshds import USER, Sshd, clients, new_key, plain, ssh_config, sshd, target

BOTH = pytest.mark.parametrize("ssh", ["asyncssh", "openssh"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server whose log tells which algorithms were agreed on."""
    with sshd(tmp_path_factory.mktemp("node") / "sshd", "LogLevel DEBUG1", "AcceptEnv SITE_*") as up:
        yield up


def ask(way: Target, command: str = "echo hello") -> tuple[str, bool]:
    """What a node answers, or why it does not; and whether the OpenSSH client carried it."""

    async def safely() -> tuple[str, bool]:
        hops = Hops()
        try:
            async with asyncio.timeout(DEADLINE_S):
                transport = await open_transport(way, hops)
                by_openssh = isinstance(transport, OpenSshTransport)
                try:
                    return (await transport.run(command, b"", DEADLINE_S)).stdout.decode().strip(), by_openssh
                finally:
                    await transport.close()
        except NotGathered as error:
            return str(error).removeprefix(way.where).strip(), False
        finally:
            await hops.close()

    before = clients()
    said = asyncio.run(safely())
    assert clients() == before
    return said


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the test."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lacks(*arguments: str) -> str:
    """What asyncssh lacks of what a configuration asks for."""

    async def ask() -> str:
        settings = await Configs().settings(("-F", "none", *arguments), "gpu0")
        return lacking(settings, Credentials().known_hosts(settings))

    return asyncio.run(ask())


@BOTH
def test_configuration_files_are_read_as_ssh_reads_them(node: Sshd, tmp_path: Path, ssh: str) -> None:
    """Host patterns, Include, Match exec and the first value that counts: all that leads to the node is in files."""
    config = ssh_config(tmp_path / "nodes", {"gpu?": node, "*": node}, {"gpu9": ["Port 1"]})
    text = config.read_text()
    config.write_text(text.replace(f"  User {USER}\n", "", 1))
    main = tmp_path / "main"
    main.write_text(
        f"Include {tmp_path / 'no'}[dt]es\n"
        f'Match originalhost gpu0 exec "test %n = gpu0"\n  User {USER}\n'
        "Host *\n  User nobody-of-this-name\n"
    )
    way = target(node, ssh=ssh, address="gpu0", port=None, user=None, ssh_args=("-F", str(main)))
    assert ask(way)[0] == "hello"


@BOTH
def test_inventory_counts_more_than_the_configuration(node: Sshd, tmp_path: Path, ssh: str) -> None:
    """ansible_port, ansible_user and the inventory's key are taken where a configuration file says otherwise."""
    lines = {"*": ["Port 1", "User nobody-of-this-name", f"IdentityFile {new_key(tmp_path / 'other')}"]}
    config = ssh_config(tmp_path / "config", {node.address: node}, lines)
    way = target(node, ssh=ssh, private_key=str(node.key), ssh_args=("-F", str(config)))
    assert ask(way)[0] == "hello"


@BOTH
def test_paths_may_have_spaces(node: Sshd, tmp_path: Path, ssh: str) -> None:
    """A key and known hosts in a folder with spaces in its name are found, one file among several."""
    folder = tmp_path / "a folder of  keys"
    folder.mkdir()
    shutil.copy(node.key, folder / "my key")
    shutil.copy(node.known_hosts, folder / "known hosts")
    files = f'UserKnownHostsFile="/no where/known" "{folder / "known hosts"}" /dev/null'
    arguments = ("-F", "none", "-o", files, "-o", "IdentitiesOnly=yes", "-o", f'IdentityFile="{folder / "my key"}"')
    assert ask(target(node, ssh=ssh, ssh_args=arguments))[0] == "hello"


def test_key_of_the_inventory_that_is_missing_is_told(node: Sshd, tmp_path: Path) -> None:
    """A key file that the inventory names and that is not there is no reason to try others."""
    said, _ = ask(target(node, private_key=str(tmp_path / "gone")))
    assert said == f"cannot be reached: the inventory's private key {tmp_path / 'gone'} does not exist"


def test_configuration_that_is_not_valid_is_told(node: Sshd, tmp_path: Path) -> None:
    """A mistake in a configuration file is told in ssh's own words."""
    (tmp_path / "config").write_text("Host *\n  Prot 22\n")
    said, _ = ask(target(node, ssh_args=("-F", str(tmp_path / "config"))))
    assert said.startswith("cannot be reached: the ssh configuration is not valid: ")
    assert "line 2: Bad configuration option: prot" in said


def test_machine_without_ssh_is_told(node: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the OpenSSH client nobody knows what a configuration means."""
    monkeypatch.setenv("PATH", "/nowhere")
    said, _ = ask(target(node))
    assert said.startswith("cannot be reached: the OpenSSH client (ssh) is not installed on this machine")


CONFIGS = [
    "",
    "Host gpu*\n  Port 2222\nHost gpu1\n  User one\n",
    "Host gpu* !gpu1\n  User some\nHost *1\n  Port 11\n",
    "Host gpu1 gpu2\n  HostName 10.0.0.9\n",
    "Host *\n  HostName %h.example.com\n",
    "Host gpu*\n  UserKnownHostsFile /tmp/known_%h\n",
    "Match host gpu1\n  User one\nMatch all\n  Port 7\n",
    "Host GPU1\n  User big\n",
    "Host=gpu2\n\tUser = two\nProxyCommand ssh -W %h:%p jump\n",
    'Host "gpu1"\n  User "quoted"\n',
    "Include more\nHost gpu2\n  User two\n",
]


@pytest.mark.parametrize("text", CONFIGS)
def test_shared_answers_are_what_each_host_would_get(tmp_path: Path, text: str) -> None:
    """Whichever host is asked for first, each has the settings that `ssh -G` gives it when it is asked for alone."""
    (tmp_path / "more").write_text("Host gpu1\n  Port 1111\n")
    config = tmp_path / "config"
    config.write_text(text.replace("more", str(tmp_path / "more")))
    hosts = ("gpu0", "gpu1", "gpu2", "10.0.0.1")

    async def all_of(order: tuple[str, ...]) -> dict[str, Any]:
        configs = Configs()
        return {host: (await configs.settings(("-F", str(config)), host)).options for host in order}

    alone = {host: asyncio.run(all_of((host,)))[host] for host in hosts}
    for order in itertools.islice(itertools.permutations(hosts), 0, None, 7):
        assert asyncio.run(all_of(order)) == alone


@pytest.mark.parametrize(("text", "asked"), [(CONFIGS[1], 4), (CONFIGS[4], 101), (CONFIGS[8], 3)])
def test_hosts_that_a_configuration_cannot_tell_apart_share_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, asked: int
) -> None:
    """A hundred hosts cost as many questions as the configuration makes differences, and one for the defaults."""
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\necho . >>{tmp_path / "asked"}\nexec {shutil.which("ssh")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "config").write_text(text)

    async def all_of() -> None:
        configs = Configs()
        names = [*(f"gpu{i}" for i in range(1, 100)), "login"]
        await asyncio.gather(*(configs.settings(("-F", str(tmp_path / "config")), name) for name in names))

    asyncio.run(all_of())
    assert len((tmp_path / "asked").read_text().split()) == asked


@pytest.mark.parametrize(
    "option",
    ["KnownHostsCommand=/bin/true", "VerifyHostKeyDNS=yes", "PKCS11Provider=/lib/card.so", "BindInterface=lo",
     "RevokedHostKeys=/etc/revoked", "SecurityKeyProvider=/lib/key.so", "ProxyUseFdpass=yes", "CheckHostIP=yes",
     "HostbasedAuthentication=yes"],
)  # fmt: skip
def test_what_asyncssh_lacks_is_named(option: str) -> None:
    """An option that asyncssh would not honour is named."""
    assert option.partition("=")[0].lower() in lacks("-o", option)


def test_algorithms_that_asyncssh_lacks_are_left_out_while_others_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of algorithms is honoured as far as asyncssh has them; one of which it has none is named."""
    monkeypatch.setattr(ssh_options, "get_kex_algs", lambda: [b"curve25519-sha256"])
    assert lacks("-o", "KexAlgorithms=ecdh-sha2-nistp256,curve25519-sha256") == ""
    assert lacks("-o", "KexAlgorithms=ecdh-sha2-nistp256") == "kexalgorithms ecdh-sha2-nistp256"


def test_distributions_defaults_are_nothing_special(monkeypatch: pytest.MonkeyPatch) -> None:
    """GSSAPI, which distributions switch on for everybody, counts only where there is a ticket."""
    usual = ("-o", "GSSAPIAuthentication=yes", "-o", "SendEnv=LANG LC_*", "-o", "HashKnownHosts=yes", "-C",
             "-o", "ControlMaster=auto", "-o", "ControlPersist=60s", "-o", "ControlPath=/nowhere/%C")  # fmt: skip
    monkeypatch.setattr(ssh_options, "_ticket", lambda: False)
    assert lacks(*usual) == ""
    monkeypatch.setattr(ssh_options, "_ticket", lambda: True)
    assert "GSSAPI" in lacks(*usual)


def test_openssh_is_taken_where_asyncssh_lacks_something(node: Sshd) -> None:
    """KnownHostsCommand leads to the OpenSSH client by itself, and to a refusal where the inventory forbids that."""
    arguments = ("-o", "UserKnownHostsFile=/dev/null", "-o", f"KnownHostsCommand=/bin/cat {node.known_hosts}")
    assert ask(target(node)) == ("hello", False)
    assert ask(target(node, *arguments)) == ("hello", True)
    said, _ = ask(target(node, *arguments, ssh="asyncssh"))
    assert said.startswith("cannot be reached: asyncssh lacks what the ssh configuration asks for (knownhostscommand")


def test_open_master_of_the_user_is_used_and_left_open(tmp_path: Path, node: Sshd) -> None:
    """A master connection that the user opened by hand, after a second factor perhaps, is the way to the node."""
    socket = tmp_path / "master"
    own = ["ssh", "-p", str(node.port), *plain(node), "-o", f"ControlPath={socket}", "-M", "-N", node.address]
    with running(*own) as master:
        until(socket.is_socket)
        before = node.logins()
        way = target(node, "-o", f"ControlPath={socket}", "-o", f"IdentityFile={tmp_path / 'none'}")

        async def main() -> tuple[bool, bytes]:
            hops = Hops()
            transport = await open_transport(way, hops)
            answer = await transport.run("echo hello", b"", DEADLINE_S)
            await transport.close()
            await hops.close()
            return isinstance(transport, OpenSshTransport), answer.stdout

        assert asyncio.run(main()) == (True, b"hello\n")
        assert master.poll() is None
        assert node.logins() == before


@BOTH
def test_certificates_of_user_and_host(tmp_path: Path, ssh: str) -> None:
    """A certificate lets a user in, and one of the host's is trusted by its authority alone."""
    user_ca, host_ca, key = (new_key(tmp_path / name) for name in ("user_ca", "host_ca", "user"))
    with sshd(
        tmp_path / "sshd", f"TrustedUserCAKeys {user_ca}.pub", f"HostCertificate {tmp_path}/host-cert.pub"
    ) as node:
        sign = ["ssh-keygen", "-q", "-I", "id"]
        subprocess.run([*sign, "-s", user_ca, "-n", USER, f"{key}.pub"], check=True)
        shutil.copy(f"{node.folder / 'host_key'}.pub", tmp_path / "host.pub")
        subprocess.run([*sign, "-s", host_ca, "-h", "-n", node.address, tmp_path / "host.pub"], check=True)
        node.process.send_signal(1)  # reads its certificate
        authority = Path(f"{host_ca}.pub").read_text()
        (tmp_path / "known").write_text(f"@cert-authority [{node.address}]:{node.port} {authority}")
        options = ("-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o",
                   f"UserKnownHostsFile={tmp_path / 'known'}")  # fmt: skip
        until(lambda: node.log().count("Server listening") >= 2)
        way = target(node, ssh=ssh, ssh_args=options, private_key=str(key))
        assert ask(way)[0] == "hello"
        Path(f"{key}-cert.pub").rename(tmp_path / "elsewhere-cert.pub")
        assert ask(way)[0].startswith("refuses our login: ")
        named = (*options, "-o", f"CertificateFile={tmp_path / 'elsewhere-cert.pub'}")
        assert ask(target(node, ssh=ssh, ssh_args=named, private_key=str(key)))[0] == "hello"


@BOTH
def test_agent_is_asked_for_the_keys_that_may_be_used(tmp_path: Path, node: Sshd, ssh: str) -> None:
    """An agent's key lets in; with IdentitiesOnly only where a file names it, and with IdentityAgent none never."""
    socket, other = tmp_path / "agent", new_key(tmp_path / "other")
    with running("ssh-agent", "-D", "-a", socket):
        until(socket.is_socket)
        subprocess.run(["ssh-add", "-q", node.key], env=os.environ | {"SSH_AUTH_SOCK": str(socket)}, check=True)
        public = tmp_path / "named.pub"
        shutil.copy(f"{node.key}.pub", public)
        known = ("-F", "none", "-o", f"UserKnownHostsFile={node.known_hosts}")

        def answer(*options: str) -> str:
            arguments = (*known, *(word for option in options for word in ("-o", option)))
            return ask(target(node, ssh=ssh, ssh_args=arguments))[0]

        use = f"IdentityAgent={socket}"
        assert answer(use, f"IdentityFile={tmp_path / 'none'}") == "hello"
        assert answer(use, f"IdentityFile={public}", "IdentitiesOnly=yes") == "hello"
        assert answer(use, f"IdentityFile={other}", "IdentitiesOnly=yes").startswith("refuses our login")
        assert answer(use, f"IdentityFile={tmp_path / 'none'}", "IdentitiesOnly=yes").startswith("refuses our login")
        assert answer("IdentityAgent=none", f"IdentityFile={public}").startswith("refuses our login")


def test_encrypted_key_is_named_where_it_was_needed(tmp_path: Path, node: Sshd) -> None:
    """A refusal names the key that could not be read, and what to do with it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "locked"], check=True)
    arguments = ("-F", "none", "-o", f"UserKnownHostsFile={node.known_hosts}", "-o", "IdentityAgent=none")
    said, _ = ask(target(node, ssh_args=arguments, private_key=str(tmp_path / "locked")))
    assert said.startswith("refuses our login: ")
    assert f"not tried: {tmp_path / 'locked'} (encrypted: load it into an agent)" in said


@BOTH
def test_algorithms_are_those_of_the_configuration(node: Sshd, ssh: str) -> None:
    """Cipher, key exchange and MAC are taken from the configuration's lists and from nowhere else."""
    before = len(node.log())
    options = ("Ciphers=3des-cbc,aes192-ctr", "KexAlgorithms=ecdh-sha2-nistp384", "MACs=hmac-sha2-512")
    arguments = [word for option in options for word in ("-o", option)]
    assert ask(target(node, *arguments, ssh=ssh))[0] == "hello"
    log = node.log()[before:]
    assert "kex: algorithm: ecdh-sha2-nistp384" in log
    assert "client->server cipher: aes192-ctr MAC: hmac-sha2-512" in log


@BOTH
def test_environment_that_the_configuration_sends_arrives(
    node: Sshd, monkeypatch: pytest.MonkeyPatch, ssh: str
) -> None:
    """SendEnv and SetEnv reach the command where its sshd accepts them."""
    monkeypatch.setenv("SITE_NAME", "here")
    arguments = ("-o", "SendEnv=SITE_*", "-o", "SetEnv=SITE_RACK=r1")
    assert ask(target(node, *arguments, ssh=ssh), "echo $SITE_NAME $SITE_RACK")[0] == "here r1"


@BOTH
def test_other_proxy_commands_are_run(node: Sshd, tmp_path: Path, ssh: str) -> None:
    """A ProxyCommand of any kind is run with its tokens filled in, and ends with the connection."""
    proxy = tmp_path / "proxy"
    proxy.write_text(
        f"#!{sys.executable}\nimport os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def pump():\n    while d := os.read(0, 65536): s.sendall(d)\n"
        "threading.Thread(target=pump, daemon=True).start()\n"
        "while d := s.recv(65536): os.write(1, d)\n"
    )
    proxy.chmod(0o755)
    way = target(node, "-o", f"ProxyCommand={proxy} %h %p", ssh=ssh)
    assert ask(way)[0] == "hello"


ASKING_SERVER = """
import asyncio, asyncssh, sys

class Server(asyncssh.SSHServer):
    def password_auth_supported(self): return True
    def validate_password(self, user, password): return (user, password) == ("deploy", "s3 cret'%h")

async def handle(process):
    process.stdout.write("hello\\n")
    process.exit(0)

async def main():
    server = await asyncssh.create_server(
        Server, "127.0.0.1", 0, server_host_keys=[sys.argv[1]], process_factory=handle)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@BOTH
def test_password_lets_in_and_a_wrong_one_does_not(tmp_path: Path, node: Sshd, ssh: str) -> None:
    """ansible_password is what the login is answered with, once; it is never asked for on a terminal."""
    key = new_key(tmp_path / "host_key")
    with running(sys.executable, "-c", ASKING_SERVER, key) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {Path(f'{key}.pub').read_text()}")
        arguments = ("-F", "none", "-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "IdentityAgent=none", "-o",
                     f"IdentityFile={tmp_path / 'none'}")  # fmt: skip
        for password, said in (
            ("s3 cret'%h", "hello"),
            ("wrong", "refuses our login: "),
            (None, "refuses our login: "),
        ):
            way = target(node, ssh=ssh, ssh_args=arguments, address="127.0.0.1", port=port, user="deploy",
                         password=password)  # fmt: skip
            assert ask(way)[0].startswith(said)
