"""Whole runs of causal LMs: training, few examples, writing, forgetting, each on a tiny random model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_configs import tiny

from rankwise.assets import resolve
from rankwise.check import check, check_here
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.model import base
from rankwise.run import run
from rankwise.tasks import data
from rankwise.tasks.scores import language_scores
from rankwise.tracking.record import Record
from rankwise.train.forget import Questions, _cosines
from rankwise.train.generate import _batch

BLOCKS = {"task__blocks": True, "task__prompt": None, "task__completion": None}
FULL = {"method": "full", "method__lr": 1e-2, "optim__lr": 1e-2}


def language(shape: str, outputs: Path, **keys: Any) -> Config:
    few = under("task", n_train=32, n_validation=16, n_test=24)
    config = tiny(shape, task="synthetic_lm", outputs=str(outputs), objective="val/perplexity", **few, **keys)
    check(config)
    check_here(config)
    return config


def under(group: str, **values: Any) -> dict[str, Any]:
    return {f"{group}__{key}": value for key, value in values.items()}


def kept(record: Record) -> dict[str, np.ndarray]:
    table = pq.ParquetFile(record.folder / "predictions.parquet").read()
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        ("llama", {}),
        ("gpt2", {"trainer__accumulate": 2}),
        ("llama", {"task__packing": True}),
        ("qwen2", {"method": "full"}),
        ("gpt2", {"trainer__gradient_checkpointing": True}),
    ],
)
def test_a_causal_lm_trains_as_it_was_predicted(shape, keys, tmp_path):
    record = run(language(shape, tmp_path, **keys))
    curve = [row["val/loss"] for row in record.metrics["curve"]]
    assert curve[-1] < curve[0]
    for held in (record.memory["train"], record.memory["eval"]):
        assert held["peak_bytes"] == pytest.approx(held["predicted"]["peak_bytes"], rel=1e-3)
    flops = record.compute["flops"]
    assert flops["per_step_counted"] == flops["per_step"]
    assert record.params["head"] == 0
    test, columns = record.metrics["test"], kept(record)
    again = language_scores(columns["score"], columns["label"], columns["bytes"])
    assert again["perplexity"]["value"] == pytest.approx(test["perplexity"]["value"], rel=1e-5)
    assert record.objective == min(row["val/perplexity"] for row in record.metrics["curve"])


def test_a_longer_run_learns_the_rule(tmp_path):
    asked = under("task__generation", metrics=["bleu", "exact_match"], max_new_tokens=6, n=10, batch_size=4)
    record = run(language("llama", tmp_path, **FULL, trainer__max_steps=60, **asked))
    assert record.metrics["test"]["perplexity"]["value"] < 20  # of 260 bytes
    rows = [json.loads(line) for line in (record.folder / "generations.jsonl").read_text().splitlines()]  # type: ignore
    assert len(rows) == record.compute["generation"]["prompts"] <= 10
    assert record.metrics["test"]["exact_match"]["value"] == np.mean([row["text"] in row["references"] for row in rows])
    assert record.memory["generate"]["peak_bytes"] > record.memory["generate"]["weights_bytes"] > 0
    assert record.compute["generation"]["tokens"] <= 6 * len(rows)
    assert record.compute["seconds"]["generate_s"] > 0


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_writes_what_each_prompt_alone_would(beams):
    config = tiny("llama", task="synthetic_lm", **under("task__generation", max_new_tokens=8, beams=beams, no_repeat=2))
    lm, tokenizer = base.load(config.model, resolve(config.model), 1, 0, "eager", kind="causal_lm")
    asked = [[5, 9, 30], [40], [7, 7, 8, 9, 60, 61]]
    lm.generation_config.update(repetition_penalty=5.0, min_new_tokens=8, temperature=0.1)  # type: ignore[operator]
    with torch.no_grad():
        together = _batch(lm.eval(), asked, tokenizer, config)
        lm, _ = base.load(config.model, resolve(config.model), 1, 0, "eager", kind="causal_lm")
        alone = [_batch(lm.eval(), [ids], tokenizer, config)[0] for ids in asked]
    assert together == alone and all(0 < len(ids) <= 8 for ids in together)


def test_padding_behind_an_answer_that_stopped_is_not_written():
    asked, written = [[5, 9, 30], [40], [7, 7, 8, 9, 60, 61]], []
    for stop in (None, "H"):
        config = tiny("llama", task="synthetic_lm", **under("task__generation", max_new_tokens=8, stop=stop))
        lm, tokenizer = base.load(config.model, resolve(config.model), 1, 0, "eager", kind="causal_lm")
        with torch.no_grad():
            written.append(_batch(lm.eval(), asked, tokenizer, config))
    free, stopped = written
    assert "H" in tokenizer.decode(free[1][3]) and stopped == [free[0], free[1][:4], free[2]]


def test_what_the_prompt_says_may_be_written_and_nothing_twice():
    prompt, found = list(range(10, 110)), []
    for size in (0, 1):
        config = tiny("llama", task="synthetic_lm", **under("task__generation", max_new_tokens=8, no_repeat=size))
        lm, tokenizer = base.load(config.model, resolve(config.model), 1, 0, "eager", kind="causal_lm")
        with torch.no_grad():
            found += _batch(lm.eval(), [prompt], tokenizer, config)
    free, once = found
    assert once[:5] == free[:5] and {88, 109} < set(prompt) & set(once)
    assert len(set(once)) == 8 > len(set(free))


def test_shown_examples_stand_before_every_question(tmp_path):
    none, one, many = (
        run(language("llama", tmp_path, method="few_shot", method__shots=shots, task__max_length=length))
        for shots, length in ((0, 120), (1, 120), (1, 64))
    )
    cut = [record.provenance["data"]["cut"] for record in (none, one, many)]
    assert cut[0] <= cut[1] < cut[2], "what the shots push beyond task.max_length is told"
    said = [record.provenance["data"].get("notes", [""])[-1] for record in (none, many)]
    assert said[0] == "" and f"{cut[2]} of 72 rows lose their end to task.max_length=64; " in said[1]
    assert none.params["trainable"] == one.params["trainable"] == 0
    assert np.array_equal(kept(none)["label"], kept(one)["label"])  # what is asked is the same
    assert not np.allclose(kept(none)["score"], kept(one)["score"])
    assert none.run["id"] != one.run["id"] and none.objective is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16_true"])
def test_a_model_that_is_shown_nothing_scores_as_one_that_learns_nothing(tmp_path, precision):
    keys = {"trainer__precision": precision, "optim__lr": 1e-30}
    shown, trained = (run(language("llama", tmp_path, method=method, **keys)) for method in ("few_shot", "lora"))
    assert shown.metrics["test"] == trained.metrics["test"]


@pytest.mark.parametrize(("shape", "method"), [("bert", "tfidf"), ("bert", "probe"), ("t5", "probe")])
def test_a_baseline_reads_both_texts_of_a_pair(shape, method, tmp_path):
    """Whether the second text says yes decides the label; the first says nothing of it."""
    rows = [f"first {i % 5},{'yes' if i % 2 else 'no'} {i},{i % 2}\n" for i in range(200)]
    (tmp_path / "pairs.csv").write_text("one,two,label\n" + "".join(rows))
    pairs = under("task", path=str(tmp_path / "pairs.csv"), text="one", pair="two")
    whole = under("task", n_train=None, n_validation=None, n_test=None)
    config = tiny(shape, method, outputs=str(tmp_path), **pairs, **whole)
    assert run(config).metrics["test"]["accuracy"]["value"] > 0.9


def test_forgetting_of_a_language_model_is_paired_over_texts(tmp_path):
    (tmp_path / "other.csv").write_text(
        "text\n" + "".join(f"some other words number {i * 37}\n" for i in range(60)) + '""\n'
    )
    asked = under("forgetting", name="other", path=str(tmp_path / "other.csv"), n=40)
    found = run(language("llama", tmp_path, **FULL, **asked)).metrics["forgetting"]
    assert found["measure"] == "loss" and found["difference"]["n"] == 40
    assert found["difference"]["value"] == pytest.approx(found["after"]["value"] - found["before"]["value"])
    assert found["difference"]["se"] < found["before"]["se"] + found["after"]["se"]


def test_rounding_the_base_is_not_forgetting(tmp_path):
    (tmp_path / "other.csv").write_text("text\n" + "".join(f"some other words number {i * 37}\n" for i in range(60)))
    asked = under("forgetting", name="other", path=str(tmp_path / "other.csv"), n=40)
    still = {"method__lr": 1e-12, "optim__lr": 1e-12, "trainer__precision": "bf16_true"}
    found = run(language("llama", tmp_path, **still, **asked)).metrics["forgetting"]
    assert found["difference"]["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("negative", "positive"), [(200, 200), (40, 360)])
def test_a_probe_learns_and_asks_both_classes_however_the_file_is_sorted(negative, positive, tmp_path):
    rows = [f"text number {i},{'no' if i < negative else 'yes'}\n" for i in range(negative + positive)]
    (tmp_path / "sorted.csv").write_text("text,label\n" + "".join(rows))
    config = tiny("bert", **under("forgetting", name="o", path=str(tmp_path / "sorted.csv"), n=300))
    asked = Questions.of(config, None)
    labels = asked.rows.test.labels
    noise = np.random.default_rng(0).standard_normal((len(labels), 4))
    known = {"features": noise + 20.0 * labels[:, None] - 10}
    found = asked.compare(known, {"features": noise})
    larger = max(np.mean(labels), 1 - np.mean(labels))
    assert found["before"]["value"] == 1 and found["after"]["value"] == pytest.approx(larger, abs=0.1)
    assert found["difference"]["value"] == pytest.approx(found["after"]["value"] - 1)


def test_the_error_of_cosines_is_over_texts_that_pairs_share():
    rng = np.random.default_rng(0)
    centres, found = rng.standard_normal((5, 16)), []
    for _ in range(60):
        before = centres[rng.integers(0, 5, 100)] + rng.standard_normal((100, 16))
        after = before + rng.lognormal(0, 1, (100, 1)) * rng.standard_normal((100, 16))
        found.append(_cosines(before, after))
    spread = np.std([one["value"] for one in found], ddof=1)
    assert np.mean([one["se"] for one in found]) == pytest.approx(spread, rel=0.25)
    assert found[0]["n"] == 100


def test_forgetting_of_an_encoder_is_a_probe_and_the_order_of_cosines(tmp_path):
    rows = [f"word{i % 7} word{i % 3} {'good' if i % 2 else 'bad'} {i},{i % 2}\n" for i in range(120)]
    (tmp_path / "other.csv").write_text("text,label\n" + "".join(rows))
    probe = under("forgetting", name="o", path=str(tmp_path / "other.csv"), n=80)
    asked = run(tiny("bert", outputs=str(tmp_path), **probe))
    silent = run(tiny("bert", outputs=str(tmp_path)))
    assert asked.metrics["curve"] == silent.metrics["curve"], "to be asked changes nothing"
    with pytest.raises(Refused, match=r"^forgetting.n=2: 2 texts are left, and the half that a probe is fitted to"):
        run(tiny("bert", outputs=str(tmp_path / "few"), **probe | {"forgetting__n": 2}))
    with pytest.raises(Refused, match=r"^forgetting.n=1000: .*\d+ rows for this part; lower it, or null for all"):
        run(tiny("bert", outputs=str(tmp_path / "few"), **probe | {"forgetting__n": 1000}))
    assert not (tmp_path / "few").exists()
    every = data.load(task := data.forgetting_task(tiny("bert", **probe | {"forgetting__n": None})), resolve(task), 0)
    assert len(every.test) + len(every.validation) + len(every.train) == 120 and len(every.test) > 80
    found = asked.metrics["forgetting"]
    assert found["measure"] == "probe" and found["before"]["n"] == 40
    assert found["difference"]["value"] == pytest.approx(found["after"]["value"] - found["before"]["value"])
    assert 0 < found["cosines"]["value"] <= 1


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"method": "probe"}, "method=probe: needs labels"),
        ({"task__generation__metrics": ["blue"]}, "task.generation.metrics=blue: .*did you mean bleu"),
        ({"task__generation__metrics": ["json_keys"]}, "task.generation.keys: name the keys"),
        ({"task__metric": "accuracy"}, "task.metric=accuracy"),
        ({"method": "few_shot", "method__shots": -1}, "method.shots=-1"),
        ({"method": "few_shot", "method__shots": 4, **BLOCKS}, "method.shots=4: 0 with task.blocks"),
    ],
)
def test_what_a_language_task_cannot_do_is_refused(keys, line, tmp_path):
    with pytest.raises(Refused, match=line):
        language("llama", tmp_path, **keys)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"metrics": ["bleu"], "max_new_tokens": 1020}, r"task\.generation\.max_new_tokens=1020: at most"),
        ({"metrics": ["number_match"]}, "metric number_match: prompt 1 has no number in its reference '"),
    ],
)
def test_a_prompt_that_cannot_be_answered_or_scored_is_refused(keys, line, tmp_path):
    config = language("llama", tmp_path, **under("task__generation", **keys))
    with pytest.raises(Refused, match=line):
        run(config)
    assert not any(tmp_path.iterdir()), "refused before it was trained"
