"""One run in this process, with its progress and a summary."""

import signal
import sys
from typing import Any

from rankwise import methods, metrics
from rankwise.check import check_here
from rankwise.config import Config
from rankwise.errors import tell
from rankwise.identity import folder
from rankwise.report.arms import over_runs
from rankwise.run import run
from rankwise.study import outdated
from rankwise.study.progress import Display
from rankwise.tasks.data import check_files, fetch_all
from rankwise.tracking import record as records


def single(config: Config) -> int:
    """Fetch what is missing, run, print where the record is and what it says. Returns the exit code."""
    check_here(config)
    fetch_all([config])
    other = outdated.summary([config]) if records.is_done(config) else ""
    config.rerun |= bool(other) and config.study.startswith("debug")  # whose result nobody keeps
    if not config.rerun and records.is_done(config):
        print(f"rankwise: finished before{f' ({other})' if other else ''}; --rerun runs it again", file=sys.stderr)
    else:
        check_files([config])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    name = folder(config).name
    try:
        with Display(1, lines=False) as shown:
            shown.started(name)
            record = run(config, lambda step, total, text: shown.moved(name, step / total, text))
    finally:
        signal.signal(signal.SIGTERM, before)
    tell(f"{record.folder}  {describe(record, config)}")
    return 0 if record.status in (records.FINISHED, records.RUNNING) else 1


def describe(record: records.Record, config: Config) -> str:
    """The record in one line: the task's score and those of generated text, trainable parameters, seconds."""
    if record.status == records.RUNNING:
        return "running in another process"
    test = record.metrics.get("test", {})
    asked = [name for name in (config.task.metric, *config.task.generation.metrics) if name in test]
    parts = [f"test {name} {_score(record, name, test[name])}" for name in asked]
    if not methods.of(config.method).is_baseline:
        parts.append(f"{record.params['trainable']:,} of {record.params['total']:,} parameters trained")
    if (train_s := record.compute["seconds"].get("train_s")) is not None:
        parts.append(f"{metrics.duration(train_s)} of training")
    return ", ".join(parts)


def _score(record: records.Record, name: str, score: dict[str, Any]) -> str:
    """``81.2 ± 1.7 % (95 % over test items)``, as a report has it."""
    over = over_runs([(record, score)], within=(metric := metrics.named(name)).range)
    known = " (95 % over test items)" if over and over.kind == "items" else ""
    return f"{metric.interval(over)}{' %' * metric.percent}{known}"
