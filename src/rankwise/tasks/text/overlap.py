"""BLEU, NIST, ROUGE-L and CIDEr-D against several references, as the E2E challenge's script computes them.

Each function gives what an item adds to the score; ``pooled_bleu`` and ``pooled_nist`` make a score of the sums, the
others are means over items. References: a list of 1 or more texts per hypothesis.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from rankwise.tasks.text.tokens import mteval_tokens, treebank_tokens

BLEU_ORDER, NIST_ORDER, CIDER_ORDER = 4, 5, 4
_NO_HITS, _NO_NGRAMS = 1e-15, 1e-9  # stand for zeros, so that BLEU is always defined
_NIST_BETA = -math.log(0.5) / math.log(1.5) ** 2  # half the score where two thirds of the words are written
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0

Tokens = Sequence[str]
References = Sequence[Sequence[str]]


def _counts(tokens: Tokens, *orders: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram of these orders is there."""
    return Counter(chain.from_iterable(zip(*(tokens[i:] for i in range(n)), strict=False) for n in orders))


def _hits(hypothesis: Counter, references: list[Counter]) -> dict[tuple[str, ...], int]:
    """How often each n-gram of the hypothesis counts: at most as often as in the reference that has most of it."""
    return {gram: min(count, max(other[gram] for other in references)) for gram, count in hypothesis.items()}


def bleu(hypotheses: Sequence[str], references: References) -> np.ndarray:
    """Statistics of BLEU (N, 9): matches and n-grams of orders 1 to 4, length of the nearest reference.

    Papineni et al. (2002), tokens of mteval-13a, case ignored; of two references as near, the shorter counts.
    """
    rows = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        words, others = mteval_tokens(hypothesis), [mteval_tokens(text) for text in texts]
        orders = range(1, BLEU_ORDER + 1)
        hits = [sum(_hits(_counts(words, n), [_counts(other, n) for other in others]).values()) for n in orders]
        nearest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
        rows.append([*hits, *(len(words) - n + 1 for n in orders), nearest])
    return np.array(rows, dtype=float)


def pooled_bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU (0–1) of summed statistics (…, 9): the geometric mean of the precisions times the brevity penalty."""
    hits, lengths, nearest = sums[..., :BLEU_ORDER], sums[..., BLEU_ORDER:-1], sums[..., -1]
    precisions = np.log(np.maximum(hits, _NO_HITS) / np.maximum(lengths, _NO_NGRAMS)).mean(-1)
    brevity = np.minimum(0, 1 - nearest / np.maximum(lengths[..., 0], _NO_NGRAMS))
    return np.exp(brevity + precisions)


def nist(hypotheses: Sequence[str], references: References) -> np.ndarray:
    """Statistics of NIST (N, 11): information of the matches and n-grams of orders 1 to 5, mean reference length.

    Doddington (2002). The information of an n-gram, log2(count of its first n - 1 words / its own count), is that of
    all references together, whichever items are then drawn.
    """
    tokens = [mteval_tokens(text) for text in hypotheses]
    others = [[mteval_tokens(text) for text in texts] for texts in references]
    counts: Counter[tuple[str, ...]] = Counter()
    counted = []
    for texts in others:
        counted.append([[_counts(text, n) for text in texts] for n in range(1, NIST_ORDER + 1)])
        counts[()] += sum(map(len, texts))
        for order in counted[-1]:
            for grams in order:
                counts.update(grams)
    rows = []
    for words, texts, orders in zip(tokens, others, counted, strict=True):
        information = [
            sum(count * math.log2(counts[gram[:-1]] / counts[gram]) for gram, count in found.items() if count)
            for found in (_hits(_counts(words, n), order) for n, order in enumerate(orders, 1))
        ]
        lengths = [len(words) - n for n in range(NIST_ORDER)]
        rows.append([*information, *lengths, sum(map(len, texts)) / len(texts)])
    return np.array(rows, dtype=float)


def pooled_nist(sums: np.ndarray) -> np.ndarray:
    """NIST of summed statistics (…, 11): information per n-gram, over the orders, times the brevity penalty."""
    information, lengths, wanted = sums[..., :NIST_ORDER], sums[..., NIST_ORDER:-1], sums[..., -1]
    per_gram = np.divide(information, lengths, out=np.zeros_like(information), where=lengths > 0).sum(-1)
    ratio = np.minimum(1, lengths[..., 0] / wanted)
    return per_gram * np.exp(-_NIST_BETA * np.log(ratio) ** 2)


def rouge_l(hypotheses: Sequence[str], references: References) -> np.ndarray:
    """ROUGE-L (0–1) of each item (N,): F of beta 1.2 of the best precision and the best recall over the references.

    Lin (2004), §3.1, on treebank tokens. A text of no words counts as one empty word.
    """
    values = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        words, others = treebank_tokens(hypothesis) or ("",), [treebank_tokens(text) or ("",) for text in texts]
        common = [_common_length(words, other) for other in others]
        precision = max(common) / len(words)
        recall = max(length / len(other) for length, other in zip(common, others, strict=True))
        weighted = recall + _ROUGE_BETA**2 * precision
        values.append((1 + _ROUGE_BETA**2) * precision * recall / weighted if weighted else 0.0)
    return np.array(values)


def _common_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, a column of the table per step in the bits of a number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    everywhere = (1 << len(first)) - 1
    open_bits = everywhere
    for word in second:
        matched = open_bits & places.get(word, 0)
        open_bits = ((open_bits + matched) | (open_bits - matched)) & everywhere
    return len(first) - open_bits.bit_count()


def cider(hypotheses: Sequence[str], references: References) -> np.ndarray:
    """CIDEr-D of each item (N,), 0 to 10: ten times the mean similarity to the references of tf-idf n-gram vectors.

    Vedantam et al. (2015), §4 and the clipping and length penalty (sigma 6) of §7. Documents are the items: what the
    references of every item share counts for nothing, so the score of one item alone is 0.
    """
    written = [_grams(text) for text in hypotheses]
    wanted = [[_grams(text) for text in texts] for texts in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for texts in wanted:
        documents.update(set().union(*texts))
    rarity = {gram: math.log(len(wanted) / count) for gram, count in documents.items()}
    unseen = math.log(len(wanted)) if wanted else 0.0
    values = []
    for grams, texts in zip(written, wanted, strict=True):
        vector = _weigh(grams, rarity, unseen)
        values.append(10 * sum(_similarity(vector, _weigh(text, rarity, unseen)) for text in texts) / len(texts))
    return np.array(values)


def _grams(text: str) -> Counter[tuple[str, ...]]:
    words = " ".join(treebank_tokens(text)).split()  # here, unlike in ROUGE-L, "5 1/2" is two words
    return _counts(words, *range(1, CIDER_ORDER + 1))


_Vector = tuple[dict[tuple[str, ...], float], list[float], int]  # weights, norms by order, number of bigrams


def _weigh(grams: Counter[tuple[str, ...]], rarity: dict[tuple[str, ...], float], unseen: float) -> _Vector:
    weights = {gram: count * rarity.get(gram, unseen) for gram, count in grams.items()}
    squares, bigrams = [0.0] * CIDER_ORDER, 0
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight**2
        bigrams += grams[gram] if len(gram) == 2 else 0
    return weights, [math.sqrt(square) for square in squares], bigrams


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped cosine, less where the lengths differ."""
    products = [0.0] * CIDER_ORDER
    for gram, weight in hypothesis[0].items():
        other = reference[0].get(gram, 0.0)
        products[len(gram) - 1] += min(weight, other) * other
    norms = [a * b for a, b in zip(hypothesis[1], reference[1], strict=True)]
    cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
    difference = hypothesis[2] - reference[2]
    return sum(cosines) / CIDER_ORDER * math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
