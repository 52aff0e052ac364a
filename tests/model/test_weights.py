"""What is kept of a trained model, and that it is enough to have the model again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bases import load, logits
from peft import PeftModel
from safetensors.torch import load_file
from tiny_configs import SHAPES, tiny
from torch import nn

from rankwise.config import Config
from rankwise.model.adapt import adapt
from rankwise.model.weights import export, load_best, save_best, trainable_state


def build(config: Config) -> tuple[nn.Module, Any]:
    lm, tokenizer = load(config)
    return adapt(lm, config).model.eval(), tokenizer


def disturb(model: nn.Module, seed: int = 5) -> None:
    """Change every trainable weight, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def on_disk(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


CASES = [(shape, {}) for shape in SHAPES] + [
    ("bert", {"method__modules_to_save": ["pooler"]}),
    ("bert", {"method__bias": "all"}),
    ("bert", {"method__bias": "lora_only"}),
    ("bert", {"method": "full"}),
    ("bert", {"method": "head"}),
]


@pytest.mark.parametrize(("shape", "keys"), CASES, ids=str)
def test_the_best_weights_come_back_exactly(shape, keys, tmp_path):
    model, tokenizer = build(tiny(shape, **keys))
    disturb(model)
    best, state = logits(model, tokenizer), {k: v.clone() for k, v in trainable_state(model).items()}
    save_best(model, tmp_path / "best.safetensors")
    disturb(model, seed=6)
    assert not torch.equal(logits(model, tokenizer), best)
    load_best(model, tmp_path / "best.safetensors")
    assert torch.equal(logits(model, tokenizer), best)
    assert all(torch.equal(value, state[name]) for name, value in trainable_state(model).items())
    assert list(on_disk(tmp_path)) == ["best.safetensors"]
    assert set(load_file(tmp_path / "best.safetensors")) == {n for n, p in model.named_parameters() if p.requires_grad}


def test_an_adapter_is_as_large_as_its_numbers(tmp_path):
    sizes = {}
    for rank in (1, 8):
        model, _ = build(tiny(method__rank=rank))
        export(model, tmp_path / str(rank), keep_full=False)
        tensors = load_file(tmp_path / str(rank) / "adapter_model.safetensors")
        sizes[rank] = sum(t.numel() for t in tensors.values())
        assert sizes[rank] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sizes[8] - sizes[1] == 7 * 8 * 64
    assert set(on_disk(tmp_path / "8")) == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_head_is_kept_without_its_base(tmp_path):
    model, _ = build(tiny(method="head"))
    size = export(model, tmp_path / "adapter", keep_full=False)
    assert on_disk(tmp_path / "adapter") == {"head.safetensors": size}
    assert set(load_file(tmp_path / "adapter" / "head.safetensors")) == {"classifier.weight", "classifier.bias"}


def test_all_weights_are_kept_only_when_asked_but_always_counted(tmp_path):
    model, tokenizer = build(tiny(method="full"))
    disturb(model)
    counted = export(model, tmp_path / "adapter", keep_full=False)
    assert counted == 4 * sum(p.numel() for p in model.parameters())
    assert not (tmp_path / "adapter").exists()

    written = export(model, tmp_path / "adapter", keep_full=True)
    files = on_disk(tmp_path / "adapter")
    assert set(files) == {"config.json", "model.safetensors"}
    assert written == files["model.safetensors"] and 0 <= written - counted < 20_000
    again = type(model).from_pretrained(tmp_path / "adapter", num_labels=2).eval()
    assert torch.equal(logits(again, tokenizer), logits(model, tokenizer))


def test_an_export_leaves_nothing_of_the_one_before(tmp_path):
    lora, _ = build(tiny())
    head, _ = build(tiny(method="head"))
    export(lora, tmp_path / "adapter", keep_full=False)
    export(head, tmp_path / "adapter", keep_full=False)
    assert list(on_disk(tmp_path / "adapter")) == ["head.safetensors"]
    assert isinstance(lora, PeftModel)
