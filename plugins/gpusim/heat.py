"""Where a simulated GPU will settle: the truth that a prediction is compared with.

The same physics as the driver's (driver/heat.c), solved for the end instead of followed in time. A GPU is what
`NodeState.show()["gpu"][i]` says of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def steady_c(gpu: Mapping[str, Any], power_w: float, others_w: float = 0.0) -> float:
    """The core's temperature after a long time at `power_w`, while the node's other GPUs draw `others_w` together."""
    inlet: float = gpu["ambient_c"] + gpu["neighbour_c_per_w"] * others_w
    resistance: float = gpu["thermal_resistance"]
    die: float = resistance * gpu["die_share"]
    if not gpu["fan_count"]:
        return inlet + resistance * power_w

    def heated_to(celsius: float) -> float:
        """Where it would settle with the fans that this temperature asks for: the hotter, the cooler."""
        asked = gpu["fan_idle_percent"] + gpu["fan_percent_per_c"] * (celsius - gpu["fan_target_c"])
        fan = min(max(asked, gpu["fan_idle_percent"]), max(gpu["fan_max_percent"], gpu["fan_idle_percent"]))
        return inlet + (die + (resistance - die) * math.sqrt(100 / fan)) * power_w

    low: float = inlet
    high = heated_to(inlet)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if heated_to(middle) > middle else (low, middle)
    return (low + high) / 2


def memory_steady_c(gpu: Mapping[str, Any], power_w: float, others_w: float = 0.0, traffic: float = 1.0) -> float:
    """The memory's temperature then; `traffic`: share of its bandwidth that is in use."""
    above: float = gpu["memory_offset_c"] * power_w / gpu["power_max_w"] * (0.5 + 0.5 * traffic)
    return steady_c(gpu, power_w, others_w) + above
