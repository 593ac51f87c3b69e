"""evidence: is what we judge here whole, and of this run?"""

from __future__ import annotations

import time

from gpugate import __version__
from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_fresh(node: Node, policy: Policy, expect: Expect) -> None:
    """The document answers this run's own request; one that was gathered by other means is young enough."""
    if node.gathered.nonce:
        expect("the request that it answers", node.nonce).equals(
            node.gathered.nonce, next=Next.RERUN, origin="the request of this gather"
        )
    else:
        age = time.time() - node.started_unix_s
        expect("age of the evidence", age).at_most(policy.report_max_age_s, "s", next=Next.RERUN)
        expect("how far in the future it was measured", -age).at_most(policy.clock_skew_s, "s", next=Next.TIME)


def check_whole(node: Node, policy: Policy, expect: Expect) -> None:
    """The document is valid, from the probe build that policy allows (else this version's), run with privilege."""
    expect("schema", node.schema).equals(1, origin="this controller")
    if policy.probe_builds:
        expect("probe build", node.probe.digest).one_of(
            policy.probe_builds, next=Next.REPROVISION, origin="policy gpugate_probe_builds"
        )
    else:
        expect("probe version", node.probe.version).equals(__version__, next=Next.REPROVISION, origin="this controller")
    expect("probe ran with privilege", node.host.privileged).equals(
        True, next="give ansible_become to the gather's user"
    )
