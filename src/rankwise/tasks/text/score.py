"""All scores of what a model wrote, with standard errors over items, by one call."""

from collections.abc import Callable, Sequence

import numpy as np

from rankwise.errors import Refused
from rankwise.statistics import item_weights
from rankwise.tasks.scores import RESAMPLES, Score, error_of, mean_score, share_score
from rankwise.tasks.text import answers, overlap
from rankwise.tasks.text import reasoning as gym
from rankwise.tasks.text.overlap import Absent, References

# Of reasoning-gym: the data set, its size, and which of its rows (from 0) the texts answer, one each.
Asked = tuple[str, int, Sequence[int]]


def text_scores(
    metrics: Sequence[str],
    texts: Sequence[str],
    references: References,
    *,
    keys: Sequence[str] | None = None,
    reasoning: Asked | None = None,
    clusters: Sequence[int] | None = None,
) -> tuple[dict[str, Score], dict[str, str]]:
    """Each metric of kind ``text`` as {value, se, n}, and why a metric is absent: a library or Java is missing.

    BLEU, ROUGE-L, METEOR, shares and reasoning are 0–1, NIST and CIDEr in their own units. Each text has 1 or more
    references; ``keys`` are those of json_keys, ``reasoning`` says what was asked. Raises Refused as
    ``check_references``. Texts of one number of ``clusters`` count as one item of the errors.
    """
    shared = None if clusters is None or len(set(clusters)) == len(texts) else clusters

    def mean(items_N: np.ndarray, score: Callable[[np.ndarray], Score] = mean_score) -> Score:
        if shared is None:
            return score(items_N)
        return pooled_score(np.stack([items_N, np.ones(len(items_N))], 1), lambda sums: sums[0] / sums[1], shared)

    def meteor() -> Score:  # of the corpus, with the error of the mean of the items' own scores
        corpus, items = overlap.meteor(texts, references)
        return mean(items) | {"value": corpus}

    def gym_scores() -> np.ndarray:
        if reasoning is None:
            raise Refused.value("task.reasoning", None, "a data set of reasoning-gym with metric reasoning")
        name, size, rows = reasoning
        return gym.scores(name, size, dict(zip(rows, texts, strict=True)))

    scorers: dict[str, Callable[[], Score]] = {
        "bleu": lambda: pooled_score(overlap.bleu(texts, references), overlap.pooled_bleu, shared),
        "nist": lambda: pooled_score(overlap.nist(texts, references), overlap.pooled_nist, shared),
        "rouge_l": lambda: mean(overlap.rouge_l(texts, references)),
        "cider": lambda: mean(overlap.cider(texts, references)),
        "meteor": meteor,
        "exact_match": lambda: mean(answers.exact_match(texts, references), share_score),
        "number_match": lambda: mean(answers.number_match(texts, references), share_score),
        "json_keys": lambda: mean(answers.json_keys(texts, keys or ()), share_score),
        "reasoning": lambda: mean(gym_scores()),
    }
    check_references(metrics, references)
    scores: dict[str, Score] = {}
    absent: dict[str, str] = {}
    for metric in metrics:
        try:
            scores[metric] = scorers[metric]()
        except Absent as reason:
            absent[metric] = str(reason)
    return scores, absent


def pooled_score(
    rows_NK: np.ndarray, pooled: Callable[[np.ndarray], float], clusters: Sequence[int] | None = None
) -> Score:
    """A score of a whole corpus that is no mean: ``pooled`` makes it of the items' statistics, summed.

    Its standard error is that of a bootstrap over items (Koehn 2004), the same draws for the same number of items; or
    over whole ``clusters`` of them.
    """
    cluster_N = None if clusters is None else np.asarray(clusters)
    weights = item_weights(len(rows_NK), RESAMPLES, 0, cluster_N)
    drawn_R = np.array([pooled(sums) for weights_RN in weights for sums in weights_RN @ rows_NK])
    error = {"se": float(drawn_R.std(ddof=1))} if cluster_N is None else error_of(drawn_R, cluster_N)
    return {"value": float(pooled(rows_NK.sum(0))), "n": len(rows_NK)} | error


def check_references(metrics: Sequence[str], references: References) -> None:
    """Raise Refused for references by which a metric cannot judge."""
    for position, texts in enumerate(references) if set(metrics) - {"json_keys", "reasoning"} else ():
        if not texts or not all(text.strip() for text in texts):
            raise Refused(f"references: item {position} (from 0) has an empty one; leave the item out or mend its data")
    if "number_match" in metrics:
        answers.numbers_of(references)
