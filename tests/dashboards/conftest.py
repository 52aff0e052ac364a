"""A tiny study, tracked online on a server of its own, and the command in a process of its own."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_configs import tiny
from wandb_server import ContractServer, of_nobody
from zygote import Zygote

from rankwise.config import Config, plain
from rankwise.identity import folder
from rankwise.tracking.record import Record, read

ARMS = (("lora", {"method__rank": 2}), ("full", {}))


@dataclass
class Study:
    """Two arms on two seeds: the files, and the server that was told of them."""

    server: ContractServer
    folder: Path
    configs: list[Config]

    def record(self, number: int) -> Record:
        """As it is on disk."""
        return read(folder(self.configs[number]))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Iterator[Study]:
    """Tracked online under a name that no workspace can have; the server must have been able to answer everything."""
    place = tmp_path_factory.mktemp("online")
    online = {"tracking__name": "wandb", "tracking__mode": "online", "tracking__project": "proj"}
    common = {"outputs": str(place), "study": "ranks+"} | online
    configs = [tiny("bert", method, seed=seed, **common, **keys) for method, keys in ARMS for seed in (0, 1)]
    with ContractServer() as server:
        env = of_nobody(tmp_path_factory.mktemp("home")) | server.env()
        children = [zygote(place / f"child-{i}", "run", plain(config), **env) for i, config in enumerate(configs)]
        assert [child.wait(120) for child in children] == [0] * len(configs), [child.stderr for child in children]
        yield Study(server, place / "ranks+", configs)
        assert server.unknown == []


@pytest.fixture
def rankwise(zygote: Zygote, tmp_path: Path) -> Callable[..., Any]:
    """``rankwise("report", folder, WANDB_MODE="offline")``: what came of it."""
    return functools.partial(zygote.rankwise, tmp_path, **of_nobody(tmp_path))
