"""Was the rank needed at the end, or only on the way? One adapter cut to lower ranks, beside adapters trained at them.

ΔW of every layer is cut by SVD to its leading directions (Eckart and Young 1936), the head stays as it was trained.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from rankwise import methods
from rankwise.adapters import factors, loading, score
from rankwise.adapters.runs import Run, same_base
from rankwise.analysis.weights import labels
from rankwise.compare import on_rows
from rankwise.errors import Refused
from rankwise.metrics import named

_WHAT = "analyze truncation"
Tested = tuple[Any, dict[str, np.ndarray]]  # a score on the test rows, and the prediction for each


def truncation(runs: Sequence[Run]) -> dict[str, Any]:
    """The first run at every power of two below its rank, and each of the others, with paired differences by row.

    ``difference`` is from the whole adapter; ``from_cut`` of a trained run is from the first one cut to its rank.
    Raises Refused for an adapter that is no plain LoRA, and for other test rows.
    """
    first, *others = runs
    same_base(list(runs))
    lora, *loras = (factors.read(run.adapter, _WHAT) for run in runs)
    whole = max(lora.ranks.values())
    trained = [_trained_rank(run, one) for run, one in zip(others, loras, strict=True)]
    lower = {2**n for n in range(whole.bit_length()) if 2**n < whole}
    if not lower:
        raise Refused(
            f"{first.folder}: has rank {whole}, there is no lower one; give the run of the largest rank first"
        )
    label, *shown = labels(list(runs))
    model, tokenizer = loading.as_run(first)
    rows = score.Rows.of(first, tokenizer)
    svds = {name: delta.svd() for name, delta in lora.deltas.items()}
    full = score.evaluate(model, rows, first)
    lower |= {rank for rank in trained if rank < whole}
    cut = {rank: _cut(model, svds, rank, rows, first) for rank in sorted(lower)} | {whole: full}
    energy = sum(float((svd.s**2).sum()) for svd in svds.values())
    scores_cut = [
        {"rank": rank, "score": tested[0], "difference": _gap(rows.metric, full, tested)}
        | {"energy": sum(float((svd.s[:rank] ** 2).sum()) for svd in svds.values()) / energy}
        for rank, tested in cut.items()
    ]
    beside = []
    for rank, run, name in sorted(zip(trained, others, shown, strict=True), key=lambda one: one[0]):
        own, tokenizer = loading.as_run(run)
        tested = score.evaluate(own, score.Rows.of(run, tokenizer), run)
        if not np.array_equal(tested[1]["label"], full[1]["label"]):
            raise Refused(f"{run.folder}: was tested on other rows; give runs of one task and one data_seed")
        from_cut = _gap(rows.metric, cut[rank], tested) if rank in cut else None
        gaps = {"difference": _gap(rows.metric, full, tested), "from_cut": from_cut}
        beside.append({"run": name, "rank": rank, "score": tested[0]} | gaps)
    return {"metric": rows.metric, "run": label, "rank": whole, "cut": scores_cut, "trained": beside}


def cuts(run: Run, ranks: Sequence[int], part: str) -> dict[int, float]:
    """The run's metric on its ``validation`` or ``test`` rows with its adapter cut to each rank; its own is not cut.

    Raises Refused for an adapter that is no plain LoRA.
    """
    lora = factors.read(run.adapter, _WHAT)
    model, tokenizer = loading.as_run(run)
    rows = score.Rows.of(run, tokenizer)
    own, whole = max(lora.ranks.values()), float(score.evaluate(model, rows, run, part)[0]["value"])
    svds = {name: delta.svd() for name, delta in lora.deltas.items()}
    return {
        rank: whole if rank == own else float(_cut(model, svds, rank, rows, run, part)[0]["value"]) for rank in ranks
    }


def _trained_rank(run: Run, lora: factors.Lora) -> int:
    """The rank of its factors; a start that was taken out of W stands in the file beside what became of it."""
    return max(lora.ranks.values()) // (2 if methods.starts_from_base(run.config.method) else 1)


def _cut(
    model: nn.Module, svds: dict[str, factors.Svd], rank: int, rows: score.Rows, run: Run, part: str = "test"
) -> Tested:
    loading.put_factors(model, {name: svd.truncated(rank) for name, svd in svds.items()})
    return score.evaluate(model, rows, run, part)


def _gap(metric: str, one: Tested, other: Tested) -> dict[str, float]:
    """``other`` − ``one``."""
    return on_rows(named(metric), one[1], other[1])
