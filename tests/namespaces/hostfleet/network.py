"""The fleet's wires: two bridges in its own network namespace, one link for each card of a host.

The controller has an address on the outer bridge alone, so that a host on the inner one is reached through the jump
host or not at all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from .describe import NETWORKS, OUTER, PREFIX, Link


def run(lines: Iterable[str]) -> None:
    """Have ip(8) do all of it in one process."""
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(["ip", "-batch", "-"], input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()}")


def make_bridges() -> None:
    made = [f"link add {name} type bridge" for name in NETWORKS]
    up = [f"link set {name} up" for name in ("lo", *NETWORKS)]
    run([*made, f"addr add {NETWORKS[OUTER]}.0.1/{PREFIX} dev {OUTER}", *up])


def plug_in(links: list[Link], pid: int) -> list[str]:
    """The commands that put the cards of a host into the namespace of its first process."""
    lines = []
    for number, link in enumerate(links):
        card = link.card(number)
        if link.delay_s:
            far = f"{link.device}-far"
            _start_delay(link, far)
            lines += [f"link set {far} address {link.mac}", f"link set {far} name {card} netns {pid}"]
        else:
            lines += [f"link add {link.device} type veth peer name {card} address {link.mac} netns {pid}"]
        lines += [f"link set {link.device} master {link.network} up"]
    return lines


def configure_cards(links: list[Link]) -> None:
    """Inside a host: give the cards their addresses."""
    lines = ["link set lo up"]
    for number, link in enumerate(links):
        lines += [f"addr add {link.address}/{PREFIX} dev {link.card(number)}", f"link set {link.card(number)} up"]
    run(lines)


def unplug(links: list[Link]) -> None:
    """Remove what an earlier life of the host left of its wires: the kernel does it too, but later."""
    for link in links:
        if Path("/sys/class/net", link.device).exists() or not link.delay_s:
            subprocess.run(["ip", "link", "del", link.device], capture_output=True, check=False)


def _start_delay(link: Link, far: str) -> None:
    """Start the process that carries packets between two TAP devices; it makes them and says so."""
    command = [sys.executable, "-m", "hostfleet.delay", link.device, far, str(link.delay_s)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise OSError("a delayed link needs /dev/net/tun")
