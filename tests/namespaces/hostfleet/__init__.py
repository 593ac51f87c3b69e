"""A fleet of real hosts on one machine: each in namespaces of its own, with a real sshd and a simulated driver.

    with namespace_fleet(folder, hosts=32) as fleet:
        fleet.run(["pytest", "--hosts=gpu_fleet"], cwd=PROJECT)      # a controller, in the fleet's own network
        fleet["gpu003"].unplug()
        fleet["gpu004"].run(["systemctl", "is-active", "ssh"])       # as root on the host, not over SSH

Needs root and Debian's openssh-server, iproute2, sudo, tini, kmod (and systemd, dbus for `systemd=True`).

Which file does what: `describe` says what a host is, `fleet` is the tests' side of all, `host` one host and its faults,
`access` keys and inventory. `keeper` is the process that cleans up whatever happens; below it, inside the namespaces,
`server` boots hosts: `base` makes the file system that they share, `network` their links, `inside` turns a child into
a host, `delay` slows a link down, `kernel` is what Python's library lacks of the system calls.
"""

from .describe import ASKER, ASKS_PASSWORD, FREE_SUDO, PASSWORD, HostSpec
from .fleet import NamespaceFleet, namespace_fleet
from .host import Host

__all__ = ["ASKER", "ASKS_PASSWORD", "FREE_SUDO", "PASSWORD", "Host", "HostSpec", "NamespaceFleet", "namespace_fleet"]
