"""Measures one real optimizer step and one evaluation batch of a run: memory by component, operations by kind."""

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch

from rankwise.measure.flops import Tally
from rankwise.measure.ledger import Ledger, bucket_bytes
from rankwise.measure.shape import Shape


class Probe(pl.Callback):
    """Follows the largest step from the second on, when the optimizer has its states, and the first validation batch.

    Each costs up to half its time again; every other step runs untouched, and the results are the same to the bit.
    """

    def __init__(self, steps: list[list[Shape]], evaluation: Shape):
        later = range(1, len(steps)) if len(steps) > 1 else range(len(steps))
        self.step = max(later, key=lambda i: max(shape.size for shape in steps[i]))
        self.shapes, self.evaluation = steps[self.step], evaluation
        first = sum(map(len, steps[: self.step]))
        self.micro_batches = range(first, first + len(self.shapes))
        self.train: dict[str, Any] | None = None  # for the record, as ``Footprint.to_dict`` and ``memory`` give it
        self.eval: dict[str, Any] | None = None
        self.counted: int | None = None  # floating point operations of the step's passes, not of its optimizer
        self._seen = 0  # micro-batches
        self._buckets: list[torch.Tensor] = []  # of the meta device, as large as those of the ranks
        self._open: contextlib.ExitStack | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if self._seen == self.micro_batches.start:
            self._open = contextlib.ExitStack()
            self._ledger = self._open.enter_context(Ledger(module.model, trainer.optimizers[0]))
            self._tally = self._open.enter_context(Tally())
        if self._open:
            self._ledger.phase = "forward"
            self._hold(module, batch)

    def on_before_backward(self, trainer: pl.Trainer, module: Any, loss: Any) -> None:
        if self._open:
            self._ledger.phase, self._buckets = "backward", []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        if self._open:
            self._ledger.phase, self.counted = "step", self._tally.flops

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._seen += 1
        if self._open and self._seen == self.micro_batches.stop:
            self._close()
            self.train = self._ledger.footprint().to_dict()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.eval is None and batch_idx == 0:
            self._open = contextlib.ExitStack()
            self._ledger = self._open.enter_context(Ledger(module.model, trainer.optimizers[0]))
            self._hold(module, batch)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._open:
            self._close()
            self.eval = self._ledger.footprint().to_dict()

    def _hold(self, module: Any, batch: Any) -> None:
        """Count the batch, and the buckets of gradients, which show themselves in the backward pass alone."""
        size = bucket_bytes(module.model, module.ranks.world)
        self._buckets = [torch.empty(size, dtype=torch.uint8, device="meta")]
        self._ledger.hold([*batch.values(), *self._buckets])

    def _close(self, *_: Any) -> None:
        if self._open:
            self._open.close()
            self._open = None

    on_train_end = on_exception = _close  # type: ignore[assignment]  # diverged or failed in the very step

    def state_dict(self) -> dict[str, Any]:
        """What is known already, for a run that goes on."""
        return {"seen": self._seen, "train": self.train, "eval": self.eval, "counted": self.counted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Measure what is left."""
        self._seen, self.train, self.eval, self.counted = (state[key] for key in ("seen", "train", "eval", "counted"))

    def memory(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """("train", …) and ("eval", …) for the record, as far as they were reached."""
        if self.train:
            yield "train", self.train | {"step": self.step + 1, "batch": [[s.rows, s.length] for s in self.shapes]}
        if self.eval:
            yield "eval", self.eval | {"batch": [[self.evaluation.rows, self.evaluation.length]]}
