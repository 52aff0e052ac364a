"""One LoRA adapter out of several, scored on each one's task with that task's head."""

import math
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from rankwise.adapters import card, factors, files, loading, score
from rankwise.adapters.runs import Run, base_asset, same_base
from rankwise.errors import Refused, reason
from rankwise.model.methods.peft_warnings import CANNOT
from rankwise.model.methods.seeds import derived_seed

WITH_DENSITY = ("ties", "dare_linear", "dare_ties")
_NAME, _HEAD = "combined", "\0"


def combine(
    runs: list[Run],
    how: str,
    weights: list[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Combine by PEFT's ``add_weighted_adapter``, score on the test rows of each run's task, save with ``out``.

    ``linear`` adds the factors, so that products of one run's B with another's A come in; ``cat`` and ``svd`` add the
    ΔWs; ``ties`` trims and elects signs (Yadav et al. 2023, §3), ``dare_*`` drops at random and rescales (Yu et al.
    2024, §3.1), of the factors in PEFT. Weights are 1/n each unless given.
    """
    if out is not None:
        files.refuse_taken(out)
    weights = weights or [1 / len(runs)] * len(runs)
    same_base(runs)
    loras = [factors.read(run.adapter, "combine") for run in runs]
    _refuse_options(loras, how, weights, rank, density)
    for run in runs:
        loading.check(run)
    shared = loading.Shared(runs)
    for run, lora in zip(runs, loras, strict=True):  # only factors can be combined; the head is kept apart
        names = sorted(name.removeprefix(loading.PREFIX) for name in lora.others)
        if more := next((name for name in names if name.split(".")[0] not in shared.heads), None):
            raise Refused(f"{run.folder}: trains {more} beside LoRA and the head, which cannot be combined")
    _add(shared, runs, weights, how, rank, density)
    tasks = [_scored(shared, run) for run in runs]
    deltas = combined(shared)
    summary = {
        "how": how,
        "weights": weights,
        "density": density,
        "runs": [run.name for run in runs],
        "tasks": tasks,
        "ranks": factors.summary(delta.b.shape[1] for delta in deltas.values()),
        "out": str(out) if out else None,
    }
    if out is not None:
        with files.whole(out) as folder:
            config = loras[0].config
            factors.write(folder, deltas, config, {}, modules_to_save=None, task_type=None, lora_dropout=0.0)
            for run, task in zip(runs, tasks, strict=True):
                if task["head"]:  # a causal LM's is the base's own
                    (folder / "heads").mkdir(exist_ok=True)
                    save_file(shared.whole[run.key], folder / task["head"], {"format": "pt"})
            (folder / "README.md").write_text(_card(summary, runs), encoding="utf-8")
            summary["adapter_bytes"] = files.weight_bytes(folder)
    return summary


def combined(shared: loading.Shared) -> factors.Deltas:
    """ΔW of the combined adapter, by layer."""
    deltas = {}
    for name, layer in shared.lm.named_modules():
        if isinstance(layer, LoraLayer) and _NAME in layer.lora_A:
            a, b = (side[_NAME].weight.detach().cpu().double() for side in (layer.lora_A, layer.lora_B))
            deltas[name] = factors.Delta(b * layer.scaling[_NAME], a)
    return deltas


def _refuse_options(
    loras: list[factors.Lora], how: str, weights: list[float], rank: int | None, density: float | None
) -> None:
    option = f"--weights {' '.join(f'{w:g}' for w in weights)}"
    if len(weights) != len(loras):
        raise Refused(f"{option}: {len(loras)} numbers, one for each run")
    if not all(map(math.isfinite, weights)) or not any(weights):
        raise Refused(f"{option}: finite numbers, not all zero")
    if len(loras) == 1 and how != "linear":
        raise Refused(f"--how {how}: needs two or more runs; shrink truncates one")
    most = min(min(delta.sides) for lora in loras for delta in lora.deltas.values())
    if rank is not None and how != "svd":
        raise Refused(f"--rank {rank}: with --how svd only; {how} settles the rank itself")
    if rank is not None and not 1 <= rank <= most:
        raise Refused(f"--rank {rank}: 1 to {most}, the smaller side of an adapted matrix")
    if density is not None and how not in WITH_DENSITY:
        raise Refused(f"--density {density:g}: with --how {', '.join(WITH_DENSITY)} only")
    if how in WITH_DENSITY and not (density is not None and 0 < density <= 1):
        raise Refused(f"--density {density}: above 0 and at most 1, the share of weights that --how {how} keeps")
    first, ranks = loras[0].ranks, sorted({rank for lora in loras for rank in lora.ranks.values()})
    differ = any(rank != first.get(name, rank) for lora in loras for name, rank in lora.ranks.items())
    if how not in ("cat", "svd") and differ:
        listed = ", ".join(map(str, ranks))
        raise Refused(f"--how {how}: needs adapters of one rank, these have {listed}; use cat or svd")


def _add(
    shared: loading.Shared, runs: list[Run], weights: list[float], how: str, rank: int | None, density: float | None
) -> None:
    keys = [run.key for run in runs]
    # PEFT gives the combined adapter α = r and the first one's division by √r, which would be a scale of √r.
    shared.model.peft_config[keys[0]].use_rslora = False
    torch.manual_seed(derived_seed("combine", *keys))  # of what dare drops
    options = {"combination_type": how, "svd_rank": rank, "density": density, "svd_full_matrices": False}
    try:
        with torch.no_grad():
            shared.model.base_model.add_weighted_adapter(keys, weights, _NAME, **options)
    except CANNOT as error:
        raise Refused(f"--how {how}: PEFT cannot combine these adapters ({reason(error)})") from None


def _scored(shared: loading.Shared, run: Run) -> dict[str, Any]:
    rows = score.Rows.of(run, shared.tokenizer)
    shared.activate(run)
    single, alone = rows.score(shared.model)
    shared.activate(run, _NAME)
    together, columns = rows.score(shared.model)
    recorded = run.record.metrics.get("test", {}).get(rows.metric, {}).get("value")
    row = {"task": run.config.task.name, "run": run.name, "metric": rows.metric, "recorded": recorded}
    row["head"] = f"heads/{run.name}.safetensors" if shared.whole[run.key] else ""
    row["outputs"] = card.outputs(run, rows.scorer)
    return row | {"single": single, _NAME: together, "difference": rows.gap(alone, columns)}


def _card(summary: dict[str, Any], runs: list[Run]) -> str:
    base, weights = runs[0].record.provenance["model"], ", ".join(f"{weight:g}" for weight in summary["weights"])
    rows, alike = [], dict[tuple[str, str], list[str]]()  # heads that are loaded and read in the same way
    for run, row in zip(runs, summary["tasks"], strict=True):
        lines = [*card.recipe(run, base_asset(run), "adapter", row["head"]), *card.usage(run)]
        code = "\n".join(lines).replace(run.name, _HEAD)
        alike.setdefault((code, row["outputs"]), []).append(run.name)
        alone, together = (f"{row[which]['value']:.4f} ± {row[which]['se']:.4f}" for which in ("single", _NAME))
        cells = (row["task"], row["metric"], alone, together, row["head"] or "the base's")
        rows.append(f"| {' | '.join(cells)} |")
    ways = [
        f"For {' or, in the same way, '.join(names)}; outputs: {outputs}:\n\n"
        f"```python\n{code.replace(_HEAD, names[0])}\n```\n"
        for (code, outputs), names in alike.items()
    ]
    return f"""---
license: unknown
library_name: peft
---

# {len(runs)} LoRA adapters combined ({summary["how"]})

Weights {weights}; base {card.alone(base["source"])}, fingerprint {base["fingerprint"]}.

| task | metric | alone | combined | head |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

± is one standard error over test rows.

{chr(10).join(ways)}"""
