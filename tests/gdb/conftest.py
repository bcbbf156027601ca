"""Fixtures for the tests of heaps at rest."""

import pytest
from harness.heap_stops import FORMS


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """Return one of FORMS: the process, or a core of it."""
    found: str = request.param
    return found
