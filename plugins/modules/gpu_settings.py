#!/usr/bin/python
"""Set persistence and power limits of a node's GPUs as policy says, or give the cards back as they were."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_settings
short_description: Set persistence mode and power limits of a node's GPUs
version_added: "0.1.0"
description:
  - With O(state=present), brings every GPU of the node to the settings in O(document), reads them back, and keeps the
    document on the node in C(etc/gpugate/settings.json), from where they are set again at boot.
  - The request is checked against every card before the first one is changed. A power limit outside of what one card
    allows, another number of GPUs or another board is an error and changes nothing.
  - With O(state=absent), sets the cards' own default power limit, switches persistence off if this module switched it
    on, and removes the document.
  - The probe does the work. Where the node has none yet, as in the first run with C(--check), the action plugin carries
    it to the task's temporary folder.
options:
  state:
    description: Whether the settings should hold, or be taken back.
    type: str
    choices: [present, absent]
    default: present
  document:
    description: The settings, as RV(gpu_policy#module:settings_document). Needed with O(state=present).
    type: str
  root:
    description: The node root. Every path on the node lies below it.
    type: path
    default: /
  driver_root:
    description: Where the driver's libraries lie when they are not below O(root), as with a driver container.
    type: path
  probe:
    description: The probe to use on the node. The action plugin fills in the deployed build of this controller.
    type: path
attributes:
  check_mode:
    support: full
    description: It asks the cards and tells what it would change, also on a node without a probe.
  diff_mode:
    support: full
    description: It shows one line for each GPU, with persistence and power limit before and after.
author: The gpugate authors
"""

EXAMPLES = r"""
- name: Set what policy says
  gpu_settings:
    document: "{{ node_policy.settings_document }}"
    root: "{{ gpugate_node_root | default('/') }}"
  become: true

- name: Give the cards back as they were
  gpu_settings:
    state: absent
    root: "{{ gpugate_node_root | default('/') }}"
  become: true
"""

RETURN = r"""
gpus:
  description: Every GPU with its settings before and after (in check mode, as they would be).
  returned: success
  type: list
  elements: dict
  contains:
    index:
      description: NVML's index.
      type: int
    uuid:
      description: The GPU's UUID.
      type: str
    bus_id:
      description: The GPU's PCI bus id.
      type: str
    before:
      description: C(persistence) and C(power_limit_w) as found.
      type: dict
    after:
      description: C(persistence) and C(power_limit_w) as read back.
      type: dict
notes:
  description: What the probe has to say beside, as a power limit that is capped from outside.
  returned: success
  type: list
  elements: str
settings_path:
  description: Where the document lies on the node.
  returned: success
  type: str
probe_missing:
  description: Set on a failure whose cause is that the probe is not on the node.
  returned: failure
  type: bool
"""

import contextlib  # noqa: E402  # documentation comes first in a module
import json  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.gpugate_node import RESTORE, SETTINGS, NodeError, ask  # noqa: E402

ARGUMENTS: dict[str, dict[str, object]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "document": {"type": "str"},
    "root": {"type": "path", "default": "/"},
    "driver_root": {"type": "path"},
    "probe": {"type": "path"},
}
REQUIRED_IF = [("state", "present", ["document"])]


class Cards:
    """The GPUs as the probe's `settings` command reads and sets them."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def plan(self, request: str) -> dict[str, Any]:
        """What the request would change; NodeError where a card or the node does not allow it."""
        return self._ask(request, "--check")

    def apply(self, request: str) -> dict[str, Any]:
        """Set, with read-back."""
        return self._ask(request)

    def _ask(self, request: str, *options: str) -> dict[str, Any]:
        params = self._module.params
        if params["probe"] is None:
            raise NodeError(
                "the probe to use is not known: plugins/action/gpu_settings.py did not run. Start Ansible in the "
                "project's root or in playbooks/"
            )
        command = ("settings", "--request", "-", *options)
        answer: dict[str, Any] = ask(params["probe"], params["root"], params["driver_root"], *command, stdin=request)
        if not isinstance(answer.get("changed"), bool) or not answer.get("gpus"):
            raise NodeError(f"{params['probe']} did not say what it did: run playbooks/provision.yml again")
        return answer


def present(module: AnsibleModule, cards: Cards) -> dict[str, Any]:
    """The document's settings on every card and the document on the node."""
    document = module.params["document"]
    settings, restore = (Path(module.params["root"], path) for path in (SETTINGS, RESTORE))
    plan = cards.plan(document)
    lines = [line for line in map(gpu_line, plan["gpus"]) if line]
    found = read(settings)
    if found != document:
        lines.append(f"{settings}: {'absent' if found is None else 'an earlier policy'} -> this policy's settings")
    if not module.check_mode:
        # Written before the first change, so that an interrupted run can still be taken back.
        write(restore, request_back(document, read(restore), plan["gpus"]))
        if plan["changed"]:
            plan = cards.apply(document)
        write(settings, document)
    return outcome(lines, plan, settings)


def absent(module: AnsibleModule, cards: Cards) -> dict[str, Any]:
    """Default power limits, persistence as it was before us, and no document."""
    settings, restore = (Path(module.params["root"], path) for path in (SETTINGS, RESTORE))
    back, ours = read(restore), [path for path in (settings, restore) if path.exists()]
    try:
        plan: dict[str, Any] = {"gpus": []} if back is None else cards.plan(back)
    except NodeError as error:
        advice = f"mend the node first, or to leave its cards as they are remove {restore} and run again"
        raise NodeError(f"{error}; {advice}", **error.facts) from error
    if ours and back is None:
        module.warn(f"{restore} is gone, which said how the cards were before: they keep the settings that they have")
    lines = [line for line in map(gpu_line, plan["gpus"]) if line] + [f"{path}: removed" for path in ours]
    if not module.check_mode:
        if back is not None and plan["changed"]:
            plan = cards.apply(back)
        for path in ours:
            path.unlink()
        with contextlib.suppress(OSError):
            settings.parent.rmdir()  # stays where somebody else put something into it
    return outcome(lines, plan, settings)


def outcome(lines: list[str], plan: dict[str, Any], settings: Path) -> dict[str, Any]:
    """The module's result: each line is a change, and a line of the diff."""
    return {
        "changed": bool(lines),
        "gpus": plan["gpus"],
        "notes": plan.get("notes", []),
        "settings_path": str(settings),
        "diff": {"prepared": "".join(f"{line}\n" for line in lines)},
    }


def request_back(document: str, known: str | None, gpus: list[dict[str, Any]]) -> str:
    """The request that gives the cards back: their own default limits, and persistence as before our first change."""
    if known is not None:
        persistence = json.loads(known)["persistence"]
    else:
        # Leave it where any card had it on: the mode was somebody's before it was ours.
        persistence = None if any(gpu["before"]["persistence"] is True for gpu in gpus) else False
    back = json.loads(document) | {"persistence": persistence, "power_limit_w": "default"}
    return json.dumps(back, indent=2, sort_keys=True) + "\n"


def gpu_line(gpu: dict[str, Any]) -> str:
    """One line of the diff, empty where nothing changes."""
    before, after = gpu["before"], gpu["after"]
    if before == after:
        return ""
    return f"GPU {gpu['index']} ({gpu['uuid']}, {gpu['bus_id']}): {shown(before)} -> {shown(after)}"


def shown(settings: dict[str, Any] | None) -> str:
    """Settings of one card for a reader."""
    if settings is None:
        return "nothing"
    persistence, limit = settings["persistence"], settings["power_limit_w"]
    told = {True: "on", False: "off"}.get(persistence) if isinstance(persistence, bool) else str(persistence)
    watts = f"{limit:g} W" if isinstance(limit, (int, float)) else str(limit)
    return f"persistence {told}, power limit {watts}"


def read(path: Path) -> str | None:
    """The file's text, None where there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def write(path: Path, text: str) -> None:
    """Write a file of 0644 as one step, unless it says so already: a reader finds the one before or this one."""
    if read(path) == text:
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o644)
        fresh.replace(path)
    except BaseException:
        fresh.unlink()
        raise


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, required_if=REQUIRED_IF, supports_check_mode=True)
    try:
        result = {"present": present, "absent": absent}[module.params["state"]](module, Cards(module))
    except NodeError as error:
        module.fail_json(msg=str(error), **error.facts)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        module.fail_json(
            msg=f"{Path(module.params['root'], RESTORE)}, or the probe's answer, cannot be read "
            f"({type(error).__name__}: {error}): mend or remove the file and run again"
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
