"""Carries packets between two TAP devices, each later than it came: what sch_netem does where a kernel has it."""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import sys
import time

_TUNSETIFF, _TAP, _NO_INFO = 0x400454CA, 0x0002, 0x1000
_LARGEST = 65536


def _tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_INFO))
    return descriptor


def main(near: str, far: str, delay_s: float) -> None:
    """Carry packets until this process is ended."""
    ends = [_tap(near), _tap(far)]
    other = dict(zip(ends, reversed(ends), strict=True))
    print("ready", flush=True)
    waiting: list[tuple[float, int, int, bytes]] = []  # due, in what order it came, where to, packet
    came = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], timeout)[0]:
            came += 1
            heapq.heappush(waiting, (time.monotonic() + delay_s, came, other[end], os.read(end, _LARGEST)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            try:
                os.write(end, packet)
            except OSError:  # that end is down: a wire loses what is on it
                continue


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
