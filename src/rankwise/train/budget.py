"""How long a run is. Apart from the loop, as a plan needs no Lightning."""

import math
from dataclasses import dataclass

from rankwise.config import Config


@dataclass(frozen=True)
class Budget:
    """How long a run is and where it is validated: the same for every arm of a study."""

    steps: int  # of the optimizer
    batches: int  # micro-batches; the last step has fewer than ``accumulate`` where the epochs end so
    steps_per_epoch: float
    checkpoints: list[int]  # steps after which the run is validated; the last is the end

    @property
    def every(self) -> int:
        """How many steps a row of the journal is about."""
        return max(1, self.steps // 100)

    @property
    def rows(self) -> int:
        """How many rows the journal will have."""
        return self.steps // self.every + len(self.checkpoints)

    @classmethod
    def of(cls, config: Config, rows: int) -> "Budget":
        """From epochs or max_steps and the number of training rows."""
        trainer = config.trainer
        epoch = math.ceil(rows / trainer.batch_size)
        batches = max(1, math.ceil(round(trainer.epochs * epoch, 6)))  # 1.1 · 100 is 110.00000000000001
        if trainer.max_steps:
            batches = trainer.max_steps * trainer.accumulate
        steps = math.ceil(batches / trainer.accumulate)
        count = min(trainer.validations, steps)
        return cls(steps, batches, epoch / trainer.accumulate, [round(steps * (i + 1) / count) for i in range(count)])
