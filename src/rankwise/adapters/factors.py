"""The algebra of LoRA's factors: products, norms and truncation of ΔW = s·B·A without ever forming it.

A is (r, in), B is (out, r). Everything is computed in fp64, so that what is exact on paper is exact in fp32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file

from rankwise.adapters import loading
from rankwise.errors import Refused
from rankwise.model.methods.warm import ADAPTER_FILE

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
# Options of PEFT's LoRA with which ΔW is not s·B·A, or not of linear layers alone.
_NOT_PLAIN = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "kasa_config", "velora_config", "monteclora_config", "alora_invocation_tokens",
    "arrow_config",
)  # fmt: skip
# Starts of PEFT's that leave W as it is; all others take s·B₀A₀ out of it (PiSSA, OLoRA, CorDA, LoRA-GA) or replace it
# (LoftQ), and an adapter on the untouched W would need that start beside it.
_KEEPS_BASE = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Delta:
    """ΔW of one layer as ``b`` (out, r) times ``a`` (r, in), the scale in ``b``, in fp64; a dense one has a = None."""

    b: torch.Tensor
    a: torch.Tensor | None

    def dot(self, other: Delta) -> float:
        """⟨ΔW, ΔW'⟩ = tr((Bᵀ B') (A' Aᵀ))."""
        if self.a is None and other.a is None:
            return float((self.b * other.b).sum())
        if self.a is None:
            return other.dot(self)
        assert self.a is not None
        if other.a is None:
            return float(((self.b.T @ other.b) * self.a).sum())
        return float(((self.b.T @ other.b) * (self.a @ other.a.T)).sum())

    @property
    def sides(self) -> tuple[int, int]:
        """(out, in)."""
        return self.b.shape[0], (self.b if self.a is None else self.a).shape[1]


@dataclass(frozen=True)
class Lora:
    """A plain LoRA adapter: scaled factors by module name, the other tensors of its file, and PEFT's config."""

    deltas: dict[str, Delta]
    others: dict[str, torch.Tensor]  # heads, biases
    config: LoraConfig

    @property
    def ranks(self) -> dict[str, int]:
        return {name: delta.b.shape[1] for name, delta in self.deltas.items()}


def why_not_plain(config: PeftConfig) -> str | None:
    """What makes an adapter something else than ΔW = s·B·A, in PEFT's words; None for plain LoRA."""
    if type(config) is not LoraConfig:  # AdaLoRA's is a kind of it, with singular values between the factors
        return loading.kind(config)
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower() not in _KEEPS_BASE:
        return f"init_lora_weights={init}"
    return next((key for key in _NOT_PLAIN if getattr(config, key, None)), None)


def read(folder: Path, what: str) -> Lora:
    """The factors in an adapter's folder. Raises Refused for another kind of adapter, and for names in no pair."""
    config = loading.adapter_config(folder)
    if (why := why_not_plain(config)) is not None:
        raise Refused(f"{folder}: {what} needs plain LoRA, ΔW = s·B·A; this adapter is {why}")
    assert isinstance(config, LoraConfig)
    loading.shapes(folder)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    others: dict[str, torch.Tensor] = {}
    for name, value in load_file(folder / ADAPTER_FILE).items():
        if match := _FACTOR.fullmatch(name):
            pairs.setdefault(match["module"].removeprefix(_PREFIX), {})[match["which"]] = value
        else:
            others[name] = value
    deltas = {name: _scaled(pair, name, config, folder) for name, pair in sorted(pairs.items())}
    if not deltas:
        raise Refused(f"{folder / ADAPTER_FILE}: holds no factors of LoRA")
    return Lora(deltas, others, config)


def _scaled(pair: dict[str, torch.Tensor], name: str, config: LoraConfig, folder: Path) -> Delta:
    if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
        raise Refused(f"{folder / ADAPTER_FILE}: {name} has no matching pair of lora_A and lora_B")
    rank, alpha = pattern(config.rank_pattern, name, config.r), pattern(config.alpha_pattern, name, config.lora_alpha)
    if rank != pair["A"].shape[0]:
        raise Refused(f"{folder / ADAPTER_FILE}: {name} has rank {pair['A'].shape[0]}, its config says {rank}")
    if not (pair["A"].isfinite().all() and pair["B"].isfinite().all()):
        raise Refused(f"{folder / ADAPTER_FILE}: {name} holds values that are not finite; the run has diverged")
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return Delta(pair["B"].double() * scale, pair["A"].double())


def pattern(patterns: dict[str, Any], name: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that fits the end of a module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def singular_values(delta: Delta) -> torch.Tensor:
    """All min(r, in, out) singular values of ΔW, descending."""
    return torch.linalg.svdvals(_core(delta)[2])


def _core(delta: Delta) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Orthonormal bases of B's columns and A's rows, and the small matrix between them: ΔW = Q_b · core · Q_aᵀ."""
    assert delta.a is not None
    q_b, r_b = torch.linalg.qr(delta.b)
    q_a, r_a = torch.linalg.qr(delta.a.T)
    return q_b, q_a, r_b @ r_a.T


def rank_for_energy(values: torch.Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the squared singular values; 1 for a ΔW of zero."""
    squared = values.double() ** 2
    if float(squared.sum()) == 0:
        return 1
    kept = squared.cumsum(0) / squared.sum()
    return min(int((kept < energy - 1e-12).sum()) + 1, len(values))


def truncate(delta: Delta, rank: int) -> Delta:
    """The nearest ΔW of this rank (Eckart and Young 1936), by SVD of the small core; √S goes to either side."""
    q_b, q_a, core = _core(delta)
    u, s, v = torch.linalg.svd(core)
    root = s[:rank].sqrt()
    return Delta(q_b @ u[:, :rank] * root, root[:, None] * (q_a @ v[:rank].T).T)


def to_files(deltas: dict[str, Delta], config: LoraConfig) -> tuple[dict[str, torch.Tensor], LoraConfig]:
    """fp32 tensors by PEFT's names and a config in which every module has scale 1 and its own rank."""
    ranks = {name: delta.b.shape[1] for name, delta in deltas.items()}
    most = max(ranks.values())
    differ = {re.escape(name): rank for name, rank in ranks.items() if rank != most}
    tensors = {}
    for name, delta in deltas.items():
        assert delta.a is not None
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = delta.a.float().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = delta.b.float().contiguous()
    return tensors, changed(
        config, r=most, lora_alpha=most, rank_pattern=differ, alpha_pattern=dict(differ), use_rslora=False,
        target_modules="|".join(map(re.escape, deltas)),
    )  # fmt: skip


def changed(config: LoraConfig, **values: Any) -> LoraConfig:
    """A copy of PEFT's config with other values."""
    known = LoraConfig.__dataclass_fields__
    kept = {key: value for key, value in config.to_dict().items() if key in known and known[key].init}
    return LoraConfig(**(kept | {"init_lora_weights": True} | values))


def summary(ranks: Iterable[int]) -> dict[str, float]:
    """Least, median, mean and most of the ranks."""
    values = sorted(ranks)
    return {
        "min": values[0], "median": float(torch.tensor(values).double().quantile(0.5)),
        "mean": sum(values) / len(values), "max": values[-1], "total": sum(values),
    }  # fmt: skip
