"""BLEU, NIST, ROUGE-L and CIDEr-D against numbers of the E2E challenge's code (see the note in text_items.json)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankwise.tasks.text import overlap
from rankwise.tasks.text.tokens import mteval_tokens, treebank_tokens

SAVED: dict[str, Any] = json.loads((Path(__file__).parent / "text_items.json").read_text(encoding="utf-8"))
HYPOTHESES = [item["hypothesis"] for item in SAVED["items"]]
REFERENCES = [item["references"] for item in SAVED["items"]]


def test_the_saved_items_are_hard_enough() -> None:
    text = " ".join([*HYPOTHESES, *(text for texts in REFERENCES for text in texts)])
    assert len(HYPOTHESES) >= 50 and HYPOTHESES.count("") == 2
    assert {len(texts) for texts in REFERENCES} == set(range(1, 9))
    for part in ("n't", "’", "“", '"', "[", "(", "£", "€", "½", "1,250", "3.5", "é", "ø", "–", "…", "fish-and"):
        assert part in text


def test_bleu_and_nist_of_a_corpus_equal_the_published_code() -> None:
    bleu = overlap.pooled_bleu(overlap.bleu(HYPOTHESES, REFERENCES).sum(0))
    nist = overlap.pooled_nist(overlap.nist(HYPOTHESES, REFERENCES).sum(0))
    assert float(bleu) == pytest.approx(SAVED["scores"]["bleu"], abs=1e-6)
    assert float(nist) == pytest.approx(SAVED["scores"]["nist"], abs=1e-6)


@pytest.mark.parametrize("metric", ["rouge_l", "cider"])
def test_rouge_and_cider_of_each_item_equal_the_published_code(metric: str) -> None:
    values = getattr(overlap, metric)(HYPOTHESES, REFERENCES)
    assert values == pytest.approx(np.array(SAVED["per_item"][metric]), abs=1e-6)
    assert values.mean() == pytest.approx(SAVED["scores"][metric], abs=1e-6)


# Right: what Stanford CoreNLP 3.4.1 gives, lower-cased and without punctuation.
TREEBANK = [
    (
        "The Eagle's café isn't near the city centre; it's £20-25, \"great\"!",
        "the eagle 's café is n't near the city centre it 's # 20-25 great",
    ),
    (
        "'Don't' (can't) [x] {y} cost $3.50 or €5, and 1/2 or ½ — yes – no … & and/or AT&T.",
        "do n't -lrb- ca n't -rrb- -lsb- x -rsb- -lcb- y -rcb- cost $ 3.50 or $ 5 and 1/2 or 1/2 yes no & and/or at&t",
    ),
    (
        "Mr. O'Neill cannot, he'd rather; they're gonna eat rock 'n' roll fish 'n' chips at 5 p.m., in the U.K.",
        "mr. o'neill can not he 'd rather they 're gon na eat rock 'n' roll fish 'n' chips at 5 p.m. in the u.k.",
    ),
    (
        "A family-friendly 5-star place: 1,000.50 (about 3.5/5) at 10:30am... Call 020 7946 0123!",
        "a family-friendly 5-star place 1,000.50 -lrb- about 3.5 / 5 -rrb- at 10:30 am call 020\u00a07946\u00a00123",
    ),
    (
        "Good food.The price?! 20°C, naïve “quotes” ‘single’ dogs' 'tis 98% #1 No. 5 :) x=y a*b",
        "good food.the price ?! 20 ° c naïve quotes single dogs 't is 98 % # 1 no. 5 :-rrb- x = y a * b",
    ),
    (
        "See http://a.example/b_(c). Write to a@b.example; 5 1/2 stars, 日本 привет C++ <b>bold</b>",
        "see http://a.example/b_ -lrb- c -rrb- write to a@b.example; 5\u00a01/2 stars 日本 привет c++ <b> bold </b>",
    ),
    ("  \n ", ""),
    ("... ?", ""),
]


@pytest.mark.parametrize(("text", "tokens"), TREEBANK)
def test_treebank_tokens_are_those_of_corenlp(text: str, tokens: str) -> None:
    assert " ".join(treebank_tokens(text)) == tokens


def test_mteval_tokens_split_symbols_but_not_apostrophes_hyphens_and_numbers() -> None:
    text = "It's well-known:\na £1,000.50 (c. 20-25) deal &quot;now&quot;, No.1."
    assert mteval_tokens(text) == (
        "it's", "well-known", ":", "a", "£1,000.50", "(", "c", ".", "20", "-", "25", ")", "deal", '"', "now", '"',
        ",", "no", ".", "1", ".",
    )  # fmt: skip
    assert mteval_tokens("") == ("",)


def test_a_copy_of_a_reference_is_perfect_and_nothing_in_common_is_nothing() -> None:
    copies, others = [texts[-1] for texts in REFERENCES], ["zzz yyy xxx www vvv uuu"] * len(REFERENCES)
    assert float(overlap.pooled_bleu(overlap.bleu(copies, REFERENCES).sum(0))) == pytest.approx(1, abs=1e-12)
    assert overlap.rouge_l(copies, REFERENCES) == pytest.approx(np.ones(len(copies)))
    assert overlap.rouge_l(others, REFERENCES).max() == 0 and overlap.cider(others, REFERENCES).max() == 0
    assert float(overlap.pooled_nist(overlap.nist(others, REFERENCES).sum(0))) == 0
    assert float(overlap.pooled_bleu(overlap.bleu(others, REFERENCES).sum(0))) < 1e-9


def test_an_empty_text_scores_nothing_and_breaks_nothing() -> None:
    alone = [["one two three four five six"]]
    for pooled, rows in (
        (overlap.pooled_bleu, overlap.bleu([""], alone)),
        (overlap.pooled_nist, overlap.nist([""], alone)),
    ):
        assert 0 <= float(pooled(rows.sum(0))) < 1e-6
    assert overlap.rouge_l([""], alone) == pytest.approx([0]) and overlap.cider([""], alone) == pytest.approx([0])


def test_the_common_subsequence_is_as_long_as_the_table_says() -> None:
    draw = random.Random(0)
    for _ in range(200):
        first, second = ([draw.choice("abcd") for _ in range(draw.randint(0, 90))] for _ in range(2))
        table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        assert overlap._common_length(first, second) == table[-1, -1]
