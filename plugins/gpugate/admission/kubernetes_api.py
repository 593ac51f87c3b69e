"""The Kubernetes API server, through the official client: which cluster, deadlines, and refusals as sentences.

Taken of the client are its reading of kubeconfig and in-cluster credentials and four calls (`list_node`, `read_node`,
`patch_node`, `patch_node_status`), whose answers are read here as JSON. A body that is a dict goes out as a strategic
merge patch: lists of conditions are merged by type, lists of taints replaced.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import AdmissionError
from ..report.text import one_line
from .kubernetes_nodes import MANAGER

AT_ONCE = 16
IN_CLUSTER = "in-cluster"
_PAGE, _MOST_PAGES = 500, 400
_RIGHTS = "the gate's account needs what deploy/kubernetes/gate-rbac.yml grants"
_ADVICE = {
    0: "no connection to the API server",
    401: "the API server does not accept the credentials of gpugate_admission_kubeconfig",
    403: "the API server forbids it",
    404: "the API server knows no such Node",
    410: "the list of Nodes expired while it was read; run the gate again",
    422: "the API server takes it for invalid",
    429: "the API server is too busy; run the gate again later",
}


class Api:
    """One cluster's Nodes. Every call ends within `timeout_s` seconds or so; whatever goes wrong is an AdmissionError.

    `kubeconfig` is a file, or `in-cluster` for a pod's own account; `context` may be empty where there is only one.
    """

    def __init__(self, kubeconfig: str, context: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        try:
            self._client = importlib.import_module("kubernetes.client")  # takes a second: only where it is needed
            self._config = importlib.import_module("kubernetes.config")
        except ImportError as error:
            raise AdmissionError(
                f"gpugate_admission_backend: kubernetes needs the package kubernetes, which {sys.executable} does not "
                f"have ({error}): run pip install '.[kubernetes]' in the project's root with that Python"
            ) from None
        settings = self._client.Configuration()
        settings.retries = 0  # a change of which nobody knows whether it was made is not made again
        settings.connection_pool_maxsize = AT_ONCE
        try:
            self._load(kubeconfig, context, settings)
        except AdmissionError:
            raise
        except Exception as error:  # its loader raises whatever a file makes it stumble over
            where = f"{kubeconfig}{f', context {context}' if context else ''}"
            raise AdmissionError(f"gpugate_admission_kubeconfig: {where}: {_told(error)}") from None
        self._core = self._client.CoreV1Api(self._client.ApiClient(settings))

    def nodes(self, only: str = "") -> Iterator[object]:
        """All Nodes, or the one called `only`, as the API server lists them."""
        selector = {"field_selector": f"metadata.name={only}"} if only else {}
        token = None
        for _ in range(_MOST_PAGES):
            page = self._call("list nodes", self._core.list_node, limit=_PAGE, _continue=token, **selector)
            items, metadata = (page.get(key) if isinstance(page, dict) else None for key in ("items", "metadata"))
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise AdmissionError("what the API server answers is no list of Nodes")
            yield from items
            token = metadata.get("continue")
            if not token:
                return
        raise AdmissionError(f"the API server's list of Nodes has no end after {_MOST_PAGES} pages of {_PAGE}")

    def node(self, name: str) -> object:
        """The Node of that name."""
        return self._call("get nodes", self._core.read_node, name)

    def patch(self, name: str, body: dict[str, Any]) -> object:
        """The Node as the patch made it; None where it was changed since the patch's `resourceVersion` was read."""
        return self._change("patch nodes", self._core.patch_node, name, body)

    def patch_status(self, name: str, body: dict[str, Any]) -> object:
        """The same for the Node's status."""
        return self._change("patch nodes/status", self._core.patch_node_status, name, body)

    def _load(self, kubeconfig: str, context: str, settings: Any) -> None:
        if kubeconfig == IN_CLUSTER:
            self._config.load_incluster_config(client_configuration=settings)
            return
        path = Path(kubeconfig).expanduser()
        if not path.is_absolute():
            raise AdmissionError(
                f"gpugate_admission_kubeconfig: {kubeconfig!r} is neither an absolute path nor {IN_CLUSTER}"
            )
        if not context:
            contexts, _ = self._config.list_kube_config_contexts(str(path))
            if len(contexts) > 1:  # the current one is whatever somebody's kubectl was told last
                names = ", ".join(sorted(str(each["name"]) for each in contexts))
                raise AdmissionError(
                    f"gpugate_admission_kubeconfig: {kubeconfig} knows several clusters: set gpugate_admission_context "
                    f"to one of {names}"
                )
        self._config.load_kube_config(str(path), context or None, client_configuration=settings, persist_config=False)

    def _change(self, what: str, call: Callable[..., Any], name: str, body: dict[str, Any]) -> object:
        try:
            return self._call(what, call, name, body, field_manager=MANAGER)
        except _Conflict:
            return None

    def _call(self, what: str, call: Callable[..., Any], *arguments: object, **options: object) -> Any:
        until = time.monotonic() + self.timeout_s
        unknown = "; nobody knows whether it was done" if what.startswith("patch") else ""
        try:
            answer = call(*arguments, **options, _preload_content=False, _request_timeout=self.timeout_s)
            return json.loads(self._read(answer, until))
        except self._client.ApiException as error:
            raise _refusal(what, error) from None
        except ValueError:
            raise AdmissionError(f"cannot {what}: what the API server answers is no JSON{unknown}") from None
        except Exception as error:  # of the network, of a credential plugin, of the client itself: all mean no answer
            raise AdmissionError(f"cannot {what}: no answer from the API server: {_told(error)}{unknown}") from None

    def _read(self, answer: Any, until: float) -> bytes:
        """The whole answer. The client's own time limit is for each piece of it."""
        pieces = []
        while piece := answer.read1(1 << 20):
            pieces.append(piece)
            if time.monotonic() > until:
                answer.close()
                raise TimeoutError(f"not over after {self.timeout_s:g} s")
        answer.release_conn()
        return b"".join(pieces)


class _Conflict(AdmissionError):
    """The object was changed since its version was read."""


def _refusal(what: str, error: Any) -> AdmissionError:
    """What the API server refused, and why, by its `Status`."""
    said = ""
    try:
        said = one_line(str(json.loads(error.body)["message"]))[:500]
    except (KeyError, TypeError, ValueError):  # not every answer comes from the API server itself
        said = one_line(f"{error.status} {error.reason}")[:200]
    if error.status == 409:
        return _Conflict(said)
    told = _ADVICE.get(error.status, f"the API server answers {error.status}")
    rights = f"; {_RIGHTS}" if error.status == 403 else ""
    return AdmissionError(f"cannot {what}: {told}: {said}{rights}")


def _told(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")[:300]
