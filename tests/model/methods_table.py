"""Every method on every architecture, trained by a plain loop with the head held still: only the method can learn."""

import copy
from pathlib import Path
from typing import Any

import torch
import yaml
from tiny_configs import SHAPES, tiny
from torch import nn

from rankwise import assets
from rankwise.assets import resolve
from rankwise.config import Config, plain
from rankwise.methods import DECLARED
from rankwise.model import base
from rankwise.model.adapt import Adapted
from rankwise.model.methods import adalora
from rankwise.tasks.scores import ClassScorer
from rankwise.tracking import record as records
from rankwise.train import optim, step

TEXTS = [
    "the cat sat",
    "a much longer sentence about nothing at all",
    "x",
    "good!",
    "very bad",
    "1 2 3 4",
    "and",
    "so?",
]
LABELS = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])
STEPS = 300

# What a tiny model needs to be told, beside the method's own file.
KEYS: dict[str, dict[str, Any]] = {
    "vera": {"method__rank": 16},
    "lokr": {"method__rank": 3},
    "nested": {"method__rank": 8},
    "top_layers": {"method__layers": 1, "method__lr": 2e-3},
    "bottleneck": {"method__size": 8, "method__lr": 1e-2},
    "bitfit": {"method__lr": 1e-2},
    "custom": {"method__peft": {"_target_": "peft.HRAConfig", "r": 4}, "method__lr": 1e-2},
}
REFUSED = {
    ("bitfit", "llama"): "method.name=bitfit: a model with biases, which llama has not",
    ("bitfit", "t5"): "method.name=bitfit: a model with biases, which t5 has not",  # whose head has some
    **{
        (method, "gpt2"): f"method.name={method}: a method that PEFT has for transposed layers such as "
        "transformer.h.0.attn.c_attn"
        for method in ("loha", "lokr", "oft")
    },
    ("custom", "gpt2"): "method=custom: PEFT cannot adapt this model so (Target module Conv1D",
}
TRAINED = [name for name, method in DECLARED.items() if method.trains not in ("nothing", "all", "head")]
TRAINED += ["gralora", "randlora"]
CASES = [(method, shape) for method in TRAINED for shape in SHAPES if (method, shape) not in REFUSED]


def config_of(method: str, shape: str, **keys: Any) -> Config:
    return tiny(shape, method, "all_linear", **({"seed": 3} | KEYS.get(method, {}) | keys))


def save_bases(folder: Path) -> None:
    """A tiny base per architecture with wider weights: as drawn, the logits of BERT hardly depend on the text."""
    for shape in SHAPES:
        source = tiny(shape).model
        lm, tokenizer = base.load(source, resolve(source), 2, 0)
        with torch.no_grad():
            for name, parameter in lm.named_parameters():
                if parameter.ndim > 1 and name.split(".")[0] not in base.head_names(lm):
                    parameter.mul_(5)
        lm.save_pretrained(folder / shape)
        tokenizer.save_pretrained(folder / shape)


def load(config: Config) -> tuple[nn.Module, Any]:
    """The base with a head ten times as large, so that what comes out of the blocks is heard."""
    lm, tokenizer = base.load(config.model, resolve(config.model), 2, config.seed, "eager")
    with torch.no_grad():
        for name in base.head_names(lm):
            for parameter in lm.get_submodule(name).parameters():
                parameter.mul_(10)
    return lm, tokenizer


def batch_of(tokenizer: Any) -> dict[str, torch.Tensor]:
    return {**tokenizer(TEXTS, padding=True, return_tensors="pt"), "labels": LABELS}


def logits(model: nn.Module, tokenizer: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return step.losses(model, ClassScorer(2), batch_of(tokenizer))[0]


def loss_of(values: torch.Tensor) -> float:
    return float(nn.functional.cross_entropy(values, LABELS))


def train(adapted: Adapted, tokenizer: Any, config: Config, steps: int = STEPS) -> float:
    """Steps until the loss has fallen by a tenth; returns the share by which it fell."""
    model, batch, scorer = adapted.model, batch_of(tokenizer), ClassScorer(2)
    if adapted.prepare:
        adapted.prepare([batch], lambda batch: step.loss(model, step.losses(model, scorer, batch)[1]))
    still = [p for n, p in model.named_parameters() if any(f".{head}." in f".{n}" for head in adapted.heads)]
    first = loss_of(logits(model, tokenizer))
    rates = copy.deepcopy(config.optim)
    rates.lr = config.method.lr
    optimizer = optim.build(model, rates, "cpu", lr_ratio=config.method.lr_ratio)
    adalora.begin(model, steps)
    for number in range(1, steps + 1):
        model.train()
        losses = step.losses(model, scorer, batch)[1]
        step.loss(model, losses).backward()
        for parameter in still:
            parameter.grad = None
        optimizer.step()
        adalora.after_step(model, number)
        optimizer.zero_grad()
        if number > 3 and losses.mean() < 0.9 * first and 1 - loss_of(logits(model, tokenizer)) / first > 0.1:
            break
    return 1 - loss_of(logits(model, tokenizer)) / first


def leave(config: Config, folder: Path) -> None:
    """What a run writes beside its adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    record = records.begin(config, None)
    record.folder = folder
    base = {"fingerprint": assets.resolve(config.model).fingerprint}
    record.provenance |= {"data": {"classes": ["a", "b"]}, "model": base}
    record.run["status"] = records.FINISHED
    record.compute |= {"attention": "eager", "precision": "fp32"}
    record.write()
    (folder / "config.yaml").write_text(yaml.safe_dump(plain(config)))
