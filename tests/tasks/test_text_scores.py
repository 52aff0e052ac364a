"""Metrics of generated text against libraries and the E2E challenge's code (see the note in text_items.json)."""

import importlib.util
import json
import math
import random
import re
import shutil
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nltk.translate.nist_score import corpus_nist
from sacrebleu import corpus_bleu

from rankwise.errors import Refused
from rankwise.metrics import of_kind
from rankwise.tasks.scores import RESAMPLES, mean_score, share_score
from rankwise.tasks.text import overlap, reasoning
from rankwise.tasks.text.answers import exact_match, final_number, json_keys, number_match
from rankwise.tasks.text.score import pooled_score, text_scores

SAVED: dict[str, Any] = json.loads((Path(__file__).parent / "text_items.json").read_text(encoding="utf-8"))
TEXTS = [item["hypothesis"] for item in SAVED["items"]]
REFERENCES = [item["references"] for item in SAVED["items"]]
OVERLAP = ["bleu", "nist", "rouge_l", "cider", "meteor"]
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs java")


@needs_java
def test_each_score_has_its_unit_its_error_and_its_number_of_items():
    scores, absent = text_scores(OVERLAP[:4], TEXTS, REFERENCES)
    assert list(scores) == OVERLAP[:4] and absent == {}
    for metric in scores:
        assert 0 < scores[metric]["se"] < scores[metric]["value"] / 5 and scores[metric]["n"] == len(TEXTS)
        if metric != "nist":
            assert scores[metric]["value"] == pytest.approx(SAVED["scores"][metric], abs=1e-6)


@needs_java
@pytest.mark.parametrize("metric", ["rouge_l", "cider", "meteor"])
def test_each_item_scores_as_in_the_published_code(metric):
    values = getattr(overlap, metric)(TEXTS, REFERENCES)
    if metric == "meteor":
        corpus, values = values
        assert corpus == pytest.approx(SAVED["scores"]["meteor"], abs=1e-6)
    assert values == pytest.approx(np.array(SAVED["per_item"][metric]), abs=1e-6)


def test_nist_of_answers_that_are_long_enough_is_that_of_the_published_code():
    rows = overlap.nist(TEXTS, REFERENCES)
    long = [item for item, row in enumerate(rows) if row[overlap._NIST_ORDER] >= overlap._NIST_ORDER]
    rows = overlap.nist([TEXTS[item] for item in long], [REFERENCES[item] for item in long])
    assert overlap.pooled_nist(rows.sum(0)) == pytest.approx(SAVED["scores"]["nist"], abs=1e-6)


def short_answers(longest: int) -> tuple[list[str], list[list[str]]]:
    """200 answers of one to ``longest`` words, and references of one to six."""
    draw = np.random.default_rng(longest)

    def text(most: int) -> str:
        return " ".join(draw.choice(list("abcdef"), draw.integers(1, most + 1)))

    return [text(longest) for _ in range(200)], [[text(6)] for _ in range(200)]


def test_scores_of_short_answers_are_those_of_the_libraries():
    texts, references = short_answers(6)
    scores, _ = text_scores(["bleu", "nist"], texts, references)
    bleu = corpus_bleu(texts, [[only for (only,) in references]], lowercase=True).score / 100
    nist = corpus_nist([[only.split()] for (only,) in references], [text.split() for text in texts])
    assert (scores["bleu"]["value"], scores["nist"]["value"]) == pytest.approx((bleu, nist), abs=1e-9)


@pytest.mark.parametrize("longest", [1, 2, 3, 6])
def test_no_score_leaves_its_range_however_short_the_answers(longest):
    texts, references = short_answers(longest)
    right, _ = text_scores(["bleu"], texts, [[text] for text in texts])
    assert right["bleu"] == {"value": pytest.approx(1), "se": pytest.approx(0), "n": 200}
    scores, _ = text_scores(["bleu", "nist"], [*texts[1:], ""], references)
    assert 0 <= scores["bleu"]["value"] < 1 and scores["bleu"]["se"] < 0.5
    assert 0 <= scores["nist"]["value"] < math.log2(700) * overlap._NIST_ORDER


def test_every_metric_is_there_and_nothing_in_common_and_nothing_at_all_score_nothing():
    metrics = [metric for metric in of_kind("text") if metric not in ("reasoning", "meteor")]  # whose start takes long
    texts, references = ["zzz yyy xxx www vvv uuu", ""], [["one two three four five 6"]] * 2
    scores, absent = text_scores(metrics, texts, references, keys=["a"])
    assert {*scores, *absent} == {*metrics} and (absent == {} or shutil.which("java") is None)
    assert [score["value"] for score in scores.values()] == pytest.approx([0] * len(scores))
    with pytest.raises(Refused, match=r"task\.reasoning=null"):
        text_scores(["reasoning"], ["1"], [["1"]])


@needs_java
def test_line_breaks_and_bars_in_an_answer_do_not_shift_the_others():
    texts = ["one\u2028two\x0bthree\n\nfour", "a ||| b c", "one two three four"]
    assert overlap.rouge_l(texts, [["one two three four"], ["a b c"], ["one two three four"]])[2] == 1


def test_the_bootstrap_resamples_whole_items():
    scores, _ = text_scores(["bleu"], TEXTS, REFERENCES)
    rows, draw = overlap.bleu(TEXTS, REFERENCES), np.random.default_rng(7)
    values = [overlap.pooled_bleu(rows[draw.integers(len(rows), size=len(rows))].sum(0)) for _ in range(1000)]
    assert scores["bleu"]["value"] == overlap.pooled_bleu(rows.sum(0))
    assert scores["bleu"]["se"] == pytest.approx(np.std(values, ddof=1), rel=4 / math.sqrt(2 * len(values)))


def test_texts_of_a_group_count_as_one():
    """Of 40 documents of 25 equal answers each, 4 are wrong: the error is that of 40 answers."""
    documents = np.repeat(np.arange(40), 25)
    texts = ["b" if document < 4 else "a" for document in documents]
    metrics, references = ["exact_match", "bleu"], [["a"]] * 1000
    grouped, _ = text_scores(metrics, texts, references, clusters=documents.tolist())
    few, _ = text_scores(metrics, texts[::25], references[::25])
    for metric in metrics:
        assert grouped[metric]["value"] == pytest.approx(few[metric]["value"])
        assert grouped[metric]["se"] == pytest.approx(few[metric]["se"], rel=0.1)
        assert (grouped[metric]["n"], grouped[metric]["clusters"]) == (1000, 40)
    alone, _ = text_scores(metrics, texts, references, clusters=range(1000))
    assert alone == text_scores(metrics, texts, references)[0]


def test_the_error_of_a_mean_is_the_same_by_formula_and_by_bootstrap():
    values = np.random.default_rng(0).normal(size=200)
    boot = pooled_score(np.stack([values, np.ones(200)], axis=1), lambda sums: sums[0] / sums[1])
    formula = mean_score(values)
    assert boot["value"] == pytest.approx(formula["value"])
    assert boot["se"] == pytest.approx(formula["se"], rel=4 / math.sqrt(2 * RESAMPLES))
    assert formula["se"] == pytest.approx(values.std(ddof=1) / math.sqrt(200))
    assert mean_score(values[:1]) == {"value": values[0], "se": 0.0, "n": 1}


def test_the_error_of_a_share_is_that_of_a_proportion():
    got, _ = text_scores(["exact_match", "json_keys"], ['{"a": 1}', "x", "y", "z"], [["x"]] * 4, keys=["a"])
    quarter = {"value": 0.25, "se": math.sqrt(0.25 * 0.75 / 4), "n": 4}
    assert got == {"exact_match": pytest.approx(quarter), "json_keys": pytest.approx(quarter)}
    assert share_score(np.ones(3)) == {"value": 1.0, "se": 0.0, "n": 3}


@pytest.mark.parametrize(
    ("missing", "metric", "reason"),
    [
        ("sacrebleu", "bleu", "sacrebleu is missing .*pip install 'rankwise\\[text\\]'"),
        ("pycocoevalcap", "rouge_l", "pycocoevalcap is missing .*pip install 'rankwise\\[text\\]'"),
        ("java", "meteor", "no java on the PATH"),
    ],
)
def test_a_metric_whose_program_is_missing_is_absent_with_what_to_install(
    missing, metric, reason, monkeypatch, tmp_path
):
    if missing == "java":
        monkeypatch.setenv("PATH", str(tmp_path))
    for name in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    scores, absent = text_scores([metric, "exact_match"], ["a b"], [["a b"]])
    assert scores.keys() == {"exact_match"} and absent.keys() == {metric}
    assert re.match(reason, absent[metric])


def test_a_java_program_that_fails_makes_its_metric_absent(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('Error: Invalid or corrupt jarfile')\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    _, absent = text_scores(["cider"], ["a b"], [["a b"]])
    assert absent["cider"].endswith("tokenized 0 of 2 texts (exit 1) Error: Invalid or corrupt jarfile")


def test_json_keys_needs_no_references():
    assert text_scores(["json_keys"], ["{}"], [], keys=["a"])[0]["json_keys"]["value"] == 0


@pytest.mark.parametrize("texts", [[], ["  \n"], ["fine", ""]])
def test_an_empty_reference_is_refused_by_its_position(texts):
    with pytest.raises(Refused, match=r"references: item 2 \(from 0\)"):
        text_scores(["rouge_l"], ["a", "b", "c"], [["a"], ["b"], texts])


def test_exact_match_forgives_white_space_only():
    texts = ["a  b\n", "A b", "a b.", "c", ""]
    assert exact_match(texts, [["a b"], ["a b"], ["a b"], ["x", "c"], ["a"]]).tolist() == [1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### $1,234,567.50.", "1234567.5"),
        ("#### 12 apples and 3 pears", "12"),  # the first after the mark
        ("#### 5\n\nQuestion: 6\n#### 8 of 9", "8"),  # of the last mark
        ("he has 3, then 5.", "5"),
        ("3 #### none", "3"),
        ("it costs -$2.50", "-2.5"),
        ("it costs $-2.50!", "-2.5"),
        ("\u22124", "-4"),
        ("10-5", "5"),  # a range or a difference, not a sign
        ("pages 1,2", "2"),  # no thousands
        (".5", "0.5"),
        ("about 1.5e3", "1500"),
        ("2e-1", "0.2"),
        ("5e3x", "3"),
        ("7.0", "7"),
        ("50%", "50"),
        ("£3", "3"),
        ("no number", None),
        ("####", None),
        ("", None),
    ],
)
def test_the_final_number_of_a_text(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_number_match_compares_numbers_and_not_texts():
    texts = ["#### 1,000.50", "the answer is $1000.5.", "1000.51", "nothing"]
    assert number_match(texts, [["so #### 1000.5"]] * 4).tolist() == [1, 1, 0, 0]
    assert number_match(["2"], [["1", "2"]]).tolist() == [1]
    with pytest.raises(Refused, match="prompt 2 has no number in its reference 'two'; "):
        number_match(["1", "2"], [["1"], ["two"]])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "x", "age": 3}', 1),
        (' {"name": null, "age": [], "more": {}}\n', 1),
        ('{"name": "x"}', 0),
        ('```json\n{"name": "x", "age": 3}\n```', 0),
        ('{"name": "x", "age": 3} That is all.', 0),
        ('{"name": "x", "age": 3}{"name": "x", "age": 3}', 0),
        ('{"name": "x", "age": 3, "age": 4}', 0),
        ('{"name": "x", "age": {"a": 1, "a": 2}}', 0),
        ('{"name": "x", "age": NaN}', 0),
        ('{"name": "x", "age": -Infinity}', 0),
        ("{'name': 'x', 'age': 3}", 0),
        ('[{"name": "x", "age": 3}]', 0),
        ('"name age"', 0),
        ("[" * 100_000, 0),
        ("", 0),
    ],
)
def test_json_keys_wants_one_object_and_nothing_else(text, right):
    assert json_keys([text], ["name", "age"]).tolist() == [right]


installed = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")


@installed
def test_rows_are_always_the_same():
    rows = reasoning.rows("chain_sum", 5)
    assert len(rows) == 5 and rows == reasoning.rows("chain_sum", 5) == reasoning.rows("chain_sum", 9)[:5]
    assert all(row.keys() == {"question", "answer"} and row["question"] and row["answer"] for row in rows)


@installed
def test_scores_belong_to_the_rows_that_were_asked():
    answers = [row["answer"] for row in reasoning.rows("chain_sum", 4)]
    assert reasoning.scores("chain_sum", 4, {3: answers[3], 1: answers[1], 0: "no idea"}).tolist() == [1, 1, 0]
    scores, _ = text_scores(["reasoning"], [answers[2], answers[1]], [], reasoning=("chain_sum", 4, [2, 0]))
    assert scores["reasoning"]["value"] == 0.5 and scores["reasoning"]["n"] == 2
    assert reasoning.scores("prime_factorization", 1, {0: "what its scorer cannot read"}).tolist() == [0]


@installed
@pytest.mark.parametrize("name", ["list_functions", "pool_matrix"])
def test_global_generators_neither_change_the_rows_nor_are_changed(name):
    random.seed(1)
    np.random.seed(1)
    wanted = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    rows = reasoning.rows(name, 5)
    assert (random.random(), np.random.random()) == wanted
    assert reasoning.rows(name, 5) == rows
    backwards = {item: rows[item]["answer"] for item in reversed(range(5))}
    assert reasoning.scores(name, 5, backwards).tolist() == [1] * 5


@installed
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rubiks_cube", "has no answers to learn from"),
        ("composite", "cannot be made with its defaults"),
        ("word_ladder", "other rows in every process"),
        ("chain_sums", r"^task\.reasoning=chain_sums: .*did you mean chain_sum\?"),
    ],
)
def test_a_data_set_that_gives_no_rows_is_refused(name, message):
    with pytest.raises(Refused, match=message):
        reasoning.rows(name, 2)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(Refused, match=r"task\.reasoning=chain_sum: .*pip install 'rankwise\[reasoning\]'"):
        reasoning.rows("chain_sum", 1)
