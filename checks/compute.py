"""compute: does it calculate right, and as fast as its kind?"""

from __future__ import annotations

from statistics import median

from gpugate.errors import Unavailable
from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node

_UNITS = {"stream": "GB/s"}


def check_known_answer(node: Node, policy: Policy, expect: Expect) -> None:
    """Every thread of the burn ran, for policy's least time, and every word that it and the memory test computed equals
    the answer that was computed beforehand on another processor, bit for bit."""
    for gpu, burn in node.burnt():
        expect("threads that finished", burn.threads_completed, at=gpu).equals(
            burn.threads_launched, next=Next.RESET_GPU, origin="the threads that were launched"
        )
        expect("threads launched", burn.threads_launched, at=gpu).at_least(1, next=Next.RERUN)
        first = next(iter(burn.wrong), None)
        where = (
            f"; first in {first.work}, SM {first.sm}, block {first.block}, thread {first.thread}, "
            f"launch {first.launch}, round {first.round}, word {first.word}: "
            f"expected {first.expected:#010x}, found {first.found:#010x}, "
            f"xor {first.expected ^ first.found:#010x}"
            if first
            else ""
        )
        expect(f"wrong words{where}", burn.mismatches, at=gpu).equals(0, next=Next.RMA)
        if burn.seconds < policy.burn_min_s:
            raise Unavailable(f"it was burnt for {burn.seconds:.3g} of {policy.burn_min_s:g} s: {burn.reason}")


def check_throughput(node: Node, policy: Policy, expect: Expect) -> None:
    """Each work that policy gives a reference for reaches its share of that rate, measured alone on the hot card.

    References come from this burn on a good board at the same power limit, not from data sheets.
    """
    if not policy.rates:
        raise Unavailable(
            "policy has no reference: put the rates of a good node into gpugate_rates (its burn tells them), or set "
            "gpugate_checks: compute.throughput: absent"
        )
    for gpu, burn in node.burnt():
        for work, reference in policy.rates.items():
            if work not in burn.rates:
                raise Unavailable(f"the burn has no rate of {work}: this card cannot do it, or it did not come to it")
            expect(f"rate of {work}", burn.rates[work], at=gpu).at_least(
                policy.rates_share * reference, _UNITS.get(work, "TFLOP/s"), next=Next.SLOW,
                origin=f"policy gpugate_rates_share of gpugate_rates.{work}, {reference:g}",
            )  # fmt: skip


def check_siblings(node: Node, policy: Policy, expect: Expect) -> None:
    """No GPU is much slower than the other GPUs of its node are at the median, in any work."""
    rates = [(gpu, burn.rates) for gpu, burn in node.burnt()]
    for gpu, own in rates:
        for work, rate in own.items():
            others = [theirs[work] for sibling, theirs in rates if sibling.index != gpu.index and work in theirs]
            if not others:
                raise Unavailable(f"GPU {gpu.index} has no sibling with a rate of {work} to compare with")
            expect(f"rate of {work} below its siblings'", 100 * (1 - rate / median(others)), at=gpu).at_most(
                policy.siblings_rate_percent, "%", next=Next.SLOW
            )
