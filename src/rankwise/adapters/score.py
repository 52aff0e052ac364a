"""Scores and logits on a run's own rows."""

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from rankwise.adapters.loading import numerics
from rankwise.adapters.runs import Run, on_this_machine
from rankwise.errors import Refused
from rankwise.model import outputs
from rankwise.model.numerics import Numerics
from rankwise.tasks import batches, data, scores
from rankwise.tasks.scores import Scorer
from rankwise.tracking.predictions import Unreadable, read
from rankwise.train import module
from rankwise.train.module import FineTuner

Columns = dict[str, np.ndarray]

_EXACT = Numerics(torch.device("cpu"), "fp32", 1, None)
CHECK_ROWS = 256  # validation rows whose logits are compared


@dataclass(frozen=True)
class Rows:
    """A run's validation and test rows as batches, and how they are scored."""

    validation: DataLoader[Any]
    test: DataLoader[Any]
    scorer: Scorer
    metric: str
    data: data.Data  # what the batches are of

    @classmethod
    def of(cls, run: Run, tokenizer: Any) -> "Rows":
        """Raises Refused where the data, or the rows that are drawn for the test, are no longer those of the run."""
        config = run.config
        loaded = data.load(config.task, on_this_machine(config.task), config.data_seed)
        if loaded.fingerprint != run.record.provenance["data"]["fingerprint"]:
            raise Refused(
                f"{run.folder}: its data have changed since it ran; they are {loaded.fingerprint} now and were "
                f"{run.record.provenance['data']['fingerprint']}"
            )
        loaders = batches.Loaders.of(config, loaded, tokenizer)
        if not _is_own_test(run, loaders.data.test):
            raise Refused(f"{run.folder}: was tested on other rows than this version of rankwise draws; run it again")
        scorer = scores.scorer_for(config.task, loaded.classes, loaded.train.labels)
        return cls(loaders.validation, loaders.test, scorer, config.task.metric, loaders.data)


def logits(model: nn.Module, rows: Rows, settings: Numerics = _EXACT) -> torch.Tensor:
    """fp32 logits (rows, outputs) of the first validation rows, or at their learned tokens."""
    size = rows.validation.batch_sampler
    several = math.ceil(CHECK_ROWS / max(map(len, size)))  # type: ignore[arg-type]
    return outputs.all_logits(model, islice(rows.validation, several), settings)


def relative(now: torch.Tensor, exact: torch.Tensor) -> float:
    """‖now − exact‖ / ‖exact‖."""
    return float(torch.linalg.vector_norm(now.double() - exact.double()) / torch.linalg.vector_norm(exact.double()))


def evaluate(model: nn.Module, rows: Rows, run: Run, part: str = "test") -> tuple[scores.Score, Columns]:
    """The task's metric on the ``test`` or ``validation`` rows, computed as in the run with the error over clusters,
    and the predictions with the ``cluster`` of each row."""
    tuner = FineTuner(model, rows.scorer, run.config.optim, 1)
    split = getattr(rows.data, part)
    by_metric, columns = module.evaluate(tuner, getattr(rows, part), numerics(run))
    by_metric = scores.of_test(by_metric, columns, split, rows.scorer, rows.metric)
    return by_metric[rows.metric], columns | {"cluster": split.clusters}


def _is_own_test(run: Run, test: data.Split) -> bool:
    try:
        return np.array_equal(read(run.folder, run.name).items, np.sort(test.items))
    except Unreadable:
        return True  # nothing says otherwise
