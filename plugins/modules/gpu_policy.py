#!/usr/bin/python
"""Validate a host's policy; documentation only, the work is plugins/action/gpu_policy.py on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_policy
short_description: Validate what the inventory says about a GPU node
version_added: "0.1.0"
description:
  - Reads the C(gpugate_*) variables of the host with Ansible's own templating and makes the node's policy of them.
  - Runs on the controller and never connects to the host, so a playbook can do it first, on all hosts.
  - Fails with one sentence that names the host, the variable and what is allowed.
options: {}
attributes:
  check_mode:
    support: full
    description: It changes nothing anywhere.
  diff_mode:
    support: none
    description: There is nothing to compare.
notes:
  - The Python that runs Ansible needs gpugate's own package, as C(pip install .) in the project's root brings it.
  - No variable's value is returned apart from the settings that the node gets, so that secrets stay where they are.
author: The gpugate authors
"""

EXAMPLES = r"""
- name: Validate policy before anything is touched
  hosts: gpu_fleet
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Validate this host's policy
      gpu_policy:
      register: node_policy
"""

RETURN = r"""
digest:
  description: sha256 over all that policy resolves to for this host; what a report is compared with.
  returned: success
  type: str
settings:
  description: What provisioning sets on the cards.
  returned: success
  type: dict
  contains:
    device_id:
      description: PCI vendor and device of the board that policy expects.
      type: str
    gpu_count:
      description: How many of them.
      type: int
    persistence:
      description: Whether the driver stays loaded while nobody uses the card.
      type: bool
    power_limit_w:
      description: The power limit to request of each card, in W.
      type: float
settings_document:
  description: The file that carries the settings to the node, byte for byte.
  returned: success
  type: str
settings_digest:
  description: sha256 of RV(settings_document).
  returned: success
  type: str
survive_reboot:
  description: Whether policy asks for settings that survive a reboot, by not marking C(settings.survive_reboot) absent.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402  # documentation comes first in a module

ARGUMENTS: dict[str, dict[str, object]] = {}


def main() -> None:
    """Say that the action plugin is missing: this module has nothing to do on a node."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.fail_json(
        msg="gpu_policy works on the controller, by plugins/action/gpu_policy.py, which Ansible did not find: "
        "start it in the project's root or in playbooks/, or set ANSIBLE_CONFIG to the project's ansible.cfg"
    )


if __name__ == "__main__":
    main()
