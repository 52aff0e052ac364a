"""A suite of tasks: official metrics by arm, and the averages of the papers, against hand-computed values."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from synthetic_study import write_run

from rankwise.cli import main
from rankwise.errors import Refused
from rankwise.report import suites
from rankwise.report.suite_table import render
from rankwise.run import run
from rankwise.study import launcher
from rankwise.study.app import call_hydra

GLUE = suites.SUITES["glue"]
SCORES = {
    "cola": {"matthews": 0.60, "accuracy": 0.82, "f1": 0.5}, "sst2": {"accuracy": 0.94, "f1": 0.93, "matthews": 0.9},
    "mrpc": {"f1": 0.91, "accuracy": 0.87}, "stsb": {"pearson": 0.90, "spearman": 0.88},
    "qqp": {"f1": 0.86, "accuracy": 0.90},
    "mnli": {"accuracy": 0.873, "accuracy_matched": 0.87, "accuracy_mismatched": 0.876},
    "qnli": {"accuracy": 0.93}, "rte": {"accuracy": 0.78}, "wnli": {"accuracy": 0.56},
}  # fmt: skip
LORA = (0.60 + 0.94 + 0.87 + 0.90 + 0.90 + 0.873 + 0.93 + 0.78) / 8
NINE = (0.60 + 0.94 + 0.89 + 0.89 + 0.88 + 0.873 + 0.93 + 0.78 + 0.56) / 9


def write_task(root, task, scores, seed=0, method="lora", rank=8, **changes):
    """A finished run of one task with the given test scores, each ± 0.01 over items."""
    name = {"task__name": GLUE.tasks[task][0], "task__subset": task, "task__path": "glue"}
    record = write_run(root, method, rank, seed=seed, measured=False, data=f"d-{task}", **name | changes)
    record.metrics["test"] = {metric: {"value": value, "se": 0.01, "n": 100} for metric, value in scores.items()}
    record.write()
    return record


def write_glue(root, shift=0.0, leave_out=(), **run):
    for task, scores in SCORES.items():
        if task not in leave_out:
            write_task(root, task, {metric: value + shift for metric, value in scores.items()}, **run)


def read(*paths):
    return suites.build(list(paths), GLUE)


def printed(report):
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(render(report))
    return console.file.getvalue()


def test_one_seed_gives_the_hand_computed_averages_with_the_error_of_independent_tasks(tmp_path):
    write_glue(tmp_path)
    (row,) = read(tmp_path).rows
    assert row.averages["lora"].mean == pytest.approx(LORA)
    assert row.averages["glue"].mean == pytest.approx(NINE)
    assert row.averages["lora"].kind == "items"
    assert row.averages["lora"].half == pytest.approx(1.959964 * 0.01 / np.sqrt(8))


def test_several_seeds_give_means_and_the_average_has_the_interval_of_the_seeds_averages(tmp_path):
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        write_glue(tmp_path, shift, seed=seed)
    (row,) = read(tmp_path).rows
    half = 4.302653 * 0.01 / np.sqrt(3)
    for found, mean in ((row.averages["lora"], LORA), (row.tasks["rte"].scores["accuracy"], 0.78)):
        assert (found.mean, found.half) == (pytest.approx(mean), pytest.approx(half))
        assert (found.kind, found.n) == ("seeds", 3)


def test_the_papers_protocol_averages_the_medians_of_the_tasks_and_says_so(tmp_path):
    for seed, shift in enumerate((0.0, 0.0, -0.3)):
        write_glue(tmp_path, shift, seed=seed, task__protocol="paper")
    report = read(tmp_path)
    (row,) = report.rows
    assert row.averages["lora"].point == pytest.approx(LORA) and row.averages["lora"].mean == pytest.approx(LORA - 0.1)
    assert (row.averages["lora"].low + row.averages["lora"].high) / 2 == pytest.approx(LORA)
    assert any(flag.startswith("optimistic: chosen on the reported rows") for flag in row.flags)
    assert "medians over seeds" in printed(report)


def test_an_average_is_given_only_with_all_of_its_tasks_and_says_which_are_missing(tmp_path):
    write_glue(tmp_path, leave_out=("wnli",))
    report = read(tmp_path)
    (row,) = report.rows
    assert row.averages["glue"] is None and row.averages["lora"].mean == pytest.approx(LORA)
    assert "GLUE's average (9 tasks): missing WNLI (lora r=8)" in printed(report)
    assert suites.document(report)["arms"][0]["averages"]["missing"] == ["wnli"]


def test_mnli_without_its_two_parts_counts_for_the_average_that_pools_them_only(tmp_path):
    write_glue(tmp_path, leave_out=("mnli",))
    write_task(tmp_path, "mnli", {"accuracy": 0.873})
    (row,) = read(tmp_path).rows
    assert row.averages["lora"].mean == pytest.approx(LORA) and row.missing["glue"] == ["mnli"]


def test_arms_models_and_protocols_are_rows_of_their_own_in_reading_order(tmp_path):
    write_glue(tmp_path, rank=16)
    write_glue(tmp_path)
    write_glue(tmp_path, method="full", rank=None, lr=2e-5)
    write_glue(tmp_path, task__protocol="paper")
    write_glue(tmp_path, model__name="zebra")
    assert [row.label for row in read(tmp_path).rows] == [
        "minilm lora r=8", "minilm lora r=16", "minilm full", "minilm lora r=8 (paper)", "zebra lora r=8",
    ]  # fmt: skip


def test_learning_rates_and_where_a_run_starts_may_differ_by_task(tmp_path):
    write_glue(tmp_path, leave_out=("rte",))
    write_task(tmp_path, "rte", {"accuracy": 0.5}, lr=1e-3, method__init_from="outputs/glue/mnli")
    write_task(tmp_path, "rte", {"accuracy": 0.78}, lr=4e-3, method__init_from="outputs/glue/mnli", objective=0.9)
    (row,) = read(tmp_path).rows
    assert row.averages["lora"].mean == pytest.approx(LORA)
    assert row.flags == ["rte: started from another run (method.init_from)"]


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
    report = read(tmp_path)
    assert report.rows[0].averages["lora"].mean == pytest.approx(LORA)
    assert "rte: 1 run(s) of lora r=8 left out, they differ in trainer.batch_size=16 (reference: 32)" in report.notes


def test_an_interval_of_seeds_that_not_all_tasks_have_is_of_those_they_share(tmp_path):
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        write_glue(tmp_path, shift, seed=seed)
    write_task(tmp_path, "rte", {"accuracy": 0.82}, seed=3)
    (row,) = read(tmp_path).rows
    assert row.averages["lora"].mean == pytest.approx(LORA + 0.01 / 8)
    assert row.averages["lora"].n == 3
    assert any(flag.startswith("unequal numbers of seeds: cola 3") for flag in row.flags)


def test_the_table_fits_120_columns_with_every_task_and_two_lines_for_two_metrics(tmp_path):
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        write_glue(tmp_path, shift, seed=seed)
        write_glue(tmp_path, shift, seed=seed, method="full", rank=None)
    lines = printed(read(tmp_path)).splitlines()
    assert max(map(len, lines)) <= 120
    (first,) = [line for line in lines if line.startswith("lora r=8")]
    assert first.split() == [
        "lora", "r=8", "3", *(f"{100 * value:.1f}±2.5" for value in
        (0.60, 0.94, 0.91, 0.90, 0.86, 0.87, 0.93, 0.78, 0.56, LORA, NINE)),
    ]  # fmt: skip
    assert lines[lines.index(first) + 1].split() == ["87.0±2.5", "88.0±2.5", "90.0±2.5", "87.6±2.5"]


def test_the_command_reads_finished_runs_and_prints_one_document(tmp_path, capsys):
    write_glue(tmp_path, leave_out=("wnli",))
    assert main(["suite", "glue", "--json", "--read", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    (arm,) = document["arms"]
    assert (document["suite"], arm["method"], arm["rank"], arm["protocol"]) == ("glue", "lora", 8, "clean")
    assert arm["tasks"]["cola"]["matthews"]["mean"] == 0.6 and set(arm["tasks"]["cola"]) == {"matthews"}
    assert set(arm["tasks"]["mnli"]) == {"accuracy", "accuracy_matched", "accuracy_mismatched"}
    assert arm["averages"]["lora"]["mean"] == pytest.approx(LORA) and arm["averages"]["glue"] is None
    assert main(["suite", "glue", "--read", str(tmp_path)]) == 0
    assert "LoRA's" in capsys.readouterr().out


def test_runs_of_no_task_of_the_suite_are_refused(tmp_path):
    write_run(tmp_path)
    with pytest.raises(Refused, match=r"no run of glue in .*: none has task\.subset=cola or"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [("suite gleu", "did you mean glue"), ("suite glue --config x.yaml", "several runs"),
     ("suite glue --read", "--read"), ("suite glue --read x seed=1 --jobs 2", "--jobs")],
)  # fmt: skip
def test_a_line_that_cannot_be_meant_is_refused(line, said, capsys):
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_the_experiment_is_the_nine_tasks_each_by_its_official_metric():
    seen = []
    assert call_hydra(["experiment=glue"], lambda config: 1, lambda configs: seen.extend(configs) or 0) == 0
    tasks = {config.task.subset: config.task for config in seen}
    assert list(tasks) == list(GLUE.tasks) and {config.study for config in seen} == {"glue"}
    for name, (title, metrics) in GLUE.tasks.items():
        assert tasks[name].name == title
        assert tasks[name].metric in {*metrics, "accuracy"}


def test_the_command_trains_what_is_left_and_reports_it_from_where_it_landed(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "glue"
    for name, rows in (("CoLA", ["x\t{label}\t*\ta sentence of number {i}"]), ("RTE", ["{i}\tit {i}\tis {i}\t{name}"])):
        (folder / name).mkdir(parents=True)
        for part, size in (("train", 60), ("dev", 20)):
            lines = ["index\tsentence1\tsentence2\tlabel"] if name == "RTE" else []
            for i in range(size):
                label = ["entailment", "not_entailment"][i % 2]
                lines.append(rows[0].format(i=100 * len(part) + i, label=i % 2, name=label))
            (folder / name / f"{part}.tsv").write_text("\n".join([*lines, ""]))
    monkeypatch.chdir(tmp_path)
    trained = []

    def here(configs, jobs):  # in this process, which has torch already
        trained.extend(run(config) for config in configs)
        return []

    monkeypatch.setattr(launcher, "launch", here)
    line = ["suite", "glue", "--json", "debug=fast", "task=glue/cola,glue/rte", f"task.path={folder}", "method=tfidf"]
    for _ in range(2):
        assert main([*line, "task.validation_share=0.2"]) == 0
        document = json.loads(capsys.readouterr().out)
    assert len(trained) == 2
    (arm,) = document["arms"]
    by_task = {record.config["task"]["subset"]: record.metrics["test"] for record in trained}
    assert arm["method"] == "tfidf" and set(arm["tasks"]) == {"cola", "rte"}
    assert arm["tasks"]["rte"]["accuracy"]["mean"] == by_task["rte"]["accuracy"]["value"]
    assert arm["tasks"]["cola"]["matthews"]["mean"] == by_task["cola"]["matthews"]["value"]
    assert arm["averages"]["missing"] == ["sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "wnli"]


def test_asking_what_would_run_reports_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["suite", "glue", "--dry-run", "debug=fast", "method=tfidf", "task=glue/cola,glue/rte"]) == 0
    out = capsys.readouterr().out
    assert "tfidf" in out and "average" not in out
    assert list(tmp_path.iterdir()) == []
