"""Was the rank needed at the end, or only on the way? One adapter cut to lower ranks, beside adapters trained at them.

ΔW of every layer is cut by SVD to its leading directions (Eckart and Young 1936), the head stays as it was trained.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
    metric, svds, tested = _opened(first, lora)
    full = tested()
    lower |= {rank for rank in trained if rank < whole}
    cut = {rank: tested(rank) for rank in sorted(lower)} | {whole: full}
    energy = sum(float((svd.s**2).sum()) for svd in svds.values())
    scores_cut = [
        {"rank": rank, "score": at_rank[0], "difference": _gap(metric, full, at_rank)}
        | {"energy": sum(float((svd.s[:rank] ** 2).sum()) for svd in svds.values()) / energy}
        for rank, at_rank in cut.items()
    ]
    beside = []
    for rank, run, one, name in sorted(zip(trained, others, loras, shown, strict=True), key=lambda row: row[0]):
        own = _opened(run, one)[2]()
        if not np.array_equal(own[1]["label"], full[1]["label"]):
            raise Refused(f"{run.folder}: was tested on other rows; give runs of one task and one data_seed")
        from_cut = _gap(metric, cut[rank], own) if rank in cut else None
        gaps = {"difference": _gap(metric, full, own), "from_cut": from_cut}
        beside.append({"run": name, "rank": rank, "score": own[0]} | gaps)
    return {"metric": metric, "run": label, "rank": whole, "cut": scores_cut, "trained": beside}


def cuts(run: Run, ranks: Sequence[int], part: str) -> dict[int, float]:
    """The run's metric on its ``validation`` or ``test`` rows with its adapter cut to each rank; its own is not cut.

    Raises Refused for an adapter that is no plain LoRA.
    """
    lora = factors.read(run.adapter, _WHAT)
    _, _, tested = _opened(run, lora)
    own, whole = max(lora.ranks.values()), tested(part=part)
    return {rank: float((whole if rank == own else tested(rank, part))[0]["value"]) for rank in ranks}


def _trained_rank(run: Run, lora: factors.Lora) -> int:
    """The rank of its factors; a start that was taken out of W stands in the file beside what became of it."""
    return max(lora.ranks.values()) // (2 if methods.starts_from_base(run.config.method) else 1)


def _opened(run: Run, lora: factors.Lora) -> tuple[str, dict[str, factors.Svd], Callable[..., Tested]]:
    """The run's metric, its ΔW by layer, and a function that scores it: whole at first, then cut to a rank."""
    model, tokenizer = loading.as_run(run)
    rows = score.Rows.of(run, tokenizer)
    svds = {name: delta.svd() for name, delta in lora.deltas.items()}

    def tested(rank: int | None = None, part: str = "test") -> Tested:
        if rank is not None:
            loading.put_factors(model, {name: svd.truncated(rank) for name, svd in svds.items()})
        return score.evaluate(model, rows, run, part)

    return rows.metric, svds, tested


def _gap(metric: str, one: Tested, other: Tested) -> dict[str, float]:
    """``other`` − ``one``."""
    return on_rows(named(metric), one[1], other[1])
