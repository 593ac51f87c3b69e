"""Where the probe starts, from source and as a zipapp. This file alone must parse on any Python, even 2.7."""

import sys

if sys.version_info < (3, 9):  # noqa: UP036  # a node's python3 may be older than the probe needs
    sys.stderr.write(
        "gpugate-probe needs Python 3.9 or newer, but %s is Python %d.%d: name a newer interpreter for this node.\n"  # noqa: UP031
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
    sys.exit(3)

from gpugate.probe.cli import main  # only now: older versions cannot read it

sys.exit(main())
