"""Where the probe starts, from source and as a zipapp. This file alone must parse on any Python, even 2.7."""

import os
import sys

if sys.version_info < (3, 9):  # noqa: UP036  # a node's python3 may be older than the probe needs
    sys.stderr.write(
        "gpugate-probe needs Python 3.9 or newer, but %s is Python %d.%d: name a newer interpreter for this node.\n"  # noqa: UP031
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
    sys.exit(3)


def _bytecode():  # type: ignore[no-untyped-def]  # Python 2.7 cannot read annotations
    """The probe's bytecode beside its file (probe/bytecode.py), if only who owns the probe could have written it."""
    probe, compiled = sys.path[0], "%s.%s" % (sys.path[0], sys.implementation.cache_tag)  # noqa: UP031
    try:
        ours, theirs = os.stat(probe), os.lstat(compiled)  # noqa: PTH116  # pathlib costs milliseconds
    except OSError:
        return []
    regular = theirs.st_mode & 0o170000 == 0o100000 and ours.st_mode & 0o170000 == 0o100000
    return [compiled] if regular and theirs.st_uid == ours.st_uid and not theirs.st_mode & 0o022 else []


sys.path[:0] = _bytecode()  # type: ignore[no-untyped-call]

from gpugate.probe.cli import main  # noqa: E402  # only now: older versions cannot read it

sys.exit(main())
