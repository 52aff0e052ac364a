"""A merged model is the same model, and what cannot be is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rankwise.adapters import loading, score
from rankwise.adapters.merge import fold, merge
from rankwise.adapters.runs import Run
from rankwise.adapters.shrink import shrink
from rankwise.cli import main
from rankwise.errors import Refused
from rankwise.tasks.sources import synthetic
from rankwise.tracking.predictions import read

LANGUAGE = {"task": "synthetic_lm", "targets": "qv", "objective": "val/perplexity", "method__lr": 1e-2}


def plain(folder: Path) -> tuple[Any, Any]:
    """By transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("shape", ["bert", "gpt2", "llama"])
def test_the_merged_model_is_base_and_adapter(trained, logits, tmp_path, shape):
    run = trained(shape)
    found = merge(run, tmp_path / "merged", "fp32")
    assert found["logits"]["compared"] == "64 validation rows"
    assert max(found["logits"]["relative_errors"].values()) < 1e-5
    lm, tokenizer = loading.load_base(run)
    alone = logits(lm.eval(), tokenizer)
    wanted = logits(loading.adapted(lm, run), tokenizer)
    assert score.relative(alone, wanted) > 0.05  # the adapter matters
    assert score.relative(logits(*plain(tmp_path / "merged")), wanted) < 1e-5
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["id2label"] == {"0": "0", "1": "1"} and "adapter_model.safetensors" not in str(
        list((tmp_path / "merged").iterdir())
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("quant", [None, "nf4", "int8"])
def test_a_run_is_loaded_as_it_ran(trained, quant, precision):
    if quant:
        pytest.importorskip("bitsandbytes")
    run = trained("llama", quant=quant, trainer__precision=precision, optim__lr=0.005)
    model, tokenizer = loading.as_run(run)
    _, columns = score.Rows.of(run, tokenizer).score(model)
    kept = read(run.folder, run.name)
    assert np.ptp(kept.columns["score"]) > 0.01
    np.testing.assert_allclose(columns["score"], kept.columns["score"], atol=1e-6)


@pytest.mark.parametrize(
    "method",
    ["dora", "rslora", "pissa", "adalora", "vera", "loha", "lokr", "ia3", "oft", "bitfit", "head", "top_layers"],
)
def test_other_methods_that_change_weights_merge(trained, tmp_path, method):
    keys = {"top_layers": {"method__layers": 1}, "oft": {"method__block": 8}, "lokr": {"method__rank": 3}}
    found = merge(trained("bert", method, **keys.get(method, {})), tmp_path / "merged", "fp32")
    assert found["logits"]["relative_errors"]["written"] < 1e-5


def test_bf16_is_merged_in_fp32_and_cast_once(trained, tmp_path):
    errors = merge(trained("llama"), tmp_path / "merged", "bf16")["logits"]["relative_errors"]
    assert errors["merged"] < 1e-5 < errors["written"] < 0.05
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("shape", "quant"), [("bert", "nf4"), ("bert", "bf16"), ("gpt2", "nf4"), ("gpt2", "int8")])
def test_a_quantized_base_is_dequantized_first(trained, logits, tmp_path, shape, quant):
    if quant != "bf16":
        pytest.importorskip("bitsandbytes")
    run = trained(shape, quant=quant)
    errors = merge(run, tmp_path / "merged", "fp32")["logits"]["relative_errors"]
    model, tokenizer = loading.as_run(run)
    wanted = logits(model, tokenizer)
    close = {"nf4": 1e-5, "int8": 0.1, "bf16": 0.05}[quant]  # LLM.int8 rounds activations as well
    assert errors["merged"] < 1e-5 and errors["dequantized"] < close
    assert score.relative(logits(*plain(tmp_path / "merged")), wanted) < close
    if quant == "nf4" and shape == "bert":
        on_fp32 = logits(loading.adapted(loading.load_base(run)[0], run), tokenizer)
        assert score.relative(on_fp32, wanted) > 100 * close  # what an adapter on the wrong base would give


def test_what_a_run_rounded_stays_rounded(trained):
    run = trained("bert", quant="bf16")
    exact, rounded = (dict(make(run)[0].named_parameters()) for make in (loading.load_base, loading.dense_base))
    for name, weight in rounded.items():
        wanted = exact[name] if name.startswith("classifier") else exact[name].bfloat16().float()
        assert weight.dtype == torch.float32 and torch.equal(weight, wanted)


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_merge_that_is_not_exact_is_refused_and_leaves_nothing(trained, tmp_path, monkeypatch, factor):
    def off(model: torch.nn.Module, run: Run) -> torch.nn.Module:
        merged = fold(model, run)
        next(p for n, p in merged.named_parameters() if "query" in n).data.mul_(factor)
        return merged

    monkeypatch.setattr("rankwise.adapters.merge.fold", off)
    with pytest.raises(Refused, match=r"not merged, as the merged model's logits differ by"):
        merge(trained(), tmp_path / "merged", "fp32")
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_nothing(trained, tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("rankwise.adapters.card.write", fail)
    with pytest.raises(OSError, match="no space"):
        merge(trained(), tmp_path / "deep/merged", "fp32")
    assert not list((tmp_path / "deep").iterdir())


UNMERGED = {"full": "has no adapter", "bottleneck": "cannot be merged", "did": "cannot be merged"}


@pytest.mark.parametrize("method", [*UNMERGED, "tfidf"])
def test_what_cannot_merge_is_refused_by_name(trained, tmp_path, capsys, method):
    assert main(["adapter", "merge", str(trained("bert", method).folder), "--out", str(tmp_path / "merged")]) == 2
    shown = capsys.readouterr()
    assert f"method={method} {UNMERGED.get(method, 'trains no model')}" in shown.err
    assert shown.err.count("\n") == 1 and not shown.out
    assert not (tmp_path / "merged").exists()


def test_what_is_written_says_the_task_that_was_trained(trained, other_head, tmp_path):
    merge(trained(model__path=other_head("bert")), tmp_path / "merged", "fp32")
    whole = trained("bert", "full", model__path=other_head("bert"), trainer__save_full=True)
    for folder in (tmp_path / "merged", whole.adapter):
        config = json.loads((folder / "config.json").read_text())
        assert config["problem_type"] == "single_label_classification" and config["id2label"] == {"0": "0", "1": "1"}


def test_a_regression_keeps_its_single_output(trained, logits, other_head, tmp_path):
    keys = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson"}
    merge(trained("bert", model__path=other_head("bert"), **keys), tmp_path / "merged", "fp32")
    assert logits(*plain(tmp_path / "merged")).shape == (2, 1)
    assert json.loads((tmp_path / "merged/config.json").read_text())["problem_type"] == "regression"


@pytest.mark.parametrize(
    ("shape", "dtype"), [("bert", "fp32"), ("bert", "bf16"), ("roberta", "fp32"), ("gpt2", "fp32")]
)
def test_a_merged_regression_answers_in_the_unit_of_the_labels(trained, tmp_path, capsys, shape, dtype):
    moods = synthetic(300, "regression")
    rated = "".join(f"{row['text']},{7 + row['label'] / 2}\n" for row in moods)
    (tmp_path / "a.csv").write_text(f"text,label\n{rated}")
    local = {"task": "local", "task__path": str(tmp_path / "a.csv"), "task__max_length": 12}
    run = trained(shape, **local, task__kind="regression", task__metric="pearson", objective="val/pearson")
    out = tmp_path / "merged"
    assert main(["adapter", "merge", str(run.folder), "--out", str(out), "--dtype", dtype]) == 0
    kept = read(run.folder, run.name)
    texts = [moods[item]["text"] for item in kept.items]
    assert max(map(len, texts)) > 20, "some are cut"
    said = np.array([one["score"] for one in pipeline("text-classification", model=str(out))(texts, truncation=True)])
    told, card = capsys.readouterr().out, (out / "README.md").read_text()
    if shape == "gpt2" or dtype == "bf16":  # a head without bias, and one that would round the mean
        scale, mean = re.findall(r"^labels = (\S+) \* logits \+ (\S+)$", card, re.MULTILINE)[0]
        assert f"outputs: one value; label = {scale} × logit + {mean}\n" in told
        said = float(scale) * said + float(mean)
    else:
        assert "labels = " not in card and "outputs: one value, the label\n" in told
    assert np.ptp(kept.columns["prediction"]) > 0.005
    np.testing.assert_allclose(said, kept.columns["prediction"], atol=1e-5 if dtype == "fp32" else 0.02)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_a_causal_lm_is_scored_as_it_was_and_merges(trained, saved_base, tmp_path, shape):
    run = trained(shape, model__path=str(saved_base(shape, "causal_lm")), **LANGUAGE)
    model, tokenizer = loading.as_run(run)
    found, _ = score.Rows.of(run, tokenizer).score(model)
    assert found["value"] == pytest.approx(run.record.metrics["test"]["perplexity"]["value"], rel=1e-5)
    told = merge(run, tmp_path / "merged", "fp32")
    assert told["logits"]["relative_errors"]["written"] < 1e-5
    card = (tmp_path / "merged/README.md").read_text()
    assert "AutoModelForCausalLM" in card and f"logits of {told['logits']['compared']} differ" in card
    learned = sum(int((batch["labels"] != -100).sum()) for batch in score.Rows.of(run, tokenizer).loaders.validation)
    assert told["logits"]["compared"] == f"{learned} learned tokens"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(again).__name__.endswith(("CausalLM", "LMHeadModel"))
    writes = again.generation_config
    assert writes.eos_token_id == [2, 5] and writes.repetition_penalty == 1.3, "the base's"
    assert shrink(run, None, 0.9, tmp_path / "small")["metric"] == "perplexity"
