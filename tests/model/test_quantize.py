"""Quantized bases: their bytes, their gradients, what stays in floating point, and what is refused."""

import copy
import importlib.util
import itertools
from typing import Any

import pytest
import torch
import yaml
from tiny_configs import CONF, tiny
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from rankwise.assets import resolve
from rankwise.check import QUANT_LIBRARIES, check_here
from rankwise.cli import main
from rankwise.config import Config, Quant
from rankwise.errors import Refused
from rankwise.identity import run_id
from rankwise.measure.ledger import held_bytes
from rankwise.measure.parameters import count
from rankwise.model import base
from rankwise.model.adapt import adapt
from rankwise.model.numerics import Numerics
from rankwise.model.quantize import PlannedLinear, dequantize, quantize, store
from rankwise.model.targets import block_linears
from rankwise.run import run

FEW_BITS = ("int8", "int8_torchao", "nf4", "nf4_double", "fp4", "fp4_double")
KINDS = ("bf16", *FEW_BITS)


def keys(quant: str) -> dict[str, Any]:
    """``quant=NAME`` as it is shipped, for ``tiny``."""
    shipped = yaml.safe_load((CONF / "quant" / f"{quant}.yaml").read_text())
    return {f"quant__{key}": value for key, value in shipped.items()}


def loaded(config: Config) -> nn.Module:
    model, _ = base.load(config.model, resolve(config.model), 2, config.seed, "eager")
    return model


def stored(quant: str, shape: str = "bert", precision: str = "fp32", **more: Any) -> tuple[nn.Module, Config]:
    config = tiny(shape, targets="all_linear", **keys(quant), **more)
    model = loaded(config)
    store(model, config, base.head_names(model), precision)
    return model, config


def bytes_of(model: nn.Module) -> int:
    return held_bytes(model, [*model.parameters(), *model.buffers()])


def batch(rows: int = 4) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 200, (rows, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


BITS = [*zip(FEW_BITS, (8 + 32 / 1024, 8 + 40 / 1024, 4.5, 4.127, 4.5, 4.127), strict=True)]


@pytest.mark.parametrize(("quant", "bits"), BITS)
def test_a_weight_takes_the_bits_of_its_format(quant, bits):
    """4 bits and a 32-bit constant per 64 values; 8 bits and 32 per 64 · 256 with double quantization (QLoRA, §3)."""
    config = tiny(**keys(quant))
    model = nn.ModuleDict({"layer": nn.ModuleList([nn.ModuleDict({"linear": nn.Linear(1024, 1024, bias=False)})])})
    planned = PlannedLinear(model["layer"][0]["linear"], config.quant)
    store(model, config, [], "fp32")
    assert bytes_of(model) * 8 / 1024**2 == pytest.approx(bits, rel=0.01)
    assert bytes_of(planned) == bytes_of(model)
    model["layer"][0]["linear"](torch.ones(2, 1024))  # the first pass moves the scales of 8 bits elsewhere
    assert bytes_of(planned) == bytes_of(model)
    assert count(model, [])["total"] == 1024**2


@pytest.mark.parametrize("shape", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("quant", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_after_an_evaluation_gradients_still_reach_the_first_layer(quant, shape, precision):
    """bitsandbytes packs its weights anew in a pass without gradients, on processors with AVX512-BF16."""
    model, config = stored(quant, shape, precision)
    model = adapt(model, config).model
    few = batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            before = model.eval()(**few).logits
        model.train()(**few).logits.float().square().sum().backward()
        with torch.no_grad():
            after = model.eval()(**few).logits
    assert torch.equal(before, after)
    first = {n: p for n, p in model.named_parameters() if ".0." in n and "lora_B" in n}
    assert len(first) >= 4
    for name, parameter in first.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("quant", KINDS)
def test_gradients_are_those_of_the_dense_weights_that_the_layers_stand_for(quant):
    model, config = stored(quant, "llama", trainer__precision="fp32")
    dense = copy.deepcopy(model)
    if quant == "bf16":
        dense.float()
    dequantize(dense)
    assert all(isinstance(m, nn.Linear) and m.weight.dtype == torch.float32 for _, m in block_linears(dense))
    gradients, logits = [], []
    for each in (model, dense):
        adapted = adapt(each, config).model.train()
        logits.append(adapted(**batch()).logits)
        logits[-1].float().square().sum().backward()
        named = adapted.named_parameters()
        gradients.append(torch.cat([p.grad.flatten() for n, p in named if "lora_B" in n and p.grad is not None]))
    close = 0.05 if quant == "bf16" else 1e-4  # bf16 computes in bf16
    assert torch.linalg.vector_norm(logits[0] - logits[1]) < close * torch.linalg.vector_norm(logits[1])
    assert torch.linalg.vector_norm(gradients[0] - gradients[1]) < close * torch.linalg.vector_norm(gradients[1])


@pytest.mark.parametrize("shape", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("quant", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_head_embeddings_and_norms_stay_in_floating_point(quant, shape, precision):
    model, _ = stored(quant, shape, precision)
    low = precision == "bf16" or quant == "bf16"
    linears = {name for name, _ in block_linears(model)}
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] in linears and name.endswith("weight"):
            assert (quant == "bf16") == (type(parameter) is nn.Parameter), name
            continue
        is_head = name.split(".")[0] in base.head_names(model)
        assert parameter.dtype == (torch.bfloat16 if low and not is_head else torch.float32), name
    assert all(b.dtype != torch.bfloat16 for b in model.buffers())  # rotary frequencies


BUILT = [*zip(KINDS, itertools.cycle(["fp32", "bf16"]), itertools.cycle(["bert", "gpt2", "llama", "roberta"]))]


@pytest.mark.parametrize(("quant", "precision", "shape"), BUILT)
def test_what_is_planned_is_built(tiny, quant, precision, shape):
    more = {"tracking__ledger": True, "trainer__precision": precision, "trainer__max_steps": 3}
    record = run(tiny(shape, "lora", "all_linear", **more, **keys(quant)))
    for phase in ("train", "eval"):
        found, predicted = record.memory[phase], record.memory[phase]["predicted"]
        assert predicted["weights_bytes"] == found["weights_bytes"]
        assert predicted["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.02)
    dense = adapt(loaded(tiny(shape)), tiny(shape, "lora", "all_linear"))
    for key, number in count(dense.model, dense.heads).items():
        assert key.startswith("by_") or record.params[key] == number
    assert record.compute["flops"]["per_step"] == record.compute["flops"]["per_step_counted"]
    assert 0 < record.compute["quant_error"] < 0.3
    assert record.compute["quant_error_rows"] == 64


def test_int8_of_torchao_keeps_no_dense_weight_for_the_backward_pass():
    model, config = stored("int8_torchao", "llama")
    sides = [(m.in_features, m.out_features) for _, m in block_linears(model)]
    dense = {pair for d_in, d_out in sides for pair in ((d_in, d_out), (d_out, d_in))}
    saved: list[tuple[int, ...]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        adapt(model, config).model.train()(**batch(1))
    assert saved and not dense & set(saved)


def test_the_error_of_the_logits_is_relative_and_of_the_run_s_own_numerics(tiny):
    few, found = batch(), {}
    for quant in ("none", *KINDS):
        config = tiny("llama", **keys(quant))
        model = loaded(config).eval()  # LLM.int8 on a CPU quantizes activations in evaluation only
        with torch.no_grad():
            exact = model(**few).logits
        numerics = Numerics(torch.device("cpu"), "fp32", 1, "eager")
        told = quantize(model, config, numerics, [few | {"labels": torch.zeros(4), "row": torch.zeros(4)}])
        with torch.no_grad():
            held = model(**few).logits.float()
        found[quant] = told.get("quant_error")
        if quant != "none":
            assert told["quant_error"] == pytest.approx(float((held - exact).norm() / exact.norm()), rel=1e-5)
    assert found["none"] is None
    assert 0 < found["int8_torchao"] < found["nf4"] < found["fp4"] < 0.3
    assert found["bf16"] < found["nf4"] and found["int8"] < found["nf4"]


def test_of_a_causal_lm_the_error_is_at_the_learned_tokens_of_batches_of_any_length(tiny):
    config = tiny("llama", task__kind="causal_lm", task__metric="perplexity", **keys("nf4"))
    model, _ = base.load(config.model, resolve(config.model), 1, config.seed, "eager", "causal_lm")
    ids, few = batch()["input_ids"], []
    for length, keep in ((12, [3, 7, 30]), (9, [2, 18])):  # places in rows of this length, laid end to end
        short = {"input_ids": ids[:, :length], "keep": torch.tensor(keep), "row": torch.arange(4)}
        few.append(short | {"labels": torch.zeros(len(keep)), "owner": torch.zeros(len(keep)), "bytes": torch.ones(4)})

    def at_learned():
        with torch.no_grad():
            of_all = [model(input_ids=one["input_ids"]).logits.flatten(0, 1)[one["keep"]] for one in few]
        return torch.cat(of_all)

    exact = at_learned()
    told = quantize(model, config, Numerics(torch.device("cpu"), "fp32", 1, "eager"), few)
    assert told["quant_error"] == pytest.approx(float((at_learned() - exact).norm() / exact.norm()), rel=1e-5)
    assert told["quant_error_rows"] == 8


@pytest.mark.parametrize("quant", KINDS)
def test_a_causal_lm_keeps_its_head_and_its_ties(quant):
    config = tiny("llama", targets="all_linear", task__kind="causal_lm", task__metric="perplexity", **keys(quant))
    shape = AutoConfig.for_model(**{**config.model.shape, "vocab_size": 260, "tie_word_embeddings": True})
    model = AutoModelForCausalLM.from_config(shape, attn_implementation="eager")
    store(model, config, [], "fp32")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.is_floating_point()
    adapted = adapt(model, config).model.train()
    few = batch()
    adapted(**few, labels=few["input_ids"]).loss.backward()
    first = [p for n, p in adapted.named_parameters() if ".layers.0." in n and "lora_B" in n]
    assert len(first) == 7 and all(p.grad is not None and p.grad.abs().max() > 0 for p in first)


@pytest.mark.parametrize("quant", ["bf16", "nf4"])
@pytest.mark.parametrize("saved", ["pooler", "word_embeddings"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_module_that_is_trained_beside_the_adapter_stays_in_fp32(quant, saved, precision):
    model, config = stored(quant, "bert", precision, method__modules_to_save=[saved])
    adapted = adapt(model, config).model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        adapted(**batch()).logits.float().square().sum().backward()
    trained = [p for n, p in adapted.named_parameters() if saved in n and p.requires_grad]
    assert trained
    for parameter in trained:
        assert parameter.dtype == torch.float32 and parameter.grad is not None and parameter.grad.abs().max() > 0


@pytest.mark.parametrize("extra", ["0", "attention", "output", "dense", "encoder"])
def test_a_quantized_layer_cannot_be_trained_beside_the_adapter(extra):
    with pytest.raises(Refused, match=f"^method.modules_to_save={extra}: .*quant=nf4"):
        stored("nf4", "bert", method__modules_to_save=[extra])


@pytest.mark.parametrize(
    "choice", [*(f"quant={name}" for name in FEW_BITS), "tracking=trackio", "tracking=tensorboard"]
)
def test_a_missing_library_is_refused_with_the_extra_that_brings_it(choice, tmp_path, monkeypatch, capsys):
    group, name = choice.split("=")
    library, extra = (QUANT_LIBRARIES[name.removesuffix("_double")], "quant") if group == "quant" else (name, name)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == library else real(name, *a))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "debug=fast", choice]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"rankwise: {choice}: needs {library}") and line.count("\n") == 1
    assert f"pip install 'rankwise[{extra}]'" in line and list(tmp_path.iterdir()) == []
    assert main(["plan", "debug=fast", choice, "--params", "--json"]) == 0  # a plan needs no library
    check_here(tiny(**keys("bf16")))


def test_methods_that_train_nothing_are_one_run_whatever_the_storage_and_have_none():
    for method in ("probe", "tfidf", "few_shot"):
        configs = [tiny(method=method, **keys(quant)) for quant in ("none", "nf4_double", "int8")]
        assert len(set(map(run_id, configs))) == 1 and all(config.quant == Quant("none") for config in configs)
    assert len({run_id(tiny(**keys(quant))) for quant in ("none", *KINDS)}) == 1 + len(KINDS)


def test_scales_of_8_bits_go_where_the_weights_go():
    """bitsandbytes moves them in the layer's own ``to`` only, which the model's does not call."""
    model, _ = stored("int8")
    for _ in range(2):  # before the first pass, and after it
        layer = next(module for _, module in block_linears(model))
        model.to("cpu")
        holder: Any = layer.weight if layer.weight.CB is not None else layer.state
        assert holder.CB.data_ptr() == layer.weight.data_ptr() and holder.SCB.device == layer.weight.device
        model(**batch())


def test_names_of_files_and_storages_agree():
    shipped = {file.stem: yaml.safe_load(file.read_text()) for file in (CONF / "quant").glob("*.yaml")}
    assert all(Quant(**values).name == name for name, values in shipped.items())


def test_a_head_of_numbered_layers_is_no_block():
    def numbered() -> nn.ModuleList:
        return nn.ModuleList([nn.ModuleDict({"linear": nn.Linear(64, 64)})])

    model = nn.ModuleDict({"layer": numbered(), "classifier": numbered()})
    store(model, tiny(**keys("nf4")), ["classifier"], "bf16")
    assert not model.get_parameter("layer.0.linear.weight").is_floating_point()
    assert model.get_parameter("classifier.0.linear.weight").dtype == torch.float32


# DoRA reads the dense weight, AdaLoRA changes the base's output in place.
MORE: list[dict[str, Any]] = [
    {"trainer__gradient_checkpointing": True},
    {"trainer__accumulate": 3, "method__dropout": 0.1},
    {"trainer__attention": "sdpa", "trainer__precision": "bf16"},
]
CYCLED = [kind for kind in KINDS if not kind.endswith("_double")]
OTHERS = [*zip(CYCLED, itertools.cycle({"shape": "llama", "targets": "mlp"} | more for more in MORE))]
OTHERS += [(quant, {"method": "dora"}) for quant in ("int8", "int8_torchao", "nf4_double")]
OTHERS += [("int8_torchao", {"method": "adalora"}), ("int8", {"method": "head"})]
OTHERS += [("nf4_double", {"shape": "t5", "method": "ia3"})]  # whose code asks a layer for its type


@pytest.mark.parametrize(("quant", "more"), OTHERS, ids=str)
def test_other_methods_checkpointing_accumulation_and_kernels_are_planned_for_too(tiny, quant, more):
    few = {"trainer__max_steps": 2, "trainer__validations": 1, "task__n_test": 8}
    record = run(tiny(tracking__ledger=True, **few, **keys(quant), **more))
    found, predicted = record.memory["train"], record.memory["train"]["predicted"]
    assert predicted["weights_bytes"] == found["weights_bytes"]
    assert predicted["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.02)
    assert "method" in more or record.compute["flops"]["per_step"] == record.compute["flops"]["per_step_counted"]
