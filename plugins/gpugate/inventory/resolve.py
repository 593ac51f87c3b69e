"""Host patterns to targets, by Ansible's own inventory code: groups, patterns, templates, lookups and vault."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import InventoryError
from ..policy import policy_from_variables
from ..policy.resolve import NOT_POLICY
from .defaults import LEAST_CONNECT_S, Defaults
from .target import TRANSPORTS, Target

if TYPE_CHECKING:
    from ansible.inventory.manager import InventoryManager

_BECOME_PASSWORD = ("ansible_become_password", "ansible_become_pass", "ansible_sudo_pass")


def use_project(root: Path) -> None:
    """Make Ansible read the project's own ansible.cfg wherever pytest was started; call before Ansible is imported."""
    config = root / "ansible.cfg"
    if "ANSIBLE_CONFIG" not in os.environ and config.is_file():
        os.environ["ANSIBLE_CONFIG"] = str(config)
    # A source that cannot be parsed would otherwise be a warning and a smaller fleet.
    os.environ.setdefault("ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "True")


def resolve(pattern: str, source: str | None = None, extra: Mapping[str, object] | None = None) -> list[Target]:
    """The targets that an Ansible host pattern selects, in inventory order.

    `source` is an inventory path or comma list, None for Ansible's configured one. `extra` are variables that stand
    above the inventory's, as with Ansible's -e. Raises InventoryError for a
    pattern part that matches nothing, an inventory without hosts or one that cannot be read or templated, and
    PolicyError for a host whose policy is invalid.
    """
    from ansible import constants
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.vars.manager import VariableManager

    sources = source or constants.DEFAULT_HOST_LIST
    try:
        init_plugin_loader()
        loader = DataLoader()
        loader.set_vault_secrets(_vault_secrets(loader))
        inventory = InventoryManager(loader, sources=sources)
        hosts = _select(inventory, pattern, sources)
        variables = VariableManager(loader, inventory)
        defaults = Defaults.read(loader)
        return [_target(host.name, variables.get_vars(host=host) | (extra or {}), loader, defaults) for host in hosts]
    except AnsibleError as error:
        raise InventoryError(f"the inventory cannot be resolved: {error}") from error


def _vault_secrets(loader: Any) -> list[tuple[str, Any]]:
    """The secrets of Ansible's configured password files and vault ids (`label@file`); a prompt is no file.

    Not by ansible.cli, which refuses to be imported where a standard stream does not block.
    """
    from ansible import constants
    from ansible.parsing.vault import VaultSecretsContext, get_file_vault_secret

    chosen = [constants.DEFAULT_VAULT_PASSWORD_FILE] if constants.DEFAULT_VAULT_PASSWORD_FILE else []
    secrets = []
    for identity in [*chosen, *constants.DEFAULT_VAULT_IDENTITY_LIST]:
        label, _, file = str(identity).rpartition("@")
        if file.startswith("prompt"):
            raise InventoryError(f"the vault id {identity!r} asks for a password: name a file or a script instead")
        secret = get_file_vault_secret(filename=file, vault_id=label or constants.DEFAULT_VAULT_IDENTITY, loader=loader)
        secret.load()
        secrets.append((label or constants.DEFAULT_VAULT_IDENTITY, secret))
    if VaultSecretsContext.current(optional=True) is None:
        VaultSecretsContext.initialize(VaultSecretsContext(secrets))
    return secrets


def _select(inventory: InventoryManager, pattern: str, sources: Any) -> list[Any]:
    from ansible.inventory.manager import split_host_pattern

    known = sorted(set(inventory.groups) - {"all", "ungrouped"}) + sorted(inventory.hosts)
    if not inventory.hosts:
        raise InventoryError(f"the inventory {_shown(sources)} has no hosts")
    parts = [name for part in split_host_pattern(pattern) for name in _names(inventory, part)]
    if not parts:
        raise InventoryError("--hosts is empty: name a group or hosts, for example --hosts=gpu_fleet")
    for part in parts:
        bare = part.lstrip("!&")
        if bare not in inventory.groups and not _matches(inventory, bare):
            close = difflib.get_close_matches(bare, known, 3)
            hint = f"; did you mean {' or '.join(close)}?" if close else f" (there are: {', '.join(known[:10])})"
            raise InventoryError(f"--hosts: no host or group in {_shown(sources)} matches {bare!r}{hint}")
        if not part.startswith("!") and not _matches(inventory, bare):
            raise InventoryError(f"--hosts: the group {bare} of {_shown(sources)} has no hosts")
    hosts = [host for host in inventory.get_hosts(parts) if host.name in inventory.hosts]
    if not hosts:
        raise InventoryError(f"--hosts={pattern} selects no host of {_shown(sources)}")
    if any(host.name == "gathered" for host in hosts):
        raise InventoryError(
            "no host can be called gathered, because gathered.json, beside the hosts' documents, says how they came: "
            "give it another name in the inventory, and its address in ansible_host"
        )
    return hosts


def _names(inventory: InventoryManager, part: str) -> list[str]:
    """A part of a pattern, with a range such as gpu[1:3] written out.

    To Ansible that is a slice of a group called gpu; where there is no such group it can only mean the hosts that an
    inventory would write so.
    """
    from ansible.plugins.inventory import detect_range, expand_hostname_range

    sign = part[: len(part) - len(part.lstrip("!&"))]
    bare = part.removeprefix(sign)
    if part.startswith("~") or not detect_range(bare) or bare.split("[")[0] in inventory.groups:
        return [part]
    names = expand_hostname_range(bare)
    return [sign + name for name in names]


def _matches(inventory: InventoryManager, part: str) -> bool:
    """Whether a part of a pattern selects any host of the inventory; Ansible itself would only warn about a typo."""
    from ansible.errors import AnsibleError

    try:
        return any(host.name in inventory.hosts for host in inventory.get_hosts(part))
    except AnsibleError:
        return False


def _shown(sources: Any) -> str:
    return sources if isinstance(sources, str) else ", ".join(map(str, sources))


def _target(name: str, variables: Mapping[str, Any], loader: Any, defaults: Defaults) -> Target:
    from ansible.errors import AnsibleError
    from ansible.template import Templar

    templar = Templar(loader=loader, variables=variables)

    def get(*keys: str, default: Any = None) -> Any:
        for key in keys:
            if key in variables:
                try:
                    return templar.template(variables[key])
                except AnsibleError as error:
                    raise InventoryError(f"{name}: {key} cannot be templated: {error.message}") from error
        return default

    ours = {key: get(key) for key in variables if key.startswith("gpugate_")}
    policy = policy_from_variables(name, ours)
    user = _text(get("ansible_user", "ansible_ssh_user", default=defaults.user))
    become = get("ansible_become")
    connection = _text(get("ansible_connection")) or "ssh"
    already_root = os.geteuid() == 0 if connection == "local" else user == "root"
    try:
        arguments: list[str] = []
        for key in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
            given = get(f"ansible_{key}")
            arguments += getattr(defaults, key) if given is None else shlex.split(given)
        port = get("ansible_port", "ansible_ssh_port", default=defaults.port)
        timeout_s = float(get("ansible_ssh_timeout", "ansible_timeout", default=defaults.timeout_s))
        becomes = (become is None or _truth(become)) and not already_root
        if becomes:
            _require_sudo(get("ansible_become_method", default=defaults.become_method))
        return Target(
            name=name,
            policy=policy,
            connection=connection,
            address=_text(get("ansible_host", "ansible_ssh_host")),
            port=int(port) if port is not None else None,
            user=user,
            private_key=_text(
                get("ansible_private_key_file", "ansible_ssh_private_key_file", default=defaults.private_key)
            ),
            password=_text(
                get("ansible_password", "ansible_ssh_pass", "ansible_ssh_password", default=defaults.password)
            ),
            ssh_args=tuple(arguments),
            ssh=_transport(_text(get("gpugate_ssh"))),
            connect_s=max(timeout_s, LEAST_CONNECT_S),
            become=becomes,
            become_user=_text(get("ansible_become_user")) or "root",
            become_password=_text(get(*_BECOME_PASSWORD, default=defaults.become_password)),
            python=_interpreter(_text(get("ansible_python_interpreter"))),
            node_root=PurePosixPath(_text(get("gpugate_node_root")) or "/"),
            driver_root=_text(get("gpugate_driver_root")),
            state_file=_state_file(_text(get("gpugate_state_file"))),
            node_name=_text(get("gpugate_node_name")),
            variables={key: value for key, value in ours.items() if key in NOT_POLICY},
        )
    except (ValueError, TypeError) as error:
        raise InventoryError(f"{name}: its connection variables are not valid: {error}") from error


def _require_sudo(method: Any) -> None:
    if str(method).rpartition(".")[2] != "sudo":
        raise ValueError(f"ansible_become_method {method!r} is not supported: gpugate becomes another user by sudo")


def _transport(value: str | None) -> str:
    if value not in (None, *TRANSPORTS):
        raise ValueError(f"gpugate_ssh: {value!r} is none of {', '.join(TRANSPORTS)}")
    return value or "auto"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _state_file(value: str | None) -> Path | None:
    path = None if value is None else Path(value).expanduser()
    if path is not None and not path.is_absolute():
        raise ValueError(f"gpugate_state_file: {value!r} is no absolute path")
    return path


def _truth(value: Any) -> bool:
    from ansible.module_utils.parsing.convert_bool import boolean

    return bool(boolean(value))


def _interpreter(value: str | None) -> str:
    return "python3" if value is None or value.startswith("auto") else value
