"""What training unlearned: the same questions before and after, on another corpus."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import nn

from rankwise import assets
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.model.numerics import Numerics
from rankwise.tasks import data
from rankwise.tasks.batches import collate_for, encoded, eval_loader
from rankwise.tasks.scores import TokenScorer, mean_score, ratio
from rankwise.train.module import FineTuner, evaluate

_PAIRS = 2000  # of texts, whose cosines are ranked
_GROUPS = 50  # of texts, each left out once


# Of one model, by text: the sum of its losses, ``score`` (N,), and its tokens, ``label`` (N,); or ``features`` (N, H).
Answers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Questions:
    """Texts that a run is not trained on, and how they are asked."""

    config: Config  # the run's, with these texts as its task
    rows: data.Data
    tokenizer: Any
    asset: str  # fingerprint of their files

    @classmethod
    def of(cls, config: Config, tokenizer: Any) -> "Questions | None":
        """None where the config asks nothing. Raises Refused for texts that cannot be read."""
        asked = config.forgetting
        if asked.name == "none":
            return None
        task = data.forgetting_task(config)
        with data.of_forgetting():
            asset = assets.resolve(task)
            rows = data.load(task, asset, 0)
        labels = rows.test.labels
        if not task.writes and len(set(labels[_halves(labels)[0]].tolist())) < 2:
            why = f"{len(labels)} texts are left, and the half that a probe is fitted to has fewer than two labels"
            raise Refused.value("forgetting.n", asked.n, why, "more texts are needed")
        return cls(dataclasses.replace(config, task=task), rows, tokenizer, asset.fingerprint)

    def ask(self, lm: nn.Module, settings: Numerics) -> Answers:
        """What the model answers as it is now: a causal LM its loss on each text, an encoder its features."""
        config, size = self.config, self.config.trainer.eval_batch_size
        lm.to(settings.device).eval()
        if config.task.writes:
            rows = encoded(self.rows.test, config, self.tokenizer, "forgetting")
            loader = eval_loader(rows, collate_for(config, self.tokenizer, self.rows), size)
            _, columns = evaluate(FineTuner(lm, TokenScorer(), config.optim, 1), loader, settings)
            return columns
        from rankwise.tasks import baselines  # scikit-learn takes half a second, and few runs ask

        with settings.autocast():
            features = baselines.mean_pooled(lm, self.tokenizer, self.rows.test.texts, config.task.max_length, size)
        return {"features": np.asarray(features)}

    def compare(self, before: Answers, after: Answers) -> dict[str, Any]:
        """``measure`` (loss or probe), ``before`` and ``after`` as {value, se, n}, and ``difference``: after − before,
        paired over texts. An encoder's ``cosines`` are the rank correlation of the same pairs before and after.
        """
        if self.config.task.writes:
            tokens, nats = before["label"], (before["score"], after["score"], after["score"] - before["score"])
            scores = {name: ratio(of, tokens) for name, of in zip(("before", "after", "difference"), nats, strict=True)}
            return scores | {"measure": "loss"}
        first, second = (self._probe(answers["features"]).astype(float) for answers in (before, after))
        scores = {"before": mean_score(first), "after": mean_score(second), "difference": mean_score(second - first)}
        return scores | {"measure": "probe", "cosines": _cosines(before["features"], after["features"])}

    def _probe(self, features: np.ndarray) -> np.ndarray:
        """Which texts of one half a linear probe gets right that was fitted on the other."""
        from rankwise.tasks import baselines

        labels = self.rows.test.labels
        learned, tested = _halves(labels)
        fitted = baselines.fit("probe", features[learned], labels[learned], has_classes=True)
        prediction, _ = baselines.predict(fitted, features[tested])
        return np.asarray(prediction == labels[tested])


def _halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of two random halves, with as many of each class in both, whatever their order in the file."""
    drawn = np.random.default_rng(0).permutation(len(labels))
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    return by_class[::2], by_class[1::2]


def _cosines(before_NH: np.ndarray, after_NH: np.ndarray) -> dict[str, float]:
    """Spearman's correlation of the cosines of the same random pairs, of ``n`` texts.

    Pairs share texts, so that its error is that of a jackknife which leaves out groups of texts (Shao and Tu 1995,
    §2.3), each with all pairs that it has a part in.
    """
    rng, n = np.random.default_rng(0), len(before_NH)
    i, j = rng.integers(0, n, (2, _PAIRS))
    i, j = i[i != j], j[i != j]
    unit = [states / np.linalg.norm(states, axis=1, keepdims=True) for states in (before_NH, after_NH)]
    cosines = [(states[i] * states[j]).sum(1) for states in unit]
    group = rng.permutation(n) % min(n, _GROUPS)
    without = [np.flatnonzero((group[i] != left) & (group[j] != left)) for left in range(group.max() + 1)]
    values = np.array([spearmanr(*(pairs[some] for pairs in cosines)).statistic for some in without])
    se = math.sqrt((len(values) - 1) * values.var())
    return {"value": float(spearmanr(*cosines).statistic), "se": se, "n": n}
