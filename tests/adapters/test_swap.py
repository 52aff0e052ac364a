"""Several adapters on one base are each as they are alone."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from rankwise.adapters import loading
from rankwise.adapters.loading import Shared, Tensors
from rankwise.adapters.runs import Run
from rankwise.adapters.swap import swap
from rankwise.cli import main
from rankwise.config import Quant
from rankwise.errors import Refused
from rankwise.model.targets import block_linears


@pytest.mark.parametrize(("shape", "whole"), [("bert", "LayerNorm"), ("gpt2", "wte"), ("llama", "embed_tokens")])
def test_each_is_as_alone_and_switching_is_cheap(trained, shape, whole):
    """One of them has trained modules of the base whole, which are the base's own again for the next."""
    larger = trained(shape, method__rank=4, method__modules_to_save=[whole])
    runs = [trained(shape), larger, trained(shape, "rslora", data_seed=1)]
    found = swap(runs)
    assert [row["run"] for row in found["adapters"]] == [run.name for run in runs]
    assert all(
        row["same"] and row["relative_error"] < 1e-5 and row["compared"] == "64 validation rows"
        for row in found["adapters"]
    )
    assert 0 < found["switch_ms"] < found["load_ms"]


def test_heads_of_different_sizes(trained, saved_base):
    base = str(saved_base("bert"))
    value = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson"}
    found = swap(
        [trained(model__path=base), trained(model__path=base, **value), trained("bert", "dora", model__path=base)]
    )
    assert all(row["same"] for row in found["adapters"])


def test_on_a_quantized_base(trained):
    pytest.importorskip("bitsandbytes")
    found = swap([trained(quant="nf4"), trained(quant="nf4", data_seed=1)])
    assert all(row["same"] for row in found["adapters"])
    dense = sum(p.numel() for p in loading.load_base(trained())[0].parameters()) * 4
    blocks = sum(layer.weight.numel() for _, layer in block_linears(loading.load_base(trained())[0]))
    constants = found["base_bytes"] - (dense - 4 * blocks + blocks // 2)
    assert constants == 4 * blocks // 64 + 12 * 16 * 4  # one fp32 per 64 values, and of 12 layers a code of 16


def test_what_differs_is_told_and_the_exit_code_says_so(trained, capsys, monkeypatch):
    real, broken = Shared._add, trained(data_seed=1)

    def add(self: Shared, run: Run, tensors: Tensors) -> None:
        larger = {name: value * 1.5 if "lora_B" in name else value for name, value in tensors.items()}
        real(self, run, larger if run.key == broken.key else tensors)

    monkeypatch.setattr(Shared, "_add", add)
    folders = [str(trained().folder), str(trained(data_seed=1).folder)]
    assert main(["adapter", "swap", *folders, "--json"]) == 1
    assert [row["same"] for row in json.loads(capsys.readouterr().out)["adapters"]] == [True, False]
    assert main(["adapter", "swap", *folders]) == 1
    assert "NO" in capsys.readouterr().out


def test_a_base_is_another_where_its_values_are_stored_otherwise(trained):
    run = trained()

    def base(precision: str, **quant: Any) -> tuple[Any, ...]:
        record = copy.deepcopy(run.record)
        record.compute["precision"] = precision  # type: ignore[typeddict-item]
        return replace(run, record=record, config=replace(run.config, quant=Quant(**quant))).base

    assert base("fp32") == base("bf16") == run.base
    nf4 = [base(precision, kind="nf4") for precision in ("fp32", "bf16")]
    others = [base("bf16_true"), *nf4, base("fp32", kind="nf4", double=True)]
    assert len({run.base, *others}) == 5


def test_what_cannot_share_a_base_is_refused(trained):
    with pytest.raises(Refused, match="on another base"):
        swap([trained(), trained("llama")])
    with pytest.raises(Refused, match=r": is in another storage \(quant=bf16 in fp32\) than \S+ \(quant=none\)$"):
        swap([trained(), trained(quant="bf16")])
    with pytest.raises(Refused, match="two or more"):
        swap([trained()])
    with pytest.raises(Refused, match="not beside"):
        swap([trained(), trained("bert", "ia3")])
