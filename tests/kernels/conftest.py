"""The kernels' cards: compiled once for all tests of a file's worker, new memory for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cards import Card, build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The compiled kernels of an architecture."""
    folder = tmp_path_factory.mktemp("cards")
    built: dict[int, Path] = {}

    def of(architecture: int) -> Path:
        if architecture not in built:
            built[architecture] = build(architecture, folder)
        return built[architecture]

    return of


@pytest.fixture
def make_card(library: Callable[[int], Path]) -> Callable[[int], Card]:
    """Makes cards: architecture 75 or 80."""
    return lambda architecture: Card(library(architecture), architecture)


@pytest.fixture(params=[75, 80])
def card(request: pytest.FixtureRequest, make_card: Callable[[int], Card]) -> Card:
    """A card of each architecture."""
    return make_card(request.param)
