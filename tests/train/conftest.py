"""Runs that are not predicted: what a step holds and computes is of tests/plan and tests/measure."""

import functools

import pytest
from tiny_configs import Tiny


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """The same without a ledger, which would take half the time of such short runs."""
    return functools.partial(tiny, tracking__ledger=False)
