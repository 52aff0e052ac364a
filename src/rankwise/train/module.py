"""The Lightning module: a base LM with its method, a task's loss, and the optimizer."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rankwise.config import Optim
from rankwise.model.methods import adalora, nested
from rankwise.model.numerics import Numerics
from rankwise.model.outputs import Batch
from rankwise.tasks.scores import Columns, Score, Scorer
from rankwise.train import optim
from rankwise.train.ranks import ALONE, Ranks
from rankwise.train.step import loss, losses


class FineTuner(pl.LightningModule):
    """Trains whatever is marked trainable in ``model`` for a fixed number of optimizer steps."""

    def __init__(
        self,
        model: nn.Module,
        scorer: Scorer,
        settings: Optim,
        steps: int,
        lr_ratio: float | None = None,
        shares: Sequence[float] = (),
        ranks: Ranks = ALONE,
    ):
        super().__init__()
        self.strict_loading = False  # a checkpoint has no frozen weights
        self.lr_ratio, self.shares, self.seen = lr_ratio, shares, 0  # weights of micro-batches, and how many there were
        self.model, self.scorer, self.settings, self.steps = model, scorer, settings, steps
        self.diverged, self.ranks = False, ranks
        self.outputs: list[Columns] = []

    def training_step(self, batch: Batch, index: int) -> torch.Tensor | None:
        """Mean loss of the batch; a loss that is not finite ends the training and marks the run as diverged."""
        if cut := nested.of(self.model):
            cut.step = self.trainer.global_step
        losses_N = losses(self.model, self.scorer, batch)[1]
        share = self.shares[self.seen] if self.shares else 1.0
        self.seen += 1
        weighed, self.last_share = self.ranks.mean(float(losses_N.detach().mean()) * share, share, device=self.device)
        self.last_loss = weighed / self.last_share
        if not math.isfinite(self.last_loss):
            self.diverged = True
            self.trainer.should_stop = True
            # Several devices must go through a backward pass together; of this one all gradients are zero.
            trained = [p.sum() for p in self.parameters() if p.requires_grad]
            return None if self.ranks.world == 1 else 0 * torch.stack(trained).sum()
        return loss(self.model, losses_N, share)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """What training changes."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Where the run is, but for Lightning's own bookkeeping of epochs, which are stretches here."""
        del checkpoint["loops"]
        checkpoint |= {"seen": self.seen, "method": adalora.state(self.model)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there; all else is put back by Lightning."""
        self.seen = checkpoint["seen"]
        adalora.restore(self.model, checkpoint["method"])
        progress = self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
        progress.optimizer.step.total.completed = checkpoint["global_step"]

    def on_fit_start(self) -> None:
        """Tell a method that has a schedule of its own how long the run is."""
        adalora.begin(self.model, self.steps)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep what the scorer needs of each row until the split is through."""
        logits, losses_N = losses(self.model, self.scorer, batch)
        columns = self.scorer.columns(logits, losses_N, batch)
        self.outputs.append({name: column.cpu() for name, column in columns.items()})

    test_step = validation_step

    def evaluated(self) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
        """Scores of the split just run, with the loss, and the scorer's columns in the order of its rows."""
        parts, self.outputs = [part for parts in self.ranks.of_all(self.outputs) for part in parts], []
        columns = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        _, order = np.unique(columns.pop("row"), return_index=True)  # ranks may have read some twice
        columns = {name: values[order] for name, values in columns.items()}
        return self.scorer.summary(columns), columns

    def configure_optimizers(self) -> Any:
        """The config's optimizer; warm-up, then the schedule, per optimizer step."""
        scaled = self.trainer.precision == "16-mixed"
        optimizer = optim.build(self.model, self.settings, self.device.type, scaled, self.lr_ratio)
        schedule = LambdaLR(optimizer, lambda step: rate(self.settings, step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Without gradients it is no step."""
        if self.diverged:
            optimizer.zero_grad()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step, then free the gradients: Lightning would hold them through the next forward pass."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.diverged:
            adalora.after_step(self.model, self.trainer.global_step + 1)  # which is counted after this hook
        optimizer.zero_grad()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip the global norm. Lightning's own way refuses a fused optimizer under bf16 too, which scales no loss."""
        if gradient_clip_val:
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(held, gradient_clip_val)


def evaluate(
    tuner: FineTuner, rows: Iterable[Batch], settings: Numerics
) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
    """Scores and columns of a split, computed as a run's own test is, without a trainer."""
    tuner.to(settings.device).eval()
    with torch.inference_mode(), settings.autocast():
        for number, batch in enumerate(rows):
            tuner.validation_step({key: value.to(settings.device) for key, value in batch.items()}, number)
    return tuner.evaluated()


def rate(settings: Optim, step: int, steps: int) -> float:
    """The share of the peak learning rate at an optimizer step: linear warm-up, then the schedule down to zero."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
