"""What a run's step will hold and compute, before it: the same step with fake tensors, of the same shapes."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.measure.shape import Shape
from rankwise.model.numerics import Numerics
from rankwise.plan.fake import FakeRun
from rankwise.plan.operations import Operations, operations
from rankwise.tasks.scores import Scorer, TokenScorer


def predict(
    config: Config, architecture: PretrainedConfig, scorer: Scorer | TokenScorer, settings: Numerics, step: list[Shape],
    evaluation: Shape,
) -> tuple[dict[str, Any], Operations | None]:  # fmt: skip
    """``{"train": {"predicted": …}, "eval": …}`` for the record, of the run's own largest step and evaluation batch,
    and its operations.

    Nothing is taken from the model that was loaded but its architecture, and nothing is fitted to measurements. A model
    that a plan cannot follow trains all the same: ``{"train": {"unpredicted": why}}``.
    """
    try:
        run = FakeRun(config, architecture, scorer, settings)
        train, evaluated = run.train(step).to_dict(), run.evaluate(evaluation).to_dict()
        planned = operations(run, step, run.flops)
    except Refused as refused:
        return {"train": {"unpredicted": str(refused)}}, None
    return {"train": {"predicted": train}, "eval": {"predicted": evaluated}}, planned
