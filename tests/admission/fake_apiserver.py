"""A small API server that knows Nodes alone, over real HTTP on loopback: versions, refusals and owners of fields as the
real one has them. tests/apiserver compares the two."""

from __future__ import annotations

import copy
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Json = dict[str, Any]
RIGHTS = frozenset({"list nodes", "get nodes", "patch nodes", "patch nodes/status"})
_REASONS = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 415: "UnsupportedMediaType",
            422: "Invalid"}  # fmt: skip


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class FakeApiServer:
    """Nodes, and what a test does to them behind gpugate's back.

    `rights` are the account's. `instead` may answer a request in place of the server, with status and body; `before`
    runs before each patch, outside the lock. `calls` are the requests that came, such as "PATCH /api/v1/nodes/gpu0".
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Json] = {}
        self.rights = set(RIGHTS)
        self.calls: list[str] = []
        self.instead: Callable[[str], tuple[int, bytes] | None] = lambda call: None
        self.before: Callable[[str], None] = lambda call: None
        self._version, self._uid, self._lock = 100, 0, threading.Lock()
        self.url = ""

    def register(self, name: str, *taints: str, **labels: str) -> None:
        """A kubelet registers its Node, with taints written as KEY=VALUE:EFFECT."""
        self._uid += 1
        node = {
            "metadata": {"name": name, "uid": f"uid-{self._uid}", "labels": {"kubernetes.io/hostname": name, **labels},
                         "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
            "spec": {"taints": [taint(each) for each in taints]} if taints else {},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": None,
                                       "message": "kubelet is posting ready status"}]},
        }  # fmt: skip
        self.nodes[name] = node
        self._touch(node)

    def edit(self, name: str, change: Callable[[Json], object]) -> None:
        """Somebody changes a Node."""
        with self._lock:
            change(self.nodes[name])
            self._touch(self.nodes[name])

    def cordon(self, name: str, by: str = "kubectl-cordon", *, cordoned: bool = True) -> None:
        """Somebody cordons a Node, or uncordons it."""
        self.edit(name, lambda node: _set_unschedulable(node, cordoned, by))

    def taint(self, name: str, *taints: str) -> None:
        """Somebody gives a Node these taints and no others."""
        self.edit(name, lambda node: node["spec"].update(taints=[taint(each) for each in taints]))

    def taints(self, name: str) -> list[str]:
        """A Node's taints, written as KEY=VALUE:EFFECT."""
        found = self.nodes[name]["spec"].get("taints", [])
        return [f"{each['key']}={each.get('value', '')}:{each['effect']}" for each in found]

    def condition(self, name: str, kind: str = "GpugateHealthy") -> Json:
        """One condition of a Node."""
        [found] = [each for each in self.nodes[name]["status"]["conditions"] if each["type"] == kind]
        return dict(found)

    def kubeconfig(self, path: Path, *contexts: str) -> Path:
        """Write a kubeconfig for this server, with a context of each name."""
        names = contexts or ("fake",)
        known = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": names[0],
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "gate", "user": {"token": "t-1"}}],
            "contexts": [{"name": name, "context": {"cluster": "fake", "user": "gate"}} for name in names],
        }
        path.write_text(yaml.safe_dump(known))
        return path

    def answer(self, method: str, target: str, body: bytes, content_type: str) -> Json:
        """The answer to one request; raises Refusal."""
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        match = re.fullmatch(r"/api/v1/nodes(?:/([^/]+))?(/status)?", url.path)
        if not match:
            raise Refusal(404, "the server could not find the requested resource")
        name, status = unquote(match[1] or ""), match[2] or ""
        verb = {"GET": "get" if name else "list", "PATCH": "patch"}.get(method, method.lower())
        if f"{verb} nodes{status}" not in self.rights:
            raise Refusal(403, f'nodes "{name}" is forbidden: User "gate" cannot {verb} resource "nodes{status}"')
        if verb == "list":
            return self._list(query)
        with self._lock:
            if name not in self.nodes:
                raise Refusal(404, f'nodes "{name}" not found')
            if verb == "patch":
                if content_type != "application/strategic-merge-patch+json":
                    raise Refusal(415, f"the body of the request was in an unknown format - {content_type}")
                self._patch(name, json.loads(body), status, query.get("fieldManager", "unknown"))
            return copy.deepcopy(self.nodes[name])

    def _list(self, query: dict[str, str]) -> Json:
        names = sorted(self.nodes)
        if field := query.get("fieldSelector"):
            names = [name for name in names if field == f"metadata.name={name}"]
        start, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(names)
        rest = {"continue": str(start + limit)} if start + limit < len(names) else {}
        items = [copy.deepcopy(self.nodes[name]) for name in names[start : start + limit]]
        return {"kind": "NodeList", "apiVersion": "v1", "metadata": rest, "items": items}

    def _patch(self, name: str, patch: Json, status: str, manager: str) -> None:
        node = copy.deepcopy(self.nodes[name])
        version = patch["metadata"].get("resourceVersion", node["metadata"]["resourceVersion"])
        if version != node["metadata"]["resourceVersion"]:
            raise Refusal(409, f'Operation cannot be fulfilled on nodes "{name}": the object has been modified')
        for part in ("labels", "annotations"):
            for key, value in patch["metadata"].get(part, {}).items():
                node["metadata"][part].pop(key, None)
                node["metadata"][part] |= {} if value is None else {key: value}
        if status:
            for new in patch.get("status", {}).get("conditions", []):
                kept = [each for each in node["status"]["conditions"] if each["type"] != new["type"]]
                node["status"]["conditions"] = [*kept, new]
        else:
            spec = patch.get("spec", {})
            if "unschedulable" in spec:
                _set_unschedulable(node, spec["unschedulable"], manager)
            if "taints" in spec:
                _check_taints(name, spec["taints"])
                node["spec"]["taints"] = spec["taints"]
                if not spec["taints"]:
                    del node["spec"]["taints"]
        for key, value in node["metadata"]["labels"].items():
            if len(value) > 63 or not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value):
                raise Refusal(422, f'Node "{name}" is invalid: metadata.labels: Invalid value: "{value}" of {key}')
        if node != self.nodes[name]:
            self.nodes[name] = node
            self._touch(node)

    def _touch(self, node: Json) -> None:
        self._version += 1
        node["metadata"]["resourceVersion"] = str(self._version)


def taint(text: str) -> Json:
    """A taint from KEY=VALUE:EFFECT."""
    key, value, effect = re.fullmatch(r"([^=:]+)(?:=([^:]*))?:(\w+)", text).groups()  # type: ignore[union-attr]
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def _set_unschedulable(node: Json, cordoned: bool, manager: str) -> None:
    """As the real one, note who changed it; who sets what is so already becomes no owner."""
    if node["spec"].get("unschedulable", False) == cordoned:
        return
    node["spec"].pop("unschedulable", None)
    node["metadata"]["managedFields"] = []
    if cordoned:
        node["spec"]["unschedulable"] = True
        node["metadata"]["managedFields"] = [
            {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-03-01T02:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:unschedulable": {}}}}]  # fmt: skip


def _check_taints(name: str, taints: list[Json]) -> None:
    pairs = [(each.get("key"), each.get("effect")) for each in taints]
    for each in taints:
        if each.get("effect") not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise Refusal(422, f'Node "{name}" is invalid: spec.taints: Unsupported value: "{each.get("effect")}"')
    if len(set(pairs)) < len(pairs):
        raise Refusal(422, f'Node "{name}" is invalid: spec.taints: Duplicate value')


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients come and go; what else goes wrong is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving() -> Iterator[FakeApiServer]:
    """A server on a free port of 127.0.0.1, until the block ends."""
    fake = FakeApiServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            call = f"{self.command} {self.path.partition('?')[0]}"
            fake.calls.append(call)
            if self.command == "PATCH":
                fake.before(call)
            code, answer = fake.instead(call) or self._answer(body)
            try:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except OSError:  # the client did not wait
                self.close_connection = True

        def _answer(self, body: bytes) -> tuple[int, bytes]:
            try:
                content_type = self.headers.get("Content-Type", "")
                return 200, json.dumps(fake.answer(self.command, self.path, body, content_type)).encode()
            except Refusal as error:
                status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": str(error),
                          "reason": _REASONS[error.code], "code": error.code}  # fmt: skip
                return error.code, json.dumps(status).encode()

        do_GET = do_PATCH = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
