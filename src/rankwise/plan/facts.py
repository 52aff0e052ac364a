"""What the task's data says about a run, where it is on this disk: classes, rows, lengths of real batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rankwise import assets
from rankwise.config import Config
from rankwise.tasks import data, scores
from rankwise.tasks.scores import Scorer, TokenScorer


@dataclass(frozen=True)
class Facts:
    """``rows`` of training data is None where nobody has said yet."""

    scorer: Scorer | TokenScorer
    rows: int | None


def facts(config: Config) -> Facts:
    """From the data if it is here already, else from the config: two classes, ``task.n_train`` rows."""
    task = config.task
    if task.kind != "causal_lm" and (task.synthetic or assets.cached(task) is not None):
        loaded = data.load(task, assets.resolve(task, progress=False), config.data_seed)
        return Facts(scores.scorer_for(task.kind, loaded.classes, loaded.train.labels), len(loaded.train))
    classes = ["no", "yes"] if task.kind == "classification" else None
    return Facts(scores.scorer_for(task.kind, classes, np.zeros(1)), task.n_train)
