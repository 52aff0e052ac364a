"""The story of one run, readable from top to bottom."""

from __future__ import annotations

import os
import traceback

import yaml

from rankwise import machine, methods
from rankwise.baseline import OnProgress, run_baseline
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.measure.clock import Clock
from rankwise.paths import UNFINISHED
from rankwise.tracking import record as records
from rankwise.tracking.journal import Journal
from rankwise.tracking.mirror import Mirror
from rankwise.tracking.provenance import provenance
from rankwise.tracking.record import Record


def run(config: Config, on_progress: OnProgress = lambda step, total, text: None) -> Record:
    """Train, validate and test what ``config`` says, unless that has been done; the record is then on disk.

    A run that another process is at right now is not touched: its record says "running".
    Raises Refused (for the user to mend) or what went wrong; the record then says so too, unless there was a result
    before: that one stays.
    """
    place = folder(config)
    with records.owned(place) as mine:
        earlier = records.read(place) if (place / "result.json").exists() else None
        if not mine:
            theirs = earlier or records.begin(config, None)
            theirs.run["status"] = records.RUNNING  # whatever an earlier attempt of it wrote
            _answer_sweep(theirs)
            return theirs
        if earlier and records.is_done(config) and not config.rerun:
            _answer_sweep(earlier)
            return earlier
        record = records.begin(config, earlier)
        try:
            return _tell(config, record, on_progress)
        except BaseException:
            if earlier and earlier.status == records.FINISHED:  # what was there before it was run again
                earlier.run["attempts"] = record.run["attempts"]
                earlier.write()
            raise


def _answer_sweep(record: Record) -> None:
    """Under ``wandb agent`` tell W&B of a run that is not run again: a sweep's server waits for what it asks for."""
    if os.environ.get("WANDB_SWEEP_ID"):
        Mirror(record).close(record, patience_s=120)


def _tell(config: Config, record: Record, on_progress: OnProgress) -> Record:
    """Run the story and write how it ended, whatever happens."""
    assert record.folder is not None
    records.write_atomically(record.folder / "config.yaml", yaml.safe_dump(record.config, sort_keys=False))
    journal, clock = Journal(record.folder / "metrics.jsonl", record.run["attempts"]), Clock()
    if (age := machine.process_age_s()) is not None:
        clock.add("start_up", age)  # the interpreter, Hydra, the fork
    record.provenance = provenance()
    record.write()
    mirror = Mirror(record)
    status = records.FAILED
    try:
        with clock("total"):
            if methods.of(config.method).is_baseline:
                run_baseline(config, record, clock, on_progress)
            else:
                with clock("imports"):
                    from rankwise.fine_tune import fine_tune
                fine_tune(config, record, clock, journal, on_progress)
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
        for name in UNFINISHED if status == records.FINISHED else ():
            (record.folder / name).unlink(missing_ok=True)
        journal.close()
        mirror.close(record)
        record.write()  # with what the mirror added: the W&B run's id, or why there is none
    return record
