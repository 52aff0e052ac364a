"""From run folders to what was changed: W₀ and ΔW of each linear layer, the same layers for every run."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from rankwise import methods
from rankwise.adapters import diff, factors, loading
from rankwise.adapters.factors import Delta, Deltas
from rankwise.adapters.runs import Run, open_run, same_base
from rankwise.errors import Refused
from rankwise.model.fused import PARTS
from rankwise.model.targets import block_linears, role

_LAYER = re.compile(r"\.(\d+)\.(layer\.\d+\.DenseReluDense\.)?(?P<module>.+)$")  # T5's MLP by its last part
_CROSS = re.compile(r"EncDecAttention|encoder_attn|crossattention")  # of what the encoder has read
_OPTIONS = "give runs of method=lora, or of method=full with trainer.save_full=true"


@dataclass(frozen=True)
class Weights:
    """A linear layer of one run: ``base`` is W₀ (out, in) in fp32, as the run's storage stood for it.

    ``delta`` is ΔW in fp64, of LoRA as its factors with the scale in B.
    """

    base: torch.Tensor
    delta: Delta


@dataclass(frozen=True)
class Changed:
    """A run and the layers that are looked at, by name."""

    run: Run
    modules: dict[str, Weights]

    @property
    def rank(self) -> int | None:
        """The largest of its factors, or that of an adapter of another kind; None of full fine-tuning."""
        own = [weights.delta.rank for weights in self.modules.values() if weights.delta.rank]
        return trained_rank(self.run, own) if own else self.run.record.lora.get("rank")


def load(folder: Path) -> dict[str, Weights]:
    """Every layer that a finished run has changed. Raises Refused for a run that has changed none."""
    return together([opened(folder)])[0].modules


def opened(folder: Path) -> Run:
    """A finished run with a ΔW. Raises Refused for a baseline, a method without ΔW and weights that were not kept."""
    run = open_run(folder)
    if why := diff.why_none(run):
        raise Refused(f"{folder}: there is no ΔW, as {why}; {_OPTIONS}")
    return run


def together(runs: list[Run], layer: int | None = None, module: str | None = None) -> list[Changed]:
    """The layers that every run has changed, of one block or of one kind where asked.

    Raises Refused for runs on different bases, and where nothing is left.
    """
    same_base(runs)
    deltas = [diff.deltas(run) for run in runs]
    named = {name for own in deltas for name in own}
    deltas = [nonzero(run, factors.in_parts(own, named)) for run, own in zip(runs, deltas, strict=True)]
    shared = [name for name in deltas[0] if all(name in delta for delta in deltas)]
    if not shared:
        raise Refused(f"{runs[-1].folder}: has no adapted layer in common with {runs[0].name}")
    names = _chosen(shared, layer, module)
    base = _base(runs[0], names)
    return [
        Changed(run, {name: Weights(base[name], delta[name]) for name in names})
        for run, delta in zip(runs, deltas, strict=True)
    ]


def nonzero(run: Run, deltas: Deltas) -> Deltas:
    """Those that are not zero. Raises Refused where all are."""
    if found := {name: delta for name, delta in deltas.items() if delta.dot(delta) > 0}:
        return found
    raise Refused(f"{run.folder}: its ΔW is zero everywhere")


def place(name: str) -> tuple[int, str]:
    """The block of a layer and its name there: q, k, v, qkv, o, or of an MLP as it is, such as ``up_proj``; behind
    ``decoder.`` and ``cross.`` where it is of those.
    """
    match = _LAYER.search(name)
    assert match is not None
    kind, of = role(name), "decoder." if ".decoder." in f".{name}" else ""
    of += "cross." if _CROSS.search(name) else ""
    return int(match[1]), of + (kind if kind and kind != "mlp" else match["module"])


def labels(runs: list[Run]) -> list[str]:
    """Short names that tell the runs apart: ``lora r=8``, with the seed or the folder where these do not."""
    ranks = [run.record.lora.get("rank") for run in runs]
    names = (methods.with_class(run.config.method) for run in runs)
    short = [name + (f" r={rank}" if rank else "") for name, rank in zip(names, ranks, strict=True)]
    if len(set(short)) < len(short):
        short = [f"{text} seed {run.config.seed}" for text, run in zip(short, runs, strict=True)]
    return short if len(set(short)) == len(short) else [run.name for run in runs]


def trained_rank(run: Run, ranks: Iterable[int]) -> int:
    """The largest rank of factors that a run trained: a start that was taken out of W is in their file as well, beside
    what became of it, so that ΔW has twice as many directions.
    """
    return max(ranks) // (2 if methods.starts_from_base(run.config.method) else 1)


def _chosen(names: list[str], layer: int | None, module: str | None) -> list[str]:
    layers = sorted({place(name)[0] for name in names})
    kinds = sorted({place(name)[1] for name in names})
    if layer is not None and layer not in layers:
        raise Refused(f"--layer {layer}: one of {', '.join(map(str, layers))}, the blocks that all runs have adapted")
    if module is not None and module not in kinds:
        ends = [kind for kind in kinds if kind.endswith(f".{module}")]
        if len(ends) != 1:
            raise Refused(f"--module {module}: one of {', '.join(kinds)}, the layers that all runs have adapted")
        module = ends[0]
    chosen = [n for n in names if layer in (None, place(n)[0]) and module in (None, place(n)[1])]
    if not chosen:
        raise Refused(f"--layer {layer} --module {module}: no run has adapted this layer of this block")
    return sorted(chosen, key=place)


def _base(run: Run, names: list[str]) -> dict[str, torch.Tensor]:
    layers = dict(block_linears(loading.dense_base(run)[0]))
    weights = {}
    for name in names:
        parent, _, part = name.rpartition(".")
        if name in layers:
            weights[name] = loading.dense(layers[name])
        else:  # a part of what the base has in one
            weights[name] = loading.dense(layers[parent]).chunk(len(PARTS))[PARTS.index(part)].clone()
    return weights
