"""Parameters, bytes, seconds and tokens."""

import time
from typing import Any

import pytest
import torch
from tiny_configs import tiny
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rankwise import machine
from rankwise.measure.clock import Clock, Throughput
from rankwise.measure.ledger import reset_peak, system_peak
from rankwise.measure.parameters import count
from rankwise.model.adapt import adapt
from rankwise.model.quantize import store


@pytest.mark.skipif(not machine.reset_peak_rss(), reason="the system cannot reset its peak")
def test_the_process_peak_is_that_of_training_not_of_loading():
    megabytes, device = 1024 * 1024, torch.device("cpu")
    loading = torch.ones(900 * megabytes // 4)
    del loading
    reset_peak(device)
    before = system_peak(device)["process_peak_bytes"]
    training = torch.ones(600 * megabytes // 4)
    del training
    grown = system_peak(device)["process_peak_bytes"] - before
    # Large, since the system may take back other pages meanwhile.
    assert 450 * megabytes < grown < 780 * megabytes


def test_a_clock_adds_up_phases_also_those_that_fail():
    clock = Clock()
    for _ in range(2):
        with clock("load"):
            time.sleep(0.02)
    with pytest.raises(ValueError), clock("train"):
        raise ValueError
    clock.add("load", 1.0)
    seconds = clock.rounded()
    assert set(seconds) == {"load_s", "train_s"}
    assert 1.04 <= seconds["load_s"] < 1.5 and seconds["train_s"] < 0.5


def test_throughput_leaves_the_first_steps_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    throughput = Throughput()
    for step in range(8):
        throughput.begin()
        now[0] += 100.0 if step < Throughput.SKIPPED else 0.5
        throughput.end(tokens=50)
        now[0] += 7.0  # between steps: validation, logging
        assert (throughput.tokens_per_s is None) == (step < Throughput.SKIPPED)
    assert throughput.tokens == 400 and throughput.seen == 8
    assert throughput.tokens_per_s == pytest.approx(100)
    for begun in (0, 6):  # anew, or from another process's six; the step that is probed is left out as well
        again = Throughput()
        again.go_on(begun, 300)
        again.probed = {begun + 6}
        for step in range(8):
            again.begin()
            now[0] += 100.0 if step < Throughput.SKIPPED or step == 6 else 0.5
            again.end(tokens=50)
        assert again.timed == [begun + 5, begun + 7] and again.tokens_per_s == pytest.approx(100)
        assert (again.seen, again.tokens) == (begun + 8, 700)


WIDTH, MLP = 32, 64
PLAIN: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": PLAIN | {"num_attention_heads": 2},
    "gpt2": {"n_embd": WIDTH, "n_inner": MLP, "n_layer": 2, "n_head": 2},
    "llama": PLAIN | {"num_attention_heads": 4, "num_key_value_heads": 2},
}


def bare(family: str) -> nn.Module:
    config = AutoConfig.for_model(family, vocab_size=97, num_labels=2, pad_token_id=0, **SHAPES[family])
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def test_the_parts_of_a_count_sum_to_the_whole():
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2, bias=False)})
    model["body"].requires_grad_(False)
    model["body"].bias.requires_grad_(True)
    assert count(model, ["head"]) == {"trainable": 12, "frozen": 12, "total": 24, "adapter": 4, "head": 8}


def test_the_copies_that_peft_keeps_of_trained_modules_are_not_counted():
    adapted = adapt(bare("bert"), tiny(method__rank=1, targets="q"))
    whole, added = sum(p.numel() for p in bare("bert").parameters()), 2 * (WIDTH + WIDTH)
    assert count(adapted.model, adapted.heads)["total"] == whole + added
    copies = 2 * WIDTH + 2
    assert sum(p.numel() for p in adapted.model.parameters()) == whole + added + copies


def test_tied_weights_count_once_where_they_are_seen_first():
    config = AutoConfig.for_model("gpt2", vocab_size=97, **SHAPES["gpt2"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = count(model, ["lm_head"])
    assert (sizes["total"], sizes["head"]) == (sum(p.numel() for p in model.parameters()), 0)


def test_a_weight_that_a_copy_of_peft_shares_with_the_model_still_counts():
    model = nn.ModuleDict({"a": nn.ModuleDict({"original_module": nn.Linear(4, 4)}), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"]["original_module"].weight
    assert count(model, [])["total"] == 20


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_weights_count_their_values_not_their_bytes(kind):
    base = bare("llama")
    before = count(base, ["score"])["total"]
    store(base, tiny("llama", quant__name=kind, quant__kind=kind), ["score"], "fp32")
    assert count(base, ["score"])["total"] == before
