"""gpu_settings on the controller: names the deployed probe, or carries one along for a node that has none yet."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

try:
    from gpugate.errors import GpugateError
    from gpugate.provision import FILE, probe_file, with_probe
except ImportError as error:
    raise AnsibleActionFail(
        f"gpugate is not installed for the Python that runs Ansible ({error}): run its `pip install .` in the "
        "project's root"
    ) from error

BUILT = Path(__file__).resolve().parents[2] / ".gpugate" / "probe"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Uses the build of this controller, wherever on the node it is."""

    TRANSFERS_FILES = False  # only a node without the probe needs a temporary folder; it is made then

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module with the deployed probe, or with one in the task's temporary folder."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if "probe" in arguments:
            return dict(self._execute_module(module_args=arguments, task_vars=task_vars))
        try:
            file, digest = probe_file(BUILT)
        except GpugateError as error:
            raise AnsibleActionFail(str(error)) from None
        deployed = PurePosixPath(str(arguments.get("root", "/"))) / "opt/gpugate/probe" / digest / FILE

        def run(carried: str | None) -> Any:
            probe = carried or str(deployed)
            return self._execute_module(module_args=arguments | {"probe": probe}, task_vars=task_vars)

        return with_probe(self, file, run)
