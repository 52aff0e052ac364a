"""The Lightning module: a base LM with its method, a task's loss, and the optimizer."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rankwise.config import Optim
from rankwise.tasks.scores import Score, Scorer

Batch = dict[str, torch.Tensor]


class FineTuner(pl.LightningModule):
    """Trains whatever is marked trainable in ``model`` for a fixed number of optimizer steps."""

    def __init__(self, model: nn.Module, scorer: Scorer, optim: Optim, steps: int):
        super().__init__()
        self.model, self.scorer, self.optim, self.steps = model, scorer, optim, steps
        self.diverged = False
        self.outputs: list[tuple[torch.Tensor, ...]] = []

    def training_step(self, batch: Batch, index: int) -> torch.Tensor | None:
        """Mean loss of the batch; a loss that is not finite ends the training and marks the run as diverged."""
        logits_BC, labels_B, _ = self._forward(batch)
        loss = self.scorer.losses(logits_BC, labels_B).mean()
        self.last_loss = float(loss.detach())
        if not math.isfinite(self.last_loss):
            self.diverged = True
            self.trainer.should_stop = True
            return None
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep each item's row, loss, prediction, score and label until the split is through."""
        logits_BC, labels_B, row_B = self._forward(batch)
        predicted_B, score_B = self.scorer.predict(logits_BC)
        columns = (row_B, self.scorer.losses(logits_BC, labels_B), predicted_B, score_B, labels_B)
        self.outputs.append(tuple(column.cpu() for column in columns))

    def test_step(self, batch: Batch, index: int) -> None:
        """As in validation."""
        self.validation_step(batch, index)

    def evaluated(self) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
        """Scores (with the loss) and the columns row, loss, prediction, score, label of the split just run."""
        names = ("row", "loss", "prediction", "score", "label")
        parts = zip(*self.outputs, strict=True)
        columns = {name: torch.cat(part).numpy() for name, part in zip(names, parts, strict=True)}
        self.outputs = []
        order = np.argsort(columns["row"])
        columns = {name: values[order] for name, values in columns.items()}
        loss, n = columns["loss"].astype(np.float64), len(order)
        with np.errstate(all="ignore"):  # of a diverged run
            scores = {"loss": {"value": float(loss.mean()), "se": float(loss.std(ddof=1)) / math.sqrt(n), "n": n}}
        return scores | self.scorer.scores(columns["prediction"], columns["label"]), columns

    def configure_optimizers(self) -> Any:
        """AdamW; no weight decay on biases and norms; warm-up, then the schedule, per optimizer step.

        The fused kernel makes no temporaries and one pass, a fifth of the loop's time for a full update on a CPU; under
        fp16's loss scaling it would unscale the gradients after they are clipped.
        """
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.optim.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        first, second = self.optim.betas
        filled = [group for group in groups if group["params"]]
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(filled, lr=self.optim.lr, betas=(first, second), fused=fused)
        schedule = LambdaLR(optimizer, lambda step: rate(self.optim, step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip the global norm. Lightning's own way refuses a fused optimizer under bf16 too, which scales no loss."""
        if gradient_clip_val:
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(held, gradient_clip_val)

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "row")}
        return self.model(**inputs).logits, batch["labels"], batch["row"]


def rate(optim: Optim, step: int, steps: int) -> float:
    """The share of the peak learning rate at an optimizer step: linear warm-up, then the schedule down to zero."""
    warmup = round(optim.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if optim.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1 - done if optim.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
