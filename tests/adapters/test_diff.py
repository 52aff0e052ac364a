"""Two runs side by side."""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

from rankwise.adapters.diff import deltas, diff
from rankwise.adapters.factors import read
from rankwise.adapters.runs import open_run
from rankwise.cli import main
from rankwise.commands import adapter
from rankwise.compare import on_rows
from rankwise.metrics import named
from rankwise.tracking.predictions import write


def test_distances_are_those_of_the_dense_changes(trained):
    one, other = trained(), trained(data_seed=1)
    found = diff(one, other)
    assert found["config"] == {"data_seed": [0, 1]} and found["same_base"]
    a, b = (read(run.adapter, "test").deltas for run in (one, other))
    assert found["modules"].keys() == a.keys()
    for name, each in found["modules"].items():
        x, y = a[name].dense(), b[name].dense()
        assert each["distance"] == pytest.approx(float((x - y).norm() / x.norm()), rel=1e-6)
        assert each["norms"] == pytest.approx([float(x.norm()), float(y.norm())], rel=1e-6)
        assert each["cosine"] == pytest.approx(float((x * y).sum() / x.norm() / y.norm()), rel=1e-6)


def test_a_run_and_itself(trained):
    found = diff(trained("gpt2"), trained("gpt2"))
    assert not found["config"] and found["all_modules"]["cosine"] == pytest.approx(1)
    assert all(each["distance"] < 1e-6 for each in found["modules"].values())
    assert found["scores"]["metrics"]["accuracy"]["difference"] == {"value": 0.0, "se": 0.0}


@pytest.mark.parametrize("shape", ["bert", "gpt2"])
def test_changes_by_merging_are_those_of_the_factors(trained, monkeypatch, shape):
    run = trained(shape)
    by_factors = deltas(run)
    monkeypatch.setattr("rankwise.adapters.factors.why_not_plain", lambda config: "asked for")
    by_merging = deltas(run)
    assert by_merging.keys() == by_factors.keys()
    for name, delta in by_merging.items():
        assert delta.a is None
        torch.testing.assert_close(delta.dense(), by_factors[name].dense(), rtol=1e-3, atol=1e-6)


def test_lora_beside_full_fine_tuning(trained):
    kept = diff(trained(), trained("bert", "full", trainer__save_full=True))
    assert kept["modules"] and kept["only_in"][0] == [] and kept["only_in"][1]
    lost = diff(trained(), trained("bert", "full", seed=1))
    assert not lost["modules"] and "kept no weights" in lost["not_compared"]
    assert lost["scores"]["metrics"]["accuracy"]["difference"] is not None
    assert lost["scores"]["metrics"]["loss"]["difference"] is None, "the loss that is kept by row is of written tokens"


def test_a_run_without_its_weights_is_compared_by_config_and_scores(trained, copied):
    place = copied(trained(data_seed=1))
    shutil.rmtree(place / "adapter")
    found = diff(trained(), open_run(place))
    assert found["not_compared"] == f"{place}/adapter/adapter_config.json: not PEFT's config (no such file)"
    assert found["config"] == {"data_seed": [0, 1]} and len(found["scores"]["metrics"]["accuracy"]["scores"]) == 2


def test_parts_of_a_fused_layer_beside_the_whole(trained):
    whole = trained("gpt2", "full", trainer__save_full=True)
    found = diff(trained("gpt2", targets="qv"), whole)
    q, _, v = deltas(whole)["transformer.h.1.attn.c_attn"].b.chunk(3)
    for part, rows in (("q", q), ("v", v)):
        assert found["modules"][f"transformer.h.1.attn.c_attn.{part}"]["norms"][1] == pytest.approx(float(rows.norm()))
    assert len(found["modules"]) == 4 and "transformer.h.1.attn.c_attn.k" in found["only_in"][1]


def test_a_subspace_of_all_weights_has_no_delta(trained):
    found = diff(trained(), trained("bert", "did", method__dim=100))
    assert found["not_compared"] == "the few numbers of method=did move all weights as the model computes"


def test_f1_is_of_all_classes_though_the_rows_show_two(trained, copied, tmp_path):
    labels = np.array([0, 0, 0, 1] * 8)
    said = {"one": np.ones(32, int), "other": np.array([0, 1, 0, 1] * 8)}
    runs = []
    for name, predictions in said.items():
        place = copied(trained()).rename(tmp_path / name)
        table = {"label": labels, "prediction": predictions, "score": np.ones(32)}
        write(place, np.arange(32), table)
        record = json.loads((place / "result.json").read_text())
        record["provenance"]["data"]["classes"] = ["a", "b", "c"]
        value = f1_score(labels, predictions, average="macro")
        record["metrics"]["test"]["f1"] = {"value": value, "se": 0.1, "n": 32}
        (place / "result.json").write_text(json.dumps(record))
        runs.append(open_run(place))
    gap = diff(*runs)["scores"]["metrics"]["f1"]["difference"]["value"]
    assert gap == pytest.approx(f1_score(labels, said["other"], average="macro") - 0.2)


def test_scores_are_paired_by_item(trained):
    one, other = trained(), trained("bert", "tfidf")
    gap = diff(one, other)["scores"]["metrics"]["accuracy"]["difference"]
    tables = [pq.read_table(run.folder / "predictions.parquet").to_pandas().set_index("item") for run in (one, other)]
    right = [(table.prediction == table.label).astype(float) for table in tables]
    each = right[1] - right[0]
    assert gap["value"] == pytest.approx(each.mean())
    assert gap["se"] == pytest.approx(each.std() / math.sqrt(len(each)), rel=0.05)


def test_other_rows_are_not_paired(trained, copied):
    found = diff(trained(), trained(task__n_test=40))["scores"]
    assert found["not_paired"] == "the runs were tested on different rows"
    assert found["metrics"]["accuracy"]["difference"] is None and found["metrics"]["accuracy"]["scores"][1]["n"] == 40
    place = copied(trained(data_seed=1))
    (place / "predictions.parquet").write_bytes(b"PAR1")
    assert "cannot be read" in diff(trained(), open_run(place))["scores"]["not_paired"]


@pytest.mark.parametrize(("cluster", "error"), [([0, 0, 1, 1], 0.5), ([0, 0, 0, 0], math.nan), (None, 3**-0.5 / 2)])
def test_the_error_of_a_difference_is_that_of_the_mean_of_clusters(cluster, error):
    """Two whose means are 0 and 1: their deviation over √2. Four rows of two kinds: √(1/3)/√4."""
    one, other = ({"label": np.ones(4), "prediction": np.array(said)} for said in ([0, 0, 0, 0], [0, 0, 1, 1]))
    more = {} if cluster is None else {"cluster": np.array(cluster)}
    found = on_rows(named("accuracy"), one | more, other | more)
    assert found == {"value": 0.5, "se": pytest.approx(error, rel=0.03, nan_ok=True)}


def test_the_error_of_a_paired_correlation_is_that_of_its_spread():
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(40):
        y = rng.normal(size=120)
        a, b = y + rng.normal(size=120), y + 0.8 * rng.normal(size=120)
        gap = on_rows(named("pearson"), {"label": y, "prediction": a}, {"label": y, "prediction": b})
        estimates.append(gap["value"])
        errors.append(gap["se"])
    assert 0.7 < np.std(estimates) / np.mean(errors) < 1.4


def test_a_score_that_fell_has_the_minus_of_reports():
    assert adapter._gap({"value": -0.07, "se": 0.01}) == "−0.0700 ± 0.0100"
    assert adapter._score({"value": -0.5}) == "−0.5000"


def test_what_is_set_is_shown_as_it_is(trained, copied, capsys):
    place = copied(trained())
    config = yaml.safe_load((place / "config.yaml").read_text())
    config["task"]["template"] = "[/INST] {x} :cat:[a-z]"
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["adapter", "diff", str(trained().folder), str(place)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("task.template")]
    assert line.split() == ["task.template", "None", "[/INST]", "{x}", ":cat:[a-z]"]
