"""Checkpoints of a run in progress, so that one that was cut goes on and ends as if it had not been.

Through Lightning's own interface, but only what training changes: trained weights, the optimizer's states, schedule,
random numbers, and where the run is; never the frozen base.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from rankwise.config import flat
from rankwise.identity import canonical
from rankwise.machine import is_no_room
from rankwise.measure.clock import Clock
from rankwise.paths import CHECKPOINTS, UNFINISHED
from rankwise.tracking.journal import Journal
from rankwise.tracking.record import Record
from rankwise.train.ranks import ALONE, Ranks

SHARE = 0.01  # of the time that training takes, at most, is spent on checkpoints
_SECONDS, _BYTES_PER_S = 0.05, 2e8  # what the first is taken to cost: before it nobody knows


class InPlace(TorchCheckpointIO):
    """Writes where it is told: Lightning's makes the whole file in memory, and then in the temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with open(path, "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # of torch's, when the disk has said what is wrong
                raise error.__context__ or error from None
            os.fsync(file.fileno())


class Checkpoints(pl.Callback):
    """Keeps the last two checkpoints, made at the end of stretches as often as ``SHARE`` allows.

    A new one is whole before it takes the place of the last, which stays beside it in case the disk lies.
    """

    def __init__(self, folder: Path, record: Record, journal: Journal, clock: Clock, ranks: Ranks = ALONE):
        self.files, self.ranks = [folder / name for name in CHECKPOINTS], ranks
        self.journal, self.clock, self.began = journal, clock, time.perf_counter()
        self.before_s = record.compute.get("seconds", {}).get("total_s") or 0.0  # of attempts that were cut
        self.random: dict[str, Any] = {}
        # With another of these it would end elsewhere, so it starts anew. On other hardware it goes on, and may, too.
        made: dict[str, Any] = {
            key: record.compute.get(key) for key in ("device", "precision", "threads", "quant_error")
        }
        made |= {key: record.provenance.get(key) for key in ("code", "packages", "data", "model")}
        made |= {"config": canonical(record.config), "eval_batch_size": record.config["trainer"]["eval_batch_size"]}
        self.made_by = {key: str(value) for key, value in flat(made).items()}

    def earlier(self) -> tuple[Path | None, int]:
        """The last good checkpoint of this very run and the stretches that it has trained, the journal as it was then;
        without one, all are removed.
        """
        file, stretches, rows = self.ranks.of_first(self._earlier() if self.ranks.is_first else (None, 0, []))
        self.journal.begin(rows)
        return file, stretches

    def _earlier(self) -> tuple[Path | None, int, list[dict[str, Any]]]:
        other: list[str] = []
        for file in self.files:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)["callbacks"]["Checkpoints"]
                made_by = dict(state["made_by"])
            except Exception:  # not there, or torn in any way
                continue
            if made_by == self.made_by:
                return file, state["stretches"], json.loads(state["journal"])
            pairs = ((key, made_by.get(key), self.made_by.get(key)) for key in self.made_by | made_by)
            other = [f"{key} {then}, now {now}" for key, then, now in pairs if then != now]
        if other:
            print(f"rankwise: from the first step, not its checkpoint: {'; '.join(other[:3])}", file=sys.stderr)
        for file in self.files:
            file.unlink(missing_ok=True)
        return None, 0, []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.random:
            torch.set_rng_state(self.random["cpu"])
            if self.random["cuda"] is not None:
                torch.cuda.set_rng_state(self.random["cuda"])
        weights = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        self.cost_s, self.saved = _SECONDS + 3 * weights / _BYTES_PER_S, time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep a checkpoint, unless the last is too recent or nothing but the test is left."""
        start, self.stretches = time.perf_counter(), trainer.datamodule.now + 1  # type: ignore[attr-defined]
        left = self.stretches < len(trainer.datamodule.stretches)  # type: ignore[attr-defined]
        due = left and not trainer.should_stop and start - self.saved >= self.cost_s / SHARE
        if self.ranks.of_first(due):
            self._save(trainer)
            self.saved = time.perf_counter()
            self.cost_s = self.saved - start

    def _save(self, trainer: pl.Trainer) -> None:
        new, (last, earlier) = self.files[0].with_suffix(".partial"), self.files
        trainer.save_checkpoint(new)
        if not self.ranks.is_first:
            return
        if last.exists():
            last.replace(earlier)
        new.replace(last)

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        now_s = time.perf_counter() - self.began
        seconds = self.clock.seconds | {"train": now_s + self.clock.seconds.get("train", 0)}
        return {
            "made_by": self.made_by,
            "stretches": self.stretches,
            "journal": json.dumps(self.journal.rows),
            "random": self.ranks.of_all({"cpu": torch.get_rng_state(), "cuda": cuda}),
            "seconds": {phase: seconds[phase] for phase in ("train", "validate") if phase in seconds},
            "total_s": self.before_s + now_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random = state["random"][self.ranks.rank]
        for phase, seconds in state["seconds"].items():
            self.clock.add(phase, seconds)
        # More than the record says: of a run that was killed, or of a rerun that was stopped, whose record is gone.
        self.before_s = self.clock.seconds["total"] = max(self.before_s, state["total_s"])

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if self.ranks.world == 1:  # of several, what failed may be another
            clear(self.files[0].parent, exception)


def clear(folder: Path, exception: BaseException) -> None:
    """Remove what a run cannot go on from: it goes on if it was stopped, killed or left without room on the disk, and
    starts anew if it failed.
    """
    cut = isinstance(exception, KeyboardInterrupt | SystemExit | ChildProcessError) or is_no_room(exception)
    kept = cut and any((folder / name).exists() for name in CHECKPOINTS)
    for name in UNFINISHED:
        if not kept or name.endswith(".partial"):
            (folder / name).unlink(missing_ok=True)
