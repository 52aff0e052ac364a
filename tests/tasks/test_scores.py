"""Metrics with known values, and their standard errors."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import mean_absolute_error
from tiny_configs import SHAPES, tiny

from rankwise.assets import resolve
from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.model import base
from rankwise.tasks import baselines
from rankwise.tasks.data import Split
from rankwise.tasks.scores import ClassScorer, TokenScorer, ValueScorer, of_test, scorer_for
from rankwise.tasks.sources import synthetic


def correlated(n: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def split(groups, clusters):
    rows = np.arange(len(clusters))
    return Split([""] * len(rows), rows, rows, groups=groups, clusters=np.array(clusters))


def test_a_group_of_rows_is_scored_alone_by_every_scorer_where_there_are_few():
    groups = split(["en/in:1", "en-in-1", "en/in:1", "en-in-1"], range(4))
    classes = {"prediction": np.array([0, 1, 1, 1]), "label": np.array([0, 1, 0, 1])}
    found = of_test({}, classes, groups, ClassScorer(2), "accuracy")
    assert {name: score["value"] for name, score in found.items()} == {
        "accuracy_en-in-1": 1.0,
        "accuracy_en-in-1-": 0.5,
    }
    texts = {"score": np.array([1.0, 4.0, 3.0, 4.0]), "label": np.array([2.0, 2.0, 2.0, 2.0]), "bytes": np.ones(4)}
    losses = of_test({}, texts, groups, TokenScorer(), "loss")
    assert {name: score["value"] for name, score in losses.items()} == {"loss_en-in-1": 2.0, "loss_en-in-1-": 1.0}
    assert of_test({}, texts, split(None, range(4)), TokenScorer(), "loss") == {}
    documents = {name: np.tile(values, 4) for name, values in classes.items()}
    assert of_test({}, documents, split([str(n) for n in range(16)], range(16)), ClassScorer(2), "accuracy") == {}


def test_rows_of_one_cluster_count_as_one():
    x, y = correlated(60, 0.6, 0)
    one = {"label": np.repeat(y, 5), "prediction": np.repeat(x, 5), "score": np.repeat(x, 5)}
    one["loss"] = (one["label"] - one["score"]) ** 2
    alone = {name: values[::5] for name, values in one.items()}
    rows = split(["a"] * 150 + ["b"] * 145 + ["c"] * 5, np.repeat(np.arange(60), 5))
    scores = of_test(ValueScorer().summary(one), one, rows, ValueScorer(), "mae")
    for name, score in ValueScorer().summary(alone).items():
        assert scores[name]["value"] == pytest.approx(score["value"])
        assert scores[name]["se"] == pytest.approx(score["se"], rel=0.2)
        assert (scores[name]["n"], scores[name]["clusters"]) == (300, 60)
    half = ValueScorer().scores(alone["prediction"][:30], alone["label"][:30])["mae"]
    assert scores["mae_a"]["se"] == pytest.approx(half["se"], rel=0.1) and scores["mae_a"]["clusters"] == 30
    assert scores["mae_c"]["se"] == 0 and "clusters" not in scores["mae_c"]  # of a single one no other is known


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_score_that_resamples_have_not_keeps_the_error_of_as_many_rows_as_clusters(value):
    label_n, clusters = np.repeat(np.arange(60) % 7, 5), split(None, np.repeat(np.arange(60), 5))
    constant = {"label": label_n, "prediction": np.full(300, value), "loss": (label_n - value) ** 2}
    scores = of_test(ValueScorer().summary(constant), constant, clusters, ValueScorer(), "pearson")
    for name in ("pearson", "spearman"):
        assert scores[name] == {"value": 0, "se": pytest.approx(1 / math.sqrt(60)), "n": 300, "clusters": 60}
    assert math.isnan(scores["mae"]["se"]) == math.isnan(scores["loss"]["se"]) == (value != 0)
    one_class = {"label": np.ones(300), "prediction": np.arange(300) % 2, "loss": np.zeros(300)}
    found = of_test(ClassScorer(2).summary(one_class), one_class, clusters, ClassScorer(2), "accuracy")
    assert math.isnan(found["matthews"]["se"]) and found["accuracy"]["se"] > 0


def test_the_error_of_f1_over_clusters_is_over_all_classes_though_rows_show_two_of_three():
    label_n, answer_n = np.arange(200) % 2, np.arange(200) // 3 % 2
    columns = {"label": np.repeat(label_n, 2), "prediction": np.repeat(answer_n, 2), "score": np.zeros(400)}
    alone = ClassScorer(3).scores(answer_n, label_n)["f1"]
    columns["loss"], clusters = np.zeros(400), split(None, np.repeat(np.arange(200), 2))
    found = of_test(ClassScorer(3).summary(columns), columns, clusters, ClassScorer(3), "f1")["f1"]
    assert found["value"] == pytest.approx(alone["value"]) and found["se"] == pytest.approx(alone["se"], rel=0.1)


@pytest.mark.parametrize(
    ("predicted", "labels", "value"),
    [
        ([0, 1, 2, 2, 1], [0, 1, 2, 0, 0], 3 / 5),
        ([1, 1, 1, 1], [0, 1, 0, 0], 1 / 4),
        ([0, 1], [0, 1], 1),
        ([1], [0], 0),
        ([0, 1, 1, 1], [1, 1, 1, 1], 3 / 4),
    ],
)
def test_accuracy_and_its_standard_error(predicted, labels, value):
    scores = ClassScorer(3).scores(np.array(predicted), np.array(labels))
    assert scores.keys() == {"accuracy", "f1", "matthews"}
    se = math.sqrt(value * (1 - value) / len(labels))
    assert scores["accuracy"] == {"value": pytest.approx(value), "se": pytest.approx(se), "n": len(labels)}
    one_class = len(set(labels)) == 1  # which goes together with no answers, so that these need not be one
    assert math.isnan(scores["matthews"]["se"]) == one_class and (scores["matthews"]["se"] == 0) == (value == 1 / 4)


def test_correlations_are_those_of_scipy_and_the_error_that_of_scikit_learn():
    x, y = correlated(200, 0.6, 0)
    y = y.round(1)  # with ties
    scores = ValueScorer().scores(x, y)
    assert scores["pearson"]["value"] == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
    assert scores["spearman"]["value"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert scores["mae"]["value"] == pytest.approx(mean_absolute_error(y, x), abs=1e-12)
    assert scores["mae"]["se"] == pytest.approx(scipy.stats.sem(np.abs(x - y)))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_standard_errors_of_correlations_are_their_spread_over_samples(rho):
    scorer = ValueScorer()
    runs = [scorer.scores(*correlated(100, rho, seed)) for seed in range(400)]
    for name in ("pearson", "spearman"):
        spread = np.std([run[name]["value"] for run in runs])
        assert np.mean([run[name]["se"] for run in runs]) == pytest.approx(spread, rel=0.15)


def skewed(n: int, seed: int) -> np.ndarray:
    x, noise = np.random.default_rng(seed).normal(size=(2, n))
    return np.exp(np.stack([x, 0.8 * x + 0.6 * noise]))  # lognormal


def test_the_error_of_pearsons_correlation_is_that_of_labels_that_are_not_normal():
    """Of lognormal ones far more than (1 − r²) / √n, by which 95 % intervals have the truth in half of all samples."""
    runs = [ValueScorer().scores(*skewed(1_000, seed))["pearson"] for seed in range(300)]
    truth = (math.exp(0.8) - 1) / (math.e - 1)
    covered = np.mean([abs(run["value"] - truth) < 1.96 * run["se"] for run in runs])
    assert covered >= 0.85
    y_n, x_n = skewed(30, 0)
    left = [scipy.stats.pearsonr(np.delete(y_n, n), np.delete(x_n, n)).statistic for n in range(30)]
    found = ValueScorer().scores(x_n, y_n)["pearson"]
    assert found["se"] == pytest.approx(np.std(left) * math.sqrt(29))
    alone = ValueScorer().scores(np.arange(9.0), np.arange(9) == 4)["pearson"]["se"]  # one label that differs
    assert math.isfinite(alone)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6, 1e-9, math.nan, math.inf])
@pytest.mark.parametrize("n", [7, 64, 65])
def test_what_is_constant_or_not_finite_correlates_with_nothing(value, n):
    for predicted, labels in ((np.full(n, value), np.arange(n)), (np.arange(n), np.full(n, value))):
        scores = ValueScorer().scores(predicted.astype(float), labels.astype(float))
        for name in ("pearson", "spearman"):
            assert scores[name]["value"] == 0
            assert scores[name]["se"] == pytest.approx(1 / math.sqrt(n), rel=0.2)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_fewest_rows_have_scores_too(n):
    scores = ValueScorer().scores(np.arange(float(n)), np.arange(float(n)) * 3 - 1)
    for name in ("pearson", "spearman"):
        assert scores[name]["value"] == pytest.approx(1, abs=1e-5)
        assert math.isfinite(scores[name]["se"]) and scores[name]["se"] >= 0


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (1e4, 1e5), (1e-4, 0.0), (1.0, 1e5), (-1.0, 3.0)])
def test_correlations_do_not_depend_on_the_unit_of_the_data(factor, offset):
    x, y = correlated(150, 0.7, 3)
    scorer = ValueScorer()
    plain, moved = scorer.scores(x, y), scorer.scores(x * factor + offset, y * abs(factor) + offset)
    for name in ("pearson", "spearman"):
        assert moved[name]["value"] == pytest.approx(math.copysign(1, factor) * plain[name]["value"], abs=1e-4)


def test_a_regression_is_standardised_on_its_training_labels_and_predicts_in_their_unit():
    scorer = scorer_for(Task(kind="regression"), None, np.array([10.0, 20.0, 30.0, 40.0]))
    assert (scorer.outputs, scorer.mean) == (1, 25.0) and scorer.spread == pytest.approx(np.std([10, 20, 30, 40]))
    logits = torch.tensor([[0.0], [1.0]])
    prediction, score = scorer.predict(logits)
    assert torch.equal(prediction, score)
    assert prediction.tolist() == pytest.approx([25, 25 + scorer.spread])
    assert scorer.losses(logits, torch.tensor([25.0, 25.0])).tolist() == [0, 1]
    equal = scorer_for(Task(kind="regression"), None, np.full(3, 7.0))
    assert equal.losses(torch.tensor([[0.0]]), torch.tensor([8.0])).item() == 1, "not divided by nothing"


def test_the_loss_of_a_class_is_cross_entropy_in_fp32():
    scorer = scorer_for(Task(kind="classification"), ["a", "b", "c"], np.zeros(2))
    assert scorer.outputs == 3
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    losses = scorer.losses(logits, torch.tensor([2, 0]))
    expected = [-3 + math.log(sum(map(math.exp, (1, 2, 3)))), math.log(3)]
    assert losses.dtype == torch.float32 and losses.tolist() == pytest.approx(expected)
    prediction, score = scorer.predict(logits)
    assert prediction.tolist()[0] == 2
    assert score.tolist() == pytest.approx([math.exp(3) / sum(map(math.exp, (1, 2, 3))), 1 / 3])


TEXTS = ["a", "something much longer than that", "bb", ""]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_features_are_means_over_tokens_without_padding(shape, batch_size):
    source = tiny(shape).model
    lm, tokenizer = base.load(source, resolve(source), 1, 0)
    encoder = lm.get_submodule(lm.base_model_prefix)
    pooled = baselines.mean_pooled(lm, tokenizer, TEXTS, 48, batch_size)
    assert pooled.shape == (4, 32) and pooled.dtype == np.float32
    for text, row in zip(TEXTS, pooled, strict=True):
        with torch.inference_mode():
            alone = encoder(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].mean(0)
        assert np.allclose(row, alone.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("name", ["tfidf", "probe"])
def test_a_baseline_learns_what_is_there_to_learn(name, kind):
    texts, labels = zip(*(row.values() for row in synthetic(300, kind)), strict=True)
    labels = np.array(labels, float if kind == "regression" else int)
    features = np.stack([labels, np.random.default_rng(0).normal(size=300)], axis=1)
    inputs = texts if name == "tfidf" else features
    fitted = baselines.fit(name, inputs, labels, kind == "classification")
    prediction, score = baselines.predict(fitted, inputs)
    if kind == "classification":
        assert (prediction == labels).mean() > 0.9
        assert ((score > 0.5) == (prediction == 1)).all() and score.min() >= 0 and score.max() <= 1
    else:
        assert np.corrcoef(prediction, labels)[0, 1] > 0.9
        assert np.array_equal(prediction, score)


def test_texts_without_a_word_are_refused():
    with pytest.raises(Refused, match=r"^method=tfidf: no training text has a word of two letters; "):
        baselines.fit("tfidf", ["a", "b !"], np.array([0, 1]), has_classes=True)


def test_the_size_of_a_baseline_is_its_coefficients():
    x, y = np.random.default_rng(0).normal(size=(50, 7)), np.arange(50) % 2
    assert baselines.size(baselines.fit("probe", x, y, has_classes=True)) == 8
    assert baselines.size(baselines.fit("probe", x, np.arange(50) % 3, has_classes=True)) == 24
    assert baselines.size(baselines.fit("probe", x, y * 1.5, has_classes=False)) == 8


def test_losses_of_a_large_vocabulary_are_pytorchs_to_the_bit_and_keep_the_logits_alone():
    logits_NV, labels_N = torch.randn(7, 300_000).bfloat16().requires_grad_(), torch.arange(7)
    kept_bytes = []
    saved = torch.autograd.graph.saved_tensors_hooks(lambda t: kept_bytes.append(t.nbytes) or t, lambda t: t)
    with saved:
        losses_N = TokenScorer().losses(logits_NV, labels_N)
    whole_N = torch.nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    assert torch.equal(losses_N, whole_N)
    (gradient,), (of_whole,) = (torch.autograd.grad(loss.mean(), logits_NV) for loss in (losses_N, whole_N))
    assert torch.equal(gradient, of_whole)
    assert sum(kept_bytes) <= logits_NV.nbytes + labels_N.nbytes
