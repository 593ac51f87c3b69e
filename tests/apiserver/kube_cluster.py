"""A real kube-apiserver with its etcd on this machine, in a folder and on ports of their own.

    with cluster() as kubernetes:
        kubernetes.admin.list_node()

Both listen on 127.0.0.1 only and are ended by their pids. There is no kubelet, no scheduler and no controller: tests
register nodes themselves, as kubelets, under `NodeRestriction`.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import need_apiserver
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes import client, utils
from kubernetes.config import new_client_from_config

DEADLINE_S = 120.0  # a safety only
DEPLOY = Path(__file__).parents[2] / "deploy/kubernetes"


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up; `admin` may do everything."""

    folder: Path
    url: str
    tokens: dict[str, str]

    @property
    def admin(self) -> client.CoreV1Api:
        """The API as the cluster's administrator."""
        return client.CoreV1Api(self.api("admin"))

    def api(self, user: str) -> client.ApiClient:
        """A client of a user: admin, or kubelet, which is the kubelet of gpu0."""
        return new_client_from_config(str(self.folder / f"{user}.kubeconfig"))

    def gate(self) -> Path:
        """A kubeconfig of the gate's account, with a token such as `kubectl create token` makes."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                   "spec": {"audiences": [], "expirationSeconds": 3600}}  # fmt: skip
        made = self.admin.create_namespaced_service_account_token("gpugate-gate", "gpugate", request)
        return self.kubeconfig("gate", made.status.token)

    def kubeconfig(self, user: str, token: str) -> Path:
        """Write a kubeconfig with a token."""
        path = self.folder / f"{user}.kubeconfig"
        known = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": user,
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": user, "context": {"cluster": "c", "user": user}}],
        }
        path.write_text(yaml.safe_dump(known))
        return path

    @property
    def ca(self) -> Path:
        """The certificate that the API server made for itself, and its authority's."""
        return self.folder / "certificates/apiserver.crt"

    def register(self, name: str, *taints: dict[str, str], user: str = "admin") -> None:
        """A kubelet registers its Node."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": list(taints)},
                "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}}  # fmt: skip
        client.CoreV1Api(self.api(user)).create_node(node)

    def node(self, name: str) -> dict[str, Any]:
        """A Node as the API server has it."""
        found: dict[str, Any] = self.admin.api_client.sanitize_for_serialization(self.admin.read_node(name))
        return found

    def cordon(self, name: str) -> None:
        """What `kubectl cordon` does."""
        self.admin.patch_node(name, {"spec": {"unschedulable": True}}, field_manager="kubectl-cordon")

    def heartbeat(self, name: str) -> None:
        """What a kubelet writes into its Node's status over and over."""
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": secrets.token_hex(4)}
        self.admin.patch_node_status(name, {"status": {"conditions": [ready]}})


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster with the gate's account and rights as deploy/kubernetes ships them, until the block ends."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpugate-apiserver-")))
        etcd, peers, port = _free_ports(3)
        tokens = {user: secrets.token_hex(16) for user in ("admin", "kubelet")}
        (folder / "tokens.csv").write_text(
            f'{tokens["admin"]},admin,u-1,"system:masters"\n{tokens["kubelet"]},system:node:gpu0,u-2,"system:nodes"\n'
        )
        _key(folder / "accounts.key")
        stack.enter_context(_running(folder / "etcd.log", [
            "etcd", f"--data-dir={folder}/etcd", f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}", f"--listen-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-cluster=default=http://127.0.0.1:{peers}"]))  # fmt: skip
        server = stack.enter_context(_running(folder / "apiserver.log", [
            str(need_apiserver.PROGRAM), f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1",
            f"--secure-port={port}", f"--cert-dir={folder}/certificates", f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--disable-admission-plugins=ServiceAccount", "--service-account-issuer=https://gpugate.test",
            f"--service-account-signing-key-file={folder}/accounts.key",
            f"--service-account-key-file={folder}/accounts.key",
            "--service-cluster-ip-range=10.0.0.0/24"]))  # fmt: skip
        up = Cluster(folder, f"https://127.0.0.1:{port}", tokens)
        _wait_until_ready(up, server)
        for user, token in tokens.items():
            up.kubeconfig(user, token)
        admin = up.api("admin")
        for name in ("namespace", "gate-rbac"):
            utils.create_from_yaml(admin, str(DEPLOY / f"{name}.yml"))
        yield up


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _key(path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


@contextmanager
def _running(log: Path, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in the foreground, ended with the block."""
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _wait_until_ready(up: Cluster, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        logs = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in up.folder.glob("*.log"))
        assert server.poll() is None, logs
        assert time.monotonic() < deadline, logs
        try:
            request = urllib.request.Request(f"{up.url}/readyz")  # noqa: S310  # https on loopback
            request.add_header("Authorization", f"Bearer {up.tokens['admin']}")
            trust = ssl.create_default_context(cafile=str(up.ca))
            with urllib.request.urlopen(request, timeout=5, context=trust):  # noqa: S310
                return
        except OSError:  # not listening yet, no certificate yet, or not ready
            time.sleep(0.1)
