"""The story of one run, readable from top to bottom."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from rankwise import machine, methods
from rankwise.baseline import OnProgress, run_baseline
from rankwise.check import QUANT_LIBRARIES, check
from rankwise.config import Config, Quant
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.measure.clock import Clock
from rankwise.paths import UNFINISHED, WRITTEN_FIRST
from rankwise.tracking import aside
from rankwise.tracking import record as records
from rankwise.tracking.journal import Journal, Tail
from rankwise.tracking.lease import owned
from rankwise.tracking.mirror import Mirror
from rankwise.tracking.provenance import provenance
from rankwise.tracking.record import Record


def run(config: Config, on_progress: OnProgress = lambda step, total, text: None) -> Record:
    """Train, validate and test what ``config`` says, unless that has been done; the record is then on disk.

    A run that another process is at right now is not touched: its record says "running".
    Raises Refused (for the user to mend) or what went wrong; the record then says so too, unless there was a result
    before: that one stays.
    """
    run_folder = folder(config)
    new_folders = [path for path in (run_folder, *run_folder.parents) if not path.exists()]
    with _writable(run_folder, new_folders), owned(run_folder) as mine:
        earlier = records.read(run_folder) if (run_folder / "result.json").exists() else None
        is_rerun = config.rerun or not records.has_weights(config, run_folder / aside.FOLDER)
        was_cut = earlier is None or (earlier.status != records.FINISHED and not is_rerun)  # else that goes on
        if mine and was_cut and aside.put_back(run_folder):
            earlier = records.read(run_folder)
        if not mine:
            theirs = earlier or records.begin(config, None)
            theirs.run["status"] = records.RUNNING  # whatever an earlier attempt of it wrote
            _answer_sweep(theirs)
            return theirs
        if earlier and records.is_done(config) and not config.rerun:
            _tidy(run_folder)  # it may have been killed between its end and this
            _answer_sweep(earlier)
            return earlier
        if earlier and earlier.status == records.FINISHED:
            aside.set_aside(run_folder)
        record = records.begin(config, earlier)
        mirror = Mirror(record, Tail.end(run_folder / "metrics.jsonl"))
        try:
            return _tell(config, record, mirror, on_progress)
        except BaseException as error:
            put_back = aside.put_back(run_folder, record)  # what was there before it was run again
            if not put_back and isinstance(error, Refused | OSError) and not mirror.started and not earlier:
                _unmake(run_folder, new_folders)
            raise


@contextlib.contextmanager
def _writable(run_folder: Path, new_folders: list[Path] | None = None) -> Iterator[None]:
    """In here what comes of a disk that is full, or that may not be written, is Refused.

    Without a record nothing of it stays, as far as ``new_folders`` tells what was not there before.
    """
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        outputs, another = str(run_folder.parents[1]), "give another outputs=FOLDER"  # alike in all runs of a study
        if machine.is_no_room(error):
            if new_folders is not None and not (run_folder / "result.json").exists():
                _unmake(run_folder, new_folders)
            raise Refused(f"{outputs}: {error}; make room there, or {another}") from None
        if isinstance(error, OSError) and str(error.filename or "").startswith(outputs):
            raise Refused(f"{outputs}: {error.strerror}; {another}") from None
        raise


def _tidy(run_folder: Path) -> None:
    """Remove what a finished run has no use for, and files that a process was writing when it was killed: of ours
    those of a longer name, of safetensors ``.tmp`` and six letters, as large as what is trained.
    """
    partial = (path for name in (".*.*.[0-9]*.????????", ".tmp??????") for path in run_folder.glob(name))
    for path in [*(run_folder / name for name in UNFINISHED), *partial]:
        path.unlink(missing_ok=True)
    aside.drop(run_folder)


def _unmake(run_folder: Path, new_folders: list[Path]) -> None:
    """Remove what a run has written that was refused before its first step, but for the log of a study's process."""
    for name in WRITTEN_FIRST:
        (run_folder / name).unlink(missing_ok=True)
    for path in new_folders:
        with contextlib.suppress(OSError):  # it holds something of another run
            path.rmdir()


def _answer_sweep(record: Record) -> None:
    """Under ``wandb agent`` tell W&B of a run that is not run again: a sweep's server waits for what it asks for."""
    if os.environ.get("WANDB_SWEEP_ID"):
        mirror = Mirror(record)
        mirror.start()
        mirror.close(record, patience_s=120)


def _tell(config: Config, record: Record, mirror: Mirror, on_progress: OnProgress) -> Record:
    """Run the story and write how it ended, whatever happens. ``mirror`` is started once model and data fit."""
    records.write_atomically(record.folder / "config.yaml", yaml.safe_dump(record.config, sort_keys=False))
    journal, clock = Journal(record.folder / "metrics.jsonl", record.run["attempts"]), Clock()
    clock.add("total", record.compute.get("seconds", {}).get("total_s") or 0.0)  # of attempts that were cut
    if (age := machine.process_age_s()) is not None:
        clock.add("start_up", age)  # the interpreter, Hydra, the fork
    record.provenance = provenance(QUANT_LIBRARIES.get(config.quant.kind or ""))
    record.write()
    status = records.FAILED
    try:
        with clock("total"), _writable(record.folder):
            if methods.of(config.method).is_baseline:
                run_baseline(config, record, clock, mirror.start, on_progress)
            else:
                with clock("imports"), machine.importing():
                    if config.trainer.devices > 1:
                        from rankwise.distributed import fine_tune_on_several as fine_tune
                    else:
                        from rankwise.fine_tune import fine_tune
                fine_tune(config, record, clock, journal, mirror.start, on_progress)
        status = records.FINISHED
    except (KeyboardInterrupt, SystemExit) as stop:
        status, record.error = records.STOPPED, {"type": "Stopped", "message": "stopped from outside"}
        raise KeyboardInterrupt from stop  # Lightning turns Ctrl-C into an exit of its own
    except BaseException as error:
        record.error = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        if machine.is_out_of_memory(error):
            raise Refused(_no_memory(config, record)) from None
        raise
    finally:
        record.compute["seconds"] = clock.rounded()
        record.run |= {"status": status, "ended": records.now()}
        try:
            record.write()
        except OSError:  # of a full disk; what was raised before says so
            if status == records.FINISHED:
                raise
        if status == records.FINISHED:
            _tidy(record.folder)
        journal.close()
        if not isinstance(sys.exception(), Refused):
            mirror.start()
        mirror.close(record)
        with contextlib.suppress(OSError):
            record.write()  # with what the mirror added: the W&B run's id, or why there is none
    return record


def _no_memory(config: Config, record: Record) -> str:
    """What the larger of a step and an evaluation needs by the plan, what is here, and the same in smaller pieces."""
    trainer, trains = config.trainer, not methods.of(config.method).is_baseline
    step, evaluation = (
        record.memory.get(phase, {}).get("predicted", {}).get("peak_bytes", 0) for phase in ("train", "eval")
    )
    said, remedies, smaller = "out of memory", [], "a smaller task.max_length"
    if needed := max(step, evaluation):
        here = f", {machine.memory_bytes() / 1e9:.1f} GB are here" if record.compute.get("device") == "cpu" else ""
        what = "a step" if step == needed else "an evaluation"
        said += f": {what} needs {needed / 1e9:.1f} GB by the plan{here}"
    if evaluation > step or not trains:
        half = trainer.eval_batch_size // 2
        remedies += [f"trainer.eval_batch_size={half} reads fewer rows at once"] * (half > 0)
    elif trainer.batch_size % 2 == 0:
        half, twice = trainer.batch_size // 2, trainer.accumulate * 2
        same = f"trainer.batch_size={half} trainer.accumulate={twice}"
        remedies.append(f"{same} is a step of as many rows in smaller pieces")
    with contextlib.suppress(Refused):
        check(replace(config, quant=Quant("nf4", "nf4")))
        smaller += ", or quant=nf4," * (trains and config.quant.kind is None)
    remedies.append(f"{smaller} helps{', too' * bool(remedies)}")
    return "; ".join([said, *remedies])
