"""compute: does it calculate right?"""

from __future__ import annotations

from gpugate.errors import Unavailable
from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_known_answer(node: Node, policy: Policy, expect: Expect) -> None:
    """Every thread of the burn ran, for policy's least time, and got the answer that was computed beforehand on another
    machine, bit for bit."""
    for gpu, burn in node.burnt():
        expect("threads that finished", burn.threads_completed, at=gpu).equals(
            burn.threads_launched, next=Next.RESET_GPU, origin="the threads that were launched"
        )
        expect("threads launched", burn.threads_launched, at=gpu).at_least(1, next=Next.RERUN)
        wrong = burn.first_mismatch
        where = (
            f"; first in thread {wrong.thread}: expected {wrong.expected:#x}, found {wrong.found:#x}" if wrong else ""
        )
        expect(f"wrong answers{where}", burn.mismatches, at=gpu).equals(0, next="take the card out of service; RMA")
        if burn.seconds < policy.burn_min_s:
            raise Unavailable(f"it was burnt for {burn.seconds:.3g} of {policy.burn_min_s:g} s: {burn.reason}")
