"""Fit within a fixed budget of steps, keep the best weights by validation, test once."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision.half import HalfPrecision
from torch.utils.data import DataLoader

from rankwise import callbacks
from rankwise.config import DEBUGGING, Config
from rankwise.errors import Refused
from rankwise.measure.ledger import reset_peak, system_peak
from rankwise.model.numerics import Numerics
from rankwise.model.weights import load_best
from rankwise.tasks.batches import Loaders, schedule
from rankwise.tasks.scores import Score
from rankwise.tracking.fields import setup
from rankwise.tracking.record import Record
from rankwise.train.budget import Budget
from rankwise.train.checkpoint import Checkpoints, InPlace
from rankwise.train.module import FineTuner
from rankwise.train.probe import Probe
from rankwise.train.ranks import Ranks
from rankwise.train.step import checkpoint_blocks, shares
from rankwise.train.watch import Watch


class Periods(pl.LightningDataModule):
    """The whole run's batches, planned ahead, in stretches; ``shapes`` are theirs, per step.

    Lightning's "epoch" is a stretch here: it ends where a validation is due, or a checkpoint may be kept, wherever the
    epochs of the data end. A run that goes on begins with stretch ``begun``.
    """

    def __init__(self, config: Config, budget: Budget, loaders: Loaders, ranks: Ranks):
        super().__init__()
        self.ranks = ranks
        trainer, rows = config.trainer, loaders.train_rows
        plan = schedule(rows.lengths, trainer.batch_size, budget.batches, config.seed, trainer.group_by_length)
        often = range(0, budget.steps, max(10, budget.steps // 100))
        self.ends = sorted({*often, *budget.checkpoints} - {0})  # steps
        self.validated, self.begun = set(budget.checkpoints), 0
        bounds = [0, *(end * trainer.accumulate for end in self.ends)]
        mine = [ranks.rows(batch) for batch in plan]
        self.stretches = [mine[a:b] for a, b in pairwise(bounds)]
        self.plan, self.loaders = plan, loaders
        self.tokens = [int(rows.lengths[batch].sum()) for batch in plan]  # without padding
        steps = [plan[i : i + trainer.accumulate] for i in range(0, len(plan), trainer.accumulate)]
        self.shapes = [[rows.shape(ranks.rows(batch)) for batch in step] for step in steps]
        self.of_all, self.shares = [], []
        for step in steps:
            parts = [(rows.shape(ranks.rows(b, r)), n) for b in step for r, n in enumerate(ranks.sizes(b))]
            weighed = [shape if n else shape._replace(rows=0, labelled=None) for shape, n in parts]
            self.of_all.append([shape for shape, n in parts if n])
            self.shares += shares(weighed, trainer.accumulate * ranks.world)[ranks.rank :: ranks.world]

    @property
    def now(self) -> int:
        """The number of the stretch that is due."""
        assert self.trainer is not None
        return self.begun + self.trainer.current_epoch

    def train_dataloader(self) -> DataLoader[Any]:
        """The stretch that is due."""
        return self.loaders.train(self.stretches[self.now])

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation rows, if they are due at its end."""
        return self.ranks.deal(self.loaders.validation) if self.ends[self.now] in self.validated else []


def fit(
    module: FineTuner,
    periods: Periods,
    watch: Watch,
    probe: Probe | None,
    config: Config,
    numerics: Numerics,
    record: Record,
    loggers: list[Logger],
) -> pl.Trainer:
    """Train within the budget, from where an earlier attempt was cut if it was; put the best weights back and fill in
    the record's compute, memory and validation.
    """
    ranks = periods.ranks
    checkpoints = Checkpoints(watch.best_file.parent, record, watch.journal, watch.clock, ranks)
    file, periods.begun = checkpoints.earlier()
    ours = [watch, *([probe] if probe else []), checkpoints]
    with _lightning_may_refuse():
        trainer = _trainer(config, numerics, ranks, len(periods.stretches) - periods.begun, ours, loggers)
    if config.trainer.profiler:
        profiler = trainer.profiler  # type: ignore[attr-defined]
        profiler.dirpath, profiler.filename = record.folder, "profile"
    for logger in trainer.loggers:
        logger.log_hyperparams(setup(record))
    watch.throughput.probed = probe.micro_batches if probe else ()
    module.train()  # transformers hands models over in eval mode, where dropout is off, and Lightning keeps modes
    if config.trainer.gradient_checkpointing:
        checkpoint_blocks(module.model)
    torch.manual_seed(config.seed + 1_000_003 * ranks.rank)  # the same dropout for every arm, whatever was drawn before
    reset_peak(numerics.device)
    with watch.clock("train"), _lightning_may_refuse():
        trainer.fit(module, datamodule=periods, ckpt_path=file)
    watch.clock.add("train", -watch.clock.seconds.get("validate", 0.0))
    record.compute |= {"steps": trainer.global_step, "diverged": module.diverged}
    record.compute |= {"tokens": watch.throughput.tokens, "tokens_per_s": watch.throughput.tokens_per_s}
    for phase, memory in probe.memory() if probe else ():  # beside what was predicted
        record.memory[phase] = memory | record.memory.get(phase, {})
    record.memory["train"] = record.memory.get("train", {}) | system_peak(numerics.device)
    record.metrics |= {"validation": watch.best, "best_step": watch.best_step}
    record.metrics |= {"first_loss": watch.first_loss, "curve": watch.curve}
    record.objective = watch.best[watch.objective]["value"] if watch.best else None
    trainer.strategy.barrier()  # until the first rank has written them
    if watch.best:
        load_best(module.model, watch.best_file)
    return trainer


def test(
    trainer: pl.Trainer, module: FineTuner, loader: DataLoader[Any]
) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
    """Scores and columns of rows that were not trained on."""
    trainer.test(module, dataloaders=loader, verbose=False)
    return module.evaluated()


def end_loggers(trainer: pl.Trainer, scores: dict[str, Score]) -> None:
    """Give Lightning's loggers the test scores, which are the last that they get."""
    for logger in trainer.loggers:
        logger.log_metrics({f"test/{name}": score["value"] for name, score in scores.items()}, trainer.global_step)
        logger.finalize("success")


class _LabelsKept(HalfPrecision):
    """Weights in bf16. A batch is whole numbers but for the labels of a regression, which are not rounded."""

    def convert_input(self, data: Any) -> Any:
        return data


@contextlib.contextmanager
def _lightning_may_refuse() -> Iterator[None]:
    """In here what Lightning says of callbacks and loggers that cannot work so is Refused."""
    try:
        yield
    except MisconfigurationException as error:
        raise Refused(f"callbacks, logger: Lightning cannot take these: {error}") from None


def _trainer(
    config: Config, numerics: Numerics, ranks: Ranks, periods: int, ours: list[pl.Callback], loggers: list[Logger]
) -> pl.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):  # the last, once imported, names all
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # tokens are in memory: workers would only cost
    warnings.filterwarnings("ignore", ".*srun. command is available.*")  # on a cluster's machine, where none is needed
    warnings.filterwarnings("ignore", "Precision .* is not supported by the model summary")
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")  # no validation is due
    warnings.filterwarnings("ignore", ".*`training_step` returned `None`.*")  # a diverged run ends so
    # Filling every new tensor costs a few percent and matters only to code that reads what was never written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    settings = numerics.lightning | ranks.strategy()
    settings["plugins"] = [*settings.get("plugins", []), InPlace()]
    if settings["precision"] == "bf16-true":
        settings |= {"precision": None, "plugins": [*settings["plugins"], _LabelsKept("bf16-true")]}
    return pl.Trainer(
        **settings,
        **{key: value for key in DEBUGGING if (value := getattr(config.trainer, key)) is not None},
        max_epochs=periods,
        reload_dataloaders_every_n_epochs=1,
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.trainer.clip or None,
        deterministic=config.trainer.deterministic,
        callbacks=[*ours, *callbacks.made(config, "callbacks")],  # beside ours, never in their place
        logger=loggers,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
