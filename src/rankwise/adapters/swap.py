"""Several adapters on one base, chosen per request: is each as good as alone, and what does switching cost?"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from rankwise.adapters import files, loading, score
from rankwise.adapters.runs import Run, same_base
from rankwise.errors import Refused
from rankwise.measure.ledger import held_bytes
from rankwise.model import fused
from rankwise.model.base import reason
from rankwise.model.methods.quiet import quiet_peft

TOLERANCE = 1e-5  # relative, of the logits in the run's own numerics
_SWITCHES = 30  # per adapter


def swap(runs: list[Run]) -> dict[str, Any]:
    """Logits of each adapter among the others against its own run's, and milliseconds per switch and per load.

    Raises Refused for runs on different bases or storages, and kinds of adapters that PEFT does not mix.
    """
    if len(runs) < 2:
        raise Refused("adapter swap: give two or more runs")
    same_base(runs)
    alone, anew_s = zip(*(_alone(run) for run in runs), strict=True)
    model, tokenizer = shared(runs)
    rows = []
    for run, own in zip(runs, alone, strict=True):
        model.set_adapter(name_of(run))
        error = score.relative(score.logits(model, score.Rows.of(run, tokenizer), loading.numerics(run)), own)
        rows.append({"run": run.name, "rows": len(own), "relative_error": error, "same": error <= TOLERANCE,
                     "adapter_bytes": files.weight_bytes(run.adapter)})  # fmt: skip
    switch_ms = [1000 * each for each in _switches(model, [name_of(run) for run in runs])]
    return {
        "adapters": rows, "tolerance": TOLERANCE, "switch_ms": statistics.median(switch_ms), "switches": len(switch_ms),
        "load_ms": 1000 * statistics.median(anew_s), "loads": len(anew_s),
        "base_bytes": held_bytes(model, _base_parameters(model)),
    }  # fmt: skip


def name_of(run: Run) -> str:
    """The adapter's name in a shared model; PEFT allows no dots."""
    return f"run_{run.record.run['id']}"


def shared(runs: list[Run]) -> tuple[Any, Any]:
    """The base with every run's adapter and head on it, in eval mode, and the tokenizer."""
    first = runs[0]
    settings = loading.numerics(first)
    lm, tokenizer = loading.stored_base(first, settings)
    tensors = {name_of(run): loading.head_tensors(run, lm) for run in runs}
    loading.put_head(lm, tensors[name_of(first)])
    with warnings.catch_warnings(), quiet_peft():
        warnings.filterwarnings("ignore", ".*adapter keys.*")
        fused.split_for(lm, loading.adapter_config(first.adapter))
        model = PeftModel.from_pretrained(lm, str(first.adapter), adapter_name=name_of(first), torch_device="cpu")
        for run in runs[1:]:
            heads = {_original(name): value for name, value in tensors[name_of(run)].items()}
            loading.put_head(model.get_base_model(), heads)  # PEFT copies it, so that it must have the run's size
            try:
                model.load_adapter(str(run.adapter), name_of(run), torch_device="cpu")
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise Refused(f"{run.folder}: not beside {first.name} on one base ({reason(error)})") from None
    return loading.ready(model, settings), tokenizer  # what was added came in training mode


def _original(name: str) -> str:
    head, rest = name.split(".", 1)
    return f"{head}.original_module.{rest}"


def _alone(run: Run) -> tuple[torch.Tensor, float]:
    """Logits of the run's model by itself, and the seconds that loading it took."""
    settings = loading.numerics(run)
    loading.check(run, run.adapter)
    start = time.perf_counter()
    lm, tokenizer = loading.stored_base(run, settings)
    model = loading.ready(loading.placed(lm, run), settings)
    if settings.device.type == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - start
    return score.logits(model, score.Rows.of(run, tokenizer), settings), taken


def _switches(model: PeftModel, names: list[str]) -> list[float]:
    """Seconds of each switch, the first of each adapter left out."""
    taken = []
    for turn in range(_SWITCHES + 1):
        for name in names:
            start = time.perf_counter()
            model.set_adapter(name, inference_mode=True)
            if turn:
                taken.append(time.perf_counter() - start)
    return taken


def _base_parameters(model: PeftModel) -> list[nn.Parameter]:
    own = tuple(model.peft_config)
    return [p for name, p in model.named_parameters() if not any(f".{adapter}" in name for adapter in own)]
