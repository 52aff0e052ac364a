"""The command, with real runs of a tiny model."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from in_process import one_server, rankwise  # noqa: F401

from rankwise.report.answers import read
from rankwise.report.report import build
from rankwise.study.compose import composed
from rankwise.tracking.record import begin

FAST = ["find", "debug=fast", "method.rank=1,4", "--rates", "default", "--margin", "10%"]
# Jobs by free memory would change the time that is told from one start to the next.
ASK = [*FAST, "trainer.max_steps=80", "method.lr=1e-2", "--reference", "r=8", "--jobs", "2"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("find")
    done = rankwise(folder, *ASK, "--json")
    assert done.returncode == 0 and "finished before" not in done.stderr, done.stderr
    return folder, json.loads(done.stdout)


def test_it_ends_in_one_sentence_that_the_records_bear_out(found):
    folder, told = found
    records = [json.loads(file.read_text()) for file in folder.rglob("result.json")]
    assert told["cost"]["runs"] == len(records) and f"{len(records)} runs" in told["sentence"]
    scores = {
        (r["config"]["method"]["rank"], r["config"]["seed"]): r["metrics"]["test"]["accuracy"]["value"]
        for r in records
        if r["config"]["stage"] is None
    }
    (last,) = [r["run"]["answer"] for r in records if "answer" in r["run"]]  # from where W&B's summary has it
    assert last == told["sentence"]
    assert any(row["seeds"] for row in told["ranks"])
    for row in told["ranks"]:
        seeds = range(row["seeds"])
        if seeds:
            gain = sum(scores[row["rank"], s] - scores[8, s] for s in seeds) / len(seeds)
            assert row["gain"] == pytest.approx(gain, abs=1e-9)
        else:
            assert row["verdict"] == "not run" and row["gain"] is None


def test_a_reference_that_gives_one_answer_forbids_a_conclusion(tmp_path):
    """Six steps teach a random model nothing: every arm scores the same, which is no sameness."""
    done = rankwise(tmp_path, *FAST, "--margin", "2%")
    assert done.returncode == 0 and done.stderr.startswith("rankwise: 64 test rows are too few for a margin of 2 ")
    said = "No conclusion: full fine-tuning's runs are no reference (3/3 give one answer to every text); "
    assert " ".join(done.stdout.split()).startswith(said)


def test_a_second_start_runs_nothing_and_says_the_same(found):
    folder, told = found
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")}
    again = rankwise(folder, *ASK, "--json")
    assert json.loads(again.stdout) == told
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")} == before
    (file,) = folder.rglob("answer-*.json")
    noted = json.loads(file.read_text())
    assert noted["guess"] == told["rule"]["guess"] and noted["sentence"] == told["sentence"]
    (record,) = [r["run"] for r in map(json.loads, map(Path.read_text, before)) if "answer" in r["run"]]
    assert record["ended"] <= noted["date"] <= datetime.now(UTC).isoformat()


def test_the_report_shows_what_was_learned_of_every_rank(found):
    folder, told = found
    report = build([folder / "outputs"])
    (answer,) = report.answers
    assert report.headline.title == answer.sentence == told["sentence"]
    assert [(row[0], row[1], row[4]) for row in answer.by_rank.rows] == [
        (str(row["rank"]), row["verdict"], str(row["seeds"] or "–")) for row in told["ranks"]
    ]
    gains = [row["gain"] for row in told["ranks"]]
    shown = [row[2].replace("−", "-") for row in answer.by_rank.rows]
    assert [None if text == "–" else float(text) for text in shown] == [g and round(100 * g, 1) for g in gains]
    assert all(note in report.to_markdown() for note in [answer.by_rank.title, *told["notes"]])
    (given,) = report.document()["answers"]
    assert {key: given[key] for key in told} == told and given["guess"] == told["rule"]["guess"]
    assert report.reference.rank == 8 and report.document()["reference"] == "lora r=8"  # as was asked
    compared = {row["rank"] for row in told["ranks"] if row["seeds"]}
    assert {step.arm.rank for family in report.families for step in family.steps} == compared
    methods = report.to_methods()
    level = "4 % from rank 1 down and, if that fails, 1 % from rank 4 down to it"
    assert f"level of {level}, divided over its looks as 0 + 20 + 40 + 40 %. {told['notes'][0]}" in methods
    assert (
        "set in the config before the runs: 10 points of accuracy." in methods
        and "Differences from rank 8 are pair" in methods
    )


def test_the_newest_answer_to_a_question_stands_and_an_older_one_is_a_note_of_it(found, tmp_path):
    record, told = begin(composed(["debug=fast"]), None), found[1]
    record.folder = tmp_path / "run"
    said = {"aaaaaaaa-3": "Rank 1 is enough: old. 9 runs", "bbbbbbbb-5": "Another.", "aaaaaaaa": "Rank 4 is enough."}
    for digits, sentence in said.items():
        date = {"bbbbbbbb-5": "2026-11-30T04:00:01+00:00"}.get(digits, "2026-11-30T04:00:00+00:00")
        file = tmp_path / f"answer-{digits}.json"
        file.write_text(json.dumps(told | {"sentence": sentence, "date": date}))
        os.utime(file, (0, 5))  # a copy or a checkout
    other, newest = read([record])
    assert (other.sentence, newest.sentence) == ("Another.", "Rank 4 is enough.")
    asked = [one.said(with_margin=True).removeprefix(one.sentence) for one in (newest, replace(newest, margin=0.0))]
    assert asked == [" The margin was 10 points of accuracy.", ""]
    assert newest.by_rank.notes[len(told["notes"]) :] == ["Before, with other --seeds: Rank 1 is enough: old."]


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"sentence": 5}', '{"sentence": "x", "metric": 3, "ranks": [1]}', "\xff"]
)
def test_a_file_that_is_no_answer_is_left_out(text, tmp_path):
    (tmp_path / "answer-0.json").write_text(text, encoding="latin-1")
    record = begin(composed(["debug=fast"]), None)
    record.folder = tmp_path / "run"
    assert read([record]) == []


def test_a_dry_run_lists_the_stages_and_makes_nothing(tmp_path):
    done = rankwise(tmp_path, *ASK, "--dry-run")
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    first = [line.split()[0] for line in done.stdout.splitlines() if line[:1].isalpha()]
    assert first == ["stage", "pilot", "confirm", "Training", "The", "Rows"]
    (confirmed,) = (line for line in done.stdout.splitlines() if line.startswith("confirm"))
    assert " a rank and rank 8, " in confirmed, "what a stage does begins beside its name"
    last = "every batch at full length, at 40.0 % (assumed) of the peak speed. The margin is 10 points of accuracy. "
    last += "Rows of each run that counts: 128 train, 64 validation, 64 test."
    assert " ".join(done.stdout.split()).endswith(last)
    assert "too few" not in done.stderr
    done = rankwise(tmp_path, *ASK, "--margin", "2%", "--dry-run", "--json")
    assert "rankwise: 64 test rows are too few for a margin of 2 points: " in done.stderr
    document = json.loads(done.stdout)
    assert [stage["stage"] for stage in document["stages"]] == ["pilot", "confirm"] and document["jobs"] == 2


def test_a_dry_run_says_what_the_data_are_and_what_is_there(found, tmp_path):
    folder, told = found
    there = rankwise(folder, *ASK, "--dry-run").stdout
    assert f"The study has {told['cost']['runs']} runs: what this question needs of them costs nothing" in there
    rows = tmp_path / "mine.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"word {i}\t{i % 2}\n" for i in range(400)) + "\t1\n")
    read = [f"task.path={rows}", "task.text=text", "task.label=label", "task.skip_empty=true"]
    done = rankwise(tmp_path, "find", "model=tiny_bert", "task=local", *read, "method.rank=1,4", "--dry-run")
    said = " ".join(done.stdout.split())
    assert (
        "Rows of each run that counts: " in said
        and "Note: task.skip_empty leaves out rows without task.text=text (1)." in said
    )


def test_a_run_that_fails_ends_it_by_name(tmp_path):
    raising = "{_target_: builtins.int, _partial_: true}"
    callback = f"{{_target_: lightning.pytorch.callbacks.LambdaCallback, on_train_end: {raising}}}"
    done = rankwise(tmp_path, *ASK, f"callbacks={{raising: {callback}}}")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("No conclusion: lora-r4-qv-lr0.01-s2000 failed: ")
    assert "lora-r8-qv-lr0.01-s0 failed; its seed was not replaced." in done.stdout
    assert "lora-r4-qv-lr0.01-s2000 failed." in done.stdout  # the pilot, whose seed no run that counts has
