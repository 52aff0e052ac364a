"""Tiny runs on one saved base, so that seeds share it, trained once for the tests that only read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankwise.adapters.runs import Run


@pytest.fixture(scope="session")
def ran(trained: Callable[..., Run], saved_base: Callable[[str], Path]) -> Callable[..., Run]:
    """``ran("gpt2", "full", seed=1)``: a run of ``trained`` on a base of files, in a study of its own."""

    def train(shape: str = "bert", method: str = "lora", **keys: Any) -> Run:
        fixed = {"targets": "qv", "model__path": str(saved_base(shape)), "study": "analyzed"}
        return trained(shape, method, **(fixed | keys))

    return train


@pytest.fixture(scope="session")
def low(ran: Callable[..., Run]) -> Run:
    return ran(method__rank=2)


@pytest.fixture(scope="session")
def high(ran: Callable[..., Run]) -> Run:
    return ran(method__rank=4)


@pytest.fixture(scope="session")
def full(ran: Callable[..., Run]) -> Run:
    return ran(method="full", optim__lr=0.003, trainer__save_full=True)


@pytest.fixture
def study(low: Run) -> Path:
    return low.folder.parent
