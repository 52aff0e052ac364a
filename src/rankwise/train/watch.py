"""What is logged while a run trains, which weights are the best so far, and when it is to stop."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from rankwise import metrics
from rankwise.config import Config
from rankwise.measure.clock import Clock, Throughput
from rankwise.model.methods import adalora
from rankwise.model.weights import save_best
from rankwise.tasks.scores import Score, ratio
from rankwise.tracking.journal import Journal
from rankwise.train.budget import Budget

OnProgress = Callable[[int, int, str], None]
_KEPT = ("step", "logged", "losses", "first_loss", "curve", "best", "best_step", "before", "most", "waited")


class Watch(pl.Callback):
    """Measures, logs, and keeps the best weights."""

    def __init__(
        self,
        config: Config,
        budget: Budget,
        best_file: Path,
        clock: Clock,
        journal: Journal,
        on_progress: OnProgress,
        clusters: np.ndarray,
    ):
        self.objective, self.patience = config.objective.removeprefix("val/"), config.trainer.early_stopping
        self.monitored = bool(config.callbacks)  # what is logged, by callbacks of the user's
        self.budget, self.best_file, self.clock, self.journal = budget, best_file, clock, journal
        self.on_progress, self.accumulate = on_progress, config.trainer.accumulate
        self.throughput, self.clusters = Throughput(), clusters  # of the validation rows
        self.step = self.logged = 0
        self.losses: list[float] = []  # of micro-batches since step ``logged``, as they are weighed in their steps
        self.first_loss: float | None = None  # of training, the mean of the first steps that are logged
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Score] = {}  # validation scores at the step whose weights are kept
        self.best_step = 0
        self.before: list[float] | None = None  # losses of the rows at the validation before
        self.most, self.waited = -math.inf, 0  # the best objective so far, and validations since

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]  # of this step; at its end, it is that of the next
        self.throughput.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.throughput.end(trainer.datamodule.tokens[self.throughput.seen])  # type: ignore[attr-defined]
        self.losses.append(module.last_loss * module.last_share)
        before, self.step = self.step, trainer.global_step
        self.on_progress(self.step, self.budget.steps, f"loss {module.last_loss:.3f}")
        if self.step > before and self.step % self.budget.every == 0:
            mean = math.fsum(self.losses) / (self.accumulate * (self.step - self.logged))
            self._log(trainer, self._row(self.step) | {"train/loss": mean, "lr": self.lr})
            self.first_loss = mean if self.first_loss is None else self.first_loss
            self.losses, self.logged = [], self.step

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        scores, columns = module.evaluated()
        row = self._row(trainer.global_step)
        for name, score in scores.items():
            row |= {f"val/{name}": score["value"], f"val/{name}_se": score["se"]}
        self.curve.append(row | self._fall(columns))  # in the record alone: no tracker draws it
        self._log(trainer, row)
        value = scores[self.objective]["value"]
        gain = metrics.named(self.objective).sign * value
        if not adalora.is_pruned(module.model, trainer.global_step) and trainer.global_step < self.budget.steps:
            pass  # of more ranks than the arm is named after
        elif math.isfinite(scores["loss"]["value"]) and gain > self.most:  # NaN weights score like chance
            self.best, self.best_step, self.most, self.waited = scores, trainer.global_step, gain, 0
            if module.ranks.is_first:
                save_best(module.model, self.best_file)
        else:
            self.waited += 1
        trainer.should_stop = trainer.should_stop or bool(self.patience and self.waited >= self.patience)
        self.clock.add("validate", time.perf_counter() - self.began)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must know: all that has been seen, as JSON, which a checkpoint may hold."""
        state = {name: getattr(self, name) for name in _KEPT} | {"seen": [self.throughput.seen, self.throughput.tokens]}
        return {"json": json.dumps(state, default=float)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        saved = json.loads(state["json"])
        self.throughput.go_on(*saved.pop("seen"))
        for name, value in saved.items():
            setattr(self, name, value)

    def _fall(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """The fall of the loss since the validation before and its standard error, paired by row, over clusters."""
        losses = columns["loss"] if "loss" in columns else columns["score"] / columns["label"].mean()
        before, now = self.before, losses.astype(np.float64)
        self.before = now.tolist()
        if before is None:
            return {}
        fall = ratio(np.bincount(self.clusters, np.array(before) - now), np.bincount(self.clusters))
        return {"loss_fall": fall["value"], "loss_fall_se": fall["se"]}

    def _log(self, trainer: pl.Trainer, row: dict[str, float]) -> None:
        self.journal(row)
        if self.monitored:
            trainer.callback_metrics.update({key: torch.tensor(value) for key, value in row.items()})
        for logger in trainer.loggers:
            logger.log_metrics({key: value for key, value in row.items() if key != "step"}, int(row["step"]))

    def _row(self, step: int) -> dict[str, float]:
        return {"step": step, "epoch": round(step / self.budget.steps_per_epoch, 4)}
