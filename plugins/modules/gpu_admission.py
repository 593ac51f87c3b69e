#!/usr/bin/python
"""Admit or remove nodes by a report; documentation only, the work is plugins/action/gpu_admission.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_admission
short_description: Admit GPU nodes that a report shows to be healthy
version_added: "0.1.0"
description:
  - Reads one JUnit report, compares it with what the policy of each host of the play expects, and with which machine,
    boot and GPUs the host has now, decides for each host, and carries the decision out through a back end.
  - A host outside is admitted when everything is green and proven; a host inside is removed only when a check that may
    evict has failed. What is merely not known keeps a host out, and removes none.
  - Runs on the controller, once for all hosts of the play (O(ignore:run_once)), and connects to none of them. Each host
    is asked who it is before, by M(gpu_probe) with O(gpu_probe#module:state=identity).
  - Prints one line for each host. Every decision is appended to an audit beside O(state).
options:
  report:
    description: The JUnit report to decide by.
    type: path
    required: true
  allowed_signers:
    description: >-
      Whose signatures count, a file as ssh-keygen(1) has it under ALLOWED SIGNERS, without patterns, that nobody but
      root or this user can change. With it a report that is unsigned, altered, or signed by anybody else is refused,
      and nobody is admitted or removed. Without it no signature is looked at.
    type: path
  revoked_signers:
    description: A file of keys, or a KRL, whose signatures do not count whatever O(allowed_signers) says.
    type: path
  hosts:
    description: Whom to decide on. By default all hosts of the play, in whichever batch they are.
    type: list
    elements: str
  ask:
    description: >-
      Only return where each host stands. O(report) is not read then, nothing is decided and nothing is written.
    type: bool
    default: false
  backend:
    description: What decisions are carried out with.
    type: str
    choices: [state_file, command, slurm, kubernetes]
    default: state_file
  state:
    description: >-
      The state file. The audit lies beside it, also with O(backend=command): C(NAME.audit.jsonl), or
      C(NAME.command.audit.jsonl).
    type: path
    required: true
  store:
    description: >-
      The state store (SQLite) in which the gate remembers nodes from run to run, and people's words about them. Its
      folder has to be there. By default C(gpugate.sqlite) beside O(state).
    type: path
  command:
    description: >-
      With O(backend=command), the program and its arguments, in which C({host}), C({action}) (status, admit, remove),
      C({reason}) and C({report}) are filled in. No shell reads it. Exit code 0 is done; with status it prints C(in),
      C(out), or C(kept out: WHO AND WHY) for a node that somebody else took out; anything else is not done.
    type: list
    elements: str
  timeout_s:
    description: How long one call of O(command), or of C(scontrol), may take, in seconds.
    type: float
    default: 30.0
  kubeconfig:
    description: >-
      With O(backend=kubernetes), the absolute path of a kubeconfig, or C(in-cluster) for the account of the pod that
      Ansible runs in.
    type: str
  context:
    description: The context of O(kubeconfig); needed where that has several.
    type: str
  pool_taints:
    description: >-
      With O(backend=kubernetes), the keys of taints that GPU nodes in service have. Any other taint that keeps pods
      away is somebody's word that the node is out of service.
    type: list
    elements: str
    default: [nvidia.com/gpu]
  cordon:
    description: With O(backend=kubernetes), whether a node that is removed is cordoned too.
    type: bool
    default: false
  identities:
    description: The variable of each host in which the answer of M(gpu_probe) was registered.
    type: str
    default: node_identity
  breaker:
    description: >-
      How many nodes may be removed within C(window_h) hours (24), in per cent of those in service: C(fleet_percent)
      (10), C(domain_percent) of one failure domain (50), C(driver_percent) of one driver version (25),
      C(cause_percent) of the fleet for one check (5); C(at_least) (2) always may be. Above that none is removed, and
      the task fails.
    type: dict
    default: {}
  approved_removals:
    description: The run whose removals a person wants, however many they are.
    type: str
    default: ""
  fail_on_refusal:
    description: Whether the task fails when a host is refused or removed. Without it, that is the gate doing its work.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: It says what would be done to each host, and neither does it nor writes the audit.
  diff_mode:
    support: full
    description: It shows which hosts are in service, before and after.
notes:
  - The Python that runs Ansible needs gpugate's own package, as C(pip install .) in the project's root brings it.
author: The gpugate authors
"""

EXAMPLES = r"""
- name: Ask each node which machine it is, on which boot, with which GPUs
  gpu_probe:
    state: identity
  register: node_identity
  ignore_unreachable: true
  ignore_errors: true

- name: Decide and carry out
  gpu_admission:
    report: "{{ playbook_dir }}/../reports/latest/junit.xml"
    state: "{{ playbook_dir }}/../state/admission.json"
  run_once: true

- name: Decide, and let a program of the site carry it out
  gpu_admission:
    report: "{{ playbook_dir }}/../reports/latest/junit.xml"
    state: "{{ playbook_dir }}/../state/admission.json"
    backend: command
    command: [/usr/local/sbin/node-service, "{action}", "--reason={reason}", "{host}"]
  run_once: true
"""

RETURN = r"""
standings:
  description: >-
    Where each host stands - C(in_service), C(owner) who keeps it out, and C(busy) why nobody should touch it just now;
    or C(problem) where the back end cannot tell.
  returned: with O(ask)
  type: dict
  sample: {gpu2: {in_service: false, owner: "", busy: ""}}
decisions:
  description: What was decided, by host.
  returned: success, without O(ask)
  type: dict
  sample:
    gpu2:
      action: stay_out
      in_service: false
      reasons: ["thermal.headroom FAIL: GPU 3 (...): steady headroom is 1.2 C, outside: has to be at least 5 C"]
      would: null
report_sha256:
  description: sha256 of the report that was read.
  returned: success, without O(ask)
  type: str
run_id:
  description: The run that the report is of.
  returned: success, without O(ask)
  type: str
signer:
  description: Who signed the run, and with which key; empty where O(allowed_signers) was not given.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402  # documentation comes first in a module

ARGUMENTS = {
    "report": {"type": "path", "required": True},
    "allowed_signers": {"type": "path"},
    "revoked_signers": {"type": "path"},
    "hosts": {"type": "list", "elements": "str"},
    "ask": {"type": "bool", "default": False},
    "backend": {"type": "str", "choices": ["state_file", "command", "slurm", "kubernetes"], "default": "state_file"},
    "state": {"type": "path", "required": True},
    "store": {"type": "path"},
    "command": {"type": "list", "elements": "str"},
    "timeout_s": {"type": "float", "default": 30.0},
    "kubeconfig": {"type": "str"},
    "context": {"type": "str"},
    "pool_taints": {"type": "list", "elements": "str", "default": ["nvidia.com/gpu"]},
    "cordon": {"type": "bool", "default": False},
    "identities": {"type": "str", "default": "node_identity"},
    "breaker": {"type": "dict", "default": {}},
    "approved_removals": {"type": "str", "default": ""},
    "fail_on_refusal": {"type": "bool", "default": False},
}


def main() -> None:
    """Say that the action plugin is missing: this module has nothing to do on a node."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.fail_json(
        msg="gpu_admission works on the controller, by plugins/action/gpu_admission.py, which Ansible did not find: "
        "start it in the project's root or in playbooks/, or set ANSIBLE_CONFIG to the project's ansible.cfg"
    )


if __name__ == "__main__":
    main()
