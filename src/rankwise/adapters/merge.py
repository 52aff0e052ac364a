"""One plain transformers model from base and adapter: W + ΔW in every layer, measured to be the same model."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise import methods
from rankwise.adapters import card, files, loading, score
from rankwise.adapters.runs import Run, base_asset
from rankwise.errors import Refused, reason
from rankwise.model import base, fused
from rankwise.model.methods.peft_warnings import CANNOT
from rankwise.tasks.scores import Scorer, ValueScorer

TOLERANCE = 1e-5  # relative, of the logits in fp32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def merge(run: Run, out: Path, dtype: str) -> dict[str, Any]:
    """Write the merged model to ``out``; returns what was measured, logits relative to those before.

    A quantized base is dequantized first: merging into few bits rounds ΔW away, as it is smaller than their steps.
    Raises Refused for a method that is no change of weights, and where the written model is not the same in fp32.
    """
    _refuse_unmergeable(run)
    files.refuse_taken(out)
    errors: dict[str, float] = {}
    lm, tokenizer = loading.dense_base(run)
    model = loading.adapted(lm, run)
    rows, quant = score.Rows.of(run, tokenizer), run.config.quant.kind
    before = rows.logits(model)
    if quant is not None:
        as_run = rows.logits(loading.as_run(run)[0], loading.numerics(run))
        errors["dequantized"] = score.relative(before, as_run)
    merged = fold(model, run)
    errors["merged"] = score.relative(rows.logits(merged), before)
    _refuse_inexact(run, errors["merged"])
    if (scorer := _in_units(merged, rows.scorer, DTYPES[dtype])) != rows.scorer:
        before = rows.scorer.predict(before)[0].float()[:, None]
    with files.whole(out) as folder:
        again = _save(merged, tokenizer, folder, run, dtype)
        errors["written"] = score.relative(rows.logits(again), before)
        if dtype == "fp32":
            _refuse_inexact(run, errors["written"])
        notes = [
            f"the adapter is merged; logits of {rows.counted(before)} differ from base and adapter by "
            f"{errors['written']:.1e} (relative, in {dtype})"
        ]
        if quant is not None:
            lost = f"{errors['dequantized']:.1e}"
            notes.append(
                f"the base was dequantized from {quant} to fp32, which changes the logits of the run by {lost}"
            )
        card.write(folder, run, base_asset(run), "merged", notes, scorer)
        size = files.weight_bytes(folder)
    logits = {"compared": rows.counted(before), "tolerance": TOLERANCE, "relative_errors": errors}
    summary = {"run": run.name, "out": str(out), "dtype": dtype, "quant": quant, "outputs": card.outputs(run, scorer)}
    return summary | {"logits": logits, "weight_bytes": size}


def _refuse_unmergeable(run: Run) -> None:
    """Refuse, by name, what is no change of the base's weights, and what is a plain model already."""
    name, trains, why = run.config.method.name, methods.of(run.config.method).trains, None
    if trains == "all":
        why = "has no adapter to merge; with trainer.save_full its adapter/ is the model"
    elif trains == "modules":
        why = "cannot be merged: it computes GELU behind layers, no change of W"
    elif trains == "subspace":
        why = "cannot be merged: its few numbers move every weight of the model"
    if why:
        raise Refused(f"{run.folder}: method={name} {why}")


def fold(model: nn.Module, run: Run) -> nn.Module:
    """The base with ΔW added and the trained head in place. Raises Refused for a PEFT method that has no merge."""
    if not isinstance(model, PeftModel):
        return model  # of weights of the base that were trained: they are where they belong
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            merged = model.merge_and_unload(safe_merge=True)
    except CANNOT as error:
        kind = loading.kind(model.active_peft_config)
        raise Refused(f"{run.folder}: {kind} cannot be merged by PEFT ({reason(error)})") from None
    assert isinstance(merged, nn.Module)
    fused.join(merged)
    return merged


def _in_units(merged: nn.Module, scorer: Scorer, dtype: torch.dtype) -> Scorer:
    """Have a regression answer in the unit of its labels: mean and spread go into its head, unless that has no bias to
    take the mean, or ``dtype`` would round it by more than 2 % of the spread. Returns the scorer of what it says now.
    """
    layers = [layer for name in base.head_names(merged) for layer in merged.get_submodule(name).modules()]
    last = next((layer for layer in reversed(layers) if isinstance(layer, nn.Linear)), None)
    if not isinstance(scorer, ValueScorer) or last is None or last.bias is None:
        return scorer
    if torch.finfo(dtype).eps * abs(scorer.mean) > 0.02 * scorer.spread:
        return scorer
    with torch.no_grad():
        last.weight.mul_(scorer.spread)
        last.bias.mul_(scorer.spread).add_(scorer.mean)
    return ValueScorer()


def _save(merged: Any, tokenizer: Any, folder: Path, run: Run, dtype: str) -> nn.Module:
    """Write the model, and read it back as anyone would."""
    plain = _plain(merged).to(DTYPES[dtype])
    options = {"dtype": DTYPES[dtype], "trust_remote_code": False, "use_safetensors": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain.save_pretrained(str(folder))
        loading.save_tokenizer(tokenizer, folder, run)
        auto = base.auto_class(run.config.task.kind, plain.config)
        options["attn_implementation"] = run.record.compute.get("attention")
        again: nn.Module = auto.from_pretrained(str(folder), **options)
    return again


def _plain(merged: Any) -> Any:
    """The same weights in a model that remembers nothing of GGUF or quantization, which would not let it be saved."""
    config = copy.deepcopy(merged.config)
    config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(merged)(config)
    state = merged.state_dict()
    for name, layer in plain.named_modules():
        if isinstance(layer, Conv1D) and isinstance(merged.get_submodule(name), nn.Linear):  # it was dequantized
            state[f"{name}.weight"] = state[f"{name}.weight"].T.contiguous()
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    if plain.can_generate():
        plain.generation_config = merged.generation_config
    return plain


def _refuse_inexact(run: Run, error: float) -> None:
    if not error <= TOLERANCE:
        distance = f"the merged model's logits differ by {error:.1e} (allowed {TOLERANCE:g})"
        raise Refused(f"{run.folder}: not merged, as {distance}")
