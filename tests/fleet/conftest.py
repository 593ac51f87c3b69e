"""Fleets that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleets import Fleet, simulated_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes, for tests that leave no fault behind."""
    with simulated_fleet(tmp_path_factory.mktemp("fleet"), nodes=[{}, {"driver": "550"}]) as up:
        yield up
