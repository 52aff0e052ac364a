"""All scores of what a model wrote: one call for the metrics of ``task.generation``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rankwise.check import GENERATED
from rankwise.errors import Refused, did_you_mean
from rankwise.tasks.scores import Score
from rankwise.tasks.text import reasoning as gym
from rankwise.tasks.text.answers import exact_match, json_keys, number_match
from rankwise.tasks.text.meteor import Absent, meteor, pooled_meteor
from rankwise.tasks.text.overlap import References, bleu, cider, nist, pooled_bleu, pooled_nist, rouge_l
from rankwise.tasks.text.spread import mean_score, pooled_score, share_score

POOLED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bleu": pooled_bleu, "nist": pooled_nist, "meteor": pooled_meteor,
}  # fmt: skip
_AGAINST_REFERENCES: dict[str, Callable[[Sequence[str], References], np.ndarray]] = {
    "bleu": bleu, "nist": nist, "rouge_l": rouge_l, "cider": cider, "meteor": meteor,
    "exact_match": exact_match, "number_match": number_match,
}  # fmt: skip
_SHARES = frozenset({"exact_match", "number_match", "json_keys"})


class Asked(NamedTuple):
    """Which rows of a data set of reasoning-gym the hypotheses answer, one each."""

    name: str
    size: int
    items: Sequence[int]
    seed: int = 0


class TextScores(NamedTuple):
    """Scores by metric; why a metric is absent; what each item adds.

    ``items`` holds (N,) where the score is the mean, else (N, K) statistics that ``POOLED[metric]`` makes a score of
    once they are summed, so that two runs on the same items can be resampled together.
    """

    scores: dict[str, Score]
    absent: dict[str, str]
    items: dict[str, np.ndarray]


def text_scores(
    metrics: Sequence[str],
    hypotheses: Sequence[str],
    references: References,
    *,
    keys: Sequence[str] | None = None,
    reasoning: Asked | None = None,
) -> TextScores:
    """Each metric of ``check.GENERATED`` as {value, se, n}, of one text per item against 1 or more references.

    BLEU, ROUGE-L, METEOR, shares and reasoning are 0–1, NIST and CIDEr in their own units. ``keys`` are those of
    json_keys, ``reasoning`` says what was asked. METEOR is absent, with a reason, where its program cannot run.
    Raises Refused for an unknown metric, a metric without what it needs and an empty reference; ValueError where
    there are no items or not as many references.
    """
    scores: dict[str, Score] = {}
    absent: dict[str, str] = {}
    items: dict[str, np.ndarray] = {}
    for metric in metrics:
        if metric not in GENERATED:
            raise Refused.value(
                "task.generation.metrics", metric, f"one of {', '.join(GENERATED)}{did_you_mean(metric, GENERATED)}"
            )
    if not hypotheses:
        raise ValueError("no items to score")
    if _AGAINST_REFERENCES.keys() & set(metrics):
        _check_references(references, len(hypotheses))
    for metric in metrics:
        try:
            items[metric] = _of_items(metric, hypotheses, references, keys, reasoning)
        except Absent as reason:
            absent[metric] = str(reason)
        else:
            scores[metric] = _score(metric, items[metric])
    return TextScores(scores, absent, items)


def _of_items(
    metric: str, hypotheses: Sequence[str], references: References, keys: Sequence[str] | None, reasoning: Asked | None
) -> np.ndarray:
    if metric == "json_keys":
        if not keys:
            raise Refused.value("task.generation.keys", None, "a list of keys with metric json_keys")
        return json_keys(hypotheses, keys)
    if metric == "reasoning":
        if reasoning is None:
            raise Refused.value("task.reasoning", None, "a data set of reasoning-gym with metric reasoning")
        answers = dict(zip(reasoning.items, hypotheses, strict=True))
        return gym.scores(reasoning.name, reasoning.size, answers, reasoning.seed)
    return _AGAINST_REFERENCES[metric](hypotheses, references)


def _score(metric: str, items: np.ndarray) -> Score:
    if metric in POOLED:
        return pooled_score(items, POOLED[metric])
    return share_score(items) if metric in _SHARES else mean_score(items)


def _check_references(references: References, n: int) -> None:
    if len(references) != n:
        raise ValueError(f"{n} texts, but references for {len(references)}")
    for position, texts in enumerate(references):
        if not texts or not all(text.strip() for text in texts):
            raise Refused(f"references: item {position} (from 0) has an empty one; leave the item out or mend its data")
