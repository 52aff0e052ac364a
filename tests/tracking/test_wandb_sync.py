"""``wandb sync`` of what was tracked offline, where the study has been moved to another path."""

from collections.abc import Callable
from pathlib import Path

from wandb_server import ContractServer
from whole import check, rows, wandb_id, whole
from zygote import Child

from rankwise.config import Config
from rankwise.identity import folder


def test_a_moved_study_is_synced_with_its_adapters_as_it_would_have_been_online(
    server: ContractServer,
    start: Callable[..., Child],
    tracked: Callable[..., Config],
    python: Callable[..., str],
    tmp_path: Path,
) -> None:
    whole_one, failed_once = tracked(), tracked(seed=1)
    for target, config in (("run", whole_one), ("run_and_fail", failed_once), ("run", failed_once)):
        assert start(target, config).wait() == 0
    told = {wandb_id(config): (whole(config), rows(config)) for config in (whole_one, failed_once)}
    weights = {
        wandb_id(config): {path.name: path.read_bytes() for path in (folder(config) / "adapter").iterdir()}
        for config in (whole_one, failed_once)
    }
    moved = folder(whole_one).parent.rename(tmp_path / "elsewhere")
    fragments = sorted(moved.glob("wandb/offline-run-*"))
    assert len(fragments) == 3

    python("-m", "wandb", "sync", *fragments, **server.env())
    assert set(server.runs) == set(told)
    for name, (record, history) in told.items():
        got = server.run(name)
        assert got["history"][-len(history) :] == history
        check(record, got["config"], got["summary"])
        assert (got["state"], got["exit_code"], got["groupName"]) == ("finished", 0, record.run["wandb"]["group"])
        files = {
            path.removeprefix(f"run/{name}/"): content
            for path, content in server.store.stored.items()
            if path.startswith(f"run/{name}/")
        }
        assert {"record.json", "predictions.parquet"} <= files.keys()
        assert {path.removeprefix("adapter/"): files[path] for path in files if "adapter/" in path} == weights[name]

    asked = len(list(server.operations()))
    python("-m", "wandb", "sync", *fragments, **server.env())  # once is enough
    assert "UpsertBucket" not in list(server.operations())[asked:]
