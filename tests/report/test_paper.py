"""What a paper needs of a study: LaTeX, the methods in words, figures as files, and a packet to hand on."""

import json
import os
import re
import shutil
import subprocess
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
from synthetic_study import answers, write_run, write_study

from rankwise.cli import main
from rankwise.report import plots
from rankwise.report.columns import columns
from rankwise.report.latex import escaped
from rankwise.report.report import build
from rankwise.report.tuning import expected_best, section
from rankwise.tracking.record import read


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "outputs" / "ranks"
    for seed in (0, 1, 2):
        write_run(folder, "full", None, lr=1e-4, test=0.83, seed=seed)
        write_run(folder, "lora", 4, test=0.82, seed=seed)
        write_run(folder, "lora", 64, test=0.83, seed=seed)
    for lr, score in ((1e-3, 0.79), (2e-3, 0.80), (4e-3, 0.78)):
        write_run(folder, "lora", 8, lr=lr, objective=score, seed=100, stage="tune")
        write_run(folder, "full", None, lr=lr / 10, objective=score, seed=100, stage="tune")
    return folder


def test_latex_is_a_booktabs_table_of_the_wanted_columns_with_nothing_unescaped(study):
    sentence = "No conclusion: it fell; train it longer, or with --rates tune. 7 runs, 13 s."
    answer = {"sentence": sentence, "metric": "accuracy", "ranks": [], "notes": []}
    (study / "answer-a.json").write_text(json.dumps(answer))
    made = build([study]).to_latex(["rank", "accuracy %", "trainable_params", "train_peak_bytes"])
    assert "\n\\caption{No conclusion: it fell. $\\pm$ 95" in made, "neither advice nor what it took"
    table = made[made.index("\\toprule") : made.index("\\bottomrule")]
    header, *rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert header == r"arm & rank & accuracy \% & trainable params & peak MB \\"
    assert len(rows) == 3 and all(row.count(" & ") == 4 for row in rows)
    assert re.search(r"lora r=64 & 64 & 82\.2 \$\\pm\$ 1\.8 & 2\.56[ ~]M & \d+ ", table)
    assert escaped("q|v_proj") == r"q\textbar{}v\_proj" and escaped("--rates a-b –") == "-{}-rates a-b --"
    assert not re.search(r"(?<!\\)[%#_]", made), "a comment or a subscript would break the table"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles(study, tmp_path):
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}%s\\end{document}"
    (tmp_path / "a.tex").write_text(document % build([study]).to_latex())
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    log = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "Overfull" not in log, "what is wider than the page is cut off"


def test_an_unknown_column_is_refused_with_the_nearest_and_nothing_written(study, capsys, tmp_path):
    for form, where in (("--latex", "--figures"), ("--csv", "--out")):
        assert main(["report", str(study), form, "--columns", "rnk", where, str(tmp_path / "there")]) == 2
        assert "--columns rnk" in (said := capsys.readouterr().err) and "did you mean rank?" in said
    assert not (tmp_path / "there").exists()


def test_csv_and_markdown_have_the_wanted_columns_alone(study, capsys):
    assert not [column for column in columns(build([study])) if "," in column.header], "which sets them apart"
    assert main(["report", str(study), "--csv", "--columns", "arm,rank,mfu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "arm,rank,mfu"
    assert main(["report", str(study), "--csv", "--columns", "rank,trained %"]) == 2
    out, said = capsys.readouterr()
    assert not out and "--columns trained %: of tables, not of CSV: the first line of report.csv has all" in said
    assert main(["report", str(study), "--markdown", "--columns", "rank,probed batch: rows × tokens"]) == 0
    assert "| arm | rank | probed batch: rows × tokens |\n" in capsys.readouterr().out


def test_the_methods_say_what_the_records_hold(study):
    said = build([study]).to_methods()
    for fact in (
        "minilm",
        "polarity",
        "SHA-256 d0…",
        "full. lora on all_linear (query, value): α=2r (scale s = 2), bias=none, dropout=0.0. Equal",
        "out of 3 each (3 for lora r=8, 3 for full; 1e-4 to 4e-3), on other seeds",
        "100 steps of 32 sequences of at most 48 tokens",
        "over 3 seeds",
        "2,000 test items",
    ):
        assert fact in said
    assert "15 runs, 6 for tuning" in said, "tuning runs are compute, too"


def test_what_was_stored_how_and_by_which_package_is_said_and_what_is_not_quantized_stands_first(tmp_path):
    write_run(tmp_path, "full", None)
    for quant in ("bf16", "none", "nf4"):
        kind = {} if quant == "none" else {"quant__kind": quant}
        record = write_run(tmp_path, "lora", 8, quant__name=quant, **kind)
        record.provenance["packages"] = {"torch": "2.13", "bitsandbytes": "0.50" if quant == "nf4" else None}
        record.write()
    report = build([tmp_path])
    assert [arm.label for arm in report.arms] == ["lora r=8 unquantized", "lora r=8 bf16", "lora r=8 nf4", "full"]
    said = report.to_methods()
    assert "dropout=0.0, base unquantized or stored as bf16, nf4. full: base unquantized." in said
    assert "Software: torch 2.13, bitsandbytes 0.50." in said


@pytest.mark.parametrize(("wanted", "told"), [(["rank"], False), (["rank", "train_s"], True), (["mfu"], True)])
def test_a_page_says_which_seconds_were_disturbed_where_it_shows_any(study, wanted, told):
    record = write_run(study, "lora", 32, test=0.82, seed=0)
    record.compute["mfu"] = 0.1
    record.write()
    assert ("disturbed: MFU" in build([study]).to_latex(wanted)) == told


def test_a_study_that_did_not_finish_is_told_by_its_configs(tmp_path):
    write_run(tmp_path, "lora", 1, status="failed", task__metric="matthews", trainer__max_steps=30)
    said = build([tmp_path]).to_methods()
    assert said.startswith("Base model: minilm, SHA-256 m0…. Data: polarity, SHA-256 d0…. Equal budget: 30 steps of 32")
    write_run(tmp_path, "lora", 8, task__metric="matthews", trainer__max_steps=30)
    notes = build([tmp_path]).notes
    assert "Margin of sameness, set in the config before the runs: 0.02 of matthews." in notes
    assert not any(note.startswith("Compared by") for note in notes)


@pytest.mark.parametrize(("rows", "said"), [((3, 3), "3"), ((3, 2), "2 to 3"), ((0, 0), "at most 5")])
def test_the_checkpoint_is_the_best_of_the_validations_that_there_were(tmp_path, rows, said):
    for seed, n in enumerate(rows):  # fewer steps, or stopped early; W&B may have no curve
        record = write_run(tmp_path, seed=seed, trainer__validations=5)
        record.metrics["curve"] = record.metrics["curve"][:n]
        record.write()
    assert f"chosen on validation data as the best of {said} by val/accuracy." in build([tmp_path]).to_methods()


@pytest.mark.parametrize("methods", [("probe", "tfidf"), ("few_shot",)])
def test_baselines_alone_have_no_budget_of_steps_and_no_checkpoint(tmp_path, methods):
    for method in methods:
        write_run(tmp_path, method, None, trainer__validations=2)
    said = build([tmp_path]).to_methods()
    assert f"Compared: {', '.join(methods)}." in said and not re.search("budget|adamw|checkpoint|steps", said)


def test_the_methods_say_what_was_computed_on_and_for_how_long(tmp_path):
    record = write_run(tmp_path)
    record.provenance["hardware"] = {"cpu": "Xeon", "gpus": ["H100"] * 8}
    record.compute |= {"threads": 2, "seconds": {"total_s": 432_000}}
    record.provenance["model"]["fingerprint"] = "shape:ccebef12"
    on = {("cpu", 1): "Xeon, no GPU, 2 threads per run", ("cpu", 2): "Xeon, no GPU, 2 × 2 threads per run"}
    for (device, devices), hardware in (on | {("cuda", 4): "4 × H100"}).items():
        record.compute["device"], record.config["trainer"]["devices"] = device, devices
        record.write()
        said = build([tmp_path]).to_methods()
        assert f"Hardware: {hardware}." in said and "took 120 hours" in said and "SHA-256 ccebef12…" in said


_ALWAYS = ("One learning rate per arm, 2e-3 (lora), 1e-4 (full): not tuned in this study",)
_NEVER = ("two factors", "drawn together", "families", "under-trained", "Not allowed", "Compared by", "“worse”")
_OF_SEEDS = ("Student's t", "5,000 bootstrap", "Margin of", "“same” if", "Smallest sufficient rank: ", "Holm 1979")


@pytest.mark.parametrize(
    ("seeds", "says", "silent"), [(1, _ALWAYS, (*_OF_SEEDS, *_NEVER)), (3, (*_ALWAYS, *_OF_SEEDS), _NEVER)]
)
def test_the_methods_name_no_statistics_that_were_not_used(tmp_path, seeds, says, silent):
    write_study(tmp_path, {4: 0.82, 8: 0.82}, range(seeds))
    report = build([tmp_path])
    assert [words for words in (*says, *silent) if words in report.to_methods()] == list(says)


def test_churn_is_the_share_of_test_items_that_two_runs_answer_differently(tmp_path):
    right = answers(0.8, 0, 1)
    for seed, flipped in ((0, 0), (1, 100)):
        correct = right.copy()
        correct[:flipped] = ~correct[:flipped]
        write_run(tmp_path, "lora", 4, seed=seed, correct=correct, test=float(np.mean(correct)))
        write_run(tmp_path, "full", None, seed=seed, correct=right, test=float(np.mean(right)))
    arms = {arm.method: arm for arm in build([tmp_path]).arms}
    assert arms["lora"].churn == {"seeds": pytest.approx(100 / 2000), "reference": pytest.approx(50 / 2000)}
    assert arms["full"].churn == {"seeds": 0.0, "reference": None}


def test_figures_for_a_paper_are_pdf_and_svg_of_two_widths(study, tmp_path, capsys):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "their-own.pdf").touch()
    assert main(["report", str(study), "--figures", str(tmp_path / "figures"), "--out", str(tmp_path), "--json"]) == 0
    out, told = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "report.json").read_text())
    figures, html, *_ = told.splitlines()
    assert html == f"html      {tmp_path / 'report.html'}"
    written = len([*(tmp_path / "figures").glob("*-*.svg")])
    assert figures == f"figures   {tmp_path / 'figures'}: {written} as PDF and SVG"
    for ending, width in (("single", 3.25), ("double", 6.75)):
        assert (tmp_path / "figures" / f"rank-{ending}.pdf").read_bytes()[:5] == b"%PDF-"
        svg = (tmp_path / "figures" / f"rank-{ending}.svg").read_text()
        assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) == pytest.approx(72 * width, rel=0.01)
        assert "var(--" not in svg


def test_a_packet_shows_the_same_report_elsewhere(study, tmp_path, capsys, monkeypatch):
    file = tmp_path / "packet.zip"
    adapter = next(study.iterdir()) / "adapter" / "adapter_model.safetensors"
    adapter.parent.mkdir()
    adapter.touch()
    record = read(adapter.parents[1])
    record.provenance["packages"] = {"rankwise": "0.1", "torch": "2.0.1+cpu", "wandb": None}
    record.write()
    os.utime(adapter.parents[1] / "predictions.parquet", (0, 0))  # a date that zip has not
    for question, year in (("a", 2027), ("b", 2026)):  # the later stands first, whatever it is called
        answer = {"sentence": f"Answer {question}.", "metric": "accuracy", "ranks": [], "notes": [], "date": str(year)}
        (study / f"answer-{question}-3.json").write_text(json.dumps(answer))
    assert main(["report", str(study), "--pack", str(file), "--json"]) == 2 and not file.exists()
    assert "; leave --json away" in capsys.readouterr().err
    assert main(["report", str(study), "--pack", str(tmp_path / "packet.pkt")]) == 2
    assert (
        "packet.pkt: give a file that ends in .zip" in capsys.readouterr().err
        and not (tmp_path / "packet.pkt").exists()
    )
    assert main(["report", str(study), "--pack", str(file)]) == 0
    assert main(["report", str(file), "--pack", str(tmp_path / "again.zip")]) == 2
    assert "packet.zip is no folder of runs" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["report", str(study), "--markdown"]) == 0
    here = capsys.readouterr().out
    assert here.startswith("**Answer a.**")
    shutil.move(study, tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    assert main(["report", "packet.zip", "--markdown"]) == 0
    assert capsys.readouterr().out == here
    names = zipfile.ZipFile(file).namelist()
    told = "".join(zipfile.ZipFile(file).read(name).decode() for name in names if not name.endswith("parquet"))
    assert '"path": "polarity.tsv"' in told and "/data/" not in told and "/models/" not in told
    listed = re.findall(r"^\| (ranks/\S+) \|", zipfile.ZipFile(file).read("README.md").decode(), re.MULTILINE)
    assert len(listed) == 15 and {f"{run}/result.json" for run in listed} < set(names)
    assert "README.md" in names and not any("adapter" in name for name in names)
    needed = zipfile.ZipFile(file).read("requirements.txt").decode().splitlines()
    assert "torch==2.0.1" in needed and f"peft=={version('peft')}" in needed
    assert not any(line.startswith(("rankwise", "wandb==None")) for line in needed)
    assert main(["report", str(tmp_path / "gone"), "packet.zip", "--markdown"]) == 0
    assert capsys.readouterr().out == here, "each run once"
    assert main(["report", str(tmp_path / "gone"), "--pack", str(file)]) == 2, "nothing is written over"
    capsys.readouterr()
    assert main(["dashboard", "packet.zip"]) == 2
    assert "packet.zip: a file, not a folder of runs; a packet is read by rankwise report" in capsys.readouterr().err


def test_a_packet_that_cannot_be_finished_leaves_nothing(study, tmp_path, capsys):
    harness = next(study.iterdir()) / "harness"
    harness.mkdir()
    (harness / "arc.parquet").symlink_to("gone")
    assert main(["report", str(study), "--pack", str(tmp_path / "packets" / "a.zip")]) == 2
    assert "a.zip: cannot be written (No such file" in capsys.readouterr().err
    assert not [*(tmp_path / "packets").iterdir()]


@pytest.mark.parametrize("member", ["../evil/result.json", "/evil/result.json", "a/b/c/d/e/result.json", "setup.py"])
def test_a_strangers_zip_leaves_its_folder_alone(member, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "{}")
    assert main(["report", str(tmp_path / "a.zip")]) == 2
    assert "holds no runs" in capsys.readouterr().err


def test_the_best_of_k_rates_is_expected_as_of_k_draws():
    values = [0.6, 0.7, 0.9]
    pairs = [max(a, b) for a in values for b in values]
    assert expected_best(values, 1) == pytest.approx(np.mean(values))
    assert expected_best(values, 2) == pytest.approx(np.mean(pairs))
    assert expected_best(values, 2, lower_is_better=True) == pytest.approx(
        np.mean([min(a, b) for a in values for b in values])
    )


def test_tuning_is_told_by_arm_and_number_of_steps_and_a_rate_that_diverged_is_the_worst(study, tmp_path, monkeypatch):
    """Short runs and whole ones are two rounds: the best is that of the last, of which others know nothing."""
    folder = tmp_path / "rounds"
    write_study(folder, {8: 0.82}, range(2))
    write_run(folder, "lora", 8, lr=1e-3, targets__name="qv")
    write_run(folder, "probe", None, lr=0.0)
    rounds = [  # targets, epochs, the objective of each rate
        ("all_linear", 1.0, {2e-3: 0.60, 6e-3: 0.72, 2e-2: None}),
        ("all_linear", 3.0, {2e-3: 0.82}),
        ("qv", 1.0, {1e-3: 0.70, 2e-3: 0.50}),
    ]
    for targets, epochs, scores in rounds:
        for lr, score in scores.items():
            changes = {"targets__name": targets, "trainer__epochs": epochs, "stage": "tune", "seed": 100}
            write_run(folder, "lora", 8, lr=lr, objective=score, diverged=score is None, **changes)
    found = section(report := build([folder]))
    assert sorted(found.rows) == [
        ["full, 3 epochs", "1", "1e-4", "80.0", "", ""],  # the rate that it had, on the reported seeds
        ["lora r=8 all_linear, 1 epoch", "3", "6e-3", "64.0", f"{100 * (0.60 * 4 / 9 + 0.72 * 5 / 9):.1f}", "68.4"],
        ["lora r=8 all_linear, 3 epochs", "1", "2e-3", "82.0", "", ""],
        ["lora r=8 qv, 1 epoch", "2", "1e-3", "60.0", "65.0", ""],
    ]
    diverged, parity = found.notes[0].split(". ")[-2:]
    assert (diverged, parity) == (
        "One that diverged or failed counts as the worst of the others",
        "Sides had different numbers to choose from.",
    )
    assert found.header[3:] == ["val. accuracy, best of 1", "val. accuracy, best of 2", "val. accuracy, best of 3"]
    edges = {arm.label: [flag for flag in arm.flags if "edge" in flag] for arm in report.arms}
    said = "lr at the edge of its grid ({}): the best may lie outside"
    assert edges == {
        "lora r=8 all_linear": [said.format("2e-3 … 2e-2")],
        "lora r=8 qv": [said.format("1e-3 … 2e-3")],
        "full": [],
        "probe": [],
    }
    trials = {arm["label"]: [(t["lr"], t["length"]) for t in arm["trials"]] for arm in report.document()["arms"]}
    assert trials["lora r=8 qv"] == [(1e-3, "1 epoch"), (2e-3, "1 epoch")]
    short = [(lr, "1 epoch") for lr in (2e-3, 6e-3, 2e-2)]
    assert trials["lora r=8 all_linear"] == [*short, (2e-3, "3 epochs")] and trials["probe"] == []
    monkeypatch.setattr(plots, "plot", lambda figure, *_, **__: figure)
    (ax,) = plots.rates(report).axes
    lines = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
    assert set(lines) == {f"lora r=8 {targets}, 1 epoch" for targets in ("all_linear", "qv")}
    assert list(lines["lora r=8 qv, 1 epoch"]) == [70, 50] and ax.get_ylabel() == "validation accuracy %"
    assert section(build([study])).notes[0].endswith("All sides had the same number to choose from.")


def test_a_rate_that_was_chosen_on_a_reported_seed_is_said_to_be(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for method, rank, seed in (("lora", 8, 0), ("full", None, 100)):
        for lr in (1e-4, 2e-3):
            write_run(tmp_path, method, rank, lr=lr, seed=seed, stage="tune")
    write_run(tmp_path, "full", None, lr=9e-4, objective=0.9)  # of one seed alone: nothing was chosen by it
    report = build([tmp_path])
    (said,) = (note for note in report.notes if note.startswith("Learning rates are"))
    assert ", on the reported seeds for lora r=8, so that their scores are somewhat too high: lora r=8 2e-3" in said
    assert (
        "| lora r=8 ¹ | 81.5 ± 1.8* |" in report.to_markdown() and "| full ¹ ² | 81.2 ± 1.7 |" in report.to_markdown()
    )
    star = "* at the best of several learning rates by validation on these very seeds: somewhat too high."
    assert star in report.to_markdown()
