#!/usr/bin/python
"""Put gpugate's probe on a node, take it away, or ask it which machine this is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_probe
short_description: Deploy gpugate's probe to a GPU node
version_added: "0.1.0"
description:
  - With O(state=present), builds the probe on the controller, puts it on the node under a folder named by its digest,
    and points C(current) at it. The builds before stay, at most O(keep) of them, for going back.
  - With O(build=previous) besides, the build that was current before that of this checkout is current again. A node on
    which the build of this checkout is not current has gone back already, or never had it, and stays as it is.
  - With O(state=identity), changes nothing and returns which machine, on which boot, with which GPUs answers right now.
  - With O(state=absent), removes every build, and the samples that burns left on the node.
  - A node needs a Python 3.9 or later and the NVIDIA driver; nothing is installed there but this one file.
options:
  state:
    description: Whether the probe should be on the node, or is only asked.
    type: str
    choices: [present, absent, identity]
    default: present
  build:
    description: >-
      Which build should be current - this checkout's, or the one before it on the node. It is an error where the node
      has none before it.
    type: str
    choices: [this, previous]
    default: this
  root:
    description: The node root. Every path on the node lies below it.
    type: path
    default: /
  driver_root:
    description: Where the driver's libraries lie when they are not below O(root), as with a driver container.
    type: path
  keep:
    description: How many builds stay beside the current one.
    type: int
    default: 2
  digest:
    description: The sha256 of this checkout's build. The action plugin fills it in.
    type: str
  src:
    description: Where the build was carried to on the node. The action plugin fills it in.
    type: path
attributes:
  check_mode:
    support: full
    description: It tells whether the probe would be deployed or removed.
  diff_mode:
    support: full
    description: It shows the build before and after.
notes:
  - The interpreter that runs the module also runs the probe, so C(ansible_python_interpreter) chooses it.
author: The gpugate authors
"""

EXAMPLES = r"""
- name: Put the probe of this checkout on the node
  gpu_probe:
    root: "{{ gpugate_node_root | default('/') }}"
  become: true

- name: Go back to the build before
  gpu_probe:
    build: previous
  become: true

- name: Ask which machine this is, and since when it is up
  gpu_probe:
    state: identity
    root: "{{ gpugate_node_root | default('/') }}"
  become: true
  register: node

- name: Remove every build of the probe
  gpu_probe:
    state: absent
    root: "{{ gpugate_node_root | default('/') }}"
  become: true
"""

RETURN = r"""
digest:
  description: sha256 of the build that is current, or in check mode would be; null where there is none.
  returned: success
  type: str
path:
  description: The file of that build on the node; null where there is none.
  returned: success
  type: str
identity:
  description: >-
    Which machine answers. Each value is the fact itself, or a dictionary with C(unavailable) (why there is none) and
    C(code). Null with O(state=absent), and in check mode while the build is not on the node.
  returned: success
  type: dict
  contains:
    machine_id:
      description: The machine id of the node.
      type: raw
    boot_id:
      description: The id of the boot that the node is on.
      type: raw
    hostname:
      description: The node's own name.
      type: raw
    gpu_uuids:
      description: The UUIDs of its GPUs, in the driver's order.
      type: raw
services:
  description: What this node has to keep settings over a reboot.
  returned: success
  type: dict
  contains:
    python:
      description: The interpreter that ran the module.
      type: str
    systemd:
      description: Whether systemd booted the node.
      type: bool
    persistenced_unit:
      description: The unit file of nvidia-persistenced, null where there is none or no systemd.
      type: str
sudo:
  description: What this node has for a line that lets somebody run the probe as root.
  returned: success
  type: dict
  contains:
    python3:
      description: What C(python3) is in the search path of the user of this task, null where there is none.
      type: str
    visudo:
      description: The program that checks such a line, null where there is none.
      type: str
    folder:
      description: Whether there is a folder for such lines.
      type: bool
    line:
      description: Whether there is one for the probe already.
      type: bool
    changeable:
      description: Why others than root may change the task's interpreter, C(python3) and the probe, by their paths.
      type: dict
probe_missing:
  description: Set on a failure whose cause is that the asked build is not on the node.
  returned: failure
  type: bool
"""

import contextlib  # noqa: E402  # documentation comes first in a module
import fcntl  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.gpugate_node import PROBE_FILE, PROBES, STATE, NodeError, ask, services, sudo  # noqa: E402

ARGUMENTS: dict[str, dict[str, object]] = {
    "state": {"type": "str", "choices": ["present", "absent", "identity"], "default": "present"},
    "build": {"type": "str", "choices": ["this", "previous"], "default": "this"},
    "root": {"type": "path", "default": "/"},
    "driver_root": {"type": "path"},
    "keep": {"type": "int", "default": 2},
    "digest": {"type": "str"},
    "src": {"type": "path"},
}


class Builds:
    """The builds of the probe on this node, and the link `current` to one of them."""

    def __init__(self, module: AnsibleModule) -> None:
        self._sha256 = module.sha256
        self.folder = Path(module.params["root"], PROBES)
        self.link = self.folder / "current"

    def file(self, digest: str) -> Path:
        return Path(self.folder, digest, PROBE_FILE)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The folder of the builds, there and closed to other runs of this module until this one is done."""
        for folder in (self.folder.parent.parent, self.folder.parent, self.folder):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o755)  # whatever the umask: who may write here may put another probe in ours' place
        lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @property
    def current(self) -> str | None:
        """The digest that `current` points at, whether its file is there or not."""
        return os.readlink(self.link) if self.link.is_symlink() else None  # noqa: PTH115  # Python 3.9

    def whole(self, digest: str) -> bool:
        """The build is there, unchanged, and nobody but its owner (the user of this task) may change it."""
        file = self.file(digest)
        if not file.is_file() or file.is_symlink():
            return False
        found = {(place.stat().st_uid, place.stat().st_mode & 0o7777) for place in (file, file.parent)}
        return found == {(os.geteuid(), 0o755)} and self._sha256(str(file)) == digest

    def deployed(self) -> list[str]:
        """The digests of the builds on the node, the one that was deployed last first."""
        found = [path for path in self.folder.glob("[!.]*") if path.name != "current"]
        return [path.name for path in sorted(found, key=lambda path: path.lstat().st_mtime_ns, reverse=True)]

    def spare(self, digest: str, keep: int) -> list[Path]:
        """The builds beyond the newest `keep` beside this one, and what an interrupted run left."""
        others = [name for name in self.deployed() if name != digest]
        return [self.folder / name for name in others[keep:]] + list(self.folder.glob(".*"))

    def install(self, src: str, digest: str) -> None:
        """Copy a build in under its digest, as one step for whoever looks."""
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        shutil.copyfile(src, fresh / PROBE_FILE)
        if self._sha256(str(fresh / PROBE_FILE)) != digest:
            shutil.rmtree(fresh)
            raise NodeError(f"the probe did not arrive whole: its sha256 is not {digest}; run again")
        for place in (fresh / PROBE_FILE, fresh):
            place.chmod(0o755)
        shutil.rmtree(self.folder / digest, ignore_errors=True)
        fresh.rename(self.folder / digest)

    def deploy(self, digest: str) -> None:
        """Make a build current, and the last that was deployed: the order is what going back goes by."""
        os.utime(self.folder / digest)
        self.switch(digest)

    def switch(self, digest: str) -> None:
        """Point `current` at a build; a reader finds the one before or this one, never none."""
        fresh = self.folder / f".current-{os.getpid()}"
        fresh.symlink_to(digest)
        fresh.replace(self.link)


def present(module: AnsibleModule, builds: Builds) -> dict[str, Any]:
    """The build of `digest` on the node and current, or the one before it where that is asked for."""
    if not module.params["digest"]:
        raise NodeError(
            "the build to deploy is not known: plugins/action/gpu_probe.py did not run. Start Ansible in the project's "
            "root or in playbooks/"
        )
    back = module.params["build"] == "previous"
    changes_nothing = module.check_mode or (back and not builds.folder.is_dir())
    with contextlib.nullcontext() if changes_nothing else builds.alone():
        return _previous(module, builds) if back else _this(module, builds)


def _this(module: AnsibleModule, builds: Builds) -> dict[str, Any]:
    """Make this checkout's build current; `src` brings it where it is not there yet."""
    digest, src, keep = (module.params[name] for name in ("digest", "src", "keep"))
    before, whole, spare = builds.current, builds.whole(digest), builds.spare(digest, keep)
    if not module.check_mode:
        if not whole:
            if src is None:
                raise NodeError(f"the build {digest} is not on the node", probe_missing=True)
            builds.install(src, digest)
        if before != digest:
            builds.deploy(digest)
        for old in spare:
            remove(old)
    lines = [] if before == digest and whole else [f"{builds.link}: {before or 'absent'} -> {digest}"]
    lines += [f"{old}: removed, {keep} older builds stay" for old in spare]
    path = str(builds.file(digest))
    if not module.check_mode:
        precompile(module, path)
    known = identity(module, path) if whole or not module.check_mode else None
    return outcome(lines, digest=digest, path=path, identity=known)


def _previous(module: AnsibleModule, builds: Builds) -> dict[str, Any]:
    """Make the build before this checkout's current again; nothing to do where this checkout's is not current."""
    this, current, known = module.params["digest"], builds.current, builds.deployed()
    if current != this and {current, this} <= set(known) and known.index(str(current)) < known.index(this):
        raise NodeError(
            f"the current build of the probe, {current}, was deployed after this checkout's, {this}: go back in the "
            "checkout that it came from, or run provision.yml without gpugate_probe to have this checkout's"
        )
    before = [name for name in known if name != this] if current == this else [current]
    wanted = next((name for name in before if name and builds.whole(name)), None)
    if wanted is None:
        raise NodeError(
            f"{builds.folder} has no previous build of the probe to go back to (current is {current}): run "
            "provision.yml without gpugate_probe in a checkout of the gpugate that you want here"
        )
    if current != wanted and not module.check_mode:
        builds.switch(wanted)
    lines = [] if current == wanted else [f"{builds.link}: {current} -> {wanted}"]
    path = str(builds.file(wanted))
    return outcome(lines, digest=wanted, path=path, identity=identity(module, path))


def absent(module: AnsibleModule, builds: Builds) -> dict[str, Any]:
    """No build on the node, nothing that burns left there, and no empty folder of ours."""
    ours = {builds.folder: f", with the build {builds.current}", Path(module.params["root"], STATE): ""}
    found = [folder for folder in ours if folder.is_dir()]
    lines = [f"{folder}: removed{ours[folder]}" for folder in found]
    if not module.check_mode:
        for folder in found:
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            builds.folder.parent.rmdir()  # stays where somebody else put something beside the probe
    return outcome(lines, digest=None, path=None, identity=None)


def asked(module: AnsibleModule, builds: Builds) -> dict[str, Any]:
    """The identity of the node by its current build; nothing changes."""
    digest = builds.current
    path = str(builds.link / PROBE_FILE if digest is None else builds.file(digest))
    return outcome([], digest=digest, path=path, identity=identity(module, path))


def outcome(lines: list[str], **facts: Any) -> dict[str, Any]:
    """The module's result: each line is a change, and a line of the diff."""
    return {"changed": bool(lines), "diff": {"prepared": "".join(f"{line}\n" for line in lines)}, **facts}


def remove(path: Path) -> None:
    """Remove a folder with all in it, or a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def identity(module: AnsibleModule, probe: str) -> dict[str, Any]:
    """What the probe says about which machine this is."""
    answer: dict[str, Any] = ask(probe, module.params["root"], module.params["driver_root"], "identity", "--json")
    missing = {"machine_id", "boot_id", "hostname", "gpu_uuids"} - set(answer)
    if missing:
        raise NodeError(f"{probe} did not tell {', '.join(sorted(missing))}: run playbooks/provision.yml on this node")
    return answer


def precompile(module: AnsibleModule, probe: str) -> None:
    """Leave the probe's bytecode for this Python beside it, once; a probe without it is only slower to start."""
    if Path(f"{probe}.{sys.implementation.cache_tag}").is_file():
        return
    try:
        ask(probe, module.params["root"], None, "precompile")
    except NodeError as error:
        module.warn(f"the probe will start slowly: {error}")


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    builds = Builds(module)
    work = {"present": present, "absent": absent, "identity": asked}[module.params["state"]]
    try:
        result = work(module, builds)
    except NodeError as error:
        module.fail_json(msg=str(error), **error.facts)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or builds.folder}: {error.strerror}")
    module.exit_json(services=services(module.params["root"]), sudo=sudo(module.params["root"]), **result)


if __name__ == "__main__":
    main()
