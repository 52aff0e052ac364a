"""Every method on every architecture: it trains, it is planned right, it comes back in another process."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from methods_table import CASES, REFUSED, TEXTS, TRAINED, batch_of, config_of, leave, load, logits, save_bases, train
from tiny_configs import SHAPES, tiny

from rankwise import methods
from rankwise.adapters import loading
from rankwise.adapters.runs import open_trained
from rankwise.check import check
from rankwise.errors import Refused
from rankwise.identity import label, run_id
from rankwise.measure.parameters import count
from rankwise.model.adapt import adapt
from rankwise.model.quantize import hold_as_multiplied
from rankwise.model.weights import export
from rankwise.plan.fake import build as planned
from rankwise.run import run
from rankwise.tasks.scores import ClassScorer
from rankwise.train import step


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    save_bases(folder)
    return folder


OF_ITS_OWN = [shape for shape in SHAPES if shape != "roberta"]  # whose layers are BERT's under other names
READ_WEIGHTS = ("dora", "custom")  # rounded ones then, where others only multiply by them


@pytest.mark.parametrize("shape", OF_ITS_OWN)
def test_frozen_weights_as_they_are_multiplied_change_no_bit(shape, bases):
    for method in [method for method, on in CASES if on == shape and method not in READ_WEIGHTS]:
        config, losses, gradients = config_of(method, shape, model__path=str(bases / shape)), [], []
        for precision in ("fp32", "bf16"):
            lm, tokenizer = load(config)
            model = adapt(lm, config).model.train()
            hold_as_multiplied(model, precision)
            torch.manual_seed(1)
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(step.losses(model, ClassScorer(2), batch_of(tokenizer))[1])
            losses[-1].mean().backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        assert torch.equal(*losses), method
        for name, gradient in gradients[0].items():
            other = gradients[1][name]
            assert gradient is other is None or torch.equal(gradient, other), (method, name)
        halved = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
        assert bool(halved) == (methods.of(config.method).trains not in ("all", "subspace")), method
        assert not any("embed" in name or "wte" in name or "norm" in name.casefold() for name in halved)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_method_learns_and_comes_back_in_another_process(shape, bases, tmp_path, zygote):
    """With the head held still, the loss falls by a tenth and the logits leave the base's; both survive the reload.

    A subspace moves the head, too, and stores none: see test_intrinsic.py.
    """
    told: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    every = [method for method, on in CASES if on == shape and methods.of(method).trains != "subspace"]
    for method in ["lora", "bitfit", "bottleneck"] if shape == "roberta" else every:
        config = config_of(method, shape, model__path=str(bases / shape))
        check(config)
        lm, tokenizer = load(config)
        base = logits(lm, tokenizer)
        adapted = adapt(lm, config)
        assert train(adapted, tokenizer, config) > 0.1, method
        told[method] = logits(adapted.model, tokenizer), base
        leave(config, tmp_path / method)
        export(adapted.model, tmp_path / method / "adapter", keep_full=False, start=adapted.start)
    child = zygote(tmp_path / "child", "restored", [str(tmp_path / method) for method in told], TEXTS)
    assert child.wait(300) == 0, child.stderr
    for method, (trained, base) in told.items():
        back = torch.tensor(json.loads((tmp_path / method / "restored").read_text()))
        assert (trained - base).abs().max() > 1e-3, method
        assert torch.allclose(back, trained, atol=1e-5), (method, float((back - trained).abs().max()))


@pytest.mark.parametrize(("method", "shape"), REFUSED, ids=str)
def test_what_a_model_does_not_allow_is_refused_by_name(method, shape):
    config = config_of(method, shape)
    check(config)
    with pytest.raises(Refused) as refused:
        adapt(load(config)[0], config)
    assert str(refused.value).startswith(REFUSED[method, shape])


@pytest.mark.parametrize("shape", OF_ITS_OWN)
def test_a_plan_counts_the_parameters_of_every_method_as_they_are_built(shape):
    for method in [method for method, on in CASES if on == shape]:
        config = config_of(method, shape)
        lm, _ = load(config)
        meta = planned(config, lm.config, 2, "eager", "fp32")
        assert all(p.is_meta for n, p in meta.model.named_parameters() if "ranknum" not in n), method
        built = adapt(lm, config)
        assert count(meta.model, meta.heads) == count(built.model, built.heads), method
        assert meta.lora == built.lora


@pytest.mark.parametrize("method", TRAINED)
def test_a_run_of_every_method_is_finished_predicted_and_restored(tiny, method):
    keys = {key: value for key, value in config_of(method, "bert").method.__dict__.items() if key != "name"}
    few = {"trainer__max_steps": 2, "trainer__validations": 1, "task__n_test": 8, "tracking__ledger": True}
    config = tiny("bert", method, "all_linear", **few, **{f"method__{k}": v for k, v in keys.items()})
    record = run(config)
    assert record.status == "finished" and record.compute["steps"] == 2
    for phase in ("train", "eval"):
        found, predicted = record.memory[phase], record.memory[phase]["predicted"]
        for part in ("weights", "optimizer"):
            assert predicted[f"{part}_bytes"] == found[f"{part}_bytes"]
        assert predicted["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.03)
    if (flops := record.compute["flops"].get("per_step")) is not None:
        assert flops == record.compute["flops"]["per_step_counted"]
    stored = open_trained(record.folder)
    model, _ = loading.as_run(stored)
    assert stored.config == config and not model.training
    assert count(model, ["classifier"])["head"] in (0, 66)  # PEFT loads for inference


def test_names_of_files_and_methods_agree():
    """A file of another name would call an arm by what it is not."""
    for method in methods.DECLARED:
        assert tiny("bert", method).method.name == method


def test_a_config_file_alone_makes_a_method_of_pefts(tiny):
    peft = {"_target_": "peft.HRAConfig", "r": 4}
    config = tiny("bert", "custom", "all_linear", method__name="hra", method__peft=peft)
    record = run(config)
    assert record.status == "finished" and record.lora["rank"] == 4
    assert label(config) == f"hra-r4-all_linear-lr{config.optim.lr:g}-s0"
    assert run_id(config) == run_id(replace(config, method=replace(config.method, name="custom")))
    configs = [config_of("custom", "bert", method__rank=rank) for rank in (2, 4, 8)]
    models = [adapt(load(config)[0], config) for config in configs]
    two, four, eight = (count(adapted.model, adapted.heads)["adapter"] for adapted in models)
    assert eight == 2 * four == 4 * two > 0


CHANGED: list[dict[str, Any]] = [
    {},
    {"method__alpha": "8sqrt"},
    {"targets__ranks": {r".*\.0\..*": 3}, "targets__alphas": {r".*\.1\..*": "2r"}},
    {"method__init": "pissa_niter_4", "method__dora": True},
]


def test_adapters_that_changed_their_base_load_on_the_untouched_one_without_rankwise(bases, tmp_path):
    told, cases = [], []
    for shape, method, keys in itertools.product(("bert", "gpt2"), ("pissa", "olora"), CHANGED):
        if method == "olora" and "method__init" in keys:
            continue
        config = config_of(method, shape, model__path=str(bases / shape), **keys)
        lm, tokenizer = load(config)
        before = logits(lm, tokenizer)
        adapted = adapt(lm, config)
        assert torch.allclose(logits(adapted.model, tokenizer), before, atol=1e-4)
        train(adapted, tokenizer, config, steps=8)
        place = tmp_path / str(len(cases))
        export(adapted.model, place, keep_full=False, start=adapted.start)
        told.append((logits(adapted.model, tokenizer), before))
        cases.append({"base": str(bases / shape), "adapter": str(place), "out": str(place / "out")})
    script = f"import sys, json\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\nimport alone\n"
    script += f"alone.logits({cases!r}, {TEXTS!r})\nassert not any(n.startswith('rankwise') for n in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for case, (trained, before) in zip(cases, told, strict=True):
        back = torch.tensor(json.loads(Path(case["out"]).read_text()))
        assert torch.allclose(back, trained, atol=1e-5) and not torch.allclose(back, before, atol=1e-3)
