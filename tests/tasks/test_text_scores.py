"""All metrics of generated text by one call: units, standard errors, items, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_text_overlap import HYPOTHESES, REFERENCES, SAVED

from rankwise.errors import Refused
from rankwise.metrics import of_kind
from rankwise.tasks.text import POOLED, score, text_items, text_scores
from rankwise.tasks.text.spread import RESAMPLES, mean_score, pooled_score, share_score

QUICK = ["bleu", "nist", "rouge_l", "cider", "exact_match"]


def test_every_metric_that_a_config_may_name_is_there() -> None:
    assert {*score._AGAINST_REFERENCES, "json_keys", "reasoning"} == set(of_kind("text"))


def test_each_score_has_its_unit_its_error_and_its_number_of_items() -> None:
    scores, absent = text_scores(QUICK, HYPOTHESES, REFERENCES)
    assert list(scores) == QUICK and absent == {}
    for metric in QUICK[:4]:
        assert scores[metric]["value"] == pytest.approx(SAVED["scores"][metric], abs=1e-6)
        assert 0 < scores[metric]["se"] < scores[metric]["value"] / 5
        assert scores[metric]["n"] == len(HYPOTHESES)


def test_items_make_the_score_again() -> None:
    scores, _ = text_scores(QUICK, HYPOTHESES, REFERENCES)
    for metric, items in text_items(QUICK, HYPOTHESES, REFERENCES)[0].items():
        assert len(items) == len(HYPOTHESES)
        again = POOLED[metric](items.sum(0)) if metric in POOLED else items.mean()
        assert float(again) == pytest.approx(scores[metric]["value"], abs=1e-12)


def test_the_bootstrap_resamples_whole_items() -> None:
    scores, _ = text_scores(["bleu"], HYPOTHESES, REFERENCES)
    draw, values = np.random.default_rng(7), []
    for _ in range(60):
        drawn = draw.integers(len(HYPOTHESES), size=len(HYPOTHESES))
        again, _ = text_scores(["bleu"], [HYPOTHESES[i] for i in drawn], [REFERENCES[i] for i in drawn])
        values.append(again["bleu"]["value"])
    assert scores["bleu"]["se"] == pytest.approx(np.std(values, ddof=1), rel=4 / math.sqrt(2 * len(values)))


def test_the_error_of_a_mean_is_the_same_by_formula_and_by_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=200)
    rows = np.stack([values, np.ones(200)], axis=1)
    boot = pooled_score(rows, lambda sums: sums[..., 0] / sums[..., 1])
    formula = mean_score(values)
    assert boot["value"] == pytest.approx(formula["value"])
    assert boot["se"] == pytest.approx(formula["se"], rel=4 / math.sqrt(2 * RESAMPLES))
    assert formula["se"] == pytest.approx(values.std(ddof=1) / math.sqrt(200))
    assert mean_score(values[:1]) == {"value": values[0], "se": 0.0, "n": 1}


def test_the_error_of_a_share_is_that_of_a_proportion() -> None:
    got, _ = text_scores(["exact_match", "json_keys"], ['{"a": 1}', "x", "y", "z"], [["x"]] * 4, keys=["a"])
    quarter = {"value": 0.25, "se": math.sqrt(0.25 * 0.75 / 4), "n": 4}
    assert got == {"exact_match": pytest.approx(quarter), "json_keys": pytest.approx(quarter)}
    assert share_score(np.ones(3)) == {"value": 1.0, "se": 0.0, "n": 3}


@pytest.mark.parametrize("texts", [[], ["  \n"], ["fine", ""]])
def test_an_empty_reference_is_refused_by_its_position(texts: list[str]) -> None:
    with pytest.raises(Refused, match=r"references: item 2 \(from 0\)"):
        text_scores(["rouge_l"], ["a", "b", "c"], [["a"], ["b"], texts])


def test_references_are_not_asked_for_where_none_are_needed() -> None:
    assert text_scores(["json_keys"], ["{}"], [], keys=["a"])[0]["json_keys"]["value"] == 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("rogue_l", r"task\.generation\.metrics=rogue_l: .*did you mean rouge_l\?"),
        ("json_keys", r"task\.generation\.keys=null"),
        ("reasoning", r"task\.reasoning=null"),
    ],
)
def test_a_metric_without_what_it_needs_is_refused(metric: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        text_scores([metric], ["a"], [["a"]])


def test_items_and_references_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 texts, but references for 1"):
        text_scores(["bleu"], ["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="no items"):
        text_scores(["bleu"], [], [])
