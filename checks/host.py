"""host: is the machine around the GPUs fit to measure on?"""

from __future__ import annotations

from gpugate.errors import Unavailable
from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_clock(node: Node, policy: Policy, expect: Expect) -> None:
    """The node's clock, read when its probe started, lies between our asking and our hearing the answer."""
    gathered = node.gathered
    if not gathered.nonce:
        raise Unavailable("the evidence was gathered by other means, which did not note when it was asked for")
    clock = node.host.clock_unix_s
    early, late = gathered.asked_unix_s - clock, clock - gathered.received_unix_s
    expect("the node's clock is off by", max(early, late, 0.0)).at_most(policy.clock_skew_s, "s", next=Next.TIME)
