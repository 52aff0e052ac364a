"""An offline study, sent to a server afterwards by ``wandb sync``: nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable

from wandb_server import ContractServer
from whole import rows, whole
from zygote import Child

from rankwise.config import Config
from rankwise.identity import folder, run_id
from rankwise.tracking import mirror

Start = Callable[..., Child]


def test_a_synced_study_is_what_it_would_have_been_online(
    server: ContractServer, start: Start, tracked: Callable[..., Config], python: Callable[..., str]
) -> None:
    whole_one, failed_once = tracked(), tracked(seed=1)
    for target, config in (("run", whole_one), ("run_and_fail", failed_once), ("run", failed_once)):
        assert start(target, config).wait() == 0
    fragments = sorted(folder(whole_one).parent.glob("wandb/offline-run-*"))
    assert len(fragments) == 3

    python("-m", "wandb", "sync", *fragments, **server.env())
    assert set(server.runs) == {run_id(whole_one), run_id(failed_once)}
    for config in (whole_one, failed_once):
        record, got = whole(config), server.run(run_id(config))
        assert got["history"][-len(rows(config)) :] == rows(config)
        expected = mirror.summary(record)
        assert {key: got["summary"].get(key) for key in expected} == expected
        assert got["config"]["seed"] == config.seed and got["config"]["method"]["rank"] == config.method.rank
        assert (got["state"], got["exit_code"], got["groupName"]) == ("finished", 0, "my-study")
    assert len(server.run(run_id(whole_one))["history"]) == len(rows(whole_one))
    assert [row["step"] for row in server.run(run_id(failed_once))["history"]][:3] == [1, 2, 1]

    assert {made.collection for made in server.artifacts} == {f"adapter-{name}" for name in server.runs}
    for made in server.artifacts:
        assert made.state == "COMMITTED" and "adapter_model.safetensors" in server.content(made)

    asked = len(list(server.operations()))
    python("-m", "wandb", "sync", *fragments, **server.env())  # once is enough
    assert "UpsertBucket" not in list(server.operations())[asked:]
