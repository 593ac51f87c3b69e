"""Which node, boot, GPUs and policy a host's verdicts are about: what the gate compares with the node as it is."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Unavailable
from ..evidence.types import Evidence
from ..policy import Policy


def identity_of(policy: Policy, evidence: Evidence | None = None, evidence_sha256: str = "") -> dict[str, str]:
    """What is known, by name; what is not known is absent.

    `gpu_uuids` are sorted and joined with commas, absent as soon as one is unknown; `measured_unix_s` is the node's
    clock when the probe started; `evidence_sha256` (hex) that of the document, the bytes as gathered.
    """
    known = {"policy_digest": policy.digest}
    if evidence_sha256:
        known["evidence_sha256"] = evidence_sha256
    if evidence is None:
        return known
    facts: dict[str, Callable[[], str]] = {
        "machine_id": lambda: evidence.host.machine_id,
        "boot_id": lambda: evidence.host.boot_id,
        "hostname": lambda: evidence.host.hostname,
        "gpu_uuids": lambda: ",".join(sorted(gpu.uuid for gpu in evidence.gpus)),
        "driver": lambda: evidence.driver.nvml_version,
        "probe_version": lambda: evidence.probe.version,
        "probe_digest": lambda: evidence.probe.digest,
        "measured_unix_s": lambda: f"{evidence.started_unix_s:.3f}",
    }
    for name, read in facts.items():
        try:
            value = read()
        except Unavailable:
            continue
        if value:
            known[name] = value
    return known
