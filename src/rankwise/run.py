"""The story of one run, readable from top to bottom."""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Callable
from itertools import chain
from typing import Any

import yaml

from rankwise import machine
from rankwise.baseline import load, run_baseline
from rankwise.config import BASELINES, Config
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.measure.clock import Clock
from rankwise.tracking import record as records
from rankwise.tracking.journal import Journal, read_rows
from rankwise.tracking.mirror import Mirror
from rankwise.tracking.provenance import provenance
from rankwise.tracking.record import Record

OnProgress = Callable[[int, int, str], None]
Log = Callable[[dict[str, Any]], None]


def run(config: Config, on_progress: OnProgress = lambda step, total, text: None) -> Record:
    """Train, validate and test what ``config`` says, unless that has been done; the record is then on disk.

    A run that another process is at right now is not touched: its record says "running".
    Raises Refused (for the user to mend) or what went wrong; the record then says so too.
    """
    place = folder(config)
    with records.owned(place) as mine:
        earlier = records.read(place) if (place / "result.json").exists() else None
        if not mine:
            theirs = earlier or records.begin(config, None)
            theirs.run["status"] = records.RUNNING  # whatever an earlier attempt of it wrote
            return theirs
        if earlier and earlier.status == records.FINISHED and not config.rerun:
            if os.environ.get("WANDB_SWEEP_ID"):
                _mirror_again(config, earlier)
            return earlier
        return _tell(config, records.begin(config, earlier), on_progress)


def _mirror_again(config: Config, record: Record) -> None:
    """Send a finished run to W&B once more: a sweep's server that asks for it waits for a result."""
    mirror = Mirror(config, record)
    assert record.folder is not None
    for row in read_rows(record.folder / "metrics.jsonl"):
        mirror.log(row)
    mirror.close(record)


def _tell(config: Config, record: Record, on_progress: OnProgress) -> Record:
    """Run the story and write how it ended, whatever happens."""
    assert record.folder is not None
    record.write()
    records.write_atomically(record.folder / "config.yaml", yaml.safe_dump(record.config, sort_keys=False))
    journal, clock = Journal(record.folder / "metrics.jsonl", record.run["attempts"]), Clock()
    if (age := machine.process_age_s()) is not None:
        clock.add("start_up", age)  # the interpreter, Hydra, the fork
    mirror = Mirror(config, record)

    def log(row: dict[str, Any]) -> None:
        journal(row)
        mirror.log(row)

    status = records.FAILED
    try:
        record.provenance = provenance()
        with clock("total"):
            if config.method.name in BASELINES:
                run_baseline(config, record, clock, on_progress)
            else:
                _fine_tune(config, record, clock, log, on_progress)
        status = records.FINISHED
    except (KeyboardInterrupt, SystemExit) as stop:
        status, record.error = records.STOPPED, {"type": "Stopped", "message": "stopped from outside"}
        raise KeyboardInterrupt from stop  # Lightning turns Ctrl-C into an exit of its own
    except BaseException as error:
        record.error = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        if "out of memory" in str(error).lower():
            raise Refused(
                "out of memory: lower trainer.batch_size (and raise trainer.accumulate) or task.max_length"
            ) from None
        raise
    finally:
        record.compute["seconds"] = clock.rounded()
        record.run |= {"status": status, "ended": records.now()}
        record.write()
        journal.close()
        mirror.close(record)
        record.write()  # with what the mirror added: the W&B run's id, or why there is none
    return record


def _fine_tune(config: Config, record: Record, clock: Clock, log: Log, on_progress: OnProgress) -> None:
    with clock("imports"):
        from rankwise.measure import latency
        from rankwise.measure.efficiency import operations, utilisation
        from rankwise.measure.parameters import count
        from rankwise.model import base, numerics, weights
        from rankwise.model.adapt import adapt
        from rankwise.model.quantize import quantize
        from rankwise.plan.predict import predict
        from rankwise.tasks import batches, scores
        from rankwise.tracking import predictions
        from rankwise.train import forget, loop, module, probe, step

    assert record.folder is not None
    settings = numerics.settle(config.trainer)
    record.compute |= settings.to_dict()
    with clock("load"):
        data, model = load(config, record)
        scorer = scores.scorer_for(config.task.kind, data.classes, data.train.labels)
        lm, tokenizer = base.load(
            config.model, model, scorer.outputs, config.seed, settings.attention, config.task.kind
        )
        architecture = copy.deepcopy(lm.config)
        loaders = batches.Loaders.of(config, data, tokenizer)
        record.compute |= quantize(lm, config, settings, loaders.validation)
        if loaders.cut is not None:
            record.provenance["data"]["cut"] = loaders.cut
        latency.check_lengths(config.tracking.latency, tokenizer.model_max_length)
    asked = forget.Questions.of(config, tokenizer)
    if asked:
        with clock("forgetting"):
            before = asked.ask(lm, settings)
    with clock("load"):
        adapted = adapt(lm, config)
    record.compute["attention"] = base.attention(lm)
    record.params, record.lora = count(adapted.model, adapted.heads), adapted.lora
    record.write()

    budget = loop.Budget.of(config, len(loaders.train_rows))
    periods = loop.Periods(config, budget, loaders)
    if adapted.prepare:
        with clock("prepare"):
            adapted.prepare(loaders.train(periods.stretches[0]))
    measuring = probe.Probe(periods.shapes, loaders.largest_validation) if config.tracking.ledger else None
    if measuring:
        with clock("plan"):
            record.memory, form = predict(
                config, architecture, scorer, settings, measuring.shapes, measuring.evaluation
            )
    shares = list(chain.from_iterable(map(step.shares, periods.shapes)))
    tuner = module.FineTuner(adapted.model, scorer, config.optim, budget.steps, config.method.lr_ratio, shares)
    watch = loop.Watch(config, budget, record.folder / "best.safetensors", clock, log, on_progress)
    trainer = loop.fit(tuner, periods, watch, measuring, config, settings, record)
    record.lora = adapted.described()
    on_progress(budget.steps, budget.steps, "test")
    with clock("test"):
        record.metrics["test"], columns = loop.test(trainer, tuner, loaders.test)
        record.metrics["test"] |= scores.by_group(scorer, columns, data.test.groups, config.task.metric)
    if config.task.generation.metrics:
        on_progress(budget.steps, budget.steps, "write")
        with clock("generate"):
            from rankwise.train.generate import generate

            generate(adapted.model, tokenizer, config, settings, data.test, record)
    if asked:
        with clock("forgetting"):
            record.metrics["forgetting"] = asked.compare(before, asked.ask(lm, settings))
    if measuring:
        with clock("measure"):
            taken = list(chain.from_iterable(periods.shapes[: trainer.global_step]))
            record.compute["flops"] = operations(form, measuring.shapes, measuring.counted, taken)
            record.compute |= utilisation(form, taken, watch.throughput, settings)
    with clock("save"):
        predictions.write(record.folder, data.test.items, columns)
        record.storage["adapter_bytes"] = weights.export(
            adapted.model, record.folder / "adapter", config.trainer.save_full, adapted.start
        )
        watch.best_file.unlink(missing_ok=True)
    if config.tracking.latency:  # last, as it draws random weights
        on_progress(budget.steps, budget.steps, "latency")
        with clock("latency"):
            record.compute["latency"] = latency.latencies(config, architecture, settings)
