"""What the runs of a study share of their predictions."""

import json
from typing import Any

import pytest
from tiny_configs import Tiny

from rankwise.identity import folder
from rankwise.plan import operations
from rankwise.run import run


def test_what_is_predicted_of_one_seed_serves_others_of_its_arm_and_no_other_arm(tiny: Tiny) -> None:
    def predicted(**keys: Any) -> tuple[Any, Any]:
        record = run(tiny(tracking__ledger=True, **keys))
        return record.memory["train"]["predicted"], record.compute["flops"]

    first, flops = predicted(seed=0)
    counts, file = sorted((folder(tiny()).parent / ".predicted").iterdir(), key=lambda path: path.stem != "counts")
    seen = {"memory": {"train": {"predicted": first | {"seen": 1}}}}
    file.write_text(json.dumps(json.loads(file.read_text()) | seen))
    assert predicted(seed=1, optim__lr=0.1) == (first | {"seen": 1}, flops)
    for keys in ({"method__rank": 2}, {"trainer__batch_size": 5}, {"trainer__precision": "bf16"}):
        assert "seen" not in predicted(**keys)[0]
    for seed, damaged in enumerate(("{", '{"memory": {}}', '{"memory": {"train": 5}, "operations": null}'), start=2):
        file.write_text(damaged)
        counts.write_text(damaged)
        assert predicted(seed=seed) == (first, flops)


def test_what_is_kept_for_a_study_holds_what_its_arms_are_compared_with(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flops(rank: int, **keys: Any) -> dict[str, Any]:
        return run(tiny(method__rank=rank, tracking__ledger=True, **keys)).compute["flops"]

    alone = flops(4, study="alone")
    monkeypatch.setattr(operations, "_known", {})
    flops(2)
    monkeypatch.setattr(operations, "_known", {})
    monkeypatch.delattr(operations, "full_fine_tuning")
    assert flops(4) == alone and alone["full_per_token"] > alone["per_token"]
