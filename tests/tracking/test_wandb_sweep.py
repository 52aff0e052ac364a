"""``wandb sweep`` and ``wandb agent`` with a sweep file whose command is ``rankwise train``."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb_server import ContractServer
from wandb_server.store import Sweep
from whole import check
from zygote import Zygote

from rankwise.commands.train import point_words
from rankwise.tracking.fields import at
from rankwise.tracking.record import Record, find

HERE = Path(__file__).parent
AGENT, UNTRAINED, SWEEPS = HERE / "agent.py", HERE / "untrained.py", HERE.parents[1] / "sweeps"


def work_off(python: Callable[..., str], server: ContractServer, file: Path, **env: str) -> tuple[str, Sweep]:
    """``wandb sweep`` and ``wandb agent``: the sweep's id, and what the server knows of it."""
    python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((name, made),) = server.sweeps.items()
    python(AGENT, f"ranks/{name}", **server.env(), **env)
    assert made.state == "FINISHED"
    return name, made


def check_points(server: ContractServer, name: str, made: Sweep, records: list[Record]) -> None:
    """Each point's run has ended well, and holds what the record says that has the point's values."""
    by_id = {record.run["id"]: record for record in records}
    for run, point in made.points.items():
        got = server.run(run)
        assert (got["state"], got["exit_code"], got["sweep"], got["project"]) == ("finished", 0, name, "ranks")
        record = by_id[got["config"]["run"]["id"]]
        check(record, got["config"], got["summary"], given=point)
        words = [word for key, value in point.items() for word in point_words(f"{key}={value}")]
        for key, _, value in (word.partition("=") for word in words):
            own = at(record, f"config.{key}")
            assert yaml.safe_load(value) == (own["name"] if isinstance(own, dict) else own)


def on_path(folder: Path, script: str) -> str:
    """A PATH on which this script is the command ``rankwise``."""
    folder.mkdir()
    (folder / "rankwise").write_text(script)
    (folder / "rankwise").chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


HAND_OVER = f"""#!{sys.executable} -S
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect(os.environ["ZYGOTE"])
    line.sendall(json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]).encode() + b"\\n")
    sys.exit(int(line.recv(9)))
"""


@contextlib.contextmanager
def zygote_at(place: Path, zygote: Zygote) -> Iterator[None]:
    """Runs what ``HAND_OVER`` hands over in a fork, without the seconds of imports."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                with listening.accept()[0] as line:
                    folder, words, env = json.loads(line.makefile().readline())
                    code = zygote(place.parent / f"said-{time.monotonic_ns()}", "command", folder, words, **env).wait(
                        120
                    )
                    line.sendall(str(code).encode())

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        threading.Thread(target=serve, daemon=True).start()
        yield


def test_an_agent_trains_every_point_once_and_answers_one_that_comes_twice(server, tmp_path, python, zygote):
    fixed = ["debug=fast", "tracking=wandb", "tracking.mode=online", "tracking.ledger=false", "outputs=outputs"]
    points = ["method=full optim.lr=0.01", "method.rank=2 seed=1", "seed=1 method.rank=2"]
    file = written(tmp_path / "arms.yaml", fixed, {"point": {"values": points}})
    path, place = on_path(tmp_path / "bin", HAND_OVER), tmp_path / "line"
    with zygote_at(place, zygote):
        name, made = work_off(python, server, file, PATH=path, ZYGOTE=str(place))
    records = find([tmp_path / "outputs"])
    assert [record.run["attempts"] for record in records] == [1, 1] and len(made.points) == 3
    check_points(server, name, made, records)
    once, again = (server.run(run) for run in list(made.points)[1:])
    assert once["history"] == again["history"] and once["summary"] == again["summary"]


def test_whatever_a_sweep_varies_arrives_nested_and_whole(server, tmp_path, python):
    """Its command finds a rankwise that writes a record and tells of it, but does not train.

    W&B keeps what a sweep sets, such as method = "full", and drops what a run sends under that name.
    """
    path = on_path(tmp_path / "bin", f'#!/bin/sh\nexec {sys.executable} -W ignore {UNTRAINED} "$@"\n')
    groups = {"method": {"values": ["lora", "full"]}, "quant": {"value": "none"}}
    file = written(tmp_path / "arms.yaml", [], groups)
    name, made = work_off(python, server, file, PATH=path)
    records = find([tmp_path / "outputs"])
    assert len(records) == len(made.points) == 2
    check_points(server, name, made, records)
    arms = [server.run(run)["config"]["arm"] for run in made.points]
    assert all(("rank" in arm) == (arm["method"] == "lora") for arm in arms)


def written(path: Path, fixed: list[str], parameters: dict[str, Any]) -> Path:
    """A sweep file."""
    command = ["${env}", "rankwise", "train", *fixed, "${args_no_hyphens}"]
    sweep = {"method": "grid", "metric": {"name": "objective", "goal": "maximize"}, "command": command}
    path.write_text(yaml.safe_dump(sweep | {"parameters": parameters}))
    return path


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yaml")), ids=lambda f: f.stem)
def test_the_servers_client_takes_every_shipped_sweep_file(server, python, file):
    said = python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((_, made),) = server.sweeps.items()
    assert made.config["parameters"] == yaml.safe_load(file.read_text())["parameters"]
    assert "warning" not in said.lower()
