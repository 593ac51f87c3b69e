"""One measurement of the bench of gathering, in a process of its own: its memory and processor time are told too.

    gather_worker.py gather INVENTORY PROFILE    evidence of all hosts, as `pytest --hosts=gpu_fleet` gathers it
    gather_worker.py true INVENTORY              one bare asyncssh connection and `true` on each, all at once

Prints one JSON object: seconds (wall, without imports and inventory), cpu_s (with them), rss_mb (peak), answered.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import asyncssh
import yaml
from gpugate.gather import Limits, Pool, gather
from gpugate.inventory import resolve, use_project
from gpugate.policy import Profile

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 256  # as gpugate's own limit


def measured_gather(inventory: str, profile: str) -> tuple[float, int]:
    """Seconds and hosts of which there is evidence; says on stderr what is wrong with the others."""
    use_project(ROOT)
    targets = resolve("gpu_fleet", inventory)

    async def everybody(folder: Path) -> int:
        pool = Pool(Limits())
        try:
            log = await gather(
                targets, cast(Profile, profile), folder, lambda *_: None, folder / "state" / "gpugate.sqlite", pool
            )
        finally:
            await pool.close()
        wrong = [sentence for receipt in log.hosts.values() if (sentence := receipt.missing or receipt.problem)]
        for sentence in wrong[:3]:
            print(sentence, file=sys.stderr)
        return len(log.hosts) - len(wrong)

    with tempfile.TemporaryDirectory(prefix="gpugate-bench-") as folder:
        return _timed(lambda: asyncio.run(everybody(Path(folder))))


def measured_true(inventory: str) -> tuple[float, int]:
    """Seconds and hosts that answered."""
    group = yaml.safe_load(Path(inventory).read_text())["gpu_fleet"]
    shared: dict[str, Any] = group["vars"]
    known_hosts = re.findall(r"UserKnownHostsFile=(\S+)", shared["ansible_ssh_common_args"])[0]
    client = {
        "username": shared["ansible_user"], "client_keys": [shared["ansible_ssh_private_key_file"]],
        "known_hosts": known_hosts, "port": shared.get("ansible_port", 22), "agent_path": None, "config": None,
    }  # fmt: skip

    async def one(address: str, door: asyncio.Semaphore) -> bool:
        async with door, asyncssh.connect(address, **client) as connection:
            return (await connection.run("true")).exit_status == 0

    async def everybody() -> int:
        door = asyncio.Semaphore(AT_ONCE)
        return sum(await asyncio.gather(*(one(host["ansible_host"], door) for host in group["hosts"].values())))

    return _timed(lambda: asyncio.run(everybody()))


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    began = time.monotonic()
    answered = work()
    return time.monotonic() - began, answered


def main() -> None:
    """Measure what the command line names."""
    what, *arguments = sys.argv[1:]
    seconds, answered = measured_gather(*arguments) if what == "gather" else measured_true(*arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_s": used.ru_utime + used.ru_stime,
                "rss_mb": used.ru_maxrss / 1024,
                "answered": answered,
            }
        )
    )


if __name__ == "__main__":
    main()
