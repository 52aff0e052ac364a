"""Language models in the report: losses, where less is more, generated text, forgetting, and the papers' protocol."""

import csv
import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_study import curve, printed, write_run

from rankwise.report import plots
from rankwise.report.page import html
from rankwise.report.report import build

TEXTS = 600
TRUTH = {1: 3.30, 4: 3.006, 8: 3.0}  # nats per token; full is 3.0, so a perplexity of 20.1


def write_lm(root, method="lora", rank=8, loss=3.0, seed=0, metric="perplexity", **changes):
    """A run of a causal LM: the same texts are hard for all, and 1 % of noise is a run's own."""
    task = {"task__kind": "causal_lm", "task__metric": metric, "task__margin": 0.5}
    record = write_run(root, method, rank, seed=seed, **task | changes)
    record.config["objective"] = f"val/{metric}"
    hard, own = np.random.default_rng(5), np.random.default_rng([seed, rank or 0, len(method)])
    tokens, nats = hard.integers(5, 40, TEXTS), hard.normal(0, 0.3, TEXTS)
    nats = tokens * (loss + nats - (nats * tokens).sum() / tokens.sum() + own.normal(0, 0.01, TEXTS))
    columns = {"item": np.arange(TEXTS), "label": tokens, "score": nats.astype(np.float32), "bytes": 4 * tokens}
    pq.write_table(pa.table(columns), record.folder / "predictions.parquet")
    value = nats.sum() / tokens.sum()
    scores = {"loss": value, "perplexity": np.exp(value), "bits_per_byte": value / np.log(2) / 4}
    record.metrics["test"] = {
        name: {"value": float(v), "se": 0.01 * float(v), "n": TEXTS} for name, v in scores.items()
    }
    record.metrics["curve"] = [
        row | {f"val/{metric}": np.exp(row["val/loss"])} for row in curve((3.4, 3.2, 3.06, 3.05, 3.05))
    ]
    record.write()
    return record


def write_lm_study(root, truth=TRUTH, **changes):
    for seed in range(3):
        write_lm(root, "full", None, seed=seed, **changes)
        for rank, loss in truth.items():
            write_lm(root, "lora", rank, loss, seed, **changes)


def of(report, method, rank=None):
    return next(arm for arm in report.arms if (arm.method, arm.rank) == (method, rank))


@pytest.mark.parametrize(
    ("truth", "verdicts", "title"),
    [
        (TRUTH, ["worse", "same", "same"], "Rank 4 is enough: at most "),
        ({2: 2.7, 8: 2.9}, ["better", "better"], "Rank 2 is enough: at most "),
        ({1: 3.0, 8: 3.3}, ["same", "worse"], "No rank was shown to be enough: even rank 8 is more"),
    ],
)
def test_less_loss_is_better_and_the_smallest_rank_within_the_margin_is_enough(tmp_path, truth, verdicts, title):
    write_lm_study(tmp_path, truth)
    report = build([tmp_path])
    assert [report.comparison(of(report, "lora", rank)).verdict for rank in truth] == verdicts
    estimates = [report.comparison(of(report, "lora", rank)).estimate for rank in truth]  # in the metric's direction
    assert all(estimate > 0.5 for estimate, said in zip(estimates, verdicts, strict=True) if said == "worse")
    assert report.headline.title.startswith(title)


def test_table_and_page_say_that_lower_is_better_and_draw_the_margin_above(tmp_path):
    write_lm_study(tmp_path)
    report = build([tmp_path])
    text, page = printed(report), html(report)
    assert "Lower perplexity is better." in text and "20.1" in text
    assert "higher" not in text and "full + margin" in page and "full − margin" not in page
    assert "scores higher" not in page and "below it" in page


def test_the_pareto_front_holds_the_arms_of_least_loss(tmp_path):
    write_lm_study(tmp_path, {1: 2.9, 8: 3.3})
    page = html(build([tmp_path]))
    figure = page[page.index('id="plot-parameters"') :]
    ringed = re.findall(r"<use [^>]*stroke: #c2407a", figure[: figure.index("</figure>")])
    assert len(ringed) == 2, "rank 1, here and in the legend: it trains least and is best, so no other is on the front"


def test_a_diverged_perplexity_does_not_break_the_report(tmp_path):
    write_lm_study(tmp_path)
    record = write_lm(tmp_path, rank=2)
    record.metrics["test"]["perplexity"]["value"] = None
    record.write()
    for seed in range(3):
        write_lm(tmp_path, rank=16, loss=470.0 - seed, seed=seed)
    report = build([tmp_path])
    assert "without a finite score" in " ".join(of(report, "lora", 2).flags)
    largest = of(report, "lora", 16)
    assert report.comparison(largest).reason == "a perplexity above 1e38, as of a diverged run, has no interval"
    assert report.metric.interval(largest.scores["perplexity"]) == "6.58e+203"
    assert report.metric.difference(5.46e203) == "+5.46e+203" and report.metric.width(999.7) == "1,000"
    assert html(report)


def forgot(record, before, after, measure="loss", **more):
    """Add what the run was asked before and after, as ``train.forget`` writes it."""
    ends = {"before": before, "after": after, "difference": after - before}
    cells = {key: {"value": value, "se": 0.004, "n": 500} for key, value in ends.items()}
    record.metrics["forgetting"] = {"measure": measure} | cells | more
    record.config["forgetting"] = {"name": "wikitext"}
    record.write()


def test_forgetting_is_positive_where_the_loss_rose_with_an_interval_over_seeds(tmp_path):
    for seed in range(3):
        forgot(write_lm(tmp_path, "full", None, seed=seed), 3.5, 3.9 + 0.01 * seed)
        forgot(write_lm(tmp_path, "lora", 8, seed=seed), 3.5, 3.49)
    write_lm(tmp_path, "lora", 4)
    report = build([tmp_path])
    arms = {arm["label"]: arm["forgetting"] for arm in report.document()["arms"]}
    half = np.hypot(4.302653 * 0.01 / np.sqrt(3), 1.964729 * 0.004)  # t of 499 df
    assert arms["full"]["mean"] == pytest.approx(0.41)
    assert (arms["full"]["kind"], arms["full"]["measure"], arms["full"]["texts"]) == ("both", "loss", "wikitext")
    assert arms["full"]["high"] - arms["full"]["mean"] == pytest.approx(half)
    assert arms["lora r=8"]["mean"] == pytest.approx(-0.01) and arms["lora r=4"] is None
    rows = {row["method"] + row["rank"]: row for row in csv.DictReader(io.StringIO(report.to_csv()))}
    assert float(rows["full"]["forgetting_mean"]) == pytest.approx(0.41) and rows["lora4"]["forgetting_mean"] == ""
    lines = [*csv.reader(io.StringIO(report.to_csv()))]
    for name, *column in zip(*lines, strict=True):  # each may be asked for by its name
        alone = [*csv.DictReader(io.StringIO(report.to_csv([name])))]
        assert [row[name] for row in alone] == column
    chosen = report.to_markdown(["verdict", "forgetting"])
    assert "| lora r=8 | same | −0.010 ± 0.008 |" in chosen and "| full | – | +0.410 ± 0.026 |" in chosen
    text = printed(report)
    assert "Forgetting" in text and "+0.410±0.026" in text and "−0.010±0.008" in text
    page = html(report)
    assert 'id="plot-forgetting"' in page and "rise of the loss" in page and "better to the right" in page
    assert "| full | 3.500 | 3.910 ± 0.026 | +0.410 ± 0.026 |" in report.to_markdown()


@pytest.mark.parametrize("first", [0, 2])
def test_what_was_forgotten_is_of_the_texts_that_most_runs_were_asked(tmp_path, first):
    for seed in range(3):
        forgot(write_lm(tmp_path, "full", None, seed=seed), 3.5, 3.6)
        forgot(record := write_lm(tmp_path, "lora", 8, seed=seed), 3.5, 4.5 if seed == first else 3.7)
        record.config["forgetting"] = {"name": "news" if seed == first else "wikitext"}
        record.write()
    lora, full = (report := build([tmp_path])).arms
    told = report.document()["arms"][0]["forgetting"]
    assert told["mean"] == pytest.approx(0.2) and told["texts"] == "wikitext"
    assert "1/3 asked on other texts, not in the mean of forgetting" in lora.flags and not full.flags


def test_intervals_of_learning_against_forgetting_end_where_those_of_the_table_do(tmp_path, monkeypatch):
    """Those of a share near 100 % are longer to the left."""
    for method, rank in (("full", None), ("lora", 8)):
        forgot(write_run(tmp_path, method, rank, correct=np.arange(200) > 1), 0.9, 0.8, "probe")
    report = build([tmp_path])
    monkeypatch.setattr(plots, "plot", lambda figure, *_: figure)
    drawn = [
        line.get_segments()[0] for line in plots.trade_off(report).axes[0].collections if len(line.get_paths()) == 1
    ]
    for arm in report.arms:
        score = arm.scores["accuracy"]
        assert score.high < 1 and score.high - score.point < score.point - score.low
        assert any(np.allclose(ends[:, 0], [100 * score.low, 100 * score.high]) for ends in drawn)


def test_of_one_seed_nothing_is_said_to_be_over_seeds(tmp_path):
    for method, rank in (("full", None), ("lora", 8)):
        forgot(record := write_lm(tmp_path, method, rank), 3.5, 3.9)
        write_generation(record, 0.4)
        record.metrics["test"]["arc_easy:acc"] = {"value": 0.5, "se": 0.01, "n": 100}
        record.write()
    report = build([tmp_path])
    for text in (printed(report), report.to_markdown(), html(report), report.to_latex(), report.to_methods()):
        assert "over seeds" not in text and "seeds and" not in text.replace("both seeds and by item", "")
    assert "± 95 % over prompts alone (one seed)." in " ".join(printed(report).split())
    for run in report.records:
        run.metrics["forgetting"]["difference"].pop("se", None)  # which an older record lacks
        run.write()
    assert "| full | 3.500 | 3.900 ± 0.008 | +0.400 |" in build([tmp_path]).to_markdown()


def test_a_probe_forgets_where_its_accuracy_fell_and_shows_cosines(tmp_path):
    cosines = {"value": 0.7, "se": 0.01, "n": 2000}
    for seed in range(2):
        for rank, after in ((1, 0.80), (8, 0.70 - 0.01 * seed)):
            forgot(write_run(tmp_path, "lora", rank, seed=seed), 0.82, after, "probe", cosines=cosines)
    report = build([tmp_path])
    arms = {arm["rank"]: arm["forgetting"] for arm in report.document()["arms"]}
    assert arms[1]["mean"] == pytest.approx(0.02) and arms[8]["mean"] == pytest.approx(0.125)
    assert arms[1]["low"] == pytest.approx(0.02 - 1.964729 * 0.004)
    assert arms[8]["cosines"]["mean"] == pytest.approx(0.7)
    assert "+12.5±6.4" in printed(report) and "0.700±0.020" in printed(report)
    assert "a probe&#39;s accuracy, points" in html(report) or "a probe's accuracy, points" in html(report)


def write_generation(record, bleu, beams=4):
    settings = {"metrics": ["bleu", "nist", "meteor"], "max_new_tokens": 32, "beams": beams, "stop": None}
    record.config["task"]["generation"] = settings
    record.metrics["test"] |= {
        "bleu": {"value": bleu, "se": 0.01, "n": 100},
        "nist": {"value": 7.5, "se": 0.1, "n": 100},
    }
    record.metrics["absent"] = {"meteor": "no java"}
    record.compute["generation"] = {"prompts": 100, "tokens": 2000, "seconds_s": 4.0, "tokens_per_s": 500.0}
    record.memory["generate"] = {"peak_bytes": 70_000_000}
    record.write()


def test_text_that_was_written_in_another_way_is_not_in_the_mean(tmp_path):
    for seed, (bleu, beams) in enumerate([(0.4, 4), (0.42, 4), (0.9, 1)]):
        write_generation(write_lm(tmp_path, "lora", 8, seed=seed), bleu, beams)
    (arm,) = build([tmp_path]).arms
    assert arm.scores["bleu"].mean == pytest.approx(0.41) and arm.scores["perplexity"].n == 3
    assert (
        arm.flags[-1]
        == "1/3 asked with another number of rows or shots, or another task.generation, not in the mean of bleu, nist"
    )


def test_generated_text_has_a_table_with_speed_and_what_is_absent_also_of_few_shot(tmp_path):
    for seed in range(2):
        write_generation(write_lm(tmp_path, "lora", 8, seed=seed), 0.40 + 0.02 * seed)
        write_generation(write_lm(tmp_path, "few_shot", None, 3.4, seed, method__shots=3, lr=0.0), 0.2)
    write_lm(tmp_path, "full", None)
    report = build([tmp_path])
    assert [arm.method for arm in report.arms] == ["lora", "full", "few_shot"]
    assert of(report, "few_shot").is_baseline and of(report, "few_shot").comparable
    part = report.to_markdown().split("**Generated text**")[1]
    header, _, one, two, *_ = [line for line in part.splitlines() if line.startswith("|")]
    assert header == "| arm | bleu % | nist | prompts | tokens /s | seconds | peak MB |"
    assert one == "| lora r=8 ¹ | 41.0 ± 12.9 | 7.500 ± 0.198 | 100 | 500 | 4.00 | 70.0 |"
    assert two.startswith("| few_shot k=3 ¹ | 20.0 ± 2.0 |")
    narrow = printed(report, 50).partition("Generated text")[2]
    assert [line.split()[0] for line in narrow.splitlines() if "r=8" in line] == ["lora"] * 2
    assert "41.0±12.9" in narrow and "7.500±0.198" in narrow and max(map(len, narrow.splitlines())) <= 50
    text = printed(report)
    assert "Absent: meteor of 4 runs: no java" in text and "max_new_tokens=32, beams=4" in text
    document = {arm["method"]: arm for arm in report.document()["arms"]}
    assert document["lora"]["generation"]["absent"] == {"meteor": "no java"}
    assert document["lora"]["scores"]["bleu"]["mean"] == pytest.approx(0.41) and document["full"]["generation"] is None
    (line,) = [row for row in csv.DictReader(io.StringIO(report.to_csv())) if row["method"] == "lora"]
    assert (float(line["bleu_mean"]), float(line["generated_tokens_per_s"])) == (pytest.approx(0.41), 500)
    assert "Generated text" in html(report)


def test_the_papers_protocol_is_flagged_and_shows_medians_over_seeds(tmp_path):
    for seed, test in enumerate((0.70, 0.80, 0.81)):
        for method, rank in (("lora", 8), ("full", None)):
            write_run(tmp_path, method, rank, test=test, seed=seed, task__protocol="paper")
    report = build([tmp_path])
    arm = of(report, "lora", 8)
    values = [run.metrics["test"]["accuracy"]["value"] for run in arm.runs]
    found = arm.scores["accuracy"]
    assert found.point == found.median == pytest.approx(np.median(values)) and found.mean < found.median
    assert "optimistic: chosen on the reported rows (task.protocol=paper)" in arm.flags
    assert "accuracy % (median)" in report.to_markdown() and f"{100 * np.median(values):.1f} (" in report.to_markdown()
    assert "medians over seeds" in printed(report)
    for seed, test in enumerate((0.60, 0.40, 0.40)):
        write_run(tmp_path, "lora", 4, test=test, seed=seed, task__protocol="paper")
    rows = {row["rank"]: row for row in csv.DictReader(io.StringIO(build([tmp_path]).to_csv()))}
    assert float(rows["4"]["of_full"]) == pytest.approx(0.5, abs=0.01), "0.4 of 0.8, as they are shown"
    assert "chosen on the very test rows" in " ".join(report.notes)


def test_a_clean_run_is_no_match_for_one_of_the_papers_protocol(tmp_path):
    write_run(tmp_path, "full", None, task__protocol="clean")
    write_run(tmp_path, "lora", 8, task__protocol="paper")
    assert not of(build([tmp_path]), "lora", 8).comparable
