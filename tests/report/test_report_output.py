"""The forms a report takes: terminal, CSV, Markdown, JSON and the page."""

import csv
import io
import json
import re
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_study import printed, write_run, write_study

from rankwise.cli import main
from rankwise.compare import predictions_of
from rankwise.errors import Refused
from rankwise.metrics import named
from rankwise.report import plots
from rankwise.report.columns import shown
from rankwise.report.costs import pareto
from rankwise.report.export import json_parts
from rankwise.report.page import html
from rankwise.report.report import build
from rankwise.tasks.scores import ValueScorer
from rankwise.tracking.predictions import Unreadable
from rankwise.tracking.record import read as read_record


def write_all(folder):
    """All methods, all ranks, two learning rates, a failure and a run of another context."""
    write_study(folder, {1: 0.79, 2: 0.80, 4: 0.81, 8: 0.82, 16: 0.82, 32: 0.82, 64: 0.82})
    for seed in range(3):
        write_run(folder, "head", None, seed=seed, lr=5e-3, test=0.76)
        write_run(folder, "probe", None, seed=seed, lr=0.0, test=0.77)
        write_run(folder, "tfidf", None, seed=seed, lr=0.0, test=0.71)
        write_run(folder, "lora", 8, seed=seed, lr=1e-3, objective=0.7)
    write_run(folder, "lora", 16, trainer__batch_size=16, losses=(0.7, 0.6, 0.5, 0.45, 0.4))
    (write_run(folder, "lora", 64, seed=5, status="failed").folder / "log").touch()


@pytest.fixture
def study(tmp_path):
    write_all(tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The report of that study, which nobody changes."""
    root = tmp_path_factory.mktemp("read")
    write_all(root / "study")
    return build([root / "study"])


@pytest.fixture(scope="module")
def page(read, tmp_path_factory):
    return read.write(tmp_path_factory.mktemp("page"))["html"].read_text(encoding="utf-8")


def test_a_report_of_two_studies_says_that_it_replaces_that_of_one(tmp_path, capsys):
    studies = [str(tmp_path / name) for name in "ab"]
    for study in studies:
        write_study(tmp_path / study, {8: 0.82}, range(2))
    said = f"rankwise: {studies[0]}: its report is replaced by one of all 2 paths; --out FOLDER leaves it\n"
    for paths, told in ((studies[:1], ""), (studies[1:], ""), (studies, said)):
        assert main(["report", *paths]) == 0 and capsys.readouterr().err == told


def test_table_fits_120_columns_without_cutting_anything(study):
    for seed in range(2):
        write_run(study, "lora", 64, seed=seed, test=0.7, targets__name="attention")
    text = printed(build([study]))
    assert "…" not in text.replace("1e-3 … 2e-3", "")
    assert max(map(len, text.splitlines())) <= 120
    assert "inconclusive" in text and "attention" in text
    narrow = printed(build([study]), 80)
    assert max(map(len, narrow.splitlines())) <= 80
    words = {word for column in shown(build([study]), "main") for word in column.header.split()}
    assert words <= set(narrow.split()), "which stand in several tables"


def test_table_leads_with_the_headline_and_ends_with_numbered_flags(read):
    lines = [line.rstrip() for line in printed(read).splitlines()]
    assert lines[0].startswith("Rank ")
    assert any(re.match(r"lora r=64 ¹|lora r=64 [¹²³⁴]", line) for line in lines)
    assert any("not comparable, not ranked: trainer.batch_size=16 (reference: 32)" in line for line in lines)


def test_table_has_the_other_metrics_and_what_the_study_took(study):
    report = build([study])
    assert "Other test metrics" not in printed(report)
    for record in report.records:
        if record.status == "finished":
            record.metrics["test"] |= {"f1": {"value": 0.5, "se": 0.01}, "matthews": {"value": 0.25, "se": 0.01}}
            record.metrics["test"] |= {f"accuracy_{group}": {"value": 0.6, "se": 0.01} for group in range(10, 40)}
            record.metrics["test"]["accuracy_10"]["clusters"] = 7
            record.write()
    text = printed(report := build([study]))
    assert re.search(r"lora r=16 +50\.0±2\.0 +0\.250±0\.020 +60\.0", text.split("Other test metrics")[1])
    assert "The whole study took " in text and "scores 50.0 %." in " ".join(text.split())
    page, why = html(report), "alone (one seed or seeds that score alike)."
    over = f"accuracy_15: ± 95 % over test items {why} accuracy_10: ± 95 % over test items in 7 groups {why}"
    assert over in " ".join(text.split()) and over not in page  # where there are more columns
    assert f"accuracy_10: ± 95 % over test items in 7 groups {why}" in page
    assert "24 more, accuracy_16 to accuracy_39, in report.html and report.csv." in text and "accuracy_15" in text
    assert "accuracy_39 %" in page and "accuracy_39_mean" in report.to_csv()
    main, other = ([line.rstrip() for line in part.splitlines()] for part in text.split("Other test metrics"))
    named = [re.match(r"(lora r=16 batch_size=16 [¹²³⁴⁵]( [¹²³⁴⁵])*) ", line) for line in main]
    (alone,) = {found[1] for found in named if found}  # of another batch size, not ranked
    assert any(re.match(rf"{alone} +50\.0", line) for line in other)
    assert any(re.match(r"lora r=8( [¹²³⁴⁵])+ +50\.0±2\.0\* ", line) for line in other)  # the best of two rates


def test_a_table_explains_the_columns_and_verdicts_that_it_has(read):
    text = " ".join(printed(read).split())
    for column in ("Peak: live tensors", "Pred. error: of the peak", "FLOPs /full: per token"):
        assert column in text
    verdicts = re.search(r"paired with full fine-tuning; (.*): 90 % interval", text)[1].split(", ")
    assert set(verdicts) == {c.verdict for c in read.comparisons.values()} - {"no conclusion"}


def test_one_quantity_has_one_name_in_all_tables(read):
    peak, error = (next(c for c in shown(read, "memory") if c.title == title) for title in ("peak MB", "pred. error"))
    assert {"main", "memory"} <= {*peak.tables.split()} & {*error.tables.split()}


def test_targets_are_named_only_where_they_vary(study):
    assert "all_linear" not in printed(build([study])).split("Tested one-sided")[1]
    write_run(study, "lora", 8, targets__name="qv")
    assert "lora r=8 qv" in printed(build([study])) and "lora r=8 all_linear" in printed(build([study]))


def test_json_has_the_documented_keys_and_no_number_that_is_not_finite(study):
    broken = write_run(study, "lora", 2, seed=9)
    broken.metrics["test"]["accuracy"]["value"] = np.inf
    broken.write()
    document = json.loads("".join(json_parts(build([study]))), parse_constant=pytest.fail)
    assert {"headline", "notes", "arms", "runs"} <= set(document)
    for arm in document["arms"]:
        keys = "method rank alpha scale targets quant lr n scores params memory compute storage same_as_full flags"
        assert set(keys.split()) <= set(arm)
    by_rank = {arm["rank"]: arm for arm in document["arms"] if arm["rank"] and arm["comparable"]}
    assert {"mean", "se", "low", "high"} <= set(by_rank[8]["scores"]["accuracy"])
    assert {"trainable", "total", "adapter", "head"} <= set(by_rank[8]["params"])
    assert by_rank[16]["same_as_full"] is True
    assert by_rank[8]["lr"] == 2e-3
    assert (by_rank[8]["alpha"], by_rank[8]["scale"], by_rank[8]["rank_fraction"]) == ("2r", 2.0, 8 / 384)
    assert document["runs"] == [read_record(file.parent).to_dict() for file in sorted(study.rglob("result.json"))]


def test_a_further_run_costs_a_report_little_memory(tmp_path):
    write_study(tmp_path, {rank: 0.8 for rank in (1, 2, 4, 8)}, seeds=range(8))
    few, peaks = list(tmp_path.glob("*-s[01]-*")), []
    for paths in (few, few, [tmp_path]):  # the first time for what is loaded once
        tracemalloc.start()
        assert len(build(paths).arms) == 5
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / (40 - len(few)) < 56 * 1024  # of each, 20 are a score on every resample


def test_csv_and_markdown_have_one_row_per_arm(read):
    rows = list(csv.DictReader(io.StringIO(read.to_csv())))
    assert len(rows) == len(read.arms)
    sixteen = next(row for row in rows if row["rank"] == "16")
    assert float(sixteen["test_mean"]) == pytest.approx(0.82, abs=0.01)
    assert (sixteen["verdict"], sixteen["adapter_params"]) == ("same", "640000")
    assert {row["adapter_params"] for row in rows if row["method"] == "full"} == {""}
    lines = [line for line in read.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == len(read.arms) + 2 and len({line.count("|") for line in lines}) == 1


def test_page_asks_nothing_of_the_network_and_text_in_figures_stays_text_in_its_colours(page):
    assert re.search(r"<text[^>]*>full − margin</text>", page)
    assert "var(--ink)" in page and "#101112" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!\#)""", page)
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", page)


def test_page_has_every_figure_with_a_caption_and_unique_ids(page):
    figures = re.findall(r'<figure[^>]* id="plot-(\w+)"', page)
    assert figures == ["rank", "difference", "parameters", "memory", "curves", "rates"]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, flags=re.S)
    assert len(captions) == 6
    assert all(re.search("interval|±", caption) for caption in captions)
    assert any("runs the one whose peak is the median, no interval" in caption for caption in captions)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert all(
        target in ids for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page) for target in target if target
    )


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_mean_curve_ends_where_a_seed_does_and_a_front_of_one_point_is_no_line(tmp_path, monkeypatch):
    for seed, losses in enumerate([(0.7, 0.5, 0.4, 0.3), (0.7, 0.6, 0.5)]):
        write_run(tmp_path, "full", None, seed=seed, test=0.7)
        record = write_run(tmp_path, "lora", 8, seed=seed, test=0.8)
        record.metrics["curve"] = [{"step": 10 * n, "val/loss": loss} for n, loss in enumerate(losses)]
        record.write()
    report = build([tmp_path])
    monkeypatch.setattr(plots, "plot", lambda figure, name, title, caption, wide=False: (figure, caption))
    figure, caption = plots.learning_curves(report)
    (mean,) = (line for line in figure.axes[-1].lines if line.get_label() == "lora r=8")
    assert [*map(list, mean.get_data())] == [[0, 10, 20], pytest.approx([0.7, 0.55, 0.45])]
    assert caption.startswith("Mean over seeds, as far as all of them go; thin lines are single seeds, at the chosen")
    assert legend_of(plots.score_by_parameters(report)[0]) == ["lora r=8", "full"]  # rank 8 beats full fine-tuning
    for seed in range(2):
        write_run(tmp_path, "lora", 1, seed=seed, test=0.75)
    front = legend_of(plots.score_by_parameters(build([tmp_path]))[0])
    assert front == ["Pareto front", "lora r=1", "lora r=8", "full"]


@pytest.mark.parametrize(("ranks", "said"), [(1, ""), (2, "3 arms the best 2 are shown.")])
def test_arms_beyond_what_a_figure_has_room_for_are_said_to_be_left_out(tmp_path, monkeypatch, ranks, said):
    write_study(tmp_path, {2**n: 0.8 for n in range(ranks)}, range(1))
    write_run(tmp_path, trainer__batch_size=16)  # which no figure has
    monkeypatch.setattr(plots, "_MOST", 2)
    captions = [drawn.caption for drawn in plots.draw(build([tmp_path]))]
    assert captions and all(caption.partition(" Of ")[2] == said for caption in captions)


def test_page_escapes_what_runs_wrote_and_points_to_the_log(page):
    assert "RuntimeError: out of &lt;memory&gt;" in page
    assert "<memory>" not in page
    assert re.search(r"/study/lora-r64-s5-\d+/log<", page)


def test_page_says_how_it_was_compared_and_what_it_was_made_with(page):
    for said in (
        "Equal budget: 100 steps of 32 sequences",
        "Schuirmann 1987",
        "Holm 1979",
        "Margin of sameness",
        "abc1234",
        "fingerprint m0",
        "smallest sufficient rank",
        "Base model: minilm",
    ):
        assert said in page
    assert page.count("Equal budget: 100 steps") == 1


@pytest.mark.parametrize(
    ("metric", "shown", "useless"),
    [
        ("pearson", r"0\.95\d±0\.\d\d\d [+−]?0\.00\d+ same", "no correlation"),
        ("mae", r"0\.24\d\d±0\.0\d\d\d [+−]?0\.00\d+ same", "always answering the median (0.8004)"),
    ],
)
def test_regression_is_compared_by_correlation_or_error_and_shown_without_percent(tmp_path, metric, shown, useless):
    """Of errors with a standard deviation of 0.3 the mean distance is 0.3 √(2/π) = 0.24."""
    labels = np.random.default_rng(0).normal(size=2_000)
    for seed in range(3):
        for method, rank, signal in (("full", None, 1), ("lora", 8, 1), ("head", None, 0)):
            record = write_run(tmp_path, method, rank, seed=seed, task__metric=metric, objective=0.9)
            noise = np.random.default_rng([seed, rank or 0, 5]).normal(size=2_000)
            columns = {"item": np.arange(2_000), "label": labels, "prediction": signal * labels + 0.3 * noise}
            columns["label"] = labels if method == "head" else labels.astype(np.float32)  # as a baseline, and a network
            pq.write_table(pa.table(columns), record.folder / "predictions.parquet")
            record.metrics["test"] = ValueScorer().scores(columns["prediction"], labels)
            record.write()
    report = build([tmp_path])
    assert report.comparison(report.arms[0]).verdict == "same"
    assert re.search(rf"lora r=8 +{shown}", printed(report))
    assert f"at most 0.02 of {metric} worse than full fine-tuning" in report.headline.title
    assert f"not shown to be better than {useless}" in report.arms[-1].unfit
    assert report.comparison(report.arms[-1]).verdict == "no conclusion"
    (other,) = {"pearson", "mae"} - {metric}
    row = next(csv.DictReader(io.StringIO(report.to_csv())))
    assert row["metric"] == metric and float(row[f"{other}_mean"]) == report.arms[0].scores[other].mean
    report.write(tmp_path / "out")
    record.config["task"]["kind"] = "regression"
    with pytest.raises(Unreadable, match=r"^predictions of .* hold no loss of each row$"):
        predictions_of(record, named("loss"))


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    write_run(tmp_path / "study")
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"cannot write the report \(Not a .*\); rankwise report --out FOLDER writes it"):
        build([tmp_path / "study"]).write(tmp_path / "file" / "out")


def test_pareto_front_holds_what_no_other_beats():
    points = [(1.0, 0.5), (2.0, 0.7), (3.0, 0.6), (3.0, 0.9), (2.0, 0.7)]
    assert pareto(points) == {0, 1, 3, 4}
