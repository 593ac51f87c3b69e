"""Write docs/checks.md from the checks themselves; `--check` only says whether it is current."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from gpugate.policy import CATALOGUE

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "checks.md"
HEAD = """# The checks

Written by `python tools/make_docs.py` from the checks' own docstrings. A profile decides which checks a node owes:
**admission** (drained node, burn-in, everything), **nightly** (never disturbs a job), **quick** (seconds, no load).
Bounds are policy's ([policy.md](policy.md)); what a check could not measure is an ERROR, never a pass.
"""


def page() -> str:
    """The page's text; every shipped check has an entry, by family and name."""
    parts = [HEAD]
    for path in sorted((ROOT / "checks").glob("*.py")):
        tree = ast.parse(path.read_text())
        title, _, rest = (ast.get_docstring(tree) or "").partition("\n")
        parts.append(f"## {title.rstrip('.')}\n" + (f"\n{rest.strip()}\n" if rest.strip() else ""))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
                check = f"{path.stem}.{node.name.removeprefix('check_')}"
                parts.append(f"### `{check}`\n\n{ast.get_docstring(node)}\n")
                parts.append(f"Profiles: {', '.join(CATALOGUE[check])}.\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or compare; 1 when it is not current."""
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text() != page())
    TARGET.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
