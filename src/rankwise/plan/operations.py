"""What a run's step will hold and compute, before it, by the same step with fake tensors; beside full fine-tuning's."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import peft
import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from rankwise import methods
from rankwise.config import Config, plain
from rankwise.errors import Refused
from rankwise.files import read_json
from rankwise.identity import canonical, folder, remove
from rankwise.measure.flops import Cost
from rankwise.measure.shape import Shape
from rankwise.model.numerics import Numerics
from rankwise.plan.fake import Counted, FakeRun, full_fine_tuning
from rankwise.tasks.scores import Scorer
from rankwise.tracking.groups import Memory, problem
from rankwise.tracking.provenance import code_fingerprint
from rankwise.tracking.record import write_atomically

_KEPT = ".predicted"  # a folder beside the runs
_known: dict[str, int] = {}  # counts, which the arms of a study share


@dataclass(frozen=True)
class Operations:
    """What is predicted of a run: ``step`` for the record, and costs of any of its micro-batches.

    ``cost`` is all that is computed, ``needed`` leaves out what checkpointing computes again. Both are None where the
    operations are no sum over examples, tokens and pairs of tokens.
    """

    step: dict[str, Any]
    cost: Cost | None
    needed: Cost | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Operations":
        """The inverse of ``asdict``."""
        return cls(values["step"], *(values[key] and Cost(**values[key]) for key in ("cost", "needed")))


def predict(
    config: Config,
    architecture: PretrainedConfig,
    scorer: Scorer,
    settings: Numerics,
    step: list[Shape],
    evaluation: Shape,
) -> tuple[dict[str, Any], Operations | None]:
    """``{"train": {"predicted": …}, "eval": …}`` for the record, of the run's own largest step and evaluation batch,
    and its operations.

    Nothing is taken from the model that was loaded but its architecture, and nothing is fitted to measurements. A model
    that a plan cannot follow trains all the same: ``{"train": {"unpredicted": why}}``. What is predicted is kept in the
    study's folder: seeds and learning rates do not change it.
    """
    of_model = [architecture.to_dict(), type(scorer).__name__, scorer.outputs, vars(settings)]
    key = _key(costing(config), config.trainer.strategy, *of_model, step, evaluation)
    file = folder(config).parent / _KEPT / f"{key}.json"
    counts = file.with_name("counts.json")
    with contextlib.suppress(OSError, Refused, KeyError, TypeError):  # none there, or none that can be read
        stored = read_json(file, "a prediction")
        if problem(stored["memory"], Memory) is None:
            return stored["memory"], stored["operations"] and Operations.of(stored["operations"])
    with contextlib.suppress(OSError, Refused, AttributeError, TypeError, ValueError):
        _known.update({key: int(count) for key, count in read_json(counts, "counts").items()})
    memory: dict[str, Any] = {}
    planned: Operations | None = None
    try:
        run = FakeRun(config, architecture, scorer, settings)
        memory["train"] = {"predicted": run.train(step).to_dict()}
        memory["eval"] = {"predicted": run.evaluate(evaluation).to_dict()}
        planned = operations(run.counted, step, run.flops)
    except Refused as refused:
        memory = {"train": {"unpredicted": str(refused)}}
    with contextlib.suppress(OSError):
        write_atomically(file, json.dumps({"memory": memory, "operations": planned and asdict(planned)}))
        write_atomically(counts, json.dumps(_known))
    return memory, planned


def costing(config: Config) -> dict[str, Any]:
    """What of a config may change what its steps hold and compute: all but seeds and numbers of the optimizer.

    Weight decay is among it: SGD holds a second gradient for it.
    """
    values = canonical(plain(config))
    numbers = (f"optim.{key}" for key in ("lr", "betas", "schedule", "warmup"))
    for key in ("seed", "data_seed", "stage", "objective", *numbers):
        remove(values, key)
    return values


def _key(*what: Any) -> str:
    versions = [code_fingerprint(), torch.__version__, transformers.__version__, peft.__version__]
    content = json.dumps([*what, *versions], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def operations(run: Counted, step: Sequence[Shape], per_step: int) -> Operations:
    """Of a run whose step over these micro-batches was seen to compute ``per_step``."""
    largest = max(step, key=lambda shape: shape.tokens)
    ways: tuple[Callable[[Counted], Cost | None], ...] = (
        lambda of: Cost.factored(of.products, largest),
        lambda of: Cost.fitted(of.count, largest),  # in five times as long
    )
    cost = needed = None
    for way in ways:
        if (fit := way(run)) and sum(map(fit, step)) == per_step:
            cost = fit
            needed = way(_without_checkpointing(run)) if run.config.trainer.gradient_checkpointing else cost
            break
    mine = cost(largest) if cost else run.count(largest)
    return Operations({"per_step": per_step} | beside_full(run, largest, mine), cost, needed)


def beside_full(run: Counted, shape: Shape, mine: int) -> dict[str, Any]:
    """Operations per token (padding counted) of a micro-batch that computes ``mine``, full fine-tuning's, the share.

    ``break_even_rank`` is the rank, the same in every adapter, above which LoRA computes more than full fine-tuning;
    None without LoRA's factors.
    """
    full, again = mine, run.config.trainer.gradient_checkpointing
    if methods.of(run.config.method).trains != "all":
        full = _count(run, shape, again, lambda: full_fine_tuning(run))
    return {
        "per_token": mine / shape.tokens,
        "full_per_token": full / shape.tokens,
        "of_full": mine / full,
        "break_even_rank": _break_even_rank(run, shape, mine, full),
    }


def needed(run: Counted, shape: Shape, mine: int) -> int:
    """Operations of a micro-batch without what checkpointing computes again, which MFU leaves out."""
    return _without_checkpointing(run).count(shape) if run.config.trainer.gradient_checkpointing else mine


def _without_checkpointing(run: Counted) -> Counted:
    return run.variant(replace(run.config, trainer=replace(run.config.trainer, gradient_checkpointing=False)))


def _count(run: Counted, shape: Shape, what: Any, other: Callable[[], Counted]) -> int:
    """Operations of ``other``, which is ``what`` on the base of ``run``, unless they are known."""
    key = _key(run.architecture.to_dict(), run.config.task.kind, run.scorer.outputs, vars(run.settings), shape, what)
    if key not in _known:
        _known[key] = other().count(shape)
    return _known[key]


def _break_even_rank(run: Counted, shape: Shape, mine: int, full: int) -> float | None:
    """By the line through two ranks: what LoRA's factors compute is affine in their rank."""
    if not any(isinstance(getattr(module, "lora_A", None), nn.ModuleDict) for module in run.model.modules()):
        return None
    if not (rank := run.lora.get("rank")) or run.config.method.nested:  # which computes each step at two ranks
        return None
    counts = {rank: mine} if set(run.lora["ranks"].values()) == {rank} else {}
    for other in (1, 2):
        if len(counts) < 2 and other not in counts:
            method = replace(run.config.method, rank=other, budget=None)
            config = replace(run.config, method=method, targets=replace(run.config.targets, ranks=None, alphas=None))
            counts[other] = _count(run, shape, costing(config), functools.partial(run.variant, config))
    (low, at_low), (high, at_high) = sorted(counts.items())
    return low + (full - at_low) * (high - low) / (at_high - at_low)
