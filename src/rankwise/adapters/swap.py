"""Several adapters on one base, chosen per request: is each as good as alone, and what does switching cost?"""

import statistics
import time
from typing import Any

import torch

from rankwise.adapters import files, loading, score
from rankwise.adapters.runs import Run, same_base
from rankwise.errors import Refused
from rankwise.measure.ledger import held_bytes

TOLERANCE = 1e-5  # relative, of the logits in the run's own numerics
_SWITCHES = 30  # per adapter


def swap(runs: list[Run]) -> dict[str, Any]:
    """Logits of each adapter among the others against its own run's, and milliseconds per switch and per load.

    Raises Refused for runs on different bases or storages, and kinds of adapters that PEFT does not mix.
    """
    if len(runs) < 2:
        raise Refused("adapter swap: give two or more runs")
    same_base(runs)
    alone, loads_s = zip(*map(_alone, runs), strict=True)
    shared = loading.Shared(runs)
    rows = []
    for run, own in zip(runs, alone, strict=True):
        shared.activate(run)
        tested = score.Rows.of(run, shared.tokenizer)
        now = tested.logits(shared.model, loading.numerics(run))
        error, size = score.relative(now, own), files.weight_bytes(run.adapter)
        row = {"run": run.name, "compared": tested.counted(own), "relative_error": error}
        rows.append(row | {"same": error <= TOLERANCE, "adapter_bytes": size})
    switches_s = []
    for turn in range(_SWITCHES + 1):
        for run in runs:
            start = time.perf_counter()
            shared.activate(run)
            if turn:  # the first of each adapter is left out
                switches_s.append(time.perf_counter() - start)
    base = [p for name, p in shared.model.named_parameters() if not any(f".{run.key}" in name for run in runs)]
    return {
        "adapters": rows,
        "tolerance": TOLERANCE,
        "switch_ms": 1000 * statistics.median(switches_s),
        "switches": len(switches_s),
        "load_ms": 1000 * statistics.median(loads_s),
        "loads": len(loads_s),
        "base_bytes": held_bytes(shared.model, base),
    }


def _alone(run: Run) -> tuple[torch.Tensor, float]:
    """Logits of the run's model by itself, and the seconds that loading it took."""
    settings = loading.numerics(run)
    loading.check(run)
    start = time.perf_counter()
    lm, tokenizer = loading.stored_base(run)
    model = loading.ready(loading.placed(lm, run), run)
    if settings.device.type == "cuda":
        torch.cuda.synchronize()
    taken_s = time.perf_counter() - start
    return score.Rows.of(run, tokenizer).logits(model, settings), taken_s
