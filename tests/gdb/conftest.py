"""Fixtures for the tests of heaps at rest, and of what is lost in them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.heap_stops import FORMS
from harness.leaks import Owners, owners_at_rest
from harness.processes import compile_fixture


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """Return one of FORMS: the process, or a core of it."""
    found: str = request.param
    return found


@pytest.fixture(scope="session")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owners]:
    """Have a program with a block for each sort of place that can point at one."""
    with owners_at_rest(tmp_path_factory.mktemp("owners")) as made:
        yield made


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program that ends in the way that its first argument names."""
    return compile_fixture("runs", tmp_path_factory.mktemp("runs") / "runs")
