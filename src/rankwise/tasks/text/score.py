"""All scores of what a model wrote: one call for the metrics of ``task.generation``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rankwise.errors import Refused, did_you_mean
from rankwise.metrics import of_kind
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


# Of reasoning-gym: the data set, its size, and which of its rows (from 0) the hypotheses answer, one each.
Asked = tuple[str, int, Sequence[int]]


def text_scores(
    metrics: Sequence[str],
    hypotheses: Sequence[str],
    references: References,
    *,
    keys: Sequence[str] | None = None,
    reasoning: Asked | None = None,
) -> tuple[dict[str, Score], dict[str, str]]:
    """Each metric of kind ``text`` as {value, se, n}, and why a metric is absent.

    BLEU, ROUGE-L, METEOR, shares and reasoning are 0–1, NIST and CIDEr in their own units. Arguments and errors are
    those of ``text_items``.
    """
    items, absent = text_items(metrics, hypotheses, references, keys=keys, reasoning=reasoning)
    return {metric: score_of(metric, rows) for metric, rows in items.items()}, absent


def text_items(
    metrics: Sequence[str],
    hypotheses: Sequence[str],
    references: References,
    *,
    keys: Sequence[str] | None = None,
    reasoning: Asked | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What each item adds to each metric, and why a metric is absent: METEOR, where its program cannot run.

    An array is (N,) where the score is the mean, else (N, K) statistics that ``POOLED[metric]`` makes a score of once
    they are summed, so that two runs on the same items can be resampled together. Each item has 1 or more references;
    ``keys`` are those of json_keys, ``reasoning`` says what was asked. Raises Refused for an unknown metric, a metric
    without what it needs and an empty reference; ValueError where there are no items or not as many references.
    """
    known = of_kind("text")
    if unknown := [metric for metric in metrics if metric not in known]:
        allowed = f"one of {', '.join(known)}{did_you_mean(unknown[0], known)}"
        raise Refused.value("task.generation.metrics", unknown[0], allowed)
    if not hypotheses:
        raise ValueError("no items to score")
    if _AGAINST_REFERENCES.keys() & set(metrics):
        _check_references(references, len(hypotheses))
    items: dict[str, np.ndarray] = {}
    absent: dict[str, str] = {}
    for metric in metrics:
        try:
            items[metric] = _of_items(metric, hypotheses, references, keys, reasoning)
        except Absent as reason:
            absent[metric] = str(reason)
    return items, absent


def score_of(metric: str, items: np.ndarray) -> Score:
    """The score {value, se, n} that ``text_items`` of a metric make."""
    if metric in POOLED:
        return pooled_score(items, POOLED[metric])
    return share_score(items) if metric in _SHARES else mean_score(items)


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
        name, size, asked = reasoning
        return gym.scores(name, size, dict(zip(asked, hypotheses, strict=True)))
    return _AGAINST_REFERENCES[metric](hypotheses, references)


def _check_references(references: References, n: int) -> None:
    if len(references) != n:
        raise ValueError(f"{n} texts, but references for {len(references)}")
    for position, texts in enumerate(references):
        if not texts or not all(text.strip() for text in texts):
            raise Refused(f"references: item {position} (from 0) has an empty one; leave the item out or mend its data")
