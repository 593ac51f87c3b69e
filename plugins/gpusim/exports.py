"""The driver branches that can be simulated: their versions and which functions they export."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from .errors import unknown


@dataclass(frozen=True)
class Driver:
    """A driver: full version, and the CUDA version it runs (major x 1000 + minor x 10)."""

    branch: int
    version: str
    cuda: int

    def nvml_functions(self) -> list[str]:
        """Every NVML function that this driver's library exports."""
        names = []
        for line in files(__package__).joinpath("driver/exports/nvml.txt").read_text("ascii").splitlines():
            if line.startswith("#"):
                continue
            name, since = line.split()
            if int(since) <= self.branch:
                names.append(name)
        return names


DRIVERS: dict[str, Driver] = {
    "535": Driver(535, "535.261.03", 12020),
    "550": Driver(550, "550.163.01", 12040),
    "580": Driver(580, "580.95.05", 13000),
}


def driver_named(name: str) -> Driver:
    """The driver of branch `name` ('580') or of that full version; GpusimError lists what there is."""
    for branch, driver in DRIVERS.items():
        if name in (branch, driver.version):
            return driver
    raise unknown("driver", name, [*DRIVERS, *(driver.version for driver in DRIVERS.values())])
