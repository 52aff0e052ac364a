"""A tiny study, tracked online on a server of its own, and the command in a process of its own."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_configs import tiny
from tracked_study import Command, Study
from wandb_server import ContractServer, of_nobody
from zygote import Zygote

from rankwise.config import plain

ARMS = (("lora", {"method__rank": 2}), ("full", {}))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Iterator[Study]:
    """Tracked online; the server must have been able to answer everything."""
    place = tmp_path_factory.mktemp("online")
    online = {"tracking__name": "wandb", "tracking__mode": "online", "tracking__project": "proj"}
    common = {"outputs": str(place), "study": "ranks"} | online
    configs = [tiny("bert", method, seed=seed, **common, **keys) for method, keys in ARMS for seed in (0, 1)]
    with ContractServer() as server:
        env = of_nobody(tmp_path_factory.mktemp("home")) | server.env()
        children = [zygote(place / f"child-{i}", "run", plain(config), **env) for i, config in enumerate(configs)]
        assert [child.wait(120) for child in children] == [0] * len(configs), [child.stderr for child in children]
        yield Study(server, place / "ranks", configs)
        assert server.unknown == []


@pytest.fixture
def rankwise(zygote: Zygote, tmp_path: Path) -> Command:
    """``rankwise("report", folder, WANDB_MODE="offline")``: what came of it."""
    return functools.partial(zygote.rankwise, tmp_path, **of_nobody(tmp_path))
