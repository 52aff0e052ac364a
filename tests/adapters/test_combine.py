"""Combined adapters: exact where they should be, scored as they are, and loadable."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rankwise.adapters import factors, score
from rankwise.adapters.combine import combine
from rankwise.adapters.factors import read
from rankwise.adapters.runs import Run, open_run
from rankwise.errors import Refused
from rankwise.model.methods.peft_warnings import quiet_peft
from rankwise.model.methods.warm_start import ADAPTER_FILE

Trained = Callable[..., Run]
Dense = dict[str, torch.Tensor]


def dense(deltas: factors.Deltas) -> Dense:
    return {name: delta.dense() for name, delta in deltas.items()}


def own(run: Run) -> Dense:
    return dense(read(run.adapter, "test").deltas)


def two(trained: Trained, shape: str = "bert", **keys: Any) -> list[Run]:
    """On one base, trained on different rows."""
    return [trained(shape, data_seed=number, **keys) for number in (0, 1)]


def result(runs: list[Run], tmp_path: Path, *args: Any, **keys: Any) -> tuple[dict[str, Any], Dense]:
    """What was found, and ΔW as it was written."""
    out = tmp_path / "combined"
    found = combine(runs, *args, **keys, out=out)
    return found, dense(read(out, "test").deltas)


def close(found: Dense, wanted: Dense) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("shape", "method"), [("bert", "lora"), ("gpt2", "rslora"), ("llama", "lora")])
def test_one_adapter_with_weight_one_is_itself(trained, tmp_path, shape, method):
    run = trained(shape, method)
    found, deltas = result([run], tmp_path, "linear", [1.0])
    close(deltas, own(run))
    task = found["tasks"][0]
    assert task["combined"] == task["single"] and task["difference"] == {"value": 0.0, "se": 0.0}
    assert task["single"]["value"] == pytest.approx(task["recorded"])


@pytest.mark.parametrize("shape", ["bert", "gpt2", "llama"])
def test_cat_adds_the_changes_of_weights(trained, tmp_path, shape):
    runs = two(trained, shape)
    found, deltas = result(runs, tmp_path, "cat", [1.0, -0.5])
    one, other = map(own, runs)
    close(deltas, {name: one[name] - 0.5 * other[name] for name in one})
    assert found["ranks"]["max"] == 16
    assert [task["single"]["value"] for task in found["tasks"]] == [
        pytest.approx(run.record.metrics["test"]["accuracy"]["value"]) for run in runs
    ]


def test_cat_of_two_ranks_and_of_divided_by_the_root(trained, tmp_path):
    runs = [trained(), trained("bert", "rslora", method__rank=4, data_seed=1)]
    _, deltas = result(runs, tmp_path, "cat", [1.0, 1.0])
    one, other = map(own, runs)
    close(deltas, {name: one[name] + other[name] for name in one})


def test_svd_is_the_best_approximation_of_the_sum(trained, tmp_path):
    runs = two(trained)
    found, deltas = result(runs, tmp_path, "svd", [1.0, 1.0], rank=3)
    one, other = map(own, runs)
    for name, value in deltas.items():
        u, s, v = torch.linalg.svd(one[name] + other[name], full_matrices=False)
        torch.testing.assert_close(value, u[:, :3] * s[:3] @ v[:3], rtol=1e-3, atol=1e-6)
    assert found["ranks"]["max"] == 3


@pytest.mark.parametrize("how", ["linear", "ties", "dare_linear", "dare_ties"])
def test_what_works_on_factors_gives_an_adapter_of_the_same_rank(trained, tmp_path, how):
    density = None if how == "linear" else 0.5
    found, deltas = result(two(trained), tmp_path, how, None, density=density)
    assert found["ranks"]["max"] == 8 and found["weights"] == [0.5, 0.5]
    assert all(value.isfinite().all() and value.any() for value in deltas.values())
    assert combine(two(trained), how, None, density=density)["tasks"] == found["tasks"]  # dare draws the same again
    if how == "linear":  # (√½ B₁ + √½ B₂)(√½ A₁ + √½ A₂): with products of one run's B and the other's A
        one, other = (read(run.adapter, "test").deltas for run in two(trained))
        close(deltas, {name: (one[name].b + other[name].b) @ (one[name].a + other[name].a) / 2 for name in one})


def test_ties_trims_elects_signs_and_takes_the_mean_of_those_that_agree(trained, tmp_path, copied):
    """Yadav et al. 2023, §3, by hand: 0.5 and 0.1 are trimmed, −1 at the upper left has the weaker sign."""
    runs = two(trained)
    for run, corner in zip(runs, ([[3.0, -1.0], [2.0, 0.5]], [[-1.0, -2.0], [4.0, 0.1]]), strict=True):
        tensors = load_file(file := copied(run) / "adapter" / ADAPTER_FILE)
        for name, value in tensors.items():
            if "lora_" in name:
                value.zero_()[:2, :2] = torch.tensor(corner) if "lora_A" in name else torch.eye(2)
        save_file(tensors, file, {"format": "pt"})
    _, deltas = result([open_run(tmp_path / run.name) for run in runs], tmp_path, "ties", None, density=3 / (8 * 32))
    for value in deltas.values():
        assert value.count_nonzero() == 3 and value[:2, :2].tolist() == [[3.0, -1.5], [3.0, 0.0]]


@pytest.mark.parametrize("writes", [False, True])
def test_it_loads_by_the_recipe_of_its_card_and_its_heads_fit(trained, other_head, saved_base, tmp_path, writes):
    """On a base whose own head was for another task; a causal LM has no head of the run's."""
    language = {
        "task": "synthetic_lm",
        "objective": "val/perplexity",
        "model__path": str(saved_base("llama", "causal_lm")),
    }
    runs = two(trained, "llama", **language) if writes else two(trained, model__path=other_head("bert"))
    found, _ = result(runs, tmp_path, "cat", [0.5, 0.5])
    out = tmp_path / "combined"
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for run, task in zip(runs, found["tasks"], strict=True):
        made: dict[str, Any] = {"FOLDER": str(out)}
        with quiet_peft():
            exec(code.replace(runs[0].name, run.name).replace('FOLDER = "."', ""), made)
        again, _ = score.Rows.of(run, made["tokenizer"]).score(made["model"])
        assert again["value"] == pytest.approx(task["combined"]["value"])
    assert [task["head"] for task in found["tasks"]] == [f"heads/{run.name}.safetensors" * (not writes) for run in runs]
    assert (out / "heads").exists() == ("heads/" in (out / "README.md").read_text()) == (not writes)
    assert found["adapter_bytes"] == sum(f.stat().st_size for f in out.rglob("*.safetensors"))


def test_on_a_quantized_base(trained, tmp_path):
    pytest.importorskip("bitsandbytes")
    runs = two(trained, quant="nf4")
    used = [run.record.provenance["packages"].get("bitsandbytes") for run in runs]
    assert used == [version("bitsandbytes")] * 2, "what rounded the weights"
    found, deltas = result(runs, tmp_path, "cat", [1.0, 1.0])
    one, other = map(own, runs)
    close(deltas, {name: one[name] + other[name] for name in one})
    assert found["tasks"][0]["single"]["value"] == pytest.approx(found["tasks"][0]["recorded"])


def test_heads_of_different_sizes_share_a_base(trained, saved_base, tmp_path):
    base = str(saved_base("bert"))
    value = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson", "task__n_test": None}
    runs = [trained(model__path=base), trained(model__path=base, **value)]
    found, _ = result(runs, tmp_path, "svd", None)
    codes = [part.split("```")[0] for part in (tmp_path / "combined/README.md").read_text().split("```python\n")[1:]]
    for run, task, code in zip(runs, found["tasks"], codes, strict=True):
        made: dict[str, Any] = {}
        with quiet_peft():
            exec(code.replace('FOLDER = "."', f"FOLDER = {str(tmp_path / 'combined')!r}"), made)
        again, _ = score.Rows.of(run, made["tokenizer"]).score(made["model"])
        assert again["value"] == pytest.approx(task["combined"]["value"], abs=1e-5), (
            "each by the recipe of its own head"
        )
    assert [task["outputs"].split(";")[0] for task in found["tasks"]] == ["classes 0 = 0, 1 = 1", "one value"]
    assert [task["metric"] for task in found["tasks"]] == ["accuracy", "pearson"]
    for task in found["tasks"]:
        assert task["single"]["value"] == pytest.approx(task["recorded"], abs=1e-6)


def test_runs_that_do_not_go_together_are_refused(trained):
    with pytest.raises(Refused, match="given twice"):
        combine([trained(), trained()], "cat")
    with pytest.raises(Refused, match="on another base"):
        combine([trained(), trained("gpt2")], "cat")
    weights = r"random weights of seed {} for 2 outputs, shape:\w{{16}}"
    with pytest.raises(
        Refused, match=rf": is on another base \({weights.format(1)}\) than .* \({weights.format(0)}\)$"
    ):
        combine([trained(), trained(seed=1)], "cat")
    with pytest.raises(Refused, match=r"needs plain LoRA.*use_dora"):
        combine([trained(), trained("bert", "dora", data_seed=1)], "cat")
    with pytest.raises(Refused, match="needs adapters of one rank"):
        combine([trained(), trained(method__rank=4)], "linear")
    with pytest.raises(Refused, match="needs two or more"):
        combine([trained()], "svd")
    more = trained(method__modules_to_save=["word_embeddings"])
    with pytest.raises(Refused, match=r"word_embeddings.*beside LoRA"):
        combine([trained(), more], "cat")
