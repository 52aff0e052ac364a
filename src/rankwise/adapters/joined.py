"""LoRA on parts of a fused layer, as LoRA on that layer: what PEFT can put on a base that was not taken apart."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from rankwise.adapters import factors, loading
from rankwise.adapters.factors import Delta
from rankwise.errors import Refused
from rankwise.model.fused import FUSED, PARTS
from rankwise.model.methods.warm import ADAPTER_FILE


def deltas(found: dict[str, Delta]) -> dict[str, Delta]:
    """The same changes with those of q, k and v of one layer put together; ranks add up.

    Each part reads by its own rows of A and writes to its own third of the outputs: A = [A_q; A_v] and
    B = [B_q 0; 0 0; 0 B_v].
    """
    whole = {name: delta for name, delta in found.items() if _fused(name) is None}
    parts: dict[str, list[tuple[int, Delta]]] = {}
    for name, delta in found.items():
        if fused := _fused(name):
            parts.setdefault(fused, []).append((PARTS.index(name.rpartition(".")[2]), delta))
    return whole | {name: _together(each) for name, each in parts.items()}


def rewrite(folder: Path) -> list[str]:
    """Turn the adapter in a folder into one on whole layers, in place; one that is already stays as it is.

    Returns what there is to say about that.
    Raises Refused for an adapter on parts that is no plain LoRA, or that trains their biases.
    """
    on_parts = [name for name in loading.shapes(folder) if any(f".{FUSED}.{part}." in name for part in PARTS)]
    if not on_parts:
        return []
    lora = factors.read(folder, "an adapter on a part of a fused layer, for PEFT,")
    if odd := sorted(set(on_parts) & lora.others.keys()):
        raise Refused(f"{folder}: trains {odd[0]}, which PEFT has not on the fused layer; merge it instead")
    tensors, config = factors.to_files(deltas(lora.deltas), lora.config)
    save_file(tensors | lora.others, folder / ADAPTER_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    return [f"LoRA on parts of {FUSED} is written as one on the whole layer, so that ranks add up"]


def _together(parts: list[tuple[int, Delta]]) -> Delta:
    parts.sort(key=lambda part: part[0])
    down: list[torch.Tensor] = []
    up: list[torch.Tensor] = []
    for place, delta in parts:
        assert delta.a is not None
        d_out, rank = delta.b.shape
        wide = delta.b.new_zeros(len(PARTS) * d_out, rank)
        wide[place * d_out : (place + 1) * d_out] = delta.b
        down.append(delta.a)
        up.append(wide)
    return Delta(torch.cat(up, dim=1), torch.cat(down))


def _fused(name: str) -> str | None:
    layer, _, part = name.rpartition(".")
    return layer if part in PARTS and layer.endswith(f".{FUSED}") else None
