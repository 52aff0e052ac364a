"""Runs on tasks of lm-evaluation-harness: the scores are the model's, and reports read them like others."""

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rankwise.adapters import loading
from rankwise.adapters.harness import evaluate
from rankwise.adapters.runs import open_run
from rankwise.cli import main
from rankwise.compare import predictions_of
from rankwise.metrics import named
from rankwise.report.report import build
from rankwise.tracking import lease, predictions
from rankwise.tracking.record import revise

pytest.importorskip("lm_eval")
LANGUAGE = {"task": "synthetic_lm", "targets": "qv", "objective": "val/perplexity", "trainer__save_full": True}
WORDS = ["sun", "joy", "win", "fog", "ill", "mud", "box", "map", "cup"]
DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "{{{{text}}}} mood:"
"""
TASKS = {
    "moods": """
output_type: multiple_choice
doc_to_target: label
doc_to_choice: [joy, fog]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "sayings": """
output_type: loglikelihood
doc_to_target: " joy"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
""",
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of 40 texts: which of two answers is right, which is chance, and how likely one of them is."""
    folder, rng = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)
    docs = [{"text": " ".join(rng.choice(WORDS, 4)), "label": int(rng.integers(2))} for _ in range(40)]
    (folder / "moods.json").write_text(json.dumps(docs))
    for name, own in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}{DATA.format(file=folder / 'moods.json')}{own}")
    return folder


def likelier(model: torch.nn.Module, tokenizer: object, text: str) -> int:
    """Which of the two answers the model gives the larger probability behind a text."""
    sums = []
    for answer in (" joy", " fog"):
        before, whole = (tokenizer(t, add_special_tokens=False).input_ids for t in (text, text + answer))  # type: ignore[operator]
        with torch.inference_mode():
            logps = model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
        sums.append(sum(float(logps[i - 1, whole[i]]) for i in range(len(before), len(whole))))
    return int(np.argmax(sums))


def test_the_record_holds_what_the_model_answers_and_how_it_differs_from_the_base(trained, task, capsys):
    run, docs = trained("llama", optim__lr=0.3, **LANGUAGE), json.loads((task / "moods.json").read_text())
    asked = ["--tasks", "moods", "--include_path", str(task)]
    assert main(["adapter", "eval", str(run.folder), *asked, "--base", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["runs"][0]["scores"]["moods:acc"]
    right = {}
    for which, load in (("base", loading.stored_base), ("run", loading.as_run)):
        model, tokenizer = load(run)
        answers = [likelier(model.eval(), tokenizer, f"{doc['text']} mood:") for doc in docs]
        right[which] = np.array([answer == doc["label"] for answer, doc in zip(answers, docs, strict=True)], float)
    gap = right["run"] - right["base"]
    assert np.any(gap), "nothing is tested if training changed no answer"
    assert told["value"] == pytest.approx(right["run"].mean())
    assert told["se"] == pytest.approx(right["run"].std(ddof=1) / np.sqrt(40))
    assert told["before"]["value"] == pytest.approx(right["base"].mean())
    assert told["difference"]["value"] == pytest.approx(gap.mean())
    assert told["difference"]["se"] == pytest.approx(gap.std() / np.sqrt(40), rel=0.05)
    assert open_run(run.folder).record.metrics["harness"]["moods:acc"] == told
    kept = predictions.read(run.folder, run.name, ("label", "acc"), "harness/moods.parquet")
    assert kept.columns["acc"].tolist() == right["run"].tolist()


def test_a_base_is_asked_in_the_precision_of_each_run_and_what_others_have_recorded_stays(trained, task, capsys):
    run = trained("llama", optim__lr=0.3, **LANGUAGE)
    low = replace(run, record=replace(run.record, compute=run.record.compute | {"precision": "bf16"}))
    evaluate([run], ["moods"], include=task)  # all begin with the record as it is in ``run``
    both, alone = (evaluate(runs, ["sayings"], include=task, base=True)["runs"] for runs in ([run, low], [low]))
    out, err = capsys.readouterr()
    assert not out and "bootstrapping" in err, "stdout is for results alone"
    told = [asked["scores"]["sayings:perplexity"] for asked in (*both, *alone)]
    assert all(one["difference"] is None and "its record says" in one["not_paired"] for one in told), "no mean of items"
    exact, rounded, again = (one["before"]["value"] for one in told)
    assert exact != rounded == again == pytest.approx(exact, rel=0.1)
    assert {"moods:acc", "sayings:perplexity"} <= open_run(run.folder).record.metrics["harness"].keys()


def test_a_report_compares_by_such_a_score_paired_by_seed_and_item(trained, task, tmp_path, capsys):
    runs = [
        trained("llama", method, seed=seed, study="asked", optim__lr=lr, **LANGUAGE)
        for method, lr in (("lora", 0.3), ("full", 0.1))
        for seed in (0, 1)
    ]
    folders = [str(run.folder) for run in runs]
    assert main(["adapter", "eval", *folders, "--tasks", "moods", "--include-path", str(task)]) == 0
    capsys.readouterr()
    of = {run.name: predictions.read(run.folder, run.name, ("acc",), "harness/moods.parquet") for run in runs}
    lora, full = (np.mean([of[run.name].columns["acc"].mean() for run in pair]) for pair in (runs[:2], runs[2:]))
    report = build([runs[0].folder.parent], "moods:acc")
    comparison = next(iter(report.comparisons.values()))
    assert (comparison.seeds, comparison.items) == (2, 40)
    assert comparison.estimate == pytest.approx(lora - full)
    assert "chosen for this report" in report.notes[0]
    study = runs[0].folder.parent
    assert main(["report", str(study), "--score", "moods:acc"]) == 0
    assert not (study / "report.html").exists(), "it is another report than the study's"
    assert main(["report", str(study), "--markdown"]) == 0
    assert re.search(r"Tasks of lm-evaluation-harness.*moods:acc %", capsys.readouterr().out, re.DOTALL)
    assert main(["report", str(study), "--score", "moods:ac"]) == 2
    assert "did you mean moods:acc?" in capsys.readouterr().err


def test_what_cannot_be_asked_is_refused_in_one_line(trained, task, capsys, monkeypatch):
    writes, classifies = trained("llama", optim__lr=0.3, **LANGUAGE), trained("bert")
    asked = ["--include-path", str(task), "--tasks"]
    # The tasks that come with it are thousands of files.
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(task / "manager.py"))
    for run, tasks, said in ((classifies, "moods", "no language model"), (writes, "mood", "did you mean moods?")):
        assert main(["adapter", "eval", str(run.folder), *asked, tasks]) == 2
        assert said in capsys.readouterr().err
    file = writes.folder / "harness/moods.parquet"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"of another time")
    monkeypatch.setattr("rankwise.adapters.harness.revise", functools.partial(revise, wait_s=0))
    with lease.owned(writes.folder):
        assert main(["adapter", "eval", str(writes.folder), *asked, "moods"]) == 2
    assert "another process is at the run" in capsys.readouterr().err
    assert file.read_bytes() == b"of another time", "no answers without their score"
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    assert main(["adapter", "eval", str(writes.folder), *asked, "moods"]) == 2
    assert "pip install 'rankwise[eval]'" in capsys.readouterr().err


def test_no_name_of_a_task_leads_out_of_the_runs_folder(trained, tmp_path):
    run = trained("llama", **LANGUAGE)
    columns = {"item": np.arange(4), "label": np.arange(4), "acc": np.array([1.0, 0.0, 1.0, 1.0])}
    outside = "../../../answers"  # from the folder of a record that a stranger wrote
    folder = tmp_path / "study" / "run"
    (folder / "harness").mkdir(parents=True)
    predictions.store(folder / "harness" / f"{outside}.parquet", columns)
    assert (tmp_path / "answers.parquet").exists()
    scores = {f"{outside}:acc": {"value": 0.75, "se": 0.1, "n": 4}}
    record = replace(run.record, folder=folder, metrics={"harness": scores})
    with pytest.raises(predictions.Unreadable, match=r"has no harness/\.\._\.\._\.\._answers\.parquet"):
        predictions_of(record, named(f"{outside}:acc"))
    predictions.store(folder / predictions.harness_file(outside), columns)
    assert predictions_of(record, named(f"{outside}:acc")).columns["acc"].sum() == 3
