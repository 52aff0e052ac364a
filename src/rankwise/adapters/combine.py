"""One LoRA adapter out of several, scored on each one's task with that task's head."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from rankwise.adapters import factors, files, joined, loading, score
from rankwise.adapters.runs import Run, same_base
from rankwise.adapters.swap import name_of
from rankwise.compare import on_rows
from rankwise.errors import Refused
from rankwise.metrics import named
from rankwise.model import fused
from rankwise.model.base import reason
from rankwise.model.methods.quiet import CANNOT, quiet_peft
from rankwise.model.methods.seeds import derived_seed
from rankwise.model.methods.warm import ADAPTER_FILE

HOWS = ("linear", "cat", "svd", "ties", "dare_linear", "dare_ties")
WITH_DENSITY = ("ties", "dare_linear", "dare_ties")
_ONE_RANK = ("linear", "ties", "dare_linear", "dare_ties")
_NAME = "combined"


def combine(
    runs: list[Run], how: str, weights: list[float] | None = None, rank: int | None = None,
    density: float | None = None, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Combine by PEFT's ``add_weighted_adapter``, score on the test rows of each run's task, save with ``out``.

    ``linear`` adds the factors, so that products of one run's B with another's A come in; ``cat`` and ``svd`` add the
    ΔWs; ``ties`` trims and elects signs (Yadav et al. 2023, §3), ``dare_*`` drops at random and rescales (Yu et al.
    2024, §3.1), of the factors in PEFT. Weights are 1/n each unless given.
    """
    if out is not None:
        files.refuse_taken(out)
    shares = [1 / len(runs)] * len(runs) if weights is None else weights
    same_base(runs)
    loras = [factors.read(run.adapter, "combine") for run in runs]
    _refuse_options(loras, how, shares, rank, density)
    for run in runs:
        loading.check(run, run.adapter)
    settings = loading.numerics(runs[0])
    lm, tokenizer = loading.stored_base(runs[0], settings)
    heads = [loading.head_tensors(run, lm) for run in runs]
    for run, lora, head in zip(runs, loras, heads, strict=True):
        _refuse_more_trained(run, lora, head)
    model = _together(lm, runs, loras)
    _add(model, [name_of(run) for run in runs], shares, how, rank, density)
    tasks = []
    for run, head in zip(runs, heads, strict=True):
        loading.put_head(lm, head)
        loading.ready(model, settings)
        tasks.append(_scored(model, run, score.Rows.of(run, tokenizer)))
    deltas = combined(model)
    found = {
        "how": how, "weights": shares, "density": density, "runs": [run.name for run in runs], "tasks": tasks,
        "ranks": factors.summary(delta.b.shape[1] for delta in deltas.values()), "out": str(out) if out else None,
    }  # fmt: skip
    if out is not None:
        found["adapter_bytes"] = _save(out, deltas, loras[0].config, runs, heads, found)
    return found


def combined(model: PeftModel) -> dict[str, factors.Delta]:
    """ΔW of the combined adapter, by module."""
    found = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and _NAME in layer.lora_A:
            a, b = (side[_NAME].weight.detach().cpu().double() for side in (layer.lora_A, layer.lora_B))
            found[name] = factors.Delta(b * layer.scaling[_NAME], a)
    return found


def _refuse_options(
    loras: list[factors.Lora], how: str, weights: list[float], rank: int | None, density: float | None
) -> None:
    given = f"--weights {' '.join(f'{w:g}' for w in weights)}"
    if len(weights) != len(loras):
        raise Refused(f"{given}: {len(loras)} numbers, one for each run")
    if not all(map(math.isfinite, weights)) or not any(weights):
        raise Refused(f"{given}: finite numbers, not all zero")
    if len(loras) == 1 and how != "linear":
        raise Refused(f"--how {how}: needs two or more runs; shrink truncates one")
    if rank is not None:
        most = min(min(delta.sides) for lora in loras for delta in lora.deltas.values())
        if how != "svd":
            raise Refused(f"--rank {rank}: with --how svd only; {how} settles the rank itself")
        if not 1 <= rank <= most:
            raise Refused(f"--rank {rank}: 1 to {most}, the smaller side of an adapted matrix")
    if density is not None and how not in WITH_DENSITY:
        raise Refused(f"--density {density:g}: with --how {', '.join(WITH_DENSITY)} only")
    if how in WITH_DENSITY and not (density is not None and 0 < density <= 1):
        raise Refused(f"--density {density}: above 0 and at most 1, the share of weights that --how {how} keeps")
    ranks = sorted({rank for lora in loras for rank in lora.ranks.values()})
    if how in _ONE_RANK and len(ranks) > 1 and any(_differ(one, loras[0]) for one in loras[1:]):
        raise Refused(
            f"--how {how}: needs adapters of one rank, these have {', '.join(map(str, ranks))}; use cat or svd"
        )


def _differ(one: factors.Lora, other: factors.Lora) -> bool:
    shared = one.ranks.keys() & other.ranks.keys()
    return any(one.ranks[name] != other.ranks[name] for name in shared)


def _refuse_more_trained(run: Run, lora: factors.Lora, head: dict[str, torch.Tensor]) -> None:
    """Only factors can be combined; the head is kept apart."""
    if more := sorted(set(lora.others) - {f"base_model.model.{name}" for name in head}):
        raise Refused(f"{run.folder}: trains {more[0].removeprefix('base_model.model.')} beside LoRA and the head, "
                      "which cannot be combined")  # fmt: skip


def _together(lm: nn.Module, runs: list[Run], loras: list[factors.Lora]) -> PeftModel:
    """All adapters on the base, without heads: PEFT combines none that bring modules of their own."""
    model: Any = None
    with warnings.catch_warnings(), quiet_peft():
        warnings.simplefilter("ignore")
        for run, lora in zip(runs, loras, strict=True):
            config = _bare(lora)
            fused.split_for(lm, config)
            try:
                if model is None:
                    model = get_peft_model(lm, config, adapter_name=name_of(run))
                else:
                    model.add_adapter(name_of(run), config)
            except ValueError as error:  # one is on query and value, the other on the layer that fuses them
                raise Refused(f"{run.folder}: not beside {runs[0].name} on one base ({reason(error)})") from None
            own = {
                name: value for name, value in load_file(run.adapter / ADAPTER_FILE).items() if name not in lora.others
            }
            set_peft_model_state_dict(model, own, adapter_name=name_of(run))
    assert isinstance(model, PeftModel)
    return model


def _bare(lora: factors.Lora) -> LoraConfig:
    """The config of the factors alone, with the scale of every module written as α/r.

    PEFT gives the combined adapter α = r, which is a scale of √r where the first adapter's α is divided by √r.
    """
    config, ranks = lora.config, lora.ranks
    root = {name: math.sqrt(rank) if config.use_rslora else 1.0 for name, rank in ranks.items()}
    alphas = {name: factors.pattern(config.alpha_pattern, name, config.lora_alpha) * root[name] for name in ranks}
    return factors.changed(
        config, use_rslora=False, modules_to_save=None, task_type=None, lora_dropout=0.0,
        alpha_pattern={re.escape(name): alpha for name, alpha in alphas.items()},
    )  # fmt: skip


def _add(
    model: PeftModel, names: list[str], weights: list[float], how: str, rank: int | None, density: float | None
) -> None:
    torch.manual_seed(derived_seed("combine", *names))  # of what dare drops
    try:
        with torch.no_grad():
            model.base_model.add_weighted_adapter(
                names, weights, _NAME, combination_type=how, svd_rank=rank, density=density, svd_full_matrices=False
            )
    except CANNOT as error:
        raise Refused(f"--how {how}: PEFT cannot combine these adapters ({reason(error)})") from None


def _scored(model: PeftModel, run: Run, rows: score.Rows) -> dict[str, Any]:
    settings, found = loading.numerics(run), {}
    for label, name in (("single", name_of(run)), (_NAME, _NAME)):
        model.base_model.set_adapter(name)
        found[label] = score.evaluate(model, rows, run, settings)
    gap = on_rows(named(rows.metric), found["single"][1], found[_NAME][1])
    recorded = run.record.metrics.get("test", {}).get(rows.metric, {}).get("value")
    return {"task": run.config.task.name, "run": run.name, "metric": rows.metric, "recorded": recorded,
            "single": found["single"][0], _NAME: found[_NAME][0], "difference": gap,
            "own_test": rows.own_test}  # fmt: skip


def _save(
    out: Path, deltas: dict[str, factors.Delta], config: LoraConfig, runs: list[Run],
    heads: list[dict[str, torch.Tensor]], found: dict[str, Any],
) -> int:  # fmt: skip
    """PEFT's adapter without a head, and each run's head beside it."""
    tensors, written = factors.to_files(joined.deltas(deltas), config)
    with files.whole(out) as folder:
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
        factors.changed(written, modules_to_save=None, task_type=None).save_pretrained(str(folder))
        (folder / "heads").mkdir()
        for run, head in zip(runs, heads, strict=True):
            save_file(head, folder / "heads" / f"{run.name}.safetensors", metadata={"format": "pt"})
        (folder / "README.md").write_text(_card(found, runs), encoding="utf-8")
        return files.weight_bytes(folder)


def _card(found: dict[str, Any], runs: list[Run]) -> str:
    base, weights = runs[0].record.provenance["model"], ", ".join(f"{weight:g}" for weight in found["weights"])
    lines = [
        "---", "license: unknown", "library_name: peft", "---", "",
        f"# {len(runs)} LoRA adapters combined ({found['how']})", "",
        f"Weights {weights}; base {base['source']}, fingerprint {base['fingerprint']}.", "",
        "| task | metric | alone | combined | head |", "| --- | --- | --- | --- | --- |",
        *(f"| {row['task']} | {row['metric']} | {row['single']['value']:.4f} ± {row['single']['se']:.4f} | "
          f"{row['combined']['value']:.4f} ± {row['combined']['se']:.4f} | heads/{row['run']}.safetensors |"
          for row in found["tasks"]),
        "", "± is one standard error over test rows. Load the base with the head's number of outputs, then", "",
        "```python", "base.load_state_dict(safetensors.torch.load_file(HEAD), strict=False)",
        "model = PeftModel.from_pretrained(base, FOLDER).eval()", "```", "",
    ]  # fmt: skip
    return "\n".join(lines)
