"""One run in this process, with its progress and a summary."""

from __future__ import annotations

import errno
import math
import signal
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rankwise import assets
from rankwise.check import check_here
from rankwise.config import BASELINES, Config
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.run import run
from rankwise.study import outdated
from rankwise.tracking import record as records

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def single(config: Config) -> int:
    """Fetch what is missing, run, print where the record is and what it says. Returns the exit code."""
    check_here(config)
    for source in (config.model, config.task):
        assets.resolve(source)
    if not config.rerun and records.is_done(config):
        other = outdated.summary([config])
        print(f"rankwise: finished before{f' ({other})' if other else ''}; --rerun runs it again", file=sys.stderr)
    before = signal.signal(signal.SIGTERM, _interrupt)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
            bar = bars.add_task(folder(config).name, total=None, text="loading")
            record = run(config, lambda step, total, text: bars.update(bar, completed=step, total=total, text=text))
    except OSError as error:
        ours = str(error.filename or "").startswith(str(config.outputs))
        if not ours and error.errno not in _NO_ROOM:
            raise  # a bug, or a file of somebody else's
        raise Refused(f"{folder(config)}: {error.strerror}; make room there, or give another outputs=FOLDER") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{record.folder}  {describe(record, config)}")
    return 0 if record.status in (records.FINISHED, records.RUNNING) else 1


def describe(record: records.Record, config: Config) -> str:
    """The record in one line: the task's score and those of generated text, trainable parameters, seconds."""
    if record.status == records.RUNNING:
        return "running in another process"
    found = record.metrics.get("test", {})
    asked = [config.task.metric, *config.task.generation.metrics]
    parts = [f"test {name} {_shown(found[name])}" for name in asked if name in found]
    if config.method.name not in BASELINES:
        parts.append(f"{record.params['trainable']:,} of {record.params['total']:,} parameters trained")
    return ", ".join([*parts, f"{record.compute['seconds'].get('train_s', 0):.0f} s of training"])


def _shown(score: dict[str, float]) -> str:
    """``0.812 ± 0.011``, or ``23.45 ± 0.31``: four digits of a value above 10, its standard error to the same place."""
    value = score["value"]
    digits = max(0, 3 - int(math.log10(abs(value)))) if 10 <= abs(value) < math.inf else 3
    return f"{value:.{digits}f} ± {score['se']:.{digits}f}"


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
