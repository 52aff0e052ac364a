"""What is asked: a method at its candidate ranks, a reference, a margin, a budget. Checked before anything runs."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rankwise.alpha import scale_of
from rankwise.config import Config, changed, plain
from rankwise.errors import Refused
from rankwise.identity import canonical
from rankwise.metrics import Metric, named

RANKS = (1, 2, 4, 8, 16, 32, 64)
LOOKS = (2, 3, 5, 8)  # seeds in all at each look
TUNING_SEED, PILOT_SEED = 1000, 2000  # of runs that choose; no run that counts has them
_IDLE_ROWS = 50  # of the test set, in runs that choose by validation
TUNE, PILOT = "tune", "pilot"  # stages of runs that choose; those that count have none
FULL = "full"


@dataclass(frozen=True)
class Budget:
    """How much may be spent on the whole question, earlier starts included: seconds, or a number of runs, or no end."""

    seconds: float | None = None
    runs: int | None = None

    @classmethod
    def parse(cls, text: str | None) -> "Budget":
        """``30m``, ``1h30m``, ``45s`` or a number of runs. Raises Refused for anything else."""
        if text is None:
            return cls()
        if text.isascii() and text.isdigit() and int(text) > 0:
            return cls(runs=int(text))
        parts = re.fullmatch(r"(?:(\d{1,4})h)?(?:(\d{1,4})m(?:in)?)?(?:(\d{1,5})s)?", text)
        seconds = sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (3600, 60, 1), strict=True)) if parts else 0
        if not seconds:
            raise Refused(f"--budget {text}: a time such as 30m or 1h30m, or a number of runs")
        return cls(seconds=float(seconds))


@dataclass(frozen=True)
class Question:
    """Which of ``ranks`` is enough? ``method`` holds all but the rank, ``reference`` is what it is compared with."""

    method: Config
    reference: Config
    ranks: tuple[int, ...]
    tuned: bool  # whether learning rates are tuned; else each is the default or what was given
    budget: Budget = Budget()
    looks: tuple[int, ...] = LOOKS

    @property
    def margin(self) -> float:
        return self.method.task.margin

    @property
    def metric(self) -> Metric:
        return replace(named(self.method.task.metric), margin=self.margin)

    @property
    def reference_name(self) -> str:
        """As the sentence calls it."""
        return "full fine-tuning" if self.reference.method.name == FULL else f"rank {self.reference.method.rank}"

    def id(self) -> str:
        """Of what is asked but the budget, whose answers share a file: 12 hex digits, and the seeds where few."""
        of_runs = [self.tuned, *(canonical(plain(config)) for config in (self.method, self.reference))]
        digits = "".join(
            hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:6]
            for part in (of_runs, [self.ranks, self.margin])
        )
        return digits if self.looks == LOOKS else f"{digits}-{self.looks[-1]}"

    def run_of(
        self, rank: int | None, seed: int, lr: float | None = None, share: float = 1.0, stage: str | None = None
    ) -> Config:
        """The config of one run; ``rank`` None is the reference. ``share`` of its steps are taken."""
        base = self.reference if rank is None else self.method
        lr = base.method.lr if lr is None else lr
        rows = base.task.n_test
        changes: dict[str, Any] = {
            "seed": base.seed + seed,
            "method.lr": lr,
            "stage": stage,
            "name": None,
            "task.n_test": rows if stage is None else min(rows or _IDLE_ROWS, _IDLE_ROWS),
        }
        if rank is not None:
            changes["method.rank"] = rank
        if share < 1 and base.trainer.max_steps:
            changes["trainer.max_steps"] = max(1, round(share * base.trainer.max_steps))
        elif share < 1:
            changes["trainer.epochs"] = share * base.trainer.epochs
        return changed(base, changes)

    def rate_for(self, rank: int, lr: float) -> float:
        """The learning rate of ``rank`` when ``lr`` is that of the middle rank.

        By the size of the step of ΔW under Adam (μA: Chen et al. 2026, arXiv 2602.06204, table of scaling rules): as
        (r · scale)^−½, so that with α fixed one rate serves all ranks, with α = 2r it goes as 1/√r, with α/√r as the
        fourth root of 1/r. A start at A = 0 moves A alone at first: as 1/scale.
        """
        method = self.method.method
        if method.alpha is None:
            return lr
        tuned = middle(self.ranks)
        scales = scale_of(method.alpha, tuned) / scale_of(method.alpha, rank)
        return lr * (scales if method.init == "zero_A" else math.sqrt(scales * tuned / rank))


def middle(ranks: Sequence[int]) -> int:
    """The rank that stands for all candidates: at which the learning rate is tuned."""
    return ranks[len(ranks) // 2]
