"""The model card: what a folder of weights is, where it comes from, how good it is and how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rankwise import assets
from rankwise.adapters.runs import Run
from rankwise.config import plain
from rankwise.identity import canonical
from rankwise.model import base
from rankwise.tasks.scores import Scorer, TokenScorer

_Z = 1.959964  # of the 95 % normal interval


def intervals(run: Run) -> list[tuple[str, float, float, float, int]]:
    """Metric, value, 95 % bounds over test rows and their number, for each recorded test score."""
    return [
        (name, score["value"], score["value"] - _Z * score["se"], score["value"] + _Z * score["se"], int(score["n"]))
        for name, score in run.record.metrics.get("test", {}).items()
        if score.get("value") is not None and score.get("se") is not None
    ]


def write(
    folder: Path, run: Run, asset: assets.Asset, kind: str, notes: list[str], scorer: Scorer | TokenScorer | None
) -> None:
    """README.md beside the weights: ``kind`` is adapter or merged."""
    name = run.config.model.path  # what from_pretrained finds it by; None where it is no file that others could have
    front: dict[str, Any] = {"license": "unknown"} | ({"base_model": name} if asset.hub_id else {})
    writes = run.config.task.kind == "causal_lm"
    front |= {
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation" if writes else "text-classification",
    }
    data = run.record.provenance["data"]
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "",
        f"# {run.record.run['name']}", "",
        "The licence is not known to rankwise: those of the base and of the data apply.", "",
        f"- base: {asset.source}, fingerprint {asset.fingerprint}",
        f"- method: {run.config.method.name}, targets {run.config.targets.name}",
        f"- base kept in: {_storage(run)}",
        f"- data: {data['source']}, fingerprint {data['fingerprint']}; {data['train']} rows for training, "
        f"{data['validation']} for validation, {data['test']} for test",
        f"- outputs: {_outputs(run, scorer)}",
        f"- run: {run.record.run['id']}, {run.record.run['ended']}, seed {run.config.seed}",
        *(f"- {note}" for note in notes), "",
        "## Scores on the test rows", "", "| metric | value | 95 % interval over rows | rows |",
        "| --- | --- | --- | --- |", *map(_row, intervals(run)),
        "", "## How to load it", "", "```python", *_recipe(run, name, kind), "```", "",
        "## Config", "", "```yaml", yaml.safe_dump(canonical(plain(run.config)), sort_keys=False).strip(), "```", "",
    ]  # fmt: skip
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _row(score: tuple[str, float, float, float, int]) -> str:
    metric, value, low, high, rows = score
    return f"| {metric} | {value:.4f} | {low:.4f} to {high:.4f} | {rows} |"


def _storage(run: Run) -> str:
    quant = run.config.quant
    if quant.kind is None:
        return "fp32"
    return f"{quant.kind}{', constants quantized' if quant.double else ''}"


def _outputs(run: Run, scorer: Scorer | TokenScorer | None) -> str:
    if run.config.task.kind == "causal_lm":
        return "text: logits of the next token"
    if run.classes:
        return "classes " + ", ".join(f"{number} = {name}" for number, name in enumerate(run.classes))
    if not isinstance(scorer, Scorer):
        return "one value, of standardised labels"
    return f"one value; label = {scorer.spread!r} × logit + {scorer.mean!r}"


def _recipe(run: Run, name: str | None, kind: str) -> list[str]:
    auto = "AutoModelForCausalLM" if run.config.task.kind == "causal_lm" else "AutoModelForSequenceClassification"
    if kind == "merged":
        return [
            f"from transformers import {auto}, AutoTokenizer", "",
            f"model = {auto}.from_pretrained(FOLDER).eval()",
            "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
        ]  # fmt: skip
    options = {
        None: "", "bf16": ", dtype=torch.bfloat16",
        "int8": ", quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
        "int8_torchao": ", quantization_config=TorchAoConfig(Int8WeightOnlyConfig())",
    }.get(run.config.quant.kind, _four_bits(run))  # fmt: skip
    imports = [auto, "AutoTokenizer"]
    head, kept = "", list[str]()
    if run.config.task.kind != "causal_lm":  # the base may have a head of its own, for another task
        settings = base.head_settings(run.config.task.kind, run.outputs)
        kept = ["config = AutoConfig.from_pretrained(BASE)", f"config.update({settings!r})"]
        head = ", config=config, ignore_mismatched_sizes=True"
    extra = ["import torch"] if "torch." in options else []
    extra += ["from torchao.quantization import Int8WeightOnlyConfig"] if "TorchAo" in options else []
    imports += ["AutoConfig"] if kept else []
    imports += [word for word in ("BitsAndBytesConfig", "TorchAoConfig") if word in options]
    return [
        *extra, "from peft import PeftModel", f"from transformers import {', '.join(imports)}", "",
        f"BASE = {name!r}" if name else f"BASE = ...  # {_where(run)}",
        *kept, f"base = {auto}.from_pretrained(BASE{head}{options})",
        "model = PeftModel.from_pretrained(base, FOLDER).eval()",
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
        "model.config.pad_token_id = tokenizer.pad_token_id",
    ]  # fmt: skip


def _where(run: Run) -> str:
    if package := run.config.model.package:
        return f"{package.name} {package.version}, {package.member}"
    return "random weights, which are in no file: `rankwise adapter merge` writes the whole model"


def _four_bits(run: Run) -> str:
    double = bool(run.config.quant.double)
    kept = f"load_in_4bit=True, bnb_4bit_quant_type={run.config.quant.kind!r}, bnb_4bit_use_double_quant={double}"
    return f", quantization_config=BitsAndBytesConfig({kept})"
