"""The story of a run that trains a language model, readable from top to bottom."""

import copy
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from rankwise import callbacks, check, methods
from rankwise.baseline import OnProgress, load, note_commit, note_cut
from rankwise.config import Config
from rankwise.measure import latency
from rankwise.measure.clock import Clock
from rankwise.measure.parameters import count
from rankwise.measure.speed import utilisation
from rankwise.model import base, numerics, weights
from rankwise.model.adapt import adapt
from rankwise.model.methods import nested
from rankwise.model.quantize import hold_as_multiplied, quantize
from rankwise.plan.operations import predict
from rankwise.tasks import batches, scores
from rankwise.tracking import predictions
from rankwise.tracking.journal import Journal
from rankwise.tracking.record import Record
from rankwise.train import forget, loop, module, probe, shard, step
from rankwise.train.budget import Budget
from rankwise.train.generate import generate, questions
from rankwise.train.ranks import Ranks
from rankwise.train.watch import Watch


def fine_tune(
    config: Config,
    record: Record,
    clock: Clock,
    journal: Journal,
    ready: Callable[[], None],
    on_progress: OnProgress,
    home: Path | None = None,
) -> None:
    """Load, adapt, train, save and test what ``config`` says; all that is found goes into ``record``.

    ``ready`` is called when model and data are found to fit. Nothing that only describes the run comes before its save.
    ``home`` is the run's folder, where the record's is another: of a rank that is not the first.
    """
    story = _Story(config, record, clock, home)
    with clock("load"):
        story.load()
    story.ask()
    with clock("load"):
        story.adapt()
    record.write()
    ready()
    story.plan()
    story.train(journal, on_progress)
    if story.ranks.is_first:
        with clock("save"):
            story.save()
    story.ask_each_rank()
    story.test(on_progress)
    if not story.ranks.is_first:
        return
    story.ask_again()
    story.measure()
    if config.tracking.latency:  # last, as it draws random weights
        on_progress(story.budget.steps, story.budget.steps, "latency")
        with clock("latency"):
            record.compute["latency"] = latency.latencies(config, story.architecture, story.settings)


class _Story:
    """What one chapter leaves to the next."""

    def __init__(self, config: Config, record: Record, clock: Clock, home: Path | None = None):
        self.config, self.record, self.clock, self.ranks = config, record, clock, Ranks.here()
        self.is_sharded = shard.is_sharded(config.trainer)
        self.folder = home or record.folder
        self.settings = numerics.settle(config.trainer)
        record.compute |= self.settings.to_dict()

    def load(self) -> None:
        """Rows, tokens, and the base, quantized."""
        config, record = self.config, self.record
        self.loggers = callbacks.made(config, "logger")
        self.data, model = load(config, record)
        self.scorer = scores.scorer_for(config.task, self.data.classes, self.data.train.labels)
        mapped = self.is_sharded and not methods.reads_base(config.method)
        needs = (self.scorer.outputs, config.seed, self.settings.attention, config.task.kind, mapped)
        self.lm, self.tokenizer = base.load(config.model, model, *needs)
        note_commit(config.model, model, record)
        self.lm.config.update(base.class_names(self.data.classes))  # type: ignore[operator, union-attr]
        self.architecture = copy.deepcopy(self.lm.config)
        self.loaders = batches.Loaders.of(config, self.data, self.tokenizer)
        self.data = self.loaders.data
        record.compute |= quantize(self.lm, config, self.settings, self.loaders.validation, mapped)
        note_cut(self.loaders, record)
        if config.task.generation.metrics:  # refused now, not when all is trained
            questions(config, self.tokenizer, self.data.test)
        check.check_lengths(config, self.tokenizer.model_max_length)

    def ask(self) -> None:
        """What it knows before, where it is asked: with weights rounded as they will be in training."""
        self.asked = forget.Questions.of(self.config, self.tokenizer)
        if self.asked:
            self.record.provenance["forgetting"] = self.asked.asset
        if self.asked and self.ranks.is_first:
            with self.clock("forgetting"):
                rounds = self.settings.precision == "bf16_true"
                lm = copy.deepcopy(self.lm).bfloat16() if rounds else self.lm
                self.before = self.asked.ask(lm, self.settings)

    def ask_again(self) -> None:
        """What it has forgotten."""
        if self.asked:
            with self.clock("forgetting"):
                after = self.asked.ask(self.lm, self.settings)
                if all(np.isfinite(values).all() for values in after.values()):  # else it diverged
                    self.record.metrics["forgetting"] = self.asked.compare(self.before, after)

    def adapt(self) -> None:
        """Put the method's weights in, and count."""
        self.adapted = adapt(self.lm, self.config)
        self.record.compute["attention"] = str(self.lm.config._attn_implementation)  # type: ignore[union-attr]
        self.record.params = count(self.adapted.model, self.adapted.heads)
        self.record.lora = self.adapted.lora

    def plan(self) -> None:
        """Every batch to come, and what it should cost."""
        config, loaders = self.config, self.loaders
        self.budget = Budget.of(config, len(loaders.train_rows))
        self.periods = loop.Periods(config, self.budget, loaders, self.ranks)
        if self.adapted.prepare:
            with self.clock("prepare"):
                device = torch.device("cpu") if self.is_sharded else self.settings.device
                model, scorer = self.adapted.model.to(device), self.scorer
                rows = loaders.train(self.periods.plan)
                batches = ({key: value.to(device) for key, value in batch.items()} for batch in rows)
                self.adapted.prepare(batches, lambda batch: step.loss(model, step.losses(model, scorer, batch)[1]))
        self.probe = probe.Probe(self.periods.shapes, loaders.largest_validation) if config.tracking.ledger else None
        if self.probe:
            with self.clock("plan"):
                self.record.memory, self.operations = predict(
                    config, self.architecture, self.scorer, self.settings, self.probe.shapes, self.probe.evaluation
                )

    def train(self, journal: Journal, on_progress: OnProgress) -> None:
        """Train, validate, and go back to the best weights."""
        config, model = self.config, self.adapted.model
        if not self.is_sharded:
            hold_as_multiplied(model, self.settings.precision)
        steps = (self.budget.steps, config.method.lr_ratio, self.periods.shares)
        self.tuner = module.FineTuner(model, self.scorer, config.optim, *steps, self.ranks)
        self.ranks.meet(self.settings.device)
        if self.is_sharded:
            stored = torch.bfloat16 if config.quant.kind == "bf16" else torch.float32
            shard.shard(model, self.ranks.world, self.settings.device, stored, self.settings.precision)
            shard.leave_frozen(self.tuner)
        best_file, clusters = self.folder / "best.safetensors", self.data.validation.clusters
        self.watch = Watch(config, self.budget, best_file, self.clock, journal, on_progress, clusters)
        self.trainer = loop.fit(
            self.tuner, self.periods, self.watch, self.probe, config, self.settings, self.record, self.loggers
        )
        self.record.lora = self.adapted.described()

    def ask_each_rank(self) -> None:
        """Validation scores of every rank of nested LoRA."""
        if (cut := nested.of(self.adapted.model)) is None:
            return
        by_rank = self.record.metrics["by_rank"] = {}
        for rank in cut.ranks:
            with self.clock("validate"), cut.only(rank):
                rows = self.ranks.deal(self.loaders.validation)
                by_rank[str(rank)], _ = loop.test(self.trainer, self.tuner, rows)

    def test(self, on_progress: OnProgress) -> None:
        """Scores of the test rows, with predictions, and of what is written for them."""
        config, record, steps = self.config, self.record, self.budget.steps
        on_progress(steps, steps, "test")
        with self.clock("test"):
            rows = self.ranks.deal(self.loaders.test)
            record.metrics["test"], columns = loop.test(self.trainer, self.tuner, rows)
            loop.end_loggers(self.trainer, record.metrics["test"])
        if self.ranks.is_first:
            with self.clock("test"):
                record.metrics["test"] = scores.of_test(
                    record.metrics["test"], columns, self.data.test, self.scorer, config.task.metric
                )
                predictions.write(self.folder, self.data.test.items, columns | {"cluster": self.data.test.clusters})
        if config.task.generation.metrics and (self.ranks.is_first or self.is_sharded):  # a base in parts needs all
            on_progress(steps, steps, "write")
            with self.clock("generate"):
                generate(self.adapted.model, self.tokenizer, config, self.settings, self.data.test, record)

    def measure(self) -> None:
        """Operations of the steps that were taken."""
        if self.probe is None:
            return
        with self.clock("measure"):
            shapes = list(chain.from_iterable(self.periods.shapes))
            of_all = chain.from_iterable(self.periods.of_all[: self.trainer.global_step])
            planned = self.operations
            flops = planned.step if planned else {}
            if self.probe.counted is not None:  # the step that is measured was reached
                flops["per_step_counted"] = self.probe.counted
            if planned and planned.cost and planned.needed:
                flops["train_total"] = sum(map(planned.cost, of_all))
                throughput = self.watch.throughput
                if throughput.timed_s:
                    needed = sum(planned.needed(shapes[i]) for i in throughput.timed)
                    self.record.compute |= utilisation(needed, throughput.timed_s, self.settings)
            self.record.compute["flops"] = flops

    def save(self) -> None:
        """The adapter, or what else is kept of the weights."""
        self.record.storage["adapter_bytes"] = weights.export(
            self.adapted.model, self.folder / "adapter", self.config.trainer.save_full, self.adapted.start
        )
