"""Parameters, bytes, seconds and tokens."""

from __future__ import annotations

import time

import pytest
import torch
from tiny_configs import tiny
from torch import nn

from rankwise import machine
from rankwise.assets import resolve
from rankwise.measure.clock import Clock, Throughput
from rankwise.measure.memory import TrainingMemory
from rankwise.measure.parameters import count
from rankwise.model import base
from rankwise.model.adapt import adapt


def test_the_parts_of_a_count_sum_to_the_whole() -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2, bias=False)})
    model["body"].requires_grad_(False)
    model["body"].bias.requires_grad_(True)
    assert count(model, ["head"]) == {"trainable": 12, "frozen": 12, "total": 24, "adapter": 4, "head": 8}


def test_the_copies_that_peft_keeps_of_trained_modules_are_not_counted() -> None:
    config = tiny(method__rank=1, targets="q")
    lm, _ = base.load(config.model, resolve(config.model), 2, 0)
    before = sum(p.numel() for p in lm.parameters())
    adapted = adapt(lm, config)
    assert count(adapted.model, adapted.heads)["total"] == before + 2 * (32 + 32)
    assert sum(p.numel() for p in adapted.model.parameters()) == before + 2 * (32 + 32) + 66


def test_tied_weights_are_counted_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    model["b"].weight = model["a"].weight
    assert count(model, [])["total"] == 16
    held = TrainingMemory(torch.device("cpu")).measure(model, torch.optim.SGD(model.parameters()))
    assert held["weights_bytes"] == 64


def stepped(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.ones(2, 100)).sum().backward()
    optimizer.step()
    return optimizer


def test_memory_is_counted_from_the_tensors() -> None:
    model = nn.Sequential(nn.Linear(100, 50), nn.BatchNorm1d(50), nn.Linear(50, 1))
    model[0].requires_grad_(False)
    held = TrainingMemory(torch.device("cpu")).measure(model, stepped(model))
    trained = 100 + 51
    assert held["weights_bytes"] == 4 * (5050 + trained) + 4 * 100 + 8  # and the buffers of the norm
    assert held["gradients_bytes"] == 4 * trained
    assert held["optimizer_bytes"] == 2 * 4 * trained + 4 * 4  # two moments, and a step count per tensor
    assert held["peak_of"] == "process"


@pytest.mark.skipif(not machine.reset_peak_rss(), reason="the system cannot reset its peak")
def test_the_peak_is_that_of_training_not_of_loading() -> None:
    megabytes = 1024 * 1024
    loading = torch.ones(300 * megabytes // 4)
    del loading
    memory = TrainingMemory(torch.device("cpu"))
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    before = int(memory.measure(model, optimizer)["peak_bytes"])
    training = torch.ones(200 * megabytes // 4)
    del training
    grown = int(memory.measure(model, optimizer)["peak_bytes"]) - before
    assert 150 * megabytes < grown < 260 * megabytes


def test_a_clock_adds_up_phases_also_those_that_fail() -> None:
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


def test_throughput_leaves_the_first_steps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    throughput = Throughput()
    for step in range(8):
        throughput.begin()
        now[0] += 100.0 if step < Throughput.SKIPPED else 0.5
        throughput.end(tokens=50)
        now[0] += 7.0  # between steps: validation, logging
        assert (throughput.tokens_per_s is None) == (step < Throughput.SKIPPED)
    assert throughput.tokens == 400 and throughput.steps == 8
    assert throughput.tokens_per_s == pytest.approx(100)
