"""Sameness with full fine-tuning and the smallest sufficient rank, on studies whose truth is known."""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from synthetic_study import ITEMS, answers, printed, write_predictions, write_run, write_study

from rankwise.find.evidence import gather
from rankwise.report import plots
from rankwise.report.page import html
from rankwise.report.report import build
from rankwise.report.summary import headline
from rankwise.tracking.record import find

TRUTH = {1: 0.76, 2: 0.78, 4: 0.815, 8: 0.82, 16: 0.82}  # full is 0.82, the margin 0.02


def by_rank(report):
    return {a.rank: report.comparison(a) for a in report.arms if a.rank}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    write_study(folder, TRUTH)
    return build([folder])


def test_arms_within_the_margin_are_the_same_and_far_ones_worse(read):
    found = by_rank(read)
    assert {rank: c.verdict for rank, c in found.items()} == {1: "worse", 2: "worse", 4: "same", 8: "same", 16: "same"}
    assert all((c.seeds, c.items) == (3, ITEMS) for c in found.values())
    assert found[1].estimate == pytest.approx(-0.06, abs=0.01)
    assert found[1].p_holm < 0.01 <= found[8].p_holm


def test_the_headline_is_the_smallest_rank_that_passes_from_the_largest_down(read):
    (family,) = read.families
    assert [(s.arm.rank, s.passed) for s in family.steps] == [(16, True), (8, True), (4, True), (2, False), (1, None)]
    assert family.answer.arm.rank == 4
    assert read.headline.title == "Rank 4 is enough: at most 2 points of accuracy worse than full fine-tuning."
    assert "% of the trainable parameters (161 k of 22.7 M)" in read.headline.cost
    assert "detectable" not in str(read.headline), "beside a rank that is enough it asks for another answer"


@pytest.mark.parametrize(("items", "verdict"), [(50, "inconclusive"), (200, "same")])
def test_items_of_which_none_differs_are_no_certainty(tmp_path, items, verdict):
    for seed in range(3):
        for method, rank in (("full", None), ("lora", 8)):
            write_run(tmp_path, method, rank, seed=seed, correct=np.arange(items) % 10 > 0)
    found = by_rank(build([tmp_path]))[8]
    assert (found.estimate, found.verdict) == (0, verdict)
    reach = float(stats.t.isf(0.05, items - 1)) * math.sqrt(items / (items - 1))
    assert found.bootstrap.low == pytest.approx(-2 * reach / (items + 2), rel=1e-2)


def test_testing_stops_at_the_first_failure_though_smaller_ranks_would_pass(tmp_path):
    write_study(tmp_path, {1: 0.82, 2: 0.82, 4: 0.76, 8: 0.82})
    family = build([tmp_path]).families[0]
    assert [(s.arm.rank, s.passed) for s in family.steps] == [(8, True), (4, False), (2, None), (1, None)]
    assert family.answer.arm.rank == 8


def test_a_largest_rank_that_is_neither_enough_nor_worse_is_no_conclusion_in_json(tmp_path):
    write_study(tmp_path, {8: 0.80})  # at the margin
    report = build([tmp_path])
    assert "even" not in report.headline.title and "rank 8 may be more than 2 points" in report.headline.title
    assert report.document()["sufficiency"][0]["conclusive"] is False
    assert "conclusive" not in report.to_csv().splitlines()[0]  # it is the family's, no arm's


def test_no_rank_is_enough_when_the_largest_fails(tmp_path):
    write_study(tmp_path, {1: 0.70, 8: 0.76})
    report = build([tmp_path])
    assert report.families[0].answer is None and report.families[0].conclusive
    assert "Minimum detectable deficit of rank 8 at 80 % power" in str(report.headline)
    assert report.headline.title.startswith(
        "No rank was shown to be enough: even rank 8 is more than 2 points of accuracy worse than full fine-tuning (−"
    )


def test_an_answer_says_whose_learning_rate_is_at_the_edge_of_its_grid(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for seed, (method, rank, lr) in itertools.product(range(3), (("lora", 8, 1e-3), ("full", None, 1e-3))):
        write_run(tmp_path, method, rank, lr=lr, objective=0.7, seed=seed)
    said = "Best learning rate at the edge of its grid, a better one may lie outside: rank 8, full fine-tuning."
    assert said in build([tmp_path]).headline.details


def test_the_rank_that_a_budget_gave_is_told_and_is_no_step_of_the_ranks(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for seed, (rank, targets) in itertools.product(range(3), ((3, "qv"), (2, "mlp"))):
        record = write_run(tmp_path, "lora", rank, seed=seed, targets__name=targets, method__budget=2200)
        record.config["method"]["rank"] = None
        record.write()
    rows = csv.DictReader(io.StringIO((report := build([tmp_path])).to_csv()))
    assert {row["arm"]: (row["rank"], row["rank_fraction"]) for row in rows if row["method"] == "lora"} == {
        "lora r=8 all_linear": ("8", str(8 / 384)),
        "lora r=3 budget=2200 qv": ("3", str(3 / 384)),
        "lora r=2 budget=2200 mlp": ("2", str(2 / 384)),
    }
    assert [arm["rank"] for arm in report.document()["arms"] if arm["label"] == "lora r=2 budget=2200 mlp"] == [2]
    assert [[step.arm.rank for step in family.steps] for family in report.families] == [[8]]


def test_two_seeds_far_apart_have_limits_where_accuracy_ends_and_detect_nothing(tmp_path):
    for seed, (full, lora) in enumerate([(0.82, 0.60), (0.82, 0.95)]):
        write_run(tmp_path / "a", "full", None, seed=seed, test=full)
        write_run(tmp_path / "a", "lora", 8, seed=seed, test=lora)
        write_run(tmp_path / "b", "full", None, seed=seed, test=0.99 - 0.11 * seed)
        write_run(tmp_path / "b", "lora", 8, seed=seed, test=0.88 + 0.11 * seed)
    report, judged = build([tmp_path / "a"]), build([tmp_path / "b"])
    boot = by_rank(report)[8].bootstrap
    assert (boot.low, boot.high) == (-1.0, 1.0) and dataclasses.replace(boot, most=math.inf).low < -1.05
    seen = gather(report.arms[0].runs, report.reference.runs, report.metric)
    assert (seen.low(0.05), seen.high(0.05)) == (-1.0, 1.0) and seen.with_size(8).most == 1.0
    assert "Minimum detectable deficit at 80 % power: none, with so few seeds and rows." in str(judged.headline)
    assert judged.document()["sufficiency"][0]["detectable"] is None


def test_reading_twice_gives_the_same_numbers(read):
    assert build([read.records[0].folder.parent]).document() == read.document()


def test_one_seed_gives_no_conclusion_but_point_differences(tmp_path):
    write_study(tmp_path, TRUTH, range(1))
    report = build([tmp_path])
    assert report.headline.title == "No conclusion can be drawn from one seed."
    assert "r=1 −6." in str(report.headline)
    assert {c.verdict for c in by_rank(report).values()} == {"one seed: no conclusion"}
    assert all(c.bootstrap is None and c.p_holm is None for c in by_rank(report).values())


def test_pairs_are_the_seeds_that_both_arms_have(tmp_path):
    write_study(tmp_path, {8: 0.82})
    write_run(tmp_path, "lora", 8, seed=7, test=0.82)
    report = build([tmp_path])
    assert by_rank(report)[8].seeds == 3
    assert "compared on 3 shared seeds: it has 4, full fine-tuning 3" in report.arms[0].flags


@pytest.mark.parametrize(
    ("seed", "items", "why"), [(1, ITEMS, "share no seed"), (0, 500, "were tested on different items")]
)
def test_arms_without_a_shared_seed_or_test_are_not_compared(tmp_path, seed, items, why):
    write_run(tmp_path, "full", None, seed=0)
    write_run(tmp_path, "lora", 8, seed=seed, correct=answers(0.8, seed, 8, items=items))
    report = build([tmp_path])
    assert by_rank(report)[8].reason == f"the arms {why}" and report.headline.title == f"No conclusion: the arms {why}."
    assert "on 2,000 test items" in report.to_methods() and "paired" not in report.to_methods()


def test_families_of_targets_have_answers_and_lines_of_their_own(tmp_path):
    write_study(tmp_path, {4: 0.82, 8: 0.82})
    for seed in range(3):
        for rank, score in ((4, 0.76), (8, 0.82)):
            write_run(tmp_path, "lora", rank, seed=seed, test=score, targets__name="qv")
    report = build([tmp_path])
    assert {f.label: f.answer.arm.rank for f in report.families} == {"lora all_linear α=2r": 4, "lora qv α=2r": 8}
    assert "Rank 4 is enough (lora all_linear α=2r)" in report.headline.title
    (line,) = report.document()["other_headlines"]
    assert line.startswith("Rank 8 is enough (lora qv α=2r): at most 2 points of accuracy worse than full fine-tuning.")
    assert "lora qv" not in report.document()["headline"]
    assert f"\n* {line}\n\n| arm |" in report.to_markdown() and f'<p class="details other">{line}</p>' in html(report)
    assert "\n• Rank 8 is enough (lora qv α=2r)" in printed(report)


def test_the_reference_is_the_one_that_find_was_asked_to_compare_with(tmp_path):
    write_study(tmp_path, TRUTH)
    eight = next(run for run in find([tmp_path]) if run.config["method"]["rank"] == 8)
    parts = {"course": "It looks after 2, 3 seeds.", "not_run": "Never compared: rank 1."}
    answer = {"sentence": "Rank 2 is enough.", "rank": 2, "metric": "accuracy", "ranks": [], "notes": []}
    answer["rule"] = {"ranks": [1, 4, 16], "guess": 4, "shares": [0.0, 1.0], "alpha": 0.05, "on_guess": 0.8}
    answer |= {"reference_run": eight.run["id"], "margin": 0.03, "decided": False}
    (tmp_path / "answer-0a1b2c3d.json").write_text(json.dumps(answer | parts))
    report = build([tmp_path])
    assert report.reference.rank == 8 and by_rank(report)[1].estimate == pytest.approx(-0.06, abs=0.01)
    assert [step.arm.rank for step in report.families[0].steps] == [16, 4, 2, 1]
    alone = "By all runs of the table, without the correction for repeated looks: "
    (said,) = (note for note in report.notes if note.startswith(alone))
    assert "Rank 4 is enough: at most 3 points of accuracy worse than rank 8." in said
    assert "Margin of sameness, as rankwise find was asked: 3 points of accuracy." in report.notes
    assert "Compared with rank 8, as rankwise find was asked, and not with full fine-tuning." in report.notes
    texts = [report.to_markdown(), html(report), report.to_methods()]
    assert "points 90 % seeds" in printed(report)
    assert '<div class="what">smallest sufficient rank</div><div class="value">2<' in texts[1]
    assert re.findall(r'<tr class="answer worse">\s*<td[^>]*>([^<]*)<', texts[1]) == ["lora r=2"]
    assert "| Δ r=8 pts |" in texts[0] and "Against rank 8, in numbers" in texts[1]
    assert all("Differences from rank 8 are paired" in text for text in texts)
    level = "4 % from rank 4 down and, if that fails, 1 % from rank 16 down to it"
    judged = f"a rank is tested at a one-sided error level of {level}, divided over its looks as 0 + 100 %."
    assert all(
        text in texts[2]
        for text in (
            " ".join([judged, *parts.values()]),
            "In the table of all runs: smallest sufficient rank: one-sided 5",
        )
    )
    assert not any("ifference from full" in text or "ifferences from full" in text for text in texts)
    assert {arm["same_as_full"] for arm in report.document()["arms"]} == {None}
    (tmp_path / "answer-0a1b2c3d.json").write_text(json.dumps(answer))  # an older one
    assert f"{judged} Scores: " in build([tmp_path]).to_methods()


def test_an_answer_of_another_study_is_named_and_does_not_lead(tmp_path):
    """Nor does its margin, which is of runs that are not compared."""
    write_study(tmp_path / "mine", {8: 0.76}, range(3))
    write_study(tmp_path / "theirs", {8: 0.82}, range(2), task__margin=0.001, data="d1")
    answer = {"sentence": "Rank 8 is enough.", "metric": "accuracy", "ranks": [], "notes": []}
    (tmp_path / "theirs" / "answer-0a1b2c3d.json").write_text(json.dumps(answer))
    report = build([tmp_path])
    assert report.margin == 0.02 and "The runs disagree" not in " ".join(report.notes)
    assert report.headline.first.startswith("No rank was shown to be enough: rank 8 is more than 2 points")
    assert report.headline.others == ("theirs: Rank 8 is enough.",)
    assert [each["sentence"] for each in report.document()["answers"]] == ["Rank 8 is enough."]
    (tmp_path / "mine" / "answer-4e5f6a7b.json").write_text(json.dumps(answer | {"sentence": "Rank 8 is not enough."}))
    assert build([tmp_path]).headline.title == "Rank 8 is not enough."
    write_run(tmp_path / "alone", "lora", 8, status="failed")
    (tmp_path / "alone" / "answer-4e5f6a7b.json").write_text(json.dumps(answer | {"sentence": "No conclusion."}))
    assert build([tmp_path / "alone"]).headline.title == "No conclusion."


def test_the_test_that_a_headline_names_is_that_of_its_arm(tmp_path):
    write_study(tmp_path, {8: 0.82, 64: 0.82}, range(8))
    for folder in tmp_path.glob("*r8*s[3-7]*"):
        shutil.rmtree(folder)
    assert "on 3 seeds × " in build([tmp_path]).headline.details


def test_what_would_be_an_answer_below_a_failure_is_alone_wherever_it_is_told(tmp_path):
    write_study(tmp_path, {8: 0.82, 64: 0.76})
    report = build([tmp_path])
    arms = {arm["rank"]: arm for arm in report.document()["arms"]}
    assert (arms[8]["comparison"]["verdict"], arms[8]["same_as_full"]) == ("same, alone", None)
    assert (arms[64]["comparison"]["verdict"], arms[64]["same_as_full"]) == ("worse", False)
    assert [row["verdict"] for row in csv.DictReader(io.StringIO(report.to_csv()))] == ["same, alone", "worse", ""]
    assert "same, alone" in html(report).partition("in numbers")[2]


_FEWER = "No conclusion: rank 8 cannot be judged (unequal tuning: 1 learning rate tried, full fine-tuning had 3)."
_MORE = "No conclusion: rank 8 cannot be judged (unequal tuning: 3 learning rates tried, full fine-tuning had 1)."
_WORSE = "No rank was shown to be enough: rank 8 is more than 2 points of accuracy worse than full fine-tuning (−7.5)."


@pytest.mark.parametrize(
    ("of_eight", "of_four", "of_full", "score", "verdict", "title"),
    [  # the rates that were tried of each; what is tried at another rank is carried to this one
        (1, 0, 3, 0.74, "no conclusion", _FEWER),
        (1, 0, 3, 0.82, "same", "Rank 8 is enough: at most 2 points of accuracy worse than full fine-tuning."),
        (3, 0, 1, 0.74, "worse", _WORSE),
        (3, 0, 1, 0.82, "no conclusion", _MORE),
        (2, 3, 3, 0.74, "worse", _WORSE),
        (0, 3, 1, 0.82, "no conclusion", _MORE),
    ],
)
def test_unequal_tuning_forbids_what_it_can_have_produced(tmp_path, of_eight, of_four, of_full, score, verdict, title):
    write_study(tmp_path, {8: score})
    for method, rank, rates in (("lora", 8, of_eight), ("lora", 4, of_four), ("full", None, of_full)):
        for n in range(rates):
            status = "failed" if n == 1 else "finished"  # which is a rate that was tried, as find has it
            write_run(tmp_path, method, rank, lr=1e-4 * 2**n, seed=100, stage="tune", status=status)
    report = build([tmp_path])
    assert report.headline.title.startswith(title)
    assert by_rank(report)[8].verdict == verdict
    (step,) = report.families[0].steps
    assert step.passed == {"same": True, "worse": False}.get(verdict)


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_without_full_fine_tuning_there_is_a_table_and_no_verdict(tmp_path, status):
    for seed in range(2):
        write_run(tmp_path, "lora", 8, seed=seed, status=status)
    report = build([tmp_path])
    assert report.headline.title == "No conclusion: there is no finished run of full fine-tuning to compare with."
    assert report.comparisons == {}
    write_run(tmp_path, "lora", 8, status=status, trainer__batch_size=16)
    other = build([tmp_path])
    assert other.arms[-1].flags[0] == "not comparable, not ranked: trainer.batch_size=16 (most runs: 32)"
    write_run(tmp_path / "errors", task__metric="mae")
    said = [*other.notes, *build([tmp_path / "errors"]).notes, *(one.caption for one in plots.draw(report))]
    assert "1 row differs from most runs in more than the arm: shown with the key, not ranked." in said
    assert not [text for text in said if "reference" in text or "band" in text or "positive" in text]
    written = {kind: file.read_text() for kind, file in report.write(tmp_path / "out").items()}
    assert sorted(written) == ["csv", "html", "json", "md"]
    assert "Δ" not in written["md"] and "Against full" not in written["html"]


FILE = "predictions.parquet"


def rewritten(change):
    """A harm: the file of predictions with its table changed."""
    return lambda folder: pq.write_table(change(pq.read_table(folder / FILE)), folder / FILE)


def nulls(table):
    return table.set_column(2, "prediction", pa.array([None] * len(table), pa.float64()))


HARMS = [
    (lambda folder: (folder / FILE).unlink(), "has no predictions.parquet"),
    (lambda folder: (folder / FILE).write_bytes(b"PAR1 this is not one"), "cannot be read"),
    (lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-200]), "cannot be read"),
    (rewritten(lambda table: pa.table({"item": [1, 2]})), "cannot be read"),
    (rewritten(lambda table: table.set_column(0, "item", pa.nulls(len(table)))), "cannot be read"),
    (lambda folder: write_predictions(folder, answers(0.5, 0, 0)), "its record says"),
    (rewritten(lambda table: pa.concat_tables([table, table])), "one twice"),
    (rewritten(nulls), "not all finite"),
]


@pytest.mark.parametrize(("harm", "why"), HARMS)
def test_unusable_predictions_cost_only_their_own_comparison_and_say_why(tmp_path, harm, why):
    write_study(tmp_path, {4: 0.82, 8: 0.82})
    harm(next(p for p in tmp_path.iterdir() if p.name.startswith("lora-r8-s1")))
    report = build([tmp_path])
    found = by_rank(report)
    assert (found[8].verdict, found[4].verdict) == ("no comparison", "same")
    assert why in found[8].reason
    assert any(why in text for text in report.arms[1].flags)
    assert report.headline.title.startswith("No conclusion: rank 8 could not be tested (")


def test_a_group_of_rows_is_not_compared_by_the_predictions_of_all_rows(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for record in find([tmp_path]):
        record.metrics["test"]["accuracy_matched"] = record.metrics["test"]["accuracy"]
        record.write()
    found = by_rank(report := build([tmp_path], score="accuracy_matched"))[8]
    said = "Compared by accuracy_matched, chosen for this report; the margin was set for accuracy."
    assert said in printed(report) and said not in printed(build([tmp_path]))
    assert found.verdict == "no comparison" and "which rows accuracy_matched is of" in found.reason


def test_predictions_in_another_order_are_lined_up_by_item(tmp_path):
    write_study(tmp_path, {8: 0.82})
    before = by_rank(build([tmp_path]))[8].bootstrap
    file = next(p for p in tmp_path.iterdir() if p.name.startswith("lora-r8-s1")) / "predictions.parquet"
    table = pq.read_table(file)
    pq.write_table(table.take(pa.array(range(len(table) - 1, -1, -1))), file)
    assert by_rank(build([tmp_path]))[8].bootstrap.low == before.low


def test_all_predictions_missing_still_gives_a_whole_report(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for file in tmp_path.rglob("predictions.parquet"):
        file.unlink()
    report = build([tmp_path])
    name = report.arms[0].runs[0].run["name"]
    assert report.headline.title == f"No conclusion: {name} has no predictions.parquet."
    assert sorted(report.write(tmp_path / "out")) == ["csv", "html", "json", "md"]
    shutil.rmtree(tmp_path / "out")


def test_families_are_named_without_their_sizes_and_the_test_by_what_was_judged(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "full", None, seed=seed, test=0.82)
        write_run(tmp_path, "tfidf", None, seed=seed, test=0.7)
        write_run(tmp_path, "lora", 8, seed=seed, device="cuda")
    none = "No conclusion: there is no comparable finished run of an adapter to compare with full fine-tuning."
    assert build([tmp_path]).headline.title == none
    for seed in range(3):
        write_run(tmp_path, "bottleneck", None, seed=seed, test=0.82, method__size=64, diverged=True)
        for dim in (100, 1000):
            write_run(tmp_path, "did", None, seed=seed, test=0.82, method__dim=dim)
    report = build([tmp_path])
    assert [family.label for family in report.families] == ["bottleneck", "did"]
    assert report.headline.title.startswith("Dimension 100 is enough (did): at most 2 points of accuracy worse")
    assert "Smallest sufficient dimension: " in report.to_methods()


def test_several_families_share_the_5_percent(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "full", None, seed=seed, test=0.82)
        for targets in ("all_linear", "qv", "mlp", "q"):
            write_run(tmp_path, "lora", 8, seed=seed, test=0.815, targets__name=targets)
    families = (report := build([tmp_path])).families
    assert [family.level for family in families] == [0.05 / 4] * 4
    for family in families:
        (step,) = family.steps
        boot = step.comparison.bootstrap
        assert family.detectable[1] == boot.detectable(0.05 / 4) > 1.2 * boot.detectable(0.05)
        assert step.low == boot.limits(0.975)[0] < boot.low
    between = dataclasses.replace(families[0], margin=-(step.low + boot.low) / 2, steps=[step], answer=None)
    title = headline([between], report.reference, report.metric).title
    assert title.endswith("worse if tested alone, not as one of 4 families.")
    for high, shown in ((boot.high, False), (boot.limits(1 - 2 * 0.05 / 4)[1], True)):
        assert dataclasses.replace(between, margin=-high - 1e-6).conclusive is shown
