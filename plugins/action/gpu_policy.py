"""gpu_policy on the controller; plugins/modules/gpu_policy.py documents it."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

try:
    from gpugate.errors import PolicyError
    from gpugate.provision import host_policy
except ImportError as error:
    raise AnsibleActionFail(
        f"gpugate is not installed for the Python that runs Ansible ({error}): run its `pip install .` in the "
        "project's root"
    ) from error


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Makes the host's policy of its variables; never connects."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the policy's digest and settings, or fail with the sentence of what is wrong."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        self.validate_argument_spec(argument_spec={})
        host = str(variables["inventory_hostname"])
        try:
            policy = host_policy(host, variables, self._templar.template)
        except PolicyError as error:
            raise AnsibleActionFail(str(error)) from None
        except AnsibleError as error:
            raise AnsibleActionFail(f"{host}: a gpugate_ variable cannot be templated: {error.message}") from None
        return {
            "changed": False,
            "digest": policy.digest,
            "settings": policy.settings,
            "settings_document": policy.settings_document,
            "settings_digest": policy.settings_digest,
            "survive_reboot": policy.checks.get("settings.survive_reboot") != "absent",
        }
