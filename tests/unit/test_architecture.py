"""The direction of the flow, read off the imports: each part knows only what comes before it."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name; `from .a import b` is `...a.b`."""
    package = path.relative_to(PLUGINS).parent.parts if path.is_relative_to(PLUGINS) else ()
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def part_of(module: str) -> str:
    """The part of gpugate that a module belongs to: gpugate.probe.cuda.driver is of `probe`."""
    return module.split(".")[1] if module.startswith("gpugate.") else ""


def parts(path: Path) -> set[str]:
    """The parts of gpugate that a file imports."""
    return {part for module in imports(path) if (part := part_of(module))}


def files(folder: str) -> list[Path]:
    """The Python files below a folder."""
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("plugins/gpugate/evidence", {"evidence", "errors"}),
        ("plugins/gpugate/probe", {"probe", "evidence", "errors", "__version__"}),
        ("plugins/gpugate/policy", {"policy", "evidence", "errors"}),
        ("plugins/gpugate/verdict", {"verdict", "policy", "evidence", "errors"}),
        ("plugins/gpugate/inventory", {"inventory", "policy", "errors"}),
        ("plugins/gpugate/state", {"state", "errors"}),
        ("plugins/gpugate/gather", {"gather", "state", "inventory", "verdict", "policy", "evidence", "errors"}),
        ("plugins/gpugate/engine", {"engine", "gather", "inventory", "policy", "evidence", "errors"}),
        (
            "plugins/gpugate/cli",
            {"cli", "engine", "gather", "inventory", "policy", "errors", "__version__", "admission", "report", "state"},
        ),
        ("plugins/gpugate/report", {"report", "verdict", "policy", "evidence", "errors"}),
        ("plugins/gpugate/admission", {"admission", "state", "report", "verdict", "policy", "errors"}),
        ("checks", {"verdict", "policy", "evidence", "errors", "xid", "__version__"}),
    ],
)
def test_a_part_knows_only_what_comes_before_it(folder: str, allowed: set[str]) -> None:
    """No part imports one that comes after it in the flow, or beside it."""
    assert {str(path): more for path in files(folder) if (more := parts(path) - allowed)} == {}


def test_parts_make_no_circle() -> None:
    """The parts of gpugate can be put in an order in which each imports only those before it."""
    graph: dict[str, set[str]] = {}
    for path in files("plugins/gpugate"):
        own = path.relative_to(PLUGINS / "gpugate").parts[0].removesuffix(".py")
        graph.setdefault(own, set()).update(parts(path) - {own})
    assert {"probe", "gather", "report", "admission", "pytest_plugin"} <= set(TopologicalSorter(graph).static_order())


def test_modules_make_no_circle() -> None:
    """Nor do single files import each other in a circle, a package's own face aside."""
    known = {".".join(path.relative_to(PLUGINS).with_suffix("").parts): path for path in files("plugins/gpugate")}
    graph = {
        name: {found for module in imports(path) for found in (module, module.rpartition(".")[0]) if found in known}
        - {name}
        for name, path in known.items()
    }
    assert set(TopologicalSorter(graph).static_order()) == set(known)


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("pynvml", "plugins/gpugate/probe/nvml.py"),
        ("junit_xml", "plugins/gpugate/report/junit.py"),
        ("defusedxml", "plugins/gpugate/report/reader.py"),
        ("ClusterShell", "plugins/gpugate/report/text.py"),
        ("prometheus_client", "plugins/gpugate/cli/metrics.py"),
    ],
)
def test_a_library_stands_behind_one_file(library: str, only: str) -> None:
    """What could be exchanged is imported in one place."""
    users = {
        str(path.relative_to(ROOT))
        for path in [*files("plugins/gpugate"), *files("checks"), *files("plugins/action"), *files("plugins/modules")]
        if any(module.split(".")[0] == library for module in imports(path))
    }
    assert users == {only}


def test_the_product_does_not_know_the_simulator() -> None:
    """gpugate, its Ansible plugins and its checks import nothing of gpusim."""
    ansible = ("plugins/action", "plugins/modules", "plugins/module_utils")
    product = [path for folder in ("plugins/gpugate", *ansible, "checks") for path in files(folder)]
    assert [path for path in product if any(module.split(".")[0] == "gpusim" for module in imports(path))] == []


def test_what_engines_run_on_nodes_stands_alone() -> None:
    """on_node.py goes to nodes by itself: it imports the standard library and nothing else."""
    found = {module.split(".")[0] for module in imports(PLUGINS / "gpugate/engine/on_node.py")}
    assert found <= sys.stdlib_module_names
