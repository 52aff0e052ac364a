"""Scores and logits on a run's own rows."""

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from rankwise.adapters.loading import numerics
from rankwise.adapters.runs import Run, on_this_machine
from rankwise.compare import on_rows
from rankwise.errors import Refused
from rankwise.metrics import named
from rankwise.model import outputs
from rankwise.model.numerics import Numerics
from rankwise.tasks import batches, data, scores
from rankwise.tasks.scores import Score, Scorer
from rankwise.tracking.predictions import Unreadable, read
from rankwise.train import module
from rankwise.train.module import FineTuner

Columns = dict[str, np.ndarray]

_EXACT = Numerics(torch.device("cpu"), "fp32", 1, None)
CHECK_ROWS = 256  # validation rows whose logits are compared


@dataclass(frozen=True)
class Rows:
    """A run's validation and test rows as batches, and how they are scored."""

    run: Run
    loaders: batches.Loaders
    scorer: Scorer

    @classmethod
    def of(cls, run: Run, tokenizer: Any) -> "Rows":
        """Raises Refused where the data, or the rows that are drawn for the test, are no longer those of the run."""
        task, recorded = run.config.task, run.record.provenance["data"]["fingerprint"]
        loaded = data.load(task, on_this_machine(task), run.config.data_seed)
        if loaded.fingerprint != recorded:
            now = f"they are {loaded.fingerprint} now and were {recorded}"
            raise Refused(f"{run.folder}: its data have changed since it ran; {now}")
        loaders = batches.Loaders.of(run.config, loaded, tokenizer)
        try:
            is_own = np.array_equal(read(run.folder, run.name).items, np.sort(loaders.data.test.items))
        except Unreadable:
            is_own = True  # nothing says otherwise
        if not is_own:
            raise Refused(f"{run.folder}: was tested on other rows than this version of rankwise draws; run it again")
        return cls(run, loaders, scores.scorer_for(task, loaded.classes, loaded.train.labels))

    @property
    def metric(self) -> str:
        """The task's."""
        return self.run.config.task.metric

    def logits(self, model: nn.Module, settings: Numerics = _EXACT) -> torch.Tensor:
        """fp32 logits (rows, outputs) of the first validation rows, or at their learned tokens."""
        size = max(map(len, self.loaders.validation.batch_sampler))  # type: ignore[arg-type]
        return outputs.all_logits(model, islice(self.loaders.validation, math.ceil(CHECK_ROWS / size)), settings)

    def counted(self, logits: torch.Tensor) -> str:
        """Of how many rows, or learned tokens of such, these logits are: 64 validation rows."""
        return f"{len(logits)} {'learned tokens' if self.run.config.task.writes else 'validation rows'}"

    def score(self, model: nn.Module, part: str = "test") -> tuple[Score, Columns]:
        """The task's metric on the ``test`` or ``validation`` rows, computed as in the run with the error over
        clusters, and the predictions with the ``item`` and ``cluster`` of each row."""
        tuner, split = FineTuner(model, self.scorer, self.run.config.optim, 1), getattr(self.loaders.data, part)
        by_metric, columns = module.evaluate(tuner, getattr(self.loaders, part), numerics(self.run))
        by_metric = scores.of_test(by_metric, columns, split, self.scorer, self.metric)
        return by_metric[self.metric], columns | {"item": split.items, "cluster": split.clusters}

    def gap(self, one: Columns, other: Columns) -> dict[str, float]:
        """The metric of ``other`` − that of ``one``, paired by row."""
        return on_rows(named(self.metric).among(len(self.run.classes or ())), one, other)


def relative(now: torch.Tensor, exact: torch.Tensor) -> float:
    """‖now − exact‖ / ‖exact‖."""
    return float(torch.linalg.vector_norm(now.double() - exact.double()) / torch.linalg.vector_norm(exact.double()))
