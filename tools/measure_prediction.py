"""How well a burn's steady state is predicted, on simulated cards: a table of families x time burnt.

Of each family so many cards burn for so many time constants (they settle in five). `settled`: the share that got a
prediction; of those `rms` and `worst` error in C, `1.5 C`: the share that errs by no more; `wide`: the median of half
the interval towards hot; `held`: the share of intervals that hold the truth; `wrong`: the share of all cards with a
prediction whose interval does not. And the time constants that it takes until a card of 45 C rise is decided.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "probe"))

from gpugate.evidence.facts import Gap  # noqa: E402  # the path above comes first
from gpugate.probe.burn.predict import decided, headroom, temperature  # noqa: E402
from heatsinks import FAMILIES, SLOWDOWN_C, Sink, burnt, drawn  # noqa: E402

BOUND_C = 5.0


def row(family: str, taus: float, cards: int) -> str:
    """One line of the table."""
    errors, widths, held, took = [], [], 0, 0.0
    for seed in range(cards):
        card = drawn(family, seed)
        burn = burnt(card, taus * card.tau, seed)
        truth, begun = burn.steady_c, time.process_time()
        found = temperature(burn.series, over=False)
        took += time.process_time() - begun
        if not isinstance(found, Gap):
            errors.append(abs(found.value - truth))
            widths.append(found.high - found.value)
            held += found.low <= truth <= found.high
    start = f"{family:14s} {taus:5.2f} {len(errors) / cards:7.1%}"
    if not errors:
        return f"{start}      -"
    rms = math.sqrt(sum(e * e for e in errors) / len(errors))
    near = sum(e <= 1.5 for e in errors) / len(errors)
    return (
        f"{start} {rms:6.2f} {max(errors):6.2f} {near:7.1%} {median(widths):6.2f} {held / len(errors):7.1%} "
        f"{(len(errors) - held) / cards:7.1%} {1e3 * took / cards:6.1f}"
    )


def taus_until_decided(beyond_bound_c: float, tau: float, seed: int) -> float:
    """Time constants after which a card that settles so far from the bound is decided; inf: not within six."""
    card = Sink(tau, 45.0, SLOWDOWN_C - BOUND_C - beyond_bound_c - 45.0, noise=0.3, die=0.2)
    for tenths in range(5, 61):
        if decided(headroom(burnt(card, tenths / 10 * tau, seed).series, BOUND_C, over=False), BOUND_C):
            return tenths / 10
    return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=500)
    parser.add_argument("--taus", type=float, nargs="*", default=[5 / 3, 2.5, 4.0])
    parser.add_argument("--family", nargs="*", default=list(FAMILIES))
    options = parser.parse_args()
    print("family          taus settled    rms  worst   1.5 C   wide    held   wrong     ms")
    for family in options.family:
        for taus in options.taus:
            print(row(family, taus, options.cards), flush=True)
    for away in (30.0, 20.0, 10.0, 5.0, 3.0, 2.0, -2.0, -3.0, -5.0, -10.0, -20.0):
        took = [taus_until_decided(away, tau, seed) for seed, tau in enumerate((10.0, 20.0, 40.0))]
        print(f"{away:+5.0f} C from the bound: decided after {', '.join(f'{t:.1f}' for t in took)} tau (10, 20, 40 s)")


if __name__ == "__main__":
    main()
