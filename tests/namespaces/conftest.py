"""These tests run hosts in namespaces: as root, with Debian packages. Where these lack, the run says so and fails."""

from __future__ import annotations

import pytest
from hostfleet import needs


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say what is missing before anything is tried; nothing is skipped."""
    try:
        needs.check(systemd=True)
    except needs.FleetError as error:
        pytest.exit(str(error), returncode=1)
