"""What tests have done in a process of its own: see ``zygote.py``."""

import contextlib
import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from rankwise.cli import main
from rankwise.config import typed
from rankwise.find import pilot
from rankwise.identity import folder
from rankwise.run import run as rankwise_run
from rankwise.tracking.fields import objective
from rankwise.tracking.journal import read_rows
from rankwise.tracking.mirror import Mirror
from rankwise.tracking.record import Record, begin, find, read, write_atomically
from rankwise.tracking.remote import Address, missing
from rankwise.tracking.remote import push as push_records
from rankwise.tracking.wandb_run import WandbRun, mode_of
from rankwise.train import checkpoint
from rankwise.train.watch import Watch

torch.set_num_threads(1)


def command(folder: str, arguments: list[str]) -> int:
    """The command line in a folder; returns its exit code."""
    os.chdir(folder)
    return main(arguments)


def run(config: dict[str, Any]) -> None:
    """A run; what it says goes to stdout."""
    record = rankwise_run(typed(config))
    print(json.dumps({"status": record.status, "attempts": record.run["attempts"]}))


def run_and_wait(config: dict[str, Any], step: int) -> None:
    """A run that keeps every checkpoint and stands still after some steps; the file ``waiting`` says that it does."""
    checkpoint.SHARE = math.inf

    def on_progress(done: int, total: int, text: str) -> None:
        if done == step:
            (Path(config["outputs"]) / "waiting").touch()
            signal.pause()

    rankwise_run(typed(config), on_progress)


def run_and_fail(config: dict[str, Any]) -> None:
    """A run that raises in the middle."""

    def on_progress(done: int, total: int, text: str) -> None:
        if done == 3:
            raise ValueError("on purpose")

    with contextlib.suppress(ValueError):
        rankwise_run(typed(config), on_progress)


def run_until(config: dict[str, Any], seconds: float | None) -> None:
    """A run that keeps every checkpoint it can, and is killed so long after its first step, unless it is done."""
    checkpoint.SHARE = math.inf
    timers: list[threading.Timer] = []

    def on_progress(done: int, total: int, text: str) -> None:
        if seconds is not None and not timers:
            timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)))
            timers[0].daemon = True
            timers[0].start()

    rankwise_run(typed(config), on_progress)


class CutOnce(Callback):
    """Keeps every checkpoint; the first time kills the process of the last rank at a step."""

    def __init__(self, step: int):
        checkpoint.SHARE = math.inf
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        told = next(one.best_file.with_name("cut") for one in trainer.callbacks if isinstance(one, Watch))
        last = trainer.global_rank == trainer.world_size - 1
        if trainer.global_step == self.step and last and not told.exists():
            told.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def cut_for_ever(place: str) -> None:
    """Have the pilot's adapter cut without end; the file ``cutting`` names the process that does, and its parent."""
    pilot.HEAVY, pilot.curve_of = (), _stand_still
    pilot._curve_apart(Path(place), [1])


def _stand_still(place: Path, ranks: list[int]) -> None:
    write_atomically(place / "cutting", f"{os.getpid()} {os.getppid()}")
    signal.pause()


def run_without_core(config: dict[str, Any]) -> None:
    """A run whose W&B service is killed in the middle."""

    made = typed(config)

    def on_progress(done: int, total: int, text: str) -> None:
        if done == 3:
            while not list(folder(made).parent.glob("wandb/*/*.wandb")):  # wandb.init is through
                time.sleep(0.05)
            os.kill(_wandb_core(), signal.SIGKILL)

    print(rankwise_run(made, on_progress).status)


def mirror(config: dict[str, Any]) -> None:
    """A mirror alone: what it notes in the record goes to stdout."""
    record = begin(typed(config), None)
    record.write()
    told = Mirror(record)
    told.start()
    told.close(record)
    print(json.dumps(record.run.get("wandb")))


def follow(place: str) -> None:
    """A mirror of a run that has ended, however long it takes."""
    record = read(Path(place))
    told = Mirror(record)
    told.start()
    told.close(record, patience_s=60)
    record.write()


def tell(folders: list[str]) -> None:
    """Runs in W&B as their folders say, without anything that runs; where they are is noted in their records."""
    for place in folders:
        record = read(Path(place))
        told = WandbRun(record)
        for row in read_rows(record.folder / "metrics.jsonl"):
            told.log(row | objective(row, record))
        told.end(record)
        told.settle(True)
        record.run["wandb"] = told.about
        record.write()


def push(study: str, project: str) -> None:
    """Send what is missing of a study; what went wrong, and what is missing then, go to stdout."""
    address, records = Address("tester", project), find([Path(study)])
    problems = push_records(missing(address, records), address, lambda line: None)
    print(json.dumps({"problems": problems, "missing": [_name(record) for record in missing(address, records)]}))


def _name(record: Record) -> str:
    return record.run["name"]


def mode(wanted: str) -> None:
    """The mode that comes out of ``tracking.mode``."""
    print(mode_of(wanted))


def restored(folders: list[str], texts: list[str]) -> None:
    """Logits of each run in ``folders``, from what it left there, into its file ``restored``."""
    from rankwise.adapters import loading
    from rankwise.adapters.runs import open_trained

    for place in map(Path, folders):
        run = open_trained(place)
        model, tokenizer = loading.as_run(run)
        with torch.inference_mode():
            values = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        (place / "restored").write_text(json.dumps(values.tolist()))


def _wandb_core() -> int:
    """The process id of this process's W&B service."""
    below = [str(os.getpid())]
    for pid in below:
        for task in Path(f"/proc/{pid}/task").iterdir():
            below += (task / "children").read_text().split()
    return next(int(pid) for pid in below if Path(f"/proc/{pid}/comm").read_text().strip() == "wandb-core")
