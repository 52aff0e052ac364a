"""Was the rank needed at the end, or only on the way? One adapter cut to lower ranks, beside adapters trained at them.

ΔW of every layer is cut by SVD to its leading directions (Eckart and Young 1936), the head stays as it was trained.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rankwise.adapters import factors, loading
from rankwise.adapters.runs import Run, same_base
from rankwise.adapters.score import Columns, Rows
from rankwise.analysis.weights import labels, nonzero, trained_rank
from rankwise.errors import Refused
from rankwise.tasks.scores import Score
from rankwise.tracking.fields import at

_WHAT = "analyze truncation"


def truncation(runs: Sequence[Run]) -> dict[str, Any]:
    """The first run at every power of two below its rank, and each of the others, with paired differences by row.

    ``difference`` is from the whole adapter; ``from_cut`` of a trained run is from the first one cut to its rank.
    Raises Refused for an adapter that is no plain LoRA, and for other test rows.
    """
    first, *others = runs
    same_base(list(runs))
    lora, *loras = (factors.read(run.adapter, _WHAT) for run in runs)
    nonzero(first, lora.deltas)
    whole, *trained = [trained_rank(run, one.ranks.values()) for run, one in zip(runs, (lora, *loras), strict=True)]
    lower = {2**n for n in range(whole.bit_length()) if 2**n < whole}
    if not lower:
        raise Refused(
            f"{first.folder}: has rank {whole}, there is no lower one; give the run of the largest rank first"
        )
    label, *shown = labels(list(runs))
    rows, svds, tested = _opened(first, lora)
    full = tested()
    lower |= {rank for rank in trained if rank < whole}
    cut = {rank: tested(rank) for rank in sorted(lower)} | {whole: full}
    energy = sum(float((svd.s**2).sum()) for svd in svds.values())
    scores_cut = [
        {"rank": rank, "score": at_rank[0], "difference": rows.gap(full[1], at_rank[1])}
        | {"energy": sum(float((svd.s[:rank] ** 2).sum()) for svd in svds.values()) / energy if rank < whole else 1.0}
        for rank, at_rank in cut.items()
    ]
    beside = []
    for rank, run, one, name in sorted(zip(trained, others, loras, shown, strict=True), key=lambda row: row[0]):
        own, columns = _opened(run, one)[2]()
        if not all(np.array_equal(columns[which], full[1][which]) for which in ("item", "label")):
            raise Refused(f"{run.folder}: was tested on other rows; give runs of one task and one data_seed")
        from_cut = rows.gap(cut[rank][1], columns) if rank in cut else None
        gaps = {"difference": rows.gap(full[1], columns), "from_cut": from_cut}
        beside.append({"run": name, "rank": rank, "score": own} | gaps)
    return {"metric": rows.metric, "run": label, "rank": whole, "cut": scores_cut, "trained": beside}


def cuts(run: Run, ranks: Sequence[int], part: str) -> dict[int, float]:
    """The run's metric on its ``validation`` or ``test`` rows with its adapter cut to each rank; its own is not cut.

    Raises Refused for an adapter that is no plain LoRA.
    """
    lora = factors.read(run.adapter, _WHAT)
    rows, _, tested = _opened(run, lora)
    own, whole = trained_rank(run, lora.ranks.values()), at(run.record, f"metrics.{part}.{rows.metric}.value")
    return {rank: whole if rank == own else float(tested(rank, part)[0]["value"]) for rank in ranks}


def _opened(run: Run, lora: factors.Lora) -> tuple[Rows, dict[str, factors.Svd], Callable[..., tuple[Score, Columns]]]:
    """The run's rows, its ΔW by layer, and a function that scores it: whole at first, then cut to a rank."""
    model, tokenizer = loading.as_run(run)
    rows = Rows.of(run, tokenizer)
    svds = {name: delta.svd() for name, delta in lora.deltas.items()}

    def tested(rank: int | None = None, part: str = "test") -> tuple[Score, Columns]:
        if rank is not None:
            loading.put_factors(model, {name: svd.truncated(rank) for name, svd in svds.items()})
        return rows.score(model, part)

    return rows, svds, tested
