"""gpu_probe on the controller: builds the probe, and carries it to nodes that lack it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from gpugate.errors import GpugateError
    from gpugate.provision import probe_file, with_probe
except ImportError as error:
    raise AnsibleActionFail(
        f"gpugate is not installed for the Python that runs Ansible ({error}): run its `pip install .` in the "
        "project's root"
    ) from error

BUILT = Path(__file__).resolve().parents[2] / ".gpugate" / "probe"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Asks the node first; copies only when the node lacks this build."""

    TRANSFERS_FILES = False  # only a node without the probe needs a temporary folder; it is made then

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, once more with the file where the node lacks it."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("state", "present") != "present":
            return dict(self._execute_module(module_args=arguments, task_vars=task_vars))
        try:
            file, digest = probe_file(BUILT)
        except GpugateError as error:
            raise AnsibleActionFail(str(error)) from None
        arguments["digest"] = digest

        def run(src: str | None) -> Any:
            return self._execute_module(module_args=arguments | {"src": src}, task_vars=task_vars)

        return with_probe(self, file, run)
