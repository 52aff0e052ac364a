"""BLEU, NIST, ROUGE-L, CIDEr-D and METEOR against 1 or more reference texts per answer, by kept libraries.

BLEU is sacrebleu's; ROUGE-L, CIDEr-D and METEOR are pycocoevalcap's, whose tokenizer and METEOR are Java programs, as
the E2E challenge's script (Dušek et al. 2020) calls them. No kept library has the NIST of that script.
"""

import functools
import importlib
import math
import os
import shutil
import subprocess
import unittest.mock
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

References = Sequence[Sequence[str]]
_NIST_ORDER = 5
_NIST_BETA = math.log(0.5) / math.log(1.5) ** 2  # half the score where two thirds of the words are written


class Absent(Exception):
    """A metric cannot be had here; the message says why."""


def _library(name: str) -> Any:
    """A module of the extra ``text``. Raises Absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning, when it is first compiled
            return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"{name.partition('.')[0]} is missing ({error}); pip install 'rankwise[text]'") from None


def bleu(answers: Sequence[str], references: References) -> np.ndarray:
    """Statistics of BLEU (N, 10): matches and n-grams of orders 1 to 4, length, length of the nearest reference.

    Papineni et al. (2002), tokens of mteval-13a, case ignored.
    """
    scorer = _library("sacrebleu.metrics").BLEU(lowercase=True, effective_order=True)
    scores = [scorer.sentence_score(text, list(others)) for text, others in zip(answers, references, strict=True)]
    return np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in scores])


def pooled_bleu(sums_10: np.ndarray) -> float:
    """BLEU (0–1) of summed statistics, over the orders that answers are long enough for; smoothed as in mteval-13a."""
    correct, total, (length, nearest) = (part.tolist() for part in np.split(sums_10.astype(int), [4, 8]))
    pool = _library("sacrebleu.metrics").BLEU.compute_bleu
    score = pool(correct, total, length, nearest, smooth_method="exp", effective_order=True).score
    return min(1.0, float(score) / 100)  # the logarithms of 100 % are not exact


def nist(answers: Sequence[str], references: References) -> np.ndarray:
    """Statistics of NIST (N, 11): information of the matches and n-grams of orders 1 to 5, mean reference length.

    Doddington (2002), tokens of mteval-13a, case ignored. The information of an n-gram, log2(count of its first n - 1
    words / its own count), is that of all references together, whichever items are then drawn.
    """
    tokenize = _library("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    grams = [_orders(tokenize(text.lower()).split()) for text in answers]
    others = [[_orders(tokenize(text.lower()).split()) for text in texts] for texts in references]
    counts: Counter[tuple[str, ...]] = Counter()
    for order in (order for texts in others for text in texts for order in text):
        counts.update(order)
    counts[()] = sum(text[0].total() for texts in others for text in texts)
    rows = []
    for orders, texts in zip(grams, others, strict=True):
        most = [functools.reduce(Counter.__or__, same) for same in zip(*texts, strict=True)]
        information = [
            sum(count * math.log2(counts[gram[:-1]] / counts[gram]) for gram, count in (order & limit).items())
            for order, limit in zip(orders, most, strict=True)
        ]
        mean_length = sum(text[0].total() for text in texts) / len(texts)
        rows.append([*information, *(order.total() for order in orders), mean_length])
    return np.array(rows)


def _orders(words: Sequence[str]) -> list[Counter[tuple[str, ...]]]:
    """How often each n-gram is there, for orders 1 to 5."""
    return [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for n in range(1, _NIST_ORDER + 1)]


def pooled_nist(sums_11: np.ndarray) -> float:
    """NIST of summed statistics: information per n-gram, over the orders, times the brevity penalty."""
    information, total, (wanted,) = np.split(sums_11, [_NIST_ORDER, 2 * _NIST_ORDER])
    if not total[0]:
        return 0.0
    per_gram = np.divide(information, total, out=np.zeros_like(information), where=total > 0).sum()
    return float(per_gram * math.exp(_NIST_BETA * math.log(min(1, total[0] / wanted)) ** 2))


def rouge_l(answers: Sequence[str], references: References) -> np.ndarray:
    """ROUGE-L (0–1) of each item (N,): F of beta 1.2 of the best precision and the best recall (Lin 2004, §3.1)."""
    return _captions("rouge.rouge", "Rouge", answers, references)


def cider(answers: Sequence[str], references: References) -> np.ndarray:
    """CIDEr-D of each item (N,), 0 to 10 (Vedantam et al. 2015). What all items have in common counts nothing."""
    return _captions("cider.cider", "Cider", answers, references)


def meteor(answers: Sequence[str], references: References) -> tuple[float, np.ndarray]:
    """METEOR 1.5 (Denkowski & Lavie 2014), 0–1, of the corpus, which is no mean, and of each item (N,)."""
    tokens = _treebank(tuple(answers), tuple(map(tuple, references)))
    with unittest.mock.patch.dict(os.environ, {"JAVA_TOOL_OPTIONS": "-Dfile.encoding=UTF-8"}):  # whatever the locale
        program = _library("pycocoevalcap.meteor.meteor").Meteor()
    try:
        corpus, items = program.compute_score(*tokens)
    except (OSError, ValueError) as error:
        raise Absent(f"METEOR failed: {error}") from None
    finally:
        program.meteor_p.stdout.close()
        program.meteor_p.stderr.close()
    return corpus, np.array(items)


def _captions(module: str, name: str, answers: Sequence[str], references: References) -> np.ndarray:
    scorer = getattr(_library(f"pycocoevalcap.{module}"), name)()
    _, values = scorer.compute_score(*_treebank(tuple(answers), tuple(map(tuple, references))))
    return np.asarray(values)


@functools.lru_cache(maxsize=1)  # three metrics ask for the same
def _treebank(answers: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> tuple[dict[int, list[str]], ...]:
    """References and answers by item in Penn Treebank tokens between blanks, lower-cased and without punctuation, of
    Stanford CoreNLP 3.4.1.

    Raises Absent where Java is missing or fails. The library's own call writes into its folder and shifts texts at line
    breaks other than \\n.
    """
    java, library = shutil.which("java"), _library("pycocoevalcap.tokenizer.ptbtokenizer")
    if java is None:
        raise Absent("no java on the PATH")
    texts = [" ".join(text.splitlines()) for several in (answers, *references) for text in several]
    options = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    command = [java, "-cp", library.STANFORD_CORENLP_3_4_1_JAR, "edu.stanford.nlp.process.PTBTokenizer", *options]
    done = subprocess.run(
        command,
        input="\n".join(texts) + "\n",
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        cwd=Path(library.__file__).parent,
        check=False,
    )
    lines = done.stdout.splitlines()
    if len(lines) != len(texts):
        message = "".join(done.stderr.strip().splitlines()[-1:])
        raise Absent(f"java tokenized {len(lines)} of {len(texts)} texts (exit {done.returncode}) {message}")
    plain = (" ".join(word for word in line.split(" ") if word not in library.PUNCTUATIONS) for line in lines)
    tokens = iter([text.replace("|||", "") for text in plain])
    said = {item: [next(tokens)] for item in range(len(answers))}
    return {item: [next(tokens) for _ in texts] for item, texts in enumerate(references)}, said
