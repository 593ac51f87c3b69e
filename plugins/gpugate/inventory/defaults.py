"""What ansible.cfg and its environment say about connections, for hosts whose variables do not."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST_CONNECT_S = 10.0


@dataclass(frozen=True)
class Defaults:
    """Ansible's own settings of its ssh connection and of sudo; secrets stay out of reprs."""

    user: str | None
    port: int | None
    private_key: str | None
    ssh_args: tuple[str, ...]
    ssh_common_args: tuple[str, ...]
    ssh_extra_args: tuple[str, ...]
    timeout_s: float
    become_method: str
    password: str | None = field(default=None, repr=False)
    become_password: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, loader: Any) -> Defaults:
        """As Ansible is configured; raises AnsibleError for a password file that cannot be read."""
        from ansible import constants
        from ansible.plugins.loader import connection_loader

        connection_loader.get("ssh", class_only=True)  # before that, its settings are not known

        def get(name: str) -> Any:
            value, origin = constants.config.get_config_value_and_origin(
                name, plugin_type="connection", plugin_name="ssh"
            )
            # Ansible's own default of ssh_args is about its speed alone, not about how hosts are reached.
            return None if origin == "default" and name != "timeout" else value

        return cls(
            user=get("remote_user"),
            port=get("port"),
            private_key=get("private_key_file"),
            ssh_args=tuple(shlex.split(get("ssh_args") or "")),
            ssh_common_args=tuple(shlex.split(get("ssh_common_args") or "")),
            ssh_extra_args=tuple(shlex.split(get("ssh_extra_args") or "")),
            timeout_s=float(get("timeout")),
            become_method=str(constants.DEFAULT_BECOME_METHOD),
            password=_from_file(constants.CONNECTION_PASSWORD_FILE, loader),
            become_password=_from_file(constants.BECOME_PASSWORD_FILE, loader),
        )


def _from_file(path: Any, loader: Any) -> str | None:
    """The password that a file holds or a script prints, as Ansible reads them."""
    from ansible.parsing.vault import get_file_vault_secret

    if not path:
        return None
    secret = get_file_vault_secret(filename=str(Path(path).expanduser()), loader=loader)
    secret.load()
    return bytes(secret.bytes).decode().rstrip("\n")
