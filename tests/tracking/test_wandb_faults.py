"""Servers that fail: the run is whole, its process ends soon, and one line on stderr says what happened."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from wandb_server import ContractServer, Fault
from whole import LINE, whole
from zygote import Child

from rankwise.config import Config
from rankwise.identity import folder, run_id

PATIENCE = {"WANDB_INIT_TIMEOUT": "1", "WANDB_FINISH_TIMEOUT": "3", "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
LATE = "not all of it reached the server in time, wandb sync --include-online "
Start = Callable[..., Child]
Tracked = Callable[..., Config]


@pytest.mark.parametrize(
    ("fault", "said", "key"),
    [
        (Fault(500), "CommError", "k" * 40),
        (Fault("hang"), "CommError", "k" * 40),
        (Fault(401), "CommError: HTTP 401 on purpose", "k" * 40),
        (None, "AuthenticationError: WANDB_API_KEY invalid", "short"),
        (Fault(500, after="UpsertBucket"), LATE, "k" * 40),
        (Fault("hang", after="UpsertBucket"), LATE, "k" * 40),
        (Fault("die", after="file_stream"), LATE, "k" * 40),
        (Fault(404, after="ServerFeaturesQuery"), "the server refused some of it, wandb sync", "k" * 40),
    ],
    ids=["500", "hang", "401", "short key", "500 later", "hang later", "die later", "404 later"],
)
def test_a_run_is_whole_whatever_the_server_does(
    start: Start, tracked: Tracked, fault: Fault | None, said: str, key: str
) -> None:
    config = tracked("online")
    with ContractServer(fault) as server:
        child = start("run", config, **server.env() | {"WANDB_API_KEY": key}, **PATIENCE)
        began = time.monotonic()  # the first child waits for imports
        assert child.wait(60) == 0
        took = time.monotonic() - began
    record = whole(config)
    assert child.stderr.startswith(LINE) and child.stderr.count("\n") == 1, child.stderr
    # On a machine that is busy with other things, wandb is not that far when patience ends.
    assert said in child.stderr or "(no answer)" in child.stderr
    assert record.run["wandb"]["problem"] in child.stderr
    assert took - record.compute["seconds"]["total_s"] < 15


def test_metrics_that_a_dead_server_missed_can_be_sent_to_the_next(
    start: Start, tracked: Tracked, python: Callable[..., str], server: ContractServer
) -> None:
    config = tracked("online")
    with ContractServer(Fault("die", after="file_stream")) as dead:
        child = start("run", config, **dead.env(), **PATIENCE | {"WANDB_FINISH_TIMEOUT": "6"})
        assert child.wait(60) == 0
    (left,) = folder(config).parent.glob("wandb/run-*")
    assert str(left) in child.stderr
    python("-m", "wandb", "sync", "--include-online", left, **server.env())
    got = server.run(run_id(config))
    assert got["summary"]["objective"] == whole(config).objective
    assert [row["step"] for row in got["history"] if "lr" in row] == [1, 2, 3, 4, 5, 6]
