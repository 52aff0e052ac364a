"""Intervals, weighted metrics and the bootstrap against known answers and simulation."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef, mean_absolute_error
from synthetic_study import write_run
from test_sufficiency import by_rank

from rankwise.metrics import METRICS, named
from rankwise.report.report import build
from rankwise.statistics import holm, interval, item_weights, paired, seed_weights, unseen, verdict


def test_interval_over_seeds_is_students_t():
    values = [0.81, 0.79, 0.84, 0.80]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = interval(values)
    assert (found.low, found.high, found.n, found.kind) == (pytest.approx(low), pytest.approx(high), 4, "seeds")


def test_one_seed_gives_the_interval_over_items_and_says_so():
    found = interval([0.8], [0.01])
    equal = [0.1] * 3  # whose mean is another float
    assert np.std(equal) > 0
    assert found.kind == interval(equal, [0.01] * 3).kind == "items"  # identical runs have a width, too
    assert found.half == pytest.approx(1.959964 * 0.01)
    few = interval([1.0], [0.2], within=(0.0, 1.0), items=140)  # an F1 of three positives, all of them found
    assert (few.low, few.high) == pytest.approx((1 - 1.959964 * 0.2, 1.0))
    assert interval([0.8], [0.01], items=2000, clusters=4).half == pytest.approx(3.182446 * 0.01)  # t of 3 df
    for within in ((0.0, np.inf), (-np.inf, np.inf)):  # an MAE or a loss of ten rows: t of 9 df
        assert interval([3.0], [0.1], within=within, items=10).half == pytest.approx(2.262157 * 0.1)


def test_holm_matches_hand_values():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


LN2 = np.log(2)
DIRECT = {
    "accuracy": lambda y, x: float(np.mean(x == y)),
    "f1": lambda y, x: f1_score(y, x, average="macro", zero_division=0),
    "matthews": matthews_corrcoef,
    "pearson": lambda y, x: float(stats.pearsonr(x, y)[0]),
    "spearman": lambda y, x: float(stats.spearmanr(x, y)[0]),
    "mae": mean_absolute_error,
    "loss": lambda y, x: x.sum() / y.sum(),
    "perplexity": lambda y, x: np.exp(x.sum() / y.sum()),
    "bits_per_byte": lambda y, x: x.sum() / y.sum() / LN2,
}


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.weighted])
def test_metric_under_counts_equals_the_metric_of_the_resampled_items(metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 60).astype(float)  # with ties
    values = np.clip(np.round(labels + rng.normal(0, 1, (3, 60))), 0, 4)
    counts = rng.multinomial(60, np.full(60, 1 / 60), 4).astype(float)
    found = METRICS[metric].weighted(labels, values, counts)
    assert found.shape == (4, 3)
    for b, r in np.ndindex(found.shape):
        chosen = np.repeat(np.arange(60), counts[b].astype(int))
        assert found[b, r] == pytest.approx(DIRECT[metric](labels[chosen], values[r, chosen]))


def test_a_resample_that_is_constant_but_for_rounding_has_no_correlation():
    labels, counts = np.array([0.1, 0.1, 0.1, 0.7, 0.8]), np.array([[2.0, 2, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = METRICS["pearson"].weighted(labels, np.array([[1.0, 2, 3, 4, 5], [5, 5, 5, 6, 7]]), counts)
    assert np.isnan(found).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_two_classes_are_scored_as_scikit_learn_does_also_where_one_never_occurs(metric):
    rng = np.random.default_rng(1)
    labels, values = rng.integers(0, 2, 50).astype(float), rng.integers(0, 2, (2, 50)).astype(float)
    direct = {"f1": lambda y, x: f1_score(y, x, zero_division=0), "matthews": matthews_corrcoef}[metric]
    values[1] = 0
    found = METRICS[metric].weighted(labels, values, np.ones((1, 50)))[0]
    assert found == pytest.approx([direct(labels, row) for row in values])
    assert METRICS[metric].weighted(np.zeros(50), np.zeros((1, 50)), np.ones((1, 50)))[0, 0] == 0


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_hundreds_of_classes_fit_into_memory(metric):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 300, 1_000).astype(float)
    values = np.where(rng.random((3, 1_000)) < 0.7, labels, rng.integers(0, 300, (3, 1_000)))
    found = METRICS[metric].weighted(labels, values, np.ones((50, 1_000)))
    assert found[7] == pytest.approx([DIRECT[metric](labels, row) for row in values])


def test_a_median_has_a_wider_interval_around_it_that_covers_the_truth():
    rng = np.random.default_rng(3)
    found = [interval(list(rng.normal(0, 1, 5)), median=True) for _ in range(500)]
    assert all(f.median == pytest.approx((f.low + f.high) / 2) for f in found)
    assert np.mean([f.low <= 0 <= f.high for f in found]) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 500)
    assert (found[0].point, interval([1.0, 5.0, 2.0], []).point) == (found[0].median, pytest.approx(8 / 3))


def test_scores_cover_seeds_and_items_and_stay_inside_the_metrics_range():
    lucky = interval([0.697, 0.699], [0.025, 0.025], within=(0.0, 1.0))
    assert lucky.kind == "both" and lucky.half > 1.9 * 0.025
    unlucky = interval([0.394, 0.25, 0.96], [0.01] * 3, within=(0.0, 1.0))
    assert unlucky.low >= 0 and unlucky.high <= 1
    perfect = interval([1.0, 1.0], [0.0, 0.0], within=(0.0, 1.0), items=100)
    assert (perfect.low, perfect.high) == (pytest.approx(100 / (100 + 1.959964**2)), 1.0)  # Wilson (1927)
    assert named("accuracy").interval(perfect) == "100.0 (96.3 to 100.0)"
    spread = interval([1.0, 1.0, 0.4], [0.0, 0.0, 0.05], within=(0.0, 1.0), items=100, median=True)
    assert (spread.point, spread.low, spread.high) == (1.0, 0.0, 1.0)  # t of 2 df reaches farther than the range
    one = interval([0.99], [0.00995], within=(0.0, 1.0), items=100)
    near = interval([1.0, 1.0, 0.97], [0.00995] * 3, within=(0.0, 1.0), items=100)  # Wilson's of items, t's of seeds
    assert near.low == pytest.approx(0.99 - np.hypot(0.99 - one.low, 4.302653 * 0.01), rel=1e-5)


@pytest.mark.parametrize("seeds", [3, 5])
def test_score_intervals_cover_the_population_accuracy(seeds):
    rng, covered, studies, items = np.random.default_rng(3), 0, 400, 2_000
    for _ in range(studies):
        hard = rng.normal(size=items)
        rates = [stats.logistic.cdf(1.5 + hard + 0.03 * rng.normal()) for _ in range(seeds)]
        values = [float(np.mean(rng.random(items) < rate)) for rate in rates]
        ses = [float(np.sqrt(value * (1 - value) / items)) for value in values]
        found = interval(values, ses, within=(0.0, 1.0), items=items)
        truth = 0.7785  # ∫ σ(1.5 + h) φ(h) dh
        covered += found.low <= truth <= found.high
    assert covered / studies >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / studies)


def test_item_weights_are_counts_that_repeat_with_the_seed_across_chunks():
    one = np.concatenate(list(item_weights(3_000, 2_000, 0)))  # two chunks
    two = np.concatenate(list(item_weights(3_000, 2_000, 0)))
    assert one.shape == (2_000, 3_000)
    assert (one.sum(1) == 3_000).all()
    assert (one == two).all()


def test_seed_weights_give_the_unbiased_variance_of_the_mean():
    values = np.array([0.0, 1.0, 5.0])
    means = seed_weights(3, 200_000, 0) @ values
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.02)


def test_bootstrap_of_items_alone_matches_the_textbook_standard_error():
    rng = np.random.default_rng(1)
    differences = rng.choice([-1.0, 0.0, 1.0], 2_000, p=[0.06, 0.86, 0.08])
    resampled = np.concatenate(list(item_weights(2_000, 2_000, 0))) @ differences / 2_000
    both = np.stack([resampled, resampled], axis=1)  # two seeds that agree
    found = paired(np.full(2, differences.mean()), both)
    assert found.over_seeds == 0
    assert found.over_items == pytest.approx(differences.std() / np.sqrt(2_000), rel=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.645 * found.over_items, rel=0.07)


def test_bootstrap_of_seeds_alone_matches_the_t_test():
    points = np.array([0.01, -0.02, 0.015, 0.03, 0.0])
    found = paired(points, np.tile(points, (2_000, 1)))
    low, high = stats.t.interval(0.90, 4, points.mean(), stats.sem(points))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(stats.ttest_1samp(points, 0).pvalue)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("seed_sd", "item_se"), [(1.0, 0.3), (0.3, 1.0)])
def test_interval_of_few_seeds_misses_the_truth_in_at_most_5_percent(seeds, seed_sd, item_se):
    """Also where seeds agree by chance: their spread looks small, and is known no better."""
    rng, studies, missed = np.random.default_rng(5), 1_000, 0
    for _ in range(studies):
        points = seed_sd * rng.standard_normal(seeds) + item_se * rng.standard_normal()
        resampled = points + item_se * rng.standard_normal((200, 1))
        low, high = paired(points, resampled).limits(0.95)
        missed += not low <= 0 <= high
    assert missed / studies <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / studies)


def test_no_limit_and_no_detectable_deficit_is_more_than_the_metric_allows():
    points = np.array([-0.2, 0.3])  # two seeds: t of one degree of freedom
    found = paired(points, np.tile(points, (1_000, 1)), most=1.0)
    assert (found.limits(0.90), found.limits(0.50)) == ((-1.0, 1.0), pytest.approx((0.05 - 0.25, 0.05 + 0.25)))
    free = paired(points, np.tile(points, (1_000, 1)))
    assert found.detectable(0.05) is None and free.detectable(0.05) > 1
    assert free.low == pytest.approx(0.05 - 6.3138 * 0.25, rel=1e-4)


def test_p_value_is_where_the_interval_ends_at_zero():
    rng = np.random.default_rng(2)
    points = 0.02 + 0.01 * rng.standard_normal(3)
    found = paired(points, points + 0.005 * rng.standard_normal((20_000, 1)))
    assert found.limits(1 - found.p)[0] == pytest.approx(0, abs=3e-4)
    assert found.p == pytest.approx(found.times(-1).p) and 0.001 < found.p < 0.5
    assert paired(np.zeros(3), np.zeros((10, 3))).p == 1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.01, 0.015, "same"),
        (-0.05, -0.021, "worse"),
        (0.021, 0.05, "better"),
        (-0.01, 0.05, "not worse"),
        (-0.03, 0.01, "inconclusive"),
        (-0.02, 0.0, "inconclusive"),
        (-0.09, 0.09, "inconclusive"),
    ],
)
def test_verdict_reads_two_one_sided_tests_from_the_interval(low, high, said):
    assert verdict(low, high, 0.02) == said


def simulated(true: float, seeds: int, seed_sd: float, studies: int, items: int = 300):
    """Paired differences of many studies: discordant items shared by half between seeds, seeds of their own."""
    rng = np.random.default_rng(11)
    for study in range(studies):
        effects = true + seed_sd * rng.standard_normal(seeds)
        shared = rng.random(items)
        own = np.where(rng.random((seeds, items)) < 0.5, shared, rng.random((seeds, items)))
        wins, losses = 0.08 + effects[:, None] / 2, 0.08 - effects[:, None] / 2
        differences = np.where(own < wins, 1.0, np.where(own > 1 - losses, -1.0, 0.0))
        weights = np.concatenate(list(item_weights(items, 300, study)))
        yield paired(differences.mean(1), weights @ differences.T / items)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(2, 0.03), (3, 0.0), (3, 0.03), (5, 0.02)])
def test_the_interval_covers_and_an_arm_worse_by_the_margin_is_called_sufficient_in_at_most_5_percent(seeds, seed_sd):
    margin, studies = 0.08, 200
    found = list(simulated(-margin, seeds, seed_sd, studies))
    wrong = np.mean([boot.low > -margin for boot in found])
    assert wrong <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / studies)
    assert np.mean([verdict(boot.low, boot.high, margin) == "same" for boot in found]) <= wrong
    covered = [boot.low <= -margin <= boot.high for boot in found]
    assert np.mean(covered) >= 0.90 - 2 * np.sqrt(0.9 * 0.1 / studies)


def test_crossed_seeds_and_data_seeds_are_two_factors():
    """By hand: means over data seeds 1, 2 and 6 (sd √7), over seeds 2 and 4 (sd √2)."""
    cells = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 7.0]])
    replicates = [(seed, data) for seed in range(2) for data in range(3)]
    found = paired(cells.ravel(), np.full((10, 6), 3.0), replicates)
    assert found.spreads == ((pytest.approx(np.sqrt(2 / 2)), 1), (pytest.approx(np.sqrt(7 / 3)), 2))
    half = np.hypot(stats.t.ppf(0.95, 1) * 1, stats.t.ppf(0.95, 2) * np.sqrt(7 / 3))
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    score = interval(list(cells.ravel()), replicates=replicates)
    both = np.hypot(stats.t.ppf(0.975, 1) * 1, stats.t.ppf(0.975, 2) * np.sqrt(7 / 3))
    assert (score.mean, score.low, score.high) == (3, pytest.approx(3 - both), pytest.approx(3 + both))
    zipped = paired(np.array([1.0, 2.0, 6.0]), np.full((10, 3), 3.0), [(0, 5), (1, 6), (2, 7)])
    assert zipped.spreads == ((pytest.approx(np.sqrt(7 / 3)), 2),)


def test_data_seeds_that_several_seeds_share_are_a_factor_of_few_levels():
    points = np.array([0.80, 0.81, 0.80, 0.81, 0.80, 0.90, 0.91, 0.90, 0.91, 0.90])
    nested = [(seed, seed // 5) for seed in range(10)]
    found = paired(points, np.full((10, 10), points.mean()), nested)
    assert found.spreads == ((pytest.approx(stats.sem(points)), 9), (pytest.approx(0.05), 1))
    assert interval(list(points), replicates=nested).half > stats.t.ppf(0.975, 1) * 0.05
    for alike in ([(seed, seed) for seed in range(10)], [(seed, 0) for seed in range(10)]):
        assert paired(points, np.full((10, 10), points.mean()), alike).spreads == found.spreads[:1]


@pytest.mark.parametrize("tail", [0.05, 0.016, 0.008])
@pytest.mark.parametrize("items", [50, 100, 250, 1_000, 10_000])
def test_where_no_item_differs_the_limit_is_no_nearer_than_the_exact_one(items, tail):
    """A rank that loses a share of items loses none of them with a chance of (1 − share)ⁿ."""
    same = paired(np.zeros(3), np.zeros((1_000, 3)), items=items, units=items, lacking=unseen(items))
    assert same.limits(1 - 2 * tail)[0] <= 0.99 * (tail ** (1 / items) - 1)


def test_items_that_share_a_prompt_are_drawn_together():
    cluster = np.repeat(np.arange(200), 5)
    per_prompt = np.random.default_rng(3).normal(size=200)
    weights = np.concatenate(list(item_weights(1_000, 4_000, 0, cluster)))
    assert (weights[:, ::5] == weights[:, 4::5]).all() and (weights.sum(1) == 1_000).all()
    means = weights @ per_prompt[cluster] / 1_000
    assert means.std() == pytest.approx(per_prompt.std() / np.sqrt(200), rel=0.05)


@pytest.mark.parametrize(("seeds", "tail"), [(2, 0.05), (3, 0.05), (10, 0.05), (3, 0.01)])
def test_the_detectable_deficit_is_found_in_80_percent_of_studies(seeds, tail):
    rng, found, studies = np.random.default_rng(4), 0, 400
    items = 0.5 * rng.standard_normal((500, 1))
    for _ in range(studies):
        pilot = rng.standard_normal(seeds)
        deficit = paired(pilot, pilot + items).detectable(tail)
        points = rng.standard_normal(seeds) + 0.5 * rng.standard_normal() - deficit
        found += paired(points, points + items).limits(1 - 2 * tail)[1] < 0
    assert 0.75 <= found / studies <= 0.88


LABELS = np.repeat([1, 0], [20, 1980])
HALVES = np.arange(200) % 2


@pytest.mark.parametrize(
    ("labels", "said", "classes", "f1", "one_more"),
    [
        # Of 20 positives 12 are found: F1 is 24/32, with one fewer 22/31, which is 81 times what it does to accuracy.
        (LABELS, LABELS * (np.arange(2000) >= 8), "ny", 24 / 32, 24 / 32 - 22 / 31),
        # The mean of both classes that occur, not of class 1 alone: test and answers lack the last of three.
        (HALVES, HALVES * (np.arange(200) >= 30), "abc", (2 * 100 / 215 + 2 * 85 / 185) / 2, None),
    ],
)
def test_f1_is_of_all_classes_and_where_none_or_one_answer_differs_one_row_more_is_what_it_moves(
    tmp_path, labels, said, classes, f1, one_more
):
    fewer = np.where(np.arange(len(said)) == said.argmax(), 0, said)
    for seed in range(3):
        one = 0 * said if seed == 0 else said  # of which one answer more moves F1 far more
        for rank, said_n in ((None, said), (1, one), (8, said), (64, fewer)):
            method = "lora" if rank else "full"
            record = write_run(tmp_path, method, rank, seed=seed, task__metric="f1")
            columns = {"item": np.arange(len(labels)), "label": labels, "prediction": said_n, "score": 0.9 * said_n}
            pq.write_table(pa.table(columns), record.folder / "predictions.parquet")
            value = f1 if said_n is said else named("f1").among(len(classes)).value(labels, said_n)
            record.metrics["test"] = {"f1": {"value": value, "se": 0.02, "n": len(labels)}}
            record.provenance["data"]["classes"] = list(classes)
            record.write()
    found = by_rank(build([tmp_path]))
    boot = found[8].bootstrap
    assert boot.items == len(labels) and (not one_more or boot.over_items == pytest.approx(2 * one_more, rel=0.01))
    assert found[64].bootstrap.lacking == boot.lacking > 0
