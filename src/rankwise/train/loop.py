"""Fit within a fixed budget of steps, keep the best weights by validation, test once."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.plugins.precision.half import HalfPrecision
from torch.utils.data import DataLoader

from rankwise import metrics
from rankwise.config import Config
from rankwise.measure.clock import Clock, Throughput
from rankwise.measure.memory import reset_peak, system_peak
from rankwise.model.numerics import Numerics
from rankwise.model.weights import load_best, save_best
from rankwise.tasks.batches import Loaders, schedule, steps_per_epoch
from rankwise.tasks.scores import Score
from rankwise.tracking.record import Record
from rankwise.train.module import FineTuner
from rankwise.train.probe import Probe
from rankwise.train.step import checkpoint_blocks

OnProgress = Callable[[int, int, str], None]
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Budget:
    """Optimizer steps of a run and where it is validated: the same for every arm of a study."""

    steps: int
    steps_per_epoch: int
    checkpoints: list[int]  # steps after which the run is validated; the last is the end

    @classmethod
    def of(cls, config: Config, rows: int) -> Budget:
        """From epochs or max_steps and the number of training rows."""
        trainer = config.trainer
        each = steps_per_epoch(rows, trainer.batch_size, trainer.accumulate)
        steps = trainer.max_steps or max(1, math.ceil(trainer.epochs * each))
        count = min(trainer.validations, steps)
        return cls(steps, each, [round(steps * (i + 1) / count) for i in range(count)])


class Periods(pl.LightningDataModule):
    """The whole run's batches, planned ahead, in one stretch per validation; ``shapes`` are theirs, per step.

    Lightning's "epoch" is a stretch here: it ends exactly where a validation is due, wherever the epochs of the data
    end.
    """

    def __init__(self, config: Config, budget: Budget, loaders: Loaders):
        super().__init__()
        trainer, rows = config.trainer, loaders.train_rows
        batches = budget.steps * trainer.accumulate
        plan = schedule(rows.lengths, trainer.batch_size, batches, config.seed, trainer.group_by_length)
        bounds = [0, *(step * trainer.accumulate for step in budget.checkpoints)]
        self.stretches = [plan[a:b] for a, b in pairwise(bounds)]
        self.loaders = loaders
        self.tokens = [int(rows.lengths[batch].sum()) for batch in plan]  # without padding
        shapes = [rows.shape(batch) for batch in plan]
        self.shapes = [shapes[i : i + trainer.accumulate] for i in range(0, len(shapes), trainer.accumulate)]

    def train_dataloader(self) -> DataLoader[Any]:
        """The stretch that is due."""
        assert self.trainer is not None
        return self.loaders.train(self.stretches[self.trainer.current_epoch])

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation rows."""
        return self.loaders.validation


class Watch(pl.Callback):
    """Measures, logs, and keeps the best weights."""

    def __init__(
        self, config: Config, budget: Budget, best_file: Path, clock: Clock, log: Log, on_progress: OnProgress
    ):
        self.objective, self.patience = config.objective.removeprefix("val/"), config.trainer.early_stopping
        self.budget, self.best_file, self.clock, self.journal, self.on_progress = (
            budget,
            best_file,
            clock,
            log,
            on_progress,
        )
        self.throughput = Throughput()
        self.every = max(1, budget.steps // 100)
        self.losses: list[float] = []
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Score] = {}  # validation scores at the step whose weights are kept
        self.best_step = 0
        self.before: np.ndarray | None = None  # losses of the rows at the validation before
        self.most, self.waited = -math.inf, 0  # the best objective so far, and validations since

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]  # of this step; at its end, it is that of the next
        self.throughput.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.throughput.end(trainer.datamodule.tokens[self.throughput.seen])  # type: ignore[attr-defined]
        self.losses.append(module.last_loss)
        step = trainer.global_step
        self.on_progress(step, self.budget.steps, f"loss {module.last_loss:.3f}")
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and step % self.every == 0:
            self.journal(self._row(step) | {"train/loss": float(np.mean(self.losses)), "lr": self.lr})
            self.losses = []

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        scores, columns = module.evaluated()
        row = self._row(trainer.global_step) | self._fall(columns)
        for name, score in scores.items():
            row |= {f"val/{name}": score["value"], f"val/{name}_se": score["se"]}
        self.curve.append(row)
        self.journal(row)
        value = scores[self.objective]["value"]
        gain = metrics.named(self.objective).sign * value
        if math.isfinite(scores["loss"]["value"]) and gain > self.most:  # NaN weights score like chance
            self.best, self.best_step, self.most, self.waited = scores, trainer.global_step, gain, 0
            save_best(module.model, self.best_file)
        else:
            self.waited += 1
        trainer.should_stop = trainer.should_stop or bool(self.patience and self.waited >= self.patience)
        self.clock.add("validate", time.perf_counter() - self.began)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.best_file.unlink(missing_ok=True)  # as large as the model when all of it is trained

    def _fall(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """The fall of the loss since the validation before and its standard error, paired by row."""
        losses = columns["loss"] if "loss" in columns else columns["score"] / columns["label"].mean()
        before, self.before = self.before, losses.astype(np.float64)
        if before is None:
            return {}
        with np.errstate(all="ignore"):  # of a diverged run
            fall = before - self.before
            return {"loss_fall": float(fall.mean()), "loss_fall_se": float(fall.std(ddof=1)) / math.sqrt(len(fall))}

    def _row(self, step: int) -> dict[str, float]:
        return {"step": step, "epoch": round(step / self.budget.steps_per_epoch, 4)}


def fit(
    module: FineTuner, periods: Periods, watch: Watch, probe: Probe | None, config: Config, numerics: Numerics,
    record: Record,
) -> pl.Trainer:  # fmt: skip
    """Train within the budget, put the best weights back and fill in the record's compute, memory and validation."""
    trainer = _trainer(config, numerics, len(periods.stretches), [watch, *([probe] if probe else [])])
    watch.throughput.probed = probe.micro_batches if probe else ()
    module.train()  # transformers hands models over in eval mode, where dropout is off, and Lightning keeps modes
    if config.trainer.gradient_checkpointing:
        checkpoint_blocks(module.model)
    torch.manual_seed(config.seed)  # dropout is the same for every arm, whatever was drawn to build the model
    reset_peak(numerics.device)
    start = time.perf_counter()
    trainer.fit(module, datamodule=periods)
    watch.clock.add("train", time.perf_counter() - start - watch.clock.seconds.get("validate", 0.0))
    record.compute |= {
        "steps": trainer.global_step, "tokens": watch.throughput.tokens,
        "tokens_per_s": watch.throughput.tokens_per_s, "diverged": module.diverged,
    }  # fmt: skip
    _measured(record, probe, watch, numerics)
    record.metrics |= {"validation": watch.best, "best_step": watch.best_step, "curve": watch.curve}
    record.objective = watch.best[watch.objective]["value"] if watch.best else None
    if watch.best:
        load_best(module.model, watch.best_file)
    return trainer


def _measured(record: Record, probe: Probe | None, watch: Watch, numerics: Numerics) -> None:
    """The probe's findings beside what was predicted, and the peak that the system saw."""
    for phase, found in probe.memory() if probe else ():
        record.memory[phase] = found | record.memory.get(phase, {})
    record.memory["train"] = record.memory.get("train", {}) | system_peak(numerics.device)


def test(
    trainer: pl.Trainer, module: FineTuner, loader: DataLoader[Any]
) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
    """Scores and columns of the test rows."""
    trainer.test(module, dataloaders=loader, verbose=False)
    return module.evaluated()


class _LabelsKept(HalfPrecision):
    """Weights in bf16. A batch is whole numbers but for the labels of a regression, which are not rounded."""

    def convert_input(self, data: Any) -> Any:
        return data


def _trainer(config: Config, numerics: Numerics, periods: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # tokens are in memory: workers would only cost
    warnings.filterwarnings("ignore", ".*srun. command is available.*")  # on a cluster's machine, where none is needed
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*`training_step` returned `None`.*")  # a diverged run ends so
    # Filling every new tensor costs a few percent and matters only to code that reads what was never written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    settings = numerics.lightning
    if settings["precision"] == "bf16-true":
        settings = settings | {"precision": None, "plugins": [_LabelsKept("bf16-true")]}
    return pl.Trainer(
        **settings,
        max_epochs=periods,
        reload_dataloaders_every_n_epochs=1,
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.trainer.clip or None,
        deterministic=config.trainer.deterministic,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
