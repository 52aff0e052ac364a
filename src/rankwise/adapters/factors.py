"""The algebra of LoRA's factors: products, norms and truncation of ΔW = s·B·A without ever forming it.

A is (r, in), B is (out, r). Everything is computed in fp64, so that what is exact on paper is exact in fp32.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from rankwise.adapters import loading
from rankwise.errors import Refused
from rankwise.model.fused import FUSED, PARTS
from rankwise.model.methods.warm_start import ADAPTER_FILE

Tensors = dict[str, torch.Tensor]

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
# Options of PEFT's LoRA with which ΔW is not s·B·A, or not of linear layers alone.
_NOT_PLAIN = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "target_parameters", "kasa_config"),
    *("trainable_token_indices", "velora_config", "monteclora_config", "alora_invocation_tokens", "arrow_config"),
)
# Starts of PEFT's that leave W as it is; all others take s·B₀A₀ out of it (PiSSA, OLoRA, CorDA, LoRA-GA) or replace it
# (LoftQ), and an adapter on the untouched W would need that start beside it.
_KEEPS_BASE = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Svd:
    """ΔW = u · diag(s) · vᵀ: ``u`` (out, k), ``s`` (k,) descending, ``v`` (in, k)."""

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor

    def side(self, side: str) -> torch.Tensor:
        """The singular vectors of the inputs (``right``) or of the outputs (``left``)."""
        return self.v if side == "right" else self.u

    def truncated(self, rank: int) -> "Delta":
        """The nearest ΔW of this rank (Eckart and Young 1936); √s goes to either side."""
        root = self.s[:rank].sqrt()
        return Delta(self.u[:, :rank] * root, (self.v[:, :rank] * root).T)


@dataclass(frozen=True)
class Delta:
    """ΔW of one layer as ``b`` (out, r) times ``a`` (r, in), the scale in ``b``, in fp64; a dense one has a = None, and
    singular values up to ``noise`` that are nothing but rounding.
    """

    b: torch.Tensor
    a: torch.Tensor | None
    noise: float = 0.0

    def dot(self, other: "Delta") -> float:
        """⟨ΔW, ΔW'⟩ = tr((Bᵀ B') (A' Aᵀ))."""
        if self.a is None:
            return float((self.b * other.b).sum()) if other.a is None else other.dot(self)
        right = self.a if other.a is None else self.a @ other.a.T
        return float(((self.b.T @ other.b) * right).sum())

    def svd(self) -> Svd:
        """All min(r, in, out) singular values: B = Q_b R_b and Aᵀ = Q_a R_a leave an SVD of r × r."""
        if self.a is None:
            u, s, vt = torch.linalg.svd(self.b.double(), full_matrices=False)
            return Svd(u, s, vt.T)
        (q_b, r_b), (q_a, r_a) = torch.linalg.qr(self.b), torch.linalg.qr(self.a.T)
        u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
        return Svd(q_b @ u, s, q_a @ vt.T)

    def leading(self, rank: int, scale: float) -> "Delta":
        """The first columns of B, times ``scale``, and rows of A: what nested LoRA is at a lower rank."""
        assert self.a is not None
        return Delta(self.b[:, :rank] * scale, self.a[:rank])

    def dense(self) -> torch.Tensor:
        """ΔW itself, (out, in)."""
        return self.b if self.a is None else self.b @ self.a

    @property
    def sides(self) -> tuple[int, int]:
        """(out, in)."""
        return self.b.shape[0], (self.b if self.a is None else self.a).shape[1]

    @property
    def rank(self) -> int | None:
        """Of the factors; None of a dense ΔW."""
        return None if self.a is None else len(self.a)


Deltas = dict[str, Delta]  # by the layer's name


@dataclass(frozen=True)
class Lora:
    """A plain LoRA adapter: scaled factors by layer, the other tensors of its file, and PEFT's config."""

    deltas: Deltas
    others: Tensors  # heads, biases
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


def read(folder: Path, what: str, remedy: str = "") -> Lora:
    """The factors in an adapter's folder. Raises Refused for another kind of adapter, and for names in no pair."""
    config = loading.adapter_config(folder)
    if (why := why_not_plain(config)) is not None:
        raise Refused(f"{folder}: {what} needs plain LoRA, ΔW = s·B·A; this adapter is {why}{remedy}")
    assert isinstance(config, LoraConfig)
    loading.shapes(folder)
    pairs: dict[str, Tensors] = {}
    others: Tensors = {}
    for name, value in load_file(folder / ADAPTER_FILE).items():
        if match := _FACTOR.fullmatch(name):
            pairs.setdefault(match["module"].removeprefix(loading.PREFIX), {})[match["which"]] = value
        else:
            others[name] = value
    deltas = {name: _scaled(pair, name, config, folder / ADAPTER_FILE) for name, pair in sorted(pairs.items())}
    if not deltas:
        raise Refused(f"{folder / ADAPTER_FILE}: holds no factors of LoRA")
    return Lora(deltas, others, config)


def _scaled(pair: Tensors, name: str, config: LoraConfig, file: Path) -> Delta:
    if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
        raise Refused(f"{file}: {name} has no matching pair of lora_A and lora_B")
    rank, alpha = (
        patterns.get(get_pattern_key(patterns, name), default)
        for patterns, default in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
    )
    if rank != pair["A"].shape[0]:
        raise Refused(f"{file}: {name} has rank {pair['A'].shape[0]}, its config says {rank}")
    if not (pair["A"].isfinite().all() and pair["B"].isfinite().all()):
        raise Refused(f"{file}: {name} holds values that are not finite; the run has diverged")
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return Delta(pair["B"].double() * scale, pair["A"].double())


def rank_for_energy(values: torch.Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the squared singular values; 1 for a ΔW of zero."""
    squared = values.double() ** 2
    if float(squared.sum()) == 0:
        return 1
    energy_to = squared.cumsum(0) / squared.sum()
    return min(int((energy_to < energy - 1e-12).sum()) + 1, len(values))


def write(folder: Path, deltas: Deltas, config: LoraConfig, others: Tensors, **keys: Any) -> list[str]:
    """PEFT's two files, in fp32, every layer with scale 1 and its own rank; ``keys`` are set in its config.

    LoRA on q, k or v of a fused layer becomes one on the whole layer, as PEFT knows no parts of it; what there is to
    say about that is returned. Raises Refused where a bias of a part was trained as well.
    """
    whole = _on_whole_layers(deltas)
    if odd := sorted(filter(of_part, others)):
        raise Refused(f"the adapter trains {odd[0]}, which PEFT has not on the fused layer; merge it instead")
    tensors = dict(others)
    for name, delta in whole.items():
        assert delta.a is not None
        tensors[f"{loading.PREFIX}{name}.lora_A.weight"] = delta.a.float().contiguous()
        tensors[f"{loading.PREFIX}{name}.lora_B.weight"] = delta.b.float().contiguous()
    ranks = {name: delta.b.shape[1] for name, delta in whole.items()}
    most = max(ranks.values())
    differ = {re.escape(name): rank for name, rank in ranks.items() if rank != most}
    sizes = {"r": most, "lora_alpha": most, "rank_pattern": differ, "alpha_pattern": dict(differ), "use_rslora": False}
    targets = {"target_modules": "|".join(map(re.escape, whole)), "init_lora_weights": True, "inference_mode": True}
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    dataclasses.replace(config, **(sizes | targets | keys)).save_pretrained(str(folder))
    joined = whole.keys() != deltas.keys()
    return [f"LoRA on parts of {FUSED} is written as one on the whole layer, so that ranks add up"] if joined else []


def of_part(name: str) -> bool:
    """Whether a tensor is of q, k or v of a fused layer."""
    return any(f".{FUSED}.{part}." in name for part in PARTS)


def in_parts(deltas: Deltas, wanted: set[str]) -> Deltas:
    """ΔW of GPT-2's fused query, key and value as three, where another run has adapted them one by one.

    Of a dense one without the parts that are zero, as it is merged from those that were adapted.
    """
    parted: Deltas = {}
    for name, delta in deltas.items():
        parts = [f"{name}.{part}" for part in PARTS]
        if name.split(".")[-1] == FUSED and not wanted.isdisjoint(parts):
            rows = zip(parts, delta.b.chunk(len(PARTS)), strict=True)
            kept = {part: row for part, row in rows if delta.a is not None or bool(row.any())}
            parted |= {part: dataclasses.replace(delta, b=row) for part, row in kept.items()}
        else:
            parted[name] = delta
    return parted


def _on_whole_layers(deltas: Deltas) -> Deltas:
    """Each part reads by its own rows of A and writes to its own third of the outputs; ranks add up.

    Of q and v: A = [A_q; A_v] and B = [B_q 0; 0 0; 0 B_v].
    """
    whole: Deltas = {}
    for name, delta in sorted(deltas.items()):
        if not of_part(f"{name}."):
            whole[name] = delta
            continue
        (layer, _, part), third = name.rpartition("."), delta.b.shape[0]
        assert delta.a is not None
        b = delta.b.new_zeros(len(PARTS) * third, delta.b.shape[1])
        b[PARTS.index(part) * third :][:third] = delta.b
        before = whole.get(layer)
        if before is None:
            whole[layer] = Delta(b, delta.a)
        else:
            assert before.a is not None
            whole[layer] = Delta(torch.cat([before.b, b], 1), torch.cat([before.a, delta.a]))
    return whole


def summary(ranks: Iterable[int]) -> dict[str, float]:
    """Least, median, mean and most of the ranks, and their sum."""
    values = list(ranks)
    middle = {"median": float(median(values)), "mean": mean(values)}
    return {"min": min(values), **middle, "max": max(values), "total": sum(values)}
