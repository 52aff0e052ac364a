"""Tiny runs on one saved base, so that seeds share it, trained once for the tests that only read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_configs import tiny as tiny_config

from rankwise.adapters.runs import Run, open_run
from rankwise.identity import folder
from rankwise.run import run


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory, saved_base: Callable[[str], Path]) -> Callable[..., Run]:
    """``ran("gpt2", "full", seed=1)``: the finished run of a tiny config on a base of files."""
    outputs, made = tmp_path_factory.mktemp("analyzed") / "outputs", {}

    def train(shape: str = "bert", method: str = "lora", targets: str = "qv", **keys: Any) -> Run:
        name = str((shape, method, targets, sorted(keys.items())))
        if name not in made:
            fixed = {"optim__lr": 0.03, "tracking__ledger": False, "model__path": str(saved_base(shape))}
            config = tiny_config(shape, method, targets, outputs=str(outputs), **(fixed | keys))
            run(config)
            made[name] = folder(config)
        return open_run(made[name])

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
