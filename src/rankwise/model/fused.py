"""GPT-2's query, key and value as layers of their own, so that targets can mean one of them.

GPT-2 computes the three in one layer whose outputs lie side by side, q | k | v. LoRA on some of them adapts those
columns alone (Hu et al. 2021, §7.1: q and v). Layers that mix the three head by head (GPT-NeoX, Bloom, DeBERTa) have no
such columns and are left alone.
"""

import re
from collections.abc import Iterator

import torch
from peft import PeftConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise import methods
from rankwise.config import Config
from rankwise.model.targets import is_chosen

PARTS = ("q", "k", "v")
FUSED = "c_attn"


class Split(nn.Module):
    """q, k and v apart, from the values of one layer; gives their outputs side by side, as that layer did."""

    def __init__(self, fused: Conv1D):
        super().__init__()
        columns = zip(PARTS, fused.weight.detach().chunk(3, dim=1), fused.bias.detach().chunk(3), strict=True)
        for part, weight, bias in columns:
            self.add_module(part, _conv1d(weight, bias, fused.weight.requires_grad))
        self.train(fused.training)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(self, part)(hidden) for part in PARTS], dim=-1)


def split(base: nn.Module, config: Config) -> None:
    """Take apart, in place, the fused layers of which the config adapts a part; the logits stay the same.

    To be called before the base is quantized or adapted; what is apart already stays so. Works on the meta device.
    """
    if methods.of(config.method).on_targets:
        whole = [name for name in _fused(base) if not is_chosen(name, config.targets)]
        _split(base, [n for n in whole if any(is_chosen(f"{n}.{part}", config.targets) for part in PARTS)])


def split_for(base: nn.Module, settings: PeftConfig) -> None:
    """The same for an adapter that is there, by the modules that its PEFT config targets."""
    pattern = getattr(settings, "target_modules", None)
    if isinstance(pattern, str):  # as rankwise writes it
        parts = {name: [f"{name}.{part}" for part in PARTS] for name in _fused(base)}
        _split(base, [name for name, three in parts.items() if any(re.fullmatch(pattern, part) for part in three)])


def join(base: nn.Module) -> None:
    """The inverse of ``split``, in place: every layer that was taken apart is one again, with the values of its parts.

    Adapters must have been merged and quantized parts dequantized.
    """
    for name, layer in [(name, layer) for name, layer in base.named_modules() if isinstance(layer, Split)]:
        parts = [getattr(layer, part) for part in PARTS]
        weights = [p.weight.detach() if isinstance(p, Conv1D) else p.weight.detach().T for p in parts]
        biases = [part.bias.detach() for part in parts]
        base.set_submodule(name, _conv1d(torch.cat(weights, 1), torch.cat(biases), parts[0].weight.requires_grad))


def _fused(base: nn.Module) -> Iterator[str]:
    """Names of the layers that give q | k | v; in cross-attention a layer of this name gives k | v."""
    for name, layer in base.named_modules():
        if isinstance(layer, Conv1D) and name.split(".")[-1] == FUSED and layer.nf == 3 * layer.nx:
            yield name


def _split(base: nn.Module, names: list[str]) -> None:
    for name in names:
        base.set_submodule(name, Split(base.get_submodule(name)))


def _conv1d(weight: torch.Tensor, bias: torch.Tensor, trained: bool) -> Conv1D:
    with torch.device("meta"):
        layer = Conv1D(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format), requires_grad=trained)
    layer.bias = nn.Parameter(bias.clone(), requires_grad=trained)
    return layer
