"""What a run's step will hold and compute, before it: the same step with fake tensors, of the same shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from rankwise.config import Config
from rankwise.measure.flops import Watched
from rankwise.measure.ledger import Footprint
from rankwise.measure.shape import Shape
from rankwise.plan.fake import FakeRun, build
from rankwise.tasks.scores import Scorer
from rankwise.train.numerics import Numerics


@dataclass(frozen=True)
class Prediction:
    """Bytes of the largest training step and evaluation batch, and the closed form of the operations."""

    train: Footprint
    eval: Footprint
    operations: Watched

    def memory(self) -> dict[str, Any]:
        """For the record's ``memory``, to stand beside what is measured."""
        return {"train": {"predicted": self.train.to_dict()}, "eval": {"predicted": self.eval.to_dict()}}


def predict(
    config: Config, architecture: PretrainedConfig, scorer: Scorer, settings: Numerics, step: list[Shape],
    evaluation: Shape,
) -> Prediction:  # fmt: skip
    """The prediction for a run's own largest step and evaluation batch.

    Nothing is taken from the model that was loaded but its architecture, and nothing is fitted to measurements.
    """
    adapted = build(config, architecture, scorer.outputs, settings.attention, settings.precision)
    run = FakeRun(config, adapted, scorer, settings.precision, gpu=settings.device.type == "cuda")
    return Prediction(run.train(step), run.evaluate(evaluation), run.operations(step[0]))
