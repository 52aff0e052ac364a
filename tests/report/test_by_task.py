"""Tasks side by side: official metrics by arm, and the averages of the papers, against hand-computed values."""

import json
import re
import shutil

import numpy as np
import pytest
from synthetic_study import answers, printed, write_run, write_study

from rankwise.cli import main
from rankwise.report import by_task
from rankwise.report.page import html
from rankwise.report.report import build
from rankwise.study.app import call_hydra
from rankwise.tracking.record import find

NAMES = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"]
TITLES = {name.lower().replace("-", ""): name for name in NAMES}
OF_LORA, OF_GLUE = by_task.AVERAGES
SCORES = {
    "cola": {"matthews": 0.60, "accuracy": 0.82, "f1": 0.5},
    "sst2": {"accuracy": 0.94, "f1": 0.93, "matthews": 0.9},
    "mrpc": {"f1": 0.91, "accuracy": 0.87},
    "stsb": {"pearson": 0.90, "spearman": 0.88},
    "qqp": {"f1": 0.86, "accuracy": 0.90},
    "mnli": {"accuracy": 0.873, "accuracy_matched": 0.87, "accuracy_mismatched": 0.876},
    "qnli": {"accuracy": 0.93},
    "rte": {"accuracy": 0.78},
    "wnli": {"accuracy": 0.56},
}
LORA = (0.60 + 0.94 + 0.87 + 0.90 + 0.90 + 0.873 + 0.93 + 0.78) / 8
NINE = (0.60 + 0.94 + 0.89 + 0.89 + 0.88 + 0.873 + 0.93 + 0.78 + 0.56) / 9


def write_task(root, task, scores, seed=0, method="lora", rank=8, **changes):
    """A finished run of one task with the given test scores, each ± 0.01 over items."""
    name = {"task__name": TITLES[task], "task__subset": task, "task__path": "glue", "task__metric": next(iter(scores))}
    record = write_run(root, method, rank, seed=seed, measured=False, data=f"d-{task}", **name | changes)
    record.metrics["test"] = {metric: {"value": value, "se": 0.01, "n": 100} for metric, value in scores.items()}
    record.write()
    return record


def write_glue(root, shift=0.0, leave_out=(), **run):
    for task, scores in SCORES.items():
        if task not in leave_out:
            write_task(root, task, {metric: value + shift for metric, value in scores.items()}, **run)


def read(*paths):
    return by_task.build(list(paths))


def test_one_seed_gives_the_hand_computed_averages_with_the_error_of_independent_tasks(tmp_path):
    write_glue(tmp_path)
    failed = write_task(tmp_path, "cola", {"matthews": 0.0}, seed=1, status="failed")
    failed.metrics, failed.provenance["model"] = {}, None  # before its base was read
    failed.write()
    (row,) = read(tmp_path).rows
    assert row.averages[OF_LORA].mean == pytest.approx(LORA)
    assert row.averages[OF_GLUE].mean == pytest.approx(NINE)
    assert row.averages[OF_LORA].kind == "items"
    assert row.averages[OF_LORA].half == pytest.approx(1.959964 * 0.01 / np.sqrt(8), rel=1e-3)


def test_several_seeds_give_means_with_the_interval_of_seeds_and_items(tmp_path):
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        write_glue(tmp_path, shift, seed=seed)
    (row,) = read(tmp_path).rows
    over_seeds = 4.302653 * 0.01 / np.sqrt(3)
    cases = ((row.averages[OF_LORA], LORA, np.sqrt(8)), (row.tasks["CoLA"].scores["matthews"], 0.6, 1))
    for found, mean, tasks in cases:
        half = np.hypot(over_seeds, 1.959964 * 0.01 / tasks)
        assert (found.mean, found.half) == (pytest.approx(mean), pytest.approx(half, rel=1e-3))
        assert (found.kind, found.n) == ("both", 3)


def test_scores_and_averages_stay_inside_the_range_of_their_metrics(tmp_path):
    for seed, shift in enumerate((-0.03, 0.0, 0.03)):
        for task, scores in SCORES.items():
            write_task(tmp_path, task, {metric: 0.97 + shift for metric in scores}, seed=seed)
    (row,) = (report := read(tmp_path)).rows
    assert row.averages[OF_GLUE].low < 0.93 < 0.97 < row.averages[OF_GLUE].high <= 1
    cells = re.findall(r"97\.0 \((\d+\.\d)–(\d+\.\d)\)", " ".join(printed(report, 400).split()))
    assert len(cells) >= 9 and all(float(high) <= 100 for _, high in cells)


def test_the_papers_protocol_averages_the_medians_of_the_tasks_and_says_so(tmp_path):
    for seed, shift in enumerate((0.0, 0.0, -0.3)):
        write_glue(tmp_path, shift, seed=seed, task__protocol="paper")
    report = read(tmp_path)
    (row,) = report.rows
    assert row.averages[OF_LORA].point == pytest.approx(LORA) and row.averages[OF_LORA].mean == pytest.approx(
        LORA - 0.1
    )
    assert 0 < row.averages[OF_LORA].low < LORA < row.averages[OF_LORA].high <= 1
    assert any(flag.startswith("optimistic: chosen on the reported rows") for flag in row.flags)
    assert "medians over seeds" in printed(report)


def test_an_average_is_given_only_with_all_of_its_tasks_and_says_which_are_missing(tmp_path):
    write_glue(tmp_path, leave_out=("wnli",))
    report = read(tmp_path)
    (row,) = report.rows
    assert row.averages[OF_GLUE] is None and row.averages[OF_LORA].mean == pytest.approx(LORA)
    assert report.document()["arms"][0]["missing"][OF_GLUE] == ["WNLI"] and report.given == [OF_LORA]
    write_glue(tmp_path / "few", leave_out=("wnli", "rte", "qqp"))
    assert f"{OF_LORA}: missing QQP, RTE (lora r=8)" in printed(read(tmp_path / "few"))
    shutil.rmtree(tmp_path / "few")
    write_glue(tmp_path, rank=16)
    assert "GLUE's average (9 tasks): missing WNLI (lora r=8)" in printed(read(tmp_path))


def test_mnli_without_its_two_parts_counts_for_the_average_that_pools_them_only(tmp_path):
    write_glue(tmp_path, leave_out=("mnli",))
    write_task(tmp_path, "mnli", {"accuracy": 0.873})
    (row,) = read(tmp_path).rows
    assert row.averages[OF_LORA].mean == pytest.approx(LORA) and row.missing[OF_GLUE] == ["MNLI"]


def test_arms_models_and_protocols_are_rows_of_their_own_in_reading_order(tmp_path):
    write_glue(tmp_path, rank=16)
    write_glue(tmp_path)
    write_glue(tmp_path, method="full", rank=None, lr=2e-5)
    write_glue(tmp_path, task__protocol="paper")
    write_glue(tmp_path, model__name="zebra")
    assert [row.label for row in read(tmp_path).rows] == [
        "minilm lora r=8",
        "minilm lora r=16",
        "minilm full",
        "minilm lora r=8 (paper)",
        "zebra lora r=8",
    ]


def test_learning_rates_and_where_a_run_starts_may_differ_by_task(tmp_path):
    write_glue(tmp_path, leave_out=("rte",))
    write_task(tmp_path, "rte", {"accuracy": 0.5}, lr=1e-3, method__init_from="outputs/glue/mnli")
    write_task(tmp_path, "rte", {"accuracy": 0.78}, lr=4e-3, method__init_from="outputs/glue/mnli", objective=0.9)
    (row,) = read(tmp_path).rows
    assert row.averages[OF_LORA].mean == pytest.approx(LORA)
    assert row.flags == [
        "RTE: lr at the edge of its grid (1e-3 … 4e-3): the best may lie outside",
        "RTE: started from another run (method.init_from)",
    ]


def test_two_arms_that_differ_in_their_start_alone_are_not_one(tmp_path):
    write_glue(tmp_path)
    write_task(tmp_path, "rte", {"accuracy": 0.9}, method__init_from="outputs/glue/mnli")
    rows = read(tmp_path).rows
    assert sorted(len(row.tasks) for row in rows) == [1, 9]
    assert len({row.arm.label for row in rows}) == 2


def test_runs_that_cannot_be_compared_are_left_out_with_a_note(tmp_path):
    write_glue(tmp_path)
    write_glue(tmp_path, method="full", rank=None)
    write_task(tmp_path, "rte", {"accuracy": 0.9}, trainer__batch_size=16)
    write_task(tmp_path, "rte", {"accuracy": 0.9}, rank=4, trainer__batch_size=8, status="failed")
    report = read(tmp_path)
    assert any(note.startswith("RTE: 1 run of lora r=4 left out, not comparable") for note in report.notes)
    assert report.rows[0].averages[OF_LORA].mean == pytest.approx(LORA)
    left_out = "RTE: 1 run of lora r=8 batch_size=16 left out, not comparable, not ranked"
    assert f"{left_out}: trainer.batch_size=16 (reference: 32)" in report.notes


def test_an_interval_of_seeds_that_not_all_tasks_have_is_of_those_they_share(tmp_path):
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        write_glue(tmp_path, shift, seed=seed)
    write_task(tmp_path, "rte", {"accuracy": 0.82}, seed=3)
    (row,) = read(tmp_path).rows
    assert row.averages[OF_LORA].mean == pytest.approx(LORA + 0.01 / 8)
    assert row.averages[OF_LORA].n == 3
    assert any(flag.startswith("unequal numbers of seeds: CoLA 3") for flag in row.flags)


def test_the_table_fits_120_columns_with_every_task_and_two_lines_for_two_metrics(tmp_path):
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        write_glue(tmp_path, shift, seed=seed)
        write_glue(tmp_path, shift, seed=seed, method="full", rank=None)
    shown = printed(read(tmp_path))
    assert max(map(len, shown.splitlines())) <= 120
    lines = shown.splitlines()
    first, judged = [line for line in lines if line.startswith("lora r=8")]
    assert judged.split() == ["lora", "r=8", "9", "not", "judged"]
    assert first.split() == [
        "lora",
        "r=8",
        "3",
        "60.0±3.2",
        "94.0",
        "(90.6–97.0)",  # as in the table of one task: nearer to the end of its range than its interval is wide
        *(f"{100 * value:.1f}±3.2" for value in (0.91, 0.90, 0.86, 0.87, 0.93, 0.78, 0.56)),
        *(f"{100 * value:.1f}±2.6" for value in (LORA, NINE)),
    ]
    assert lines[lines.index(first) + 1].split() == ["87.0±3.2", "88.0±3.2", "90.0±3.2", "87.6±3.2"]


def test_the_command_prints_one_document(tmp_path, capsys):
    write_glue(tmp_path, leave_out=("wnli",))
    assert main(["report", str(tmp_path), "--by", "task", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (arm,) = document["arms"]
    assert (next(iter(document["tasks"])), arm["method"], arm["rank"], arm["protocol"]) == ("CoLA", "lora", 8, "clean")
    assert arm["tasks"]["CoLA"]["matthews"]["mean"] == 0.6 and set(arm["tasks"]["CoLA"]) == {"matthews"}
    assert set(arm["tasks"]["MNLI"]) == {"accuracy", "accuracy_matched", "accuracy_mismatched"}
    assert arm["averages"][OF_LORA]["mean"] == pytest.approx(LORA) and arm["averages"][OF_GLUE] is None
    assert main(["report", str(tmp_path), "--by", "task"]) == 0
    assert "LoRA's" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--by", "task", "--markdown"]) == 0
    assert "\n| lora r=8 | 1 | 60.0 ± 2.0 | 94.0 ± 2.0 | 91.0 ± 2.0 / 87.0 ± 2.0 |" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--by", "task", "--latex"]) == 0
    shown = capsys.readouterr().out
    assert "\nlora r=8 & 1 & 60.0 $\\pm$ 2.0 & 94.0 $\\pm$ 2.0 & 91.0 $\\pm$ 2.0 / 87.0 $\\pm$ 2.0 &" in shown
    assert "\\caption{Test scores by task, $\\times$ 100" in shown and shown.endswith("\\end{table}\n")
    assert main(["report", str(tmp_path), "--by", "task", "--csv"]) == 2
    assert "leave --csv" in capsys.readouterr().err


def test_tasks_of_no_benchmark_stand_side_by_side_by_their_own_metric_without_an_average(tmp_path):
    for name, score in (("polarity", 0.8), ("subjectivity", 0.9)):
        record = write_run(tmp_path, task__name=name, data=name)
        record.metrics["test"] = {"accuracy": {"value": score, "se": 0.01, "n": 100}, "f1": {"value": 0.5, "se": 0.1}}
        record.write()
    report = read(tmp_path)
    (row,) = report.rows
    for path in ("/data/a/rows", "/data/b/rows"):  # told apart, though they have one name
        write_run(tmp_path / "of_paths", task__name="mine", task__path=path, data=path)
    assert [*read(tmp_path / "of_paths").tasks] == ["mine a/rows", "mine b/rows"]
    assert report.tasks == {"polarity": ("accuracy",), "subjectivity": ("accuracy",)} and row.averages == {}
    assert "80.0±2.0" in printed(report) and "average" not in printed(report)


def test_a_score_of_the_harness_is_one_column_though_a_model_has_fewer_tasks(tmp_path):
    for model, task in (("a", "x"), ("a", "y"), ("b", "x")):
        record = write_run(tmp_path, task__name=task, data=task, model__name=model)
        record.metrics["harness"] = {"arc_easy:acc": {"value": 0.5, "se": 0.01, "n": 100}}
        record.write()
    assert list(read(tmp_path).tasks) == ["x", "x arc_easy:acc", "y", "y arc_easy:acc"]


def test_scores_of_grouped_rows_say_so_and_what_is_to_know_of_the_data(tmp_path):
    for name, groups in (("alone", None), ("grouped", 40)):
        for seed in (0, 1):
            record = write_run(tmp_path, task__name=name, data=name, seed=seed)
            cell = {"value": 0.8 + 0.01 * seed, "se": 0.01, "n": 100} | ({"clusters": groups} if groups else {})
            record.metrics["test"] = {"accuracy": cell, "f1": {"value": 0.5}}
            record.provenance["data"]["notes"] = [f"{groups} groups also have training rows"] * bool(groups)
            record.write()
    shown = " ".join(printed(read(tmp_path)).split())
    items, note = "± 95 % over seeds and test items", "40 groups also have training rows."
    assert f"alone: {items}. grouped: {items} in 40 groups." in shown and f"Of the data of grouped: {note}" in shown


def test_a_score_that_is_no_share_is_shown_as_it_is(tmp_path):
    record = write_run(tmp_path, task__name="writing", task__metric="perplexity")
    record.metrics["test"] = {"perplexity": {"value": 12.345, "se": 0.1, "n": 100}}
    record.write()
    assert "12.35±0.20" in printed(read(tmp_path))


def test_the_experiment_is_the_nine_tasks_each_by_its_official_metric():
    seen = []
    assert call_hydra(["experiment=glue"], lambda config: 1, lambda configs: seen.extend(configs) or 0) == 0
    tasks = {config.task.subset: config.task for config in seen}
    assert {subset: task.name for subset, task in tasks.items()} == TITLES
    assert {config.study for config in seen} == {"glue"}
    for task in tasks.values():
        assert (task.metric,) == by_task.AVERAGES[OF_LORA].get(task.name, ("accuracy",))


def test_what_a_reader_must_know_of_an_arm_on_a_task_is_said_over_tasks_too(tmp_path):
    for task in ("a", "b"):
        for seed in range(2):
            write_run(tmp_path, "full", None, lr=1e-4, seed=seed, task__name=task, data=task)
            for lr in (1e-3, 2e-3):
                write_run(tmp_path, "lora", 8, lr=lr, seed=seed, diverged=task == "b", task__name=task, data=task)
    write_run(tmp_path, "full", None, lr=1e-3, seed=9, stage="tune", task__name="a", data="a")
    report = read(tmp_path)
    lora = report.rows[0]
    assert lora.flags == [
        "unequal tuning: 2 learning rates tried, full fine-tuning had 1",
        "lr at the edge of its grid (1e-3 … 2e-3): the best may lie outside",
        "b: diverged 2/2",
    ]
    unequal = "unequal tuning: 2 learning rates tried, full fine-tuning had 1"
    assert lora.unjudged == {"a": unequal, "b": "diverged 2/2"} and lora.passed == {}
    (entry, _) = report.document()["arms"]
    assert entry["passed"] == {"a": None, "b": None} and entry["not_judged"] == lora.unjudged
    shown = printed(report)
    assert f"Not judged, lora r=8 on a: {unequal}." in shown and "Not judged, lora r=8 on b: diverged 2/2." in shown
    assert re.search(r"lora r=8 ¹ ² ³ .* 79\.5±3\.6\* +2 not judged *\n", shown)
    assert shown.count("79.5±3.6* ") == 2 and "* at the best of several" in shown


def test_a_rank_is_enough_on_so_many_tasks(tmp_path, capsys):
    for task, lost in (("easy", 0), ("hard", 400)):
        for seed in (0, 1, 2):
            right = answers(0.8, 0, seed)
            worse = right.copy()
            worse[np.flatnonzero(right)[:lost]] = False
            for method, rank, correct in (("full", None, right), ("lora", 4, worse), ("lora", 64, right)):
                score = float(np.mean(correct))
                write_run(
                    tmp_path / task, method, rank, seed=seed, correct=correct, test=score, task__name=task, data=task
                )
    assert build([tmp_path]).headline.title.startswith("On easy: Rank 4 is enough: at most 2 points")
    passed = {row.label: sorted(row.passed.values()) for row in read(tmp_path).rows}
    assert passed == {"lora r=4": [False, True], "lora r=64": [True, True], "full": []}
    assert main(["report", str(tmp_path), "--by", "task"]) == 0
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    ends = {label: line[-6:] for line in shown for label in passed if line.startswith(f"{label} ")}
    assert ends == {"lora r=4": "1 of 2", "lora r=64": "2 of 2", "full": "     –"}
    for task in ("easy", "hard"):  # and find was asked to compare with rank 64
        ids = [run.run["id"] for run in find([tmp_path / task]) if run.config["method"]["rank"] == 64]
        asked = {"sentence": "Rank 4.", "metric": "accuracy", "ranks": [], "notes": [], "reference_run": ids[0]}
        (tmp_path / task / "answer-0.json").write_text(json.dumps(asked))
    passed = {row.label: sorted(row.passed.values()) for row in read(tmp_path).rows}
    assert passed == {"lora r=4": [False, True], "lora r=64": [], "full": []}


def test_a_rank_that_find_answered_for_is_enough_by_its_answer_not_by_all_runs(tmp_path):
    write_study(tmp_path, {4: 0.7, 8: 0.7, 16: 0.7, 64: 0.7}, task__name="a")
    trainable = {arm.rank: arm.first("params.trainable") for arm in build([tmp_path]).arms}
    numbers = dict.fromkeys(("gain", "low", "high", "seeds", "pilot", "lr", "peak_bytes"))
    words = {4: "enough", 8: "worse", 16: "not decided"}
    ranks = [numbers | {"rank": r, "verdict": word, "trainable": trainable[r]} for r, word in words.items()]
    answer = {"sentence": "Rank 4 is enough.", "rank": 4, "metric": "accuracy", "ranks": ranks, "notes": []}
    assert {row.label: row.passed for row in read(tmp_path).rows}["lora r=4"] == {"a": None}
    (tmp_path / "answer-0.json").write_text(json.dumps(answer))
    report = read(tmp_path)
    found = {row.arm.rank: (row.passed, row.unjudged) for row in report.rows if row.arm.rank}
    by_find = {4: ({"a": True}, {}), 8: ({"a": False}, {}), 16: ({}, {"a": "not decided by find"})}
    assert found == by_find | {64: ({"a": False}, {})}, "which nobody asked find about"
    assert "a rank that find was asked about is what its answer says" in " ".join(printed(report).split())


def test_what_find_answered_on_one_task_says_nothing_of_another_in_the_study(tmp_path):
    for task, n in (("a", 3), ("b", 4)):  # most runs are of b, the latest answer of a
        write_study(tmp_path, {2: 0.7}, seeds=range(n), task__name=task, data=task)
    asked = {"metric": "accuracy", "notes": [], "margin": 0.3}
    numbers = dict.fromkeys(("gain", "low", "high", "seeds", "pilot", "lr", "peak_bytes"))
    for day, (task, word) in enumerate((("b", "enough"), ("a", "worse"))):
        runs = {run.config["method"]["name"]: run for run in find([tmp_path]) if run.config["task"]["name"] == task}
        ranks = [numbers | {"rank": 2, "verdict": word, "trainable": runs["lora"].params["trainable"]}]
        answer = asked | {"sentence": f"Rank 2 is {word}.", "ranks": ranks, "reference_run": runs["full"].run["id"]}
        (tmp_path / f"answer-{task}.json").write_text(json.dumps(answer | {"date": f"2026-01-0{day + 1}"}))
    assert {row.label: row.passed for row in read(tmp_path).rows}["lora r=2"] == {"a": False, "b": True}
    report = build([tmp_path])
    assert str(report.headline) == "On a: Rank 2 is worse. On b: Rank 2 is enough."
    assert report.reference.where == "on a" and report.answers[1].by_rank.title.endswith("of every rank on b")
    (tmp_path / "answer-a.json").unlink()
    assert read(tmp_path).rows[0].passed == {"a": False, "b": True}, "a by all runs"


def test_an_arm_of_another_task_lost_no_score_and_the_report_points_to_that_by_task(tmp_path):
    write_study(tmp_path, {8: 0.81})
    assert "--by task" not in printed(build([tmp_path]))
    other = write_run(tmp_path, "lora", 8, task__name="grades", data="grades")
    other.metrics["test"] = {"pearson": {"value": 0.9, "se": 0.01, "n": 10}}
    other.write()
    report = build([tmp_path])
    (found,) = [arm for arm in report.arms if arm.where == "on grades"]
    assert "without a finite score" not in " ".join(found.flags)
    said = "The runs are of 2 tasks, of which this report compares one: rankwise report PATH --by task sets them"
    assert all(said in " ".join(text.split()) for text in (printed(report), report.to_markdown(), html(report)))


def test_a_flag_that_differs_by_task_in_what_was_measured_is_one_note_and_none_is_of_seconds(tmp_path):
    for task, end in (("a", 0.30), ("b", 0.35), ("c", 0.42)):
        for seed, mfu in ((0, 0.4), (1, 0.1)):
            losses = (0.7, 0.5, 0.42, 0.42, end)
            run = write_run(tmp_path, "full", None, seed=seed, losses=losses, task__name=task, data=task)
            run.compute |= {"mfu": mfu, "seconds": {"train_s": 9.0}}
            run.write()
    (row,) = read(tmp_path).rows
    fall = "under-trained: validation loss still falls, by 0.07 to 0.12 in the last fifth of the steps"
    assert row.flags == [f"a, b: {fall}"] and row.tasks["a"].flags[-1].startswith("disturbed: MFU")


@pytest.mark.parametrize(
    ("passed", "unjudged", "said"),
    [
        ({"a": None}, {}, "1 not tested"),
        ({"a": True, "b": False, "c": None}, {"d": "why"}, "1 of 2\n1 not tested\n1 not judged"),
        ({}, {}, "–"),
    ],
)
def test_a_rank_that_was_not_tested_is_not_counted_as_not_enough(passed, unjudged, said):
    assert by_task.Row(None, "m", {}, passed=passed, unjudged=unjudged).enough == said
