"""Children with the real wandb, and the server that answers them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_server import ContractServer, of_nobody
from zygote import Child, Zygote

from rankwise.config import Config, plain


@pytest.fixture
def nobody(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return of_nobody(home)


@pytest.fixture
def start(zygote: Zygote, tmp_path: Path, nobody: dict[str, str]) -> Callable[..., Child]:
    """``start("run", config, WANDB_MODE="online")``: a function of ``in_child.py`` in a process of its own."""

    def go(target: str, given: Config | str | list[str], *arguments: object, **more: str) -> Child:
        argument = plain(given) if isinstance(given, Config) else given
        return zygote(tmp_path / f"child-{time.monotonic_ns()}", target, argument, *arguments, **nobody, **more)

    return go


@pytest.fixture
def python(tmp_path: Path, nobody: dict[str, str]) -> Callable[..., str]:
    """``python("-m", "wandb", "sync", …)``: the client's own command, or a script; returns what it printed."""

    def go(*arguments: object, **more: str) -> str:
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for wandb agent's command
        env = {**os.environ, **nobody, "PATH": search, **more}
        command = [sys.executable, "-W", "ignore", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return go


@pytest.fixture
def tracked(tiny: Callable[..., Config]) -> Callable[..., Config]:
    """``tracked("online", seed=1)``: a tiny config that is mirrored."""

    def make(mode: str = "offline", **keys: Any) -> Config:
        return tiny(**{"tracking__name": "wandb", "tracking__mode": mode, "study": "my-study"} | keys)

    return make


@pytest.fixture
def server() -> Iterator[ContractServer]:
    """A W&B server that must have been able to answer everything it was asked."""
    with ContractServer() as started:
        yield started
        assert started.unknown == []
