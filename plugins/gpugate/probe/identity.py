"""Who the node is, in a moment: what an admission compares before it acts on a report."""

from __future__ import annotations

from typing import Any

from ..evidence.facts import Gap, to_json
from . import host
from .node import Node
from .reading import attempt
from .session import session


def identity(node: Node) -> dict[str, Any]:
    """`{machine_id, boot_id, hostname, driver, gpu_uuids: [...]}`; what cannot be read is `{unavailable, code}`.

    `driver` is the version that NVML answers: a driver can be exchanged without a restart.
    """
    with session(node) as ml:
        driver = ml if isinstance(ml, Gap) else ml.driver_version()
        devices = ml if isinstance(ml, Gap) else ml.devices()
        uuids = devices if isinstance(devices, Gap) else [device.uuid() for device in devices]
    return {
        "machine_id": to_json(attempt("machine id", lambda: host.machine_id(node))),
        "boot_id": to_json(attempt("boot id", lambda: host.boot_id(node))),
        "hostname": to_json(attempt("hostname", lambda: host.hostname(node))),
        "driver": to_json(driver),
        "gpu_uuids": to_json(uuids),
    }
