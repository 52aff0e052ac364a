"""Was the rank needed at the end, or only on the way? One adapter cut to lower ranks, beside adapters trained at them.

ΔW of every layer is cut by SVD to its leading directions (Eckart and Young 1936), the head stays as it was trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from rankwise.adapters import factors, loading, score
from rankwise.adapters.runs import Run, same_base
from rankwise.analysis.weights import labels
from rankwise.compare import on_rows
from rankwise.errors import Refused
from rankwise.metrics import named
from rankwise.model.methods.warm import ADAPTER_FILE
from rankwise.tasks.scores import Score

_WHAT = "analyze truncation"


@dataclass(frozen=True)
class _Tested:
    """A score on the test rows, and the prediction for each."""

    score: Score
    columns: dict[str, np.ndarray]


def analyse(runs: Sequence[Run]) -> dict[str, Any]:
    """The first run at every power of two below its rank, and each of the others, with paired differences by row.

    ``difference`` is from the whole adapter; ``from_cut`` of a trained run is from the first one cut to its rank.
    Raises Refused for an adapter that is no plain LoRA, and for other test rows.
    """
    first, *others = runs
    same_base(list(runs))
    lora = factors.read(first.adapter, _WHAT)
    whole = max(lora.ranks.values())
    lower = [2**n for n in range(whole.bit_length()) if 2**n < whole]
    if not lower:
        raise Refused(
            f"{first.folder}: has rank {whole}, there is no lower one; give the run of the largest rank first"
        )
    trained = {label: (run, _rank(run)) for label, run in zip(labels(list(runs))[1:], others, strict=True)}
    lower = sorted({*lower, *(rank for _, rank in trained.values() if rank < whole)})
    settings = loading.numerics(first)
    loading.check(first, first.adapter)
    model, tokenizer = loading.as_run(first, settings)
    rows = score.Rows.of(first, tokenizer)
    metric, full = rows.metric, _Tested(*score.evaluate(model, rows, first, settings))
    cut = {rank: _cut(first, lora, rank, rows) for rank in lower} | {whole: full}
    energies = {rank: _energy(lora, rank) for rank in cut}
    found = [
        {"rank": rank, "score": each.score, "energy": energies[rank], "difference": _gap(metric, full, each)}
        for rank, each in cut.items()
    ]
    beside = []
    for label, (run, rank) in trained.items():
        each = _trained(run, full)
        beside.append({
            "run": label, "rank": rank, "score": each.score, "difference": _gap(metric, full, each),
            "from_cut": _gap(metric, cut[rank], each) if rank in cut else None,
        })  # fmt: skip
    return {"metric": metric, "run": labels(list(runs))[0], "rank": whole, "own_test": rows.own_test, "cut": found,
            "trained": sorted(beside, key=lambda row: row["rank"])}  # fmt: skip


def _rank(run: Run) -> int:
    return max(factors.read(run.adapter, _WHAT).ranks.values())


def _cut(run: Run, lora: factors.Lora, rank: int, rows: score.Rows) -> _Tested:
    smaller = {name: factors.truncate(delta, rank) for name, delta in lora.deltas.items()}
    tensors, config = factors.to_files(smaller, lora.config)
    settings = loading.numerics(run)
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors | lora.others, Path(folder) / ADAPTER_FILE, metadata={"format": "pt"})
        config.save_pretrained(folder)
        model, _ = loading.as_run(run, settings, Path(folder))
    return _Tested(*score.evaluate(model, rows, run, settings))


def _trained(run: Run, first: _Tested) -> _Tested:
    settings = loading.numerics(run)
    loading.check(run, run.adapter)
    model, tokenizer = loading.as_run(run, settings)
    found = _Tested(*score.evaluate(model, score.Rows.of(run, tokenizer), run, settings))
    if not np.array_equal(found.columns["label"], first.columns["label"]):
        raise Refused(f"{run.folder}: was tested on other rows; give runs of one task and one data_seed")
    return found


def _energy(lora: factors.Lora, rank: int) -> float:
    """The share of Σσ² over all layers that is kept."""
    squares = [factors.singular_values(delta) ** 2 for delta in lora.deltas.values()]
    return float(sum(each[:rank].sum() for each in squares) / sum(each.sum() for each in squares))


def _gap(metric: str, one: _Tested, other: _Tested) -> dict[str, float]:
    """``other`` − ``one``."""
    return on_rows(named(metric), one.columns, other.columns)
