"""What may not be concluded: from runs that learned nothing, were cut short by the budget, or had more rates to try."""

import csv
import io
import itertools
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from synthetic_study import ITEMS, answers, curve, printed, write_run, write_study

from rankwise.report.columns import columns
from rankwise.report.flags import TOO_FEW
from rankwise.report.footnotes import numbered
from rankwise.report.report import build

FALLING = (0.7, 0.6, 0.5, 0.45, 0.4)


def of(report, method="lora", rank=None):
    return next(arm for arm in report.arms if (arm.method, arm.rank) == (method, rank))


def constant(record):
    """One answer to every text of a test set that has as many of either label."""
    labels = np.arange(ITEMS) % 2
    columns = {"item": np.arange(ITEMS), "label": labels, "prediction": 0 * labels, "score": 0.0 * labels}
    pq.write_table(pa.table(columns), record.folder / "predictions.parquet")
    record.metrics["test"] = {
        "accuracy": {"value": 0.5, "se": 0.011, "n": ITEMS},
        "matthews": {"value": 0.0, "se": 0.0},
    }
    record.write()


def test_an_answer_of_chance_is_not_one_answer_to_every_text(tmp_path):
    """Half of either class is right: Matthews' correlation is 0, as of a constant, but for its error."""
    record = write_run(tmp_path, correct=np.arange(ITEMS) % 4 < 2)
    record.metrics["test"]["matthews"] = {"value": 0.0, "se": 0.02, "n": ITEMS}
    record.write()
    (arm,) = build([tmp_path]).arms
    best = "not shown to be better than always answering one class (50.0 %)"
    assert arm.unfit == f"{best}: it may have learned nothing"
    for seed, score in ((0, 0.9), (1, 0.6)):  # whose spread over two seeds is wider than what is above it
        write_run(tmp_path / "few", seed=seed, test=score)
    assert build([tmp_path / "few"]).arms[0].unfit == f"{best}: too few seeds or test rows"


@pytest.mark.parametrize("records_say", [True, False])
def test_runs_that_all_give_one_answer_show_no_rank_to_be_enough(tmp_path, records_say):
    for seed in range(3):
        for method, rank in (("full", None), ("lora", 1), ("lora", 4)):
            record = write_run(tmp_path, method, rank, seed=seed)
            constant(record)
            if not records_say:
                del record.metrics["test"]["matthews"]
                record.write()
    report = build([tmp_path])
    assert report.headline.title.startswith("No conclusion: full fine-tuning's runs are no reference (")
    assert all(family.answer is None for family in report.families)
    said = "3/3 give one answer" if records_say else "not shown to be better than always answering one class (50.0 %)"
    assert all(said in arm.unfit for arm in report.arms)
    assert {c.verdict for c in report.comparisons.values()} == {"no conclusion"}
    assert {arm["same_as_full"] for arm in report.document()["arms"]} == {None}
    (told,) = report.document()["sufficiency"]
    assert told["detectable"] is told["steps"][0]["low"] is None


def test_an_arm_at_chance_is_flagged_and_stops_the_sequence_of_ranks(tmp_path):
    write_study(tmp_path, {1: 0.82, 4: 0.5, 8: 0.82}, task__margin=0.5)  # a margin that chance is within
    report = build([tmp_path])
    assert "not shown to be better than always answering one class (50.0 %)" in " ".join(of(report, rank=4).flags)
    (family,) = report.families
    assert [(s.arm.rank, s.passed) for s in family.steps] == [(8, True), (4, None), (1, None)]
    assert "The sequence stops at rank 4, which was not judged: not shown to be better" in str(report.headline)
    cells = {column.header: column.text(of(report, rank=4)) for column in columns(report)}
    why = of(report, rank=4).unfit
    shown = ("verdict", "sequence from the largest down", "detectable at 80 % power")
    assert [cells[header] for header in shown] == [f"no conclusion: {why}", f"not judged: {why}", "–"]
    told = {arm["rank"]: arm for arm in report.document()["arms"]}[4]["comparison"]
    assert (told["reason"], told["detectable"]) == (why, None)
    _, unjudged, below = report.document()["sufficiency"][0]["steps"]
    assert unjudged == {"arm": "rank 4", "rank": 4, "reason": why} | dict.fromkeys(("passed", "low"))
    assert below["reason"] == "rank 4 above it was not judged"
    assert "The best answer that is the same for every text scores 50.0 %." in report.to_markdown()
    assert report.document()["constant"] == 0.5


def test_what_was_tested_on_other_items_has_their_number_and_constant_answer(tmp_path):
    write_study(tmp_path, {8: 0.82})
    write_run(tmp_path, data="d1", correct=np.arange(15) < 12, test=0.8)
    report = build([tmp_path])
    known = [("lora", 0.5), ("full", 0.5), ("lora", pytest.approx(8 / 15))]
    assert [(arm["method"], arm["constant"]) for arm in report.document()["arms"]] == known
    rows = csv.DictReader(io.StringIO(report.to_csv()))
    assert [(row["method"], float(row["constant"])) for row in rows] == known
    assert report.document()["constant"] is None and "The best answer that" not in report.to_markdown()
    assert " on 2,000 test items (15 test items of rows that are not ranked); arms" in report.to_methods()


@pytest.mark.parametrize(
    ("full", "lora", "verdict", "starts", "says"),
    [
        (
            {"diverged": True},
            {},
            "no conclusion",
            "No conclusion: full fine-tuning's runs are no reference (div",
            "3/3).",
        ),
        ({"losses": FALLING}, {}, "no conclusion", "No conclusion: full fine-tuning's", "the budget decides"),
        # More steps would help a rank; ``rankwise find`` names it with the same note.
        ({}, {"losses": FALLING}, "same", "Rank 8 is enough at this budget: ", "Rank 8 is under-trained: validation l"),
        (
            {},
            {"losses": FALLING, "test": 0.74},
            "no conclusion",
            "No conclusion: rank 8 cannot be",
            "the budget decides",
        ),
    ],
)
def test_training_at_fault_forbids_a_conclusion_but_an_under_trained_rank_may_pass(
    tmp_path, full, lora, verdict, starts, says
):
    for seed in range(3):
        write_run(tmp_path, "full", None, seed=seed, **{"test": 0.82} | full)
        write_run(tmp_path, "lora", 8, seed=seed, **{"test": 0.82} | lora)
    report = build([tmp_path])
    assert report.headline.title.startswith(starts) and says in str(report.headline)
    assert ("under-trained" in str(report.headline)) == (not full.get("diverged"))
    assert report.comparison(of(report, rank=8)).verdict == verdict
    assert report.document()["sufficiency"][0]["conclusive"] == (verdict == "same")


def test_the_fall_of_the_loss_is_tested_over_seeds_not_against_the_error_of_its_level(tmp_path):
    """Every seed falls by 0.01, a tenth of the level's standard error and 5 % of the descent: that is no chance."""
    for seed, noise in enumerate((0.3, 0.0, -0.3)):
        record = write_run(tmp_path, seed=seed)
        record.metrics["curve"] = curve(tuple(noise + loss for loss in (0.6, 0.5, 0.42, 0.41, 0.40)), se=0.1)
        record.write()
    assert "under-trained: validation loss still falls, by 0.01" in " ".join(build([tmp_path]).arms[0].flags)


@pytest.mark.parametrize(
    ("losses", "se", "first", "falling"),
    [  # beyond the error in the last fifth, within it, and rising
        ((0.7, 0.5, 0.45, 0.42, 0.40), 0.01, 0.7, True),
        ((0.7, 0.5, 0.42, 0.41, 0.40), 0.01, 0.7, False),
        ((0.7, 0.5, 0.42, 0.405, 0.40), 0.002, 0.7, False),  # 2 % of what it learned
        ((0.7, 0.3, 0.3, 0.35, 0.5), 0.01, 0.7, False),
        ((0.7, 0.5, 0.45, 0.42, 0.40), 0.01, None, False),  # of a start that was not finite
        # nearly all was learned before the first validation
        ((0.32, 0.316, 0.312, 0.308, 0.304), 0.001, 0.7, False),
        # thrown back at first: a third of what it learned is of the end; and not back yet
        ((2.0, 0.69, 0.68, 0.67, 0.655), 0.001, 0.7, True),
        ((0.9, 0.8, 0.7, 0.65, 0.61), 0.001, 0.6, True),
    ],
)
def test_a_run_whose_loss_falls_at_the_end_beyond_its_error_is_under_trained(tmp_path, losses, se, first, falling):
    record = write_run(tmp_path)
    record.metrics |= {"first_loss": first, "curve": curve(losses, se=se)}
    record.write()
    said = f"under-trained: validation loss still falls, by {losses[-2] - losses[-1]:.2g} in the last fifth"
    assert (said in " ".join(build([tmp_path]).arms[0].flags)) == falling


def test_rates_tuned_for_one_side_alone_let_no_rank_pass(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for seed in range(3):
        for lr in (1e-3, 4e-3):
            write_run(tmp_path, "lora", 8, lr=lr, objective=0.7, seed=seed)
    for lr in (3e-4, 1e-3):  # of one seed, so that it could not be chosen
        write_run(tmp_path, "full", None, lr=lr, objective=0.9)
    report = build([tmp_path])
    assert report.families[0].answer is None
    assert "unequal tuning: 3 learning rates tried, full fine-tuning had 1" in report.headline.title
    assert "out of different numbers (3 for lora r=8, 1 for full; 1e-3 to 4e-3), on the rep" in " ".join(report.notes)


def test_seeds_that_are_crossed_with_data_seeds_are_counted_as_two_factors(tmp_path):
    for seed in range(3):
        for data_seed in range(2):
            for method, rank in (("full", None), ("lora", 8)):
                write_run(tmp_path, method, rank, seed=seed, data_seed=data_seed, test=0.8 + seed / 100)
    report = build([tmp_path])
    assert "on 3 seeds × 2 data seeds × 2,000 test items" in str(report.headline)
    assert "Seeds and data seeds count as two factors." in report.to_methods()
    score = of(report, rank=8).scores["accuracy"]
    means = [
        np.mean([run.scores["accuracy"]["value"] for run in of(report, rank=8).runs[2 * s :][:2]]) for s in range(3)
    ]
    over_seeds = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    assert score.half > 0.98 * over_seeds > 3 * 1.96 * np.std(means) / np.sqrt(6)


@pytest.mark.parametrize(
    ("method", "score", "said"),
    [
        ("ia3", 0.82, "ia3 is as good as full fine-tuning: at most 2 points of accuracy worse."),
        ("ia3", 0.70, "ia3 was not shown to be as good as full fine-tuning: ia3 is more than 2 points of accuracy w"),
        ("head", 0.82, "head is as good as full fine-tuning: at most 2 points of accuracy worse."),
    ],
)
def test_an_arm_without_a_rank_has_a_headline_too(tmp_path, method, score, said):
    for seed in range(3):
        write_run(tmp_path, "full", None, seed=seed, test=0.82)
        write_run(tmp_path, method, None, seed=seed, test=score)
    report = build([tmp_path])
    assert report.headline.title.startswith(said)
    report.write(tmp_path / "out")


def test_a_regression_whose_predictions_hardly_vary_is_flagged(tmp_path):
    labels = np.random.default_rng(5).normal(size=ITEMS)
    for seed in range(2):
        said = 3.5 + 0.05 * (labels + np.random.default_rng(seed).normal(size=ITEMS)) / np.sqrt(2)
        record = write_values(tmp_path, 8, labels, said, seed, "pearson")
        write_values(tmp_path, 4, labels, np.full(ITEMS, 0.5), seed, "pearson")
    notes = ["predictions hardly vary (standard deviation 0 of the labels')"]
    notes += ["predictions hardly vary (standard deviation 0.05 of the labels')"]
    assert [text[2:] for text in numbered(build([tmp_path]).arms)] == notes
    path = record.folder / "predictions.parquet"
    pq.write_table(pa.table({"item": np.arange(ITEMS), "label": labels, "prediction": labels / 2}), path)
    assert "predictions of 1/2 hardly vary (standard deviation 0.0" in " ".join(build([tmp_path]).arms[1].flags)


def test_an_error_far_below_the_medians_lacks_seeds_and_rows_not_learning(tmp_path):
    noise, labels = np.random.default_rng(0), np.random.default_rng(1).normal(size=20)
    for seed, spread in enumerate((0.35, 0.62)):
        write_values(tmp_path, 8, labels, labels + noise.normal(0, spread, 20), seed, "mae", clusters=2)
    said = r"not shown to be better than always answering the median \(0\.\d+\): test rows are of 2 groups, each.*: "
    assert re.fullmatch(said + TOO_FEW, build([tmp_path]).arms[0].unfit)


def write_values(root, rank, labels, said, seed, metric, **more):
    record = write_run(root, "lora", rank, seed=seed, task__metric=metric, task__kind="regression")
    columns = {"item": np.arange(len(labels)), "label": labels, "prediction": said}
    pq.write_table(pa.table(columns), record.folder / "predictions.parquet")
    errors = np.abs(said - labels)
    value = float(errors.mean()) if metric == "mae" else float(np.corrcoef(labels, said)[0, 1]) if said.std() else 0.0
    record.metrics["test"] = {metric: {"value": value, "se": 0.01, "n": len(labels)} | more}
    record.write()
    return record


@pytest.mark.parametrize(
    ("right", "loss", "nothing"), [(0.55, 0.69, True), (0.55, 0.68, False), (0.55, 0.75, True), (0.8, 0.75, False)]
)  # of two classes as frequent: the frequencies alone have ln 2 = 0.693
def test_an_arm_whose_loss_is_that_of_the_label_frequencies_learned_nothing(tmp_path, right, loss, nothing):
    for seed in range(2):
        record = write_run(tmp_path, seed=seed, test=right)
        record.metrics["test"]["loss"] = {"value": loss, "se": 0.005, "n": ITEMS}
        record.write()
    (arm,) = build([tmp_path]).arms
    said = f"test loss {loss:.3g} ± 0.005 nats, not shown to be less than that of the label frequencies alone (0.693)"
    assert (said in arm.unfit) == nothing == bool(arm.unfit)


def test_what_the_data_said_of_themselves_is_said_again_once(tmp_path):
    write_study(tmp_path, {8: 0.82}, range(2))
    for record in (write_run(tmp_path, "lora", 8, seed=seed) for seed in (7, 8)):
        record.provenance["data"]["notes"] = ["15 test rows are training rows word for word"]
        record.write()
    report = build([tmp_path])
    notes = report.notes
    assert "word for word." in report.to_methods() and "word for word." in " ".join(printed(report).split())
    assert notes.count("Of the data: 15 test rows are training rows word for word.") == 1


def test_the_whole_study_counts_what_tuned_and_failed(tmp_path):
    write_study(tmp_path, {8: 0.82}, range(2))  # 2 × (28 × share + seed + 12.6) seconds, FLOPs 2e13 × share
    write_run(tmp_path, "lora", 8, seed=9, stage="tune")
    write_run(tmp_path, "lora", 64, status="failed")
    other = write_run(tmp_path / "b", "lora", 8)
    other.run["study"] = "other"
    other.write()
    (said,) = [note for note in build([tmp_path / "b"]).notes if "1 run" in note]  # once, where all finished
    assert said.startswith("The whole study took ") and said.endswith(": 1 run.")
    assert any(note.startswith("The 2 studies took ") for note in build([tmp_path]).notes)
    shutil.rmtree(tmp_path / "b")
    share = 2 / 3 + 8 / 77.4 / 3
    seconds = 2 * (28 + 12.6) + 3 * (28 * share + 12.6) + 1 + 1 + 9
    (said,) = [note for note in build([tmp_path]).notes if note.startswith("The whole study took")]
    assert f"took {seconds:.0f} s of runs" in said and f"{20 * (2 + 3 * share):.1f} TFLOP" in said
    assert said.endswith("6 runs, 1 for tuning, 1 failed.")


def test_items_that_are_no_more_than_clusters_are_told_as_these(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for run in build([tmp_path]).records:
        file = run.folder / "predictions.parquet"
        pq.write_table(pq.read_table(file).append_column("cluster", pa.array(np.arange(ITEMS) // 50)), file)
        run.metrics["test"]["accuracy"]["clusters"] = 40
        run.write()
    report = build([tmp_path])
    assert "on 3 seeds × 2,000 test items in 40 groups." in str(report.headline)
    assert "± 95 % over seeds and test items in 40 groups." in " ".join(printed(report).split())
    assert "on 2,000 test items in 40 groups; arms are paired" in report.to_methods()
    assert "Test items that share a prompt, a text or a group are drawn together." in report.to_methods()
    for run in report.records:
        table = pq.read_table(file := run.folder / "predictions.parquet").drop_columns(["cluster"])
        pq.write_table(table.append_column("cluster", pa.array(np.zeros(ITEMS, int))), file)
    assert build([tmp_path]).headline.title.startswith("No conclusion: all test items are one group, which")


def test_flags_that_differ_in_a_measured_number_alone_are_one_note(tmp_path):
    write_study(tmp_path, {8: 0.82}, losses=FALLING)
    for seed, last in itertools.product(range(3), (0.38, 0.39)):
        write_run(tmp_path, "lora", 4 if last == 0.38 else 2, seed=seed, losses=(*FALLING[:-1], last))
    report = build([tmp_path])
    note = "under-trained: validation loss still falls, by 0.05 to 0.07 in the last fifth of the steps"
    assert numbered(report.arms) == [f"¹ {note}"]
    said = [SimpleNamespace(flags=[f"a deviation of {size} at lr 2e-3"]) for size in ("4e-05", "0.05", "3.8e-05")]
    assert numbered(said) == ["¹ a deviation of 3.8e-05 to 0.05 at lr 2e-3"]
    assert [label.split()[-1] for label in report.to_markdown().split("|") if " lora r=" in label] == ["¹"] * 3
    for decay in (0.1, 0.2):
        write_run(tmp_path, "lora", 4, optim__weight_decay=decay)
    keys = [text for text in numbered(build([tmp_path]).arms) if "weight_decay" in text]
    assert [re.findall(r"=([\d.]+) \(reference: ([\d.]+)\)", text) for text in keys] == [
        [("0.1", "0.01")],
        [("0.2", "0.01")],
    ]


def test_runs_of_other_processors_or_threads_are_flagged(tmp_path):
    def run(method, rank, cpu, threads, **changes):
        record = write_run(tmp_path, method, rank, **changes)
        record.provenance["hardware"], record.compute["threads"] = {"cpu": cpu}, threads
        record.write()

    for seed in (0, 1):
        run("full", None, "EPYC", 1, seed=seed)
        run("lora", 1, "EPYC", 1, seed=seed)
        run("lora", 4, "EPYC", 2, seed=seed)
        run("lora", 8, ("EPYC", "Xeon")[seed], 1, seed=seed)
        run("lora", 16, "Xeon", 2, seed=seed, device="cuda")
    report = build([tmp_path])
    said = "computed with other threads or hardware, where the same run has other last digits: "
    flags = {arm.rank: [flag for flag in arm.flags if flag.startswith(said)] for arm in report.arms}
    assert flags == {
        None: [],
        1: [],
        4: [said + "threads 2 (reference: 1)"],
        8: [said + "processor EPYC and Xeon (reference: EPYC)"],
        16: [],
    }


def test_the_mean_over_seeds_is_what_is_compared_and_shown(tmp_path):
    for seed, test in enumerate((0.78, 0.80, 0.88)):
        write_run(tmp_path, "full", None, seed=seed, correct=answers(test, 0, 0))
        write_run(tmp_path, "lora", 8, seed=seed, correct=answers(0.8, 0, 0))
    report = build([tmp_path])
    values = [run.metrics["test"]["accuracy"]["value"] for run in report.reference.runs]
    assert report.reference.scores["accuracy"].point == pytest.approx(sum(values) / 3)
    assert max(values) - sum(values) / 3 > 0.05
    mine = of(report, rank=8).runs[0].metrics["test"]["accuracy"]["value"]
    assert report.comparison(of(report, rank=8)).estimate == pytest.approx(mine - sum(values) / 3)


def test_random_subspaces_show_their_share_of_full_fine_tuning_raw_and_above_a_constant_answer(tmp_path):
    for seed in range(2):
        for dim, score in ((10, 0.6), (1000, 0.75), (None, 0.8)):
            right = np.arange(ITEMS) < round(ITEMS * score)
            write_run(tmp_path, "did" if dim else "full", None, seed=seed, correct=right, method__dim=dim)
    report = build([tmp_path])
    rows = {row["dim"]: row for row in csv.DictReader(io.StringIO(report.to_csv()))}
    assert [float(rows[dim]["of_full"]) for dim in ("10", "1000")] == pytest.approx([0.75, 0.9375])
    assert [float(rows[dim]["above_constant_of_full"]) for dim in ("10", "1000")] == pytest.approx([1 / 3, 5 / 6])
    assert "| of full\N{NO-BREAK SPACE}% |" in report.to_markdown()
    assert [arm.size for arm in report.arms] == [("dimension", 10), ("dimension", 1000), None]
