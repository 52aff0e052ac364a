"""The ledger against torch's own profiler, and what it says of storages one by one."""

import contextlib
from typing import Any

import pytest
import torch
from tiny_configs import Tiny
from torch import nn
from torch.profiler import ProfilerActivity, profile

from rankwise.config import Config
from rankwise.measure.ledger import PARTS, Footprint, Ledger
from rankwise.model.adapt import adapt
from rankwise.tasks.scores import ClassScorer
from rankwise.train import optim
from rankwise.train.step import checkpoint_blocks, losses

KB = 1024


class Trained:
    """A tiny model that has made one step, so that its optimizer has states."""

    def __init__(self, config: Config, precision: str, attention: str, rows: int):
        from rankwise.assets import resolve
        from rankwise.model import base

        model, _ = base.load(config.model, resolve(config.model), 2, 0, attention)
        self.model = adapt(model, config).model.train()
        if config.trainer.gradient_checkpointing:
            checkpoint_blocks(self.model)
        self.optimizer = optim.build(self.model, config.optim, "cpu")
        self.precision = precision
        ids = torch.randint(4, 200, (rows, 48), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[0, -7:] = 0  # a mask of ones is dropped at run time
        self.batch = {"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 2, "row": ids[:, 0]}
        self.step()

    def step(self, ledger: Ledger | None = None) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = losses(self.model, ClassScorer(2), self.batch)[1].mean()
        if ledger:
            ledger.phase = "backward"
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        if ledger:
            ledger.phase = "step"
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def measured(self) -> Ledger:
        ledger = Ledger(self.model, self.optimizer)
        with ledger:
            ledger.hold(self.batch.values())
            self.step(ledger)
        return ledger

    def held(self) -> int:
        """Bytes before the step: weights, states, batch."""
        states = [v for s in self.optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        tensors = [*self.model.parameters(), *self.model.buffers(), *states, *self.batch.values()]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    def profiled(self) -> int:
        """The peak of the same step by torch's profiler: what it saw allocated and freed, from ``held`` on."""
        before = self.held()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            self.step()
        assert trace.profiler is not None and trace.profiler.kineto_results is not None
        events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
        most = now = before
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return most


CASES: list[dict[str, Any]] = [
    {"method": method, "precision": precision, "attention": attention}
    for method in ("lora", "full")
    for precision in ("fp32", "bf16")
    for attention in ("sdpa", "eager")
]
CASES += [
    {"method": method, "precision": precision, "optim__name": name, "optim__kernel": kernel}
    for method, precision in (("full", "fp32"), ("lora", "bf16"))
    for name, kernels in (("adamw", ("loop", "foreach")), ("sgd", (None, "loop")), ("adafactor", (None, "foreach")))
    for kernel in kernels
]
# Each checkpointed block keeps 5 kB of random state that no operation makes: little beside a larger batch.
CASES += [
    {"method": method, "precision": precision, "trainer__gradient_checkpointing": True, "shape": shape, "rows": 64}
    for method, shape in (("lora", "bert"), ("full", "bert"), ("lora", "llama"))
    for precision in ("fp32", "bf16")
]
CASES += [{"method": "lora", "shape": shape} for shape in ("roberta", "gpt2", "llama")]
CASES += [{"method": "head"}, {"method": "lora", "method__dropout": 0.1}]


def trained(tiny: Tiny, case: dict[str, Any]) -> Trained:
    keys: dict[str, Any] = {"precision": "fp32", "attention": "eager", "rows": 8} | case
    how = [keys.pop(key) for key in ("precision", "attention", "rows")]
    torch.manual_seed(0)
    return Trained(tiny(targets="all_linear", **keys), *how)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_the_peak_is_the_profilers_and_its_parts_sum_to_it(tiny, case):
    run = trained(tiny, case)
    found = run.measured().footprint()
    assert sum(found.parts[part] for part in PARTS) == found.peak == max(found.phases.values())
    assert found.peak == pytest.approx(run.profiled(), rel=0.005)
    assert found.peak > run.held()
    assert all(found.peaks[part] >= found.parts[part] for part in PARTS)


def test_what_is_measured_changes_no_loss(tiny):
    def several(measured: bool) -> list[float]:
        run = trained(tiny, {"method": "full", "trainer__gradient_checkpointing": True})
        torch.manual_seed(1)
        found = []
        for _ in range(4):
            with Ledger(run.model, run.optimizer) if measured else contextlib.nullcontext():
                found.append(run.step())
        return found

    assert several(True) == several(False)


@pytest.mark.parametrize("method", ["lora", "full", "head"])
def test_gradients_are_those_of_what_is_trained_and_optimizer_states_twice_that(tiny, method):
    run = trained(tiny, {"method": method})
    found = run.measured().footprint()
    sizes = [p.numel() * p.element_size() for p in run.model.parameters() if p.requires_grad]
    assert found.peaks["gradients"] == sum(sizes)
    assert found.peaks["optimizer"] == 2 * sum(sizes) + 4 * len(sizes)  # two moments, and a count of steps per tensor
    assert found.peaks["weights"] == found.parts["weights"]


def test_checkpointing_keeps_less(tiny):
    cases = [{"method": "full", "trainer__gradient_checkpointing": on, "rows": 64} for on in (False, True)]
    whole, less = (trained(tiny, case).measured().footprint().peaks["activations"] for case in cases)
    assert less < whole / 2


def ledger() -> Ledger:
    return Ledger(nn.Linear(1, 1, bias=False))


def test_a_storage_counts_once_and_whole_until_its_last_view_is_gone():
    with ledger() as book:
        whole = torch.empty(KB, dtype=torch.uint8)
        view = whole[:1].view(1, 1)
        assert book._now["other"] == KB
        del whole
        assert book._now["other"] == KB
        del view
        assert book._now["other"] == 0
    assert book.footprint().parts["other"] == KB
    with ledger() as book:
        tensor = torch.empty(KB, dtype=torch.uint8)
        tensor.resize_(3 * KB)
        assert book._now["other"] == 3 * KB


def test_what_autograd_saves_is_an_activation_unless_it_is_a_weight():
    layer = nn.Linear(256, 256, bias=False)
    with Ledger(layer) as book:
        squared = (layer(torch.ones(4, 256)) ** 2).sum()
        assert book._now["activations"] == 2 * 4 * 256 * 4  # the input and what is squared
        squared.backward()
        del squared
    assert book.footprint().peaks["weights"] == 256 * 256 * 4
    assert book._now["activations"] == 0


def test_gradients_left_by_an_earlier_micro_batch_are_gradients():
    layer = nn.Linear(256, 256, bias=False)
    layer(torch.ones(4, 256)).sum().backward()
    with Ledger(layer) as book:
        layer(torch.ones(4, 256)).sum().backward()
    assert book.footprint().parts["gradients"] == 256 * 256 * 4


def test_what_is_freed_after_the_ledger_is_closed_does_no_harm():
    with ledger() as book:
        tensor = torch.empty(KB, dtype=torch.uint8)
    peak = book.footprint().peak
    del tensor, book
    assert peak == KB + 4


def test_tied_weights_are_held_once():
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    model["b"].weight = model["a"].weight
    with Ledger(model) as book:
        pass
    assert book.footprint().parts["weights"] == 64


def test_the_peak_of_a_base_that_is_shared_out_is_where_the_borrowed_weights_are():
    def held(activations: int, other: int) -> dict[str, int]:
        return {"weights": 80, "gradients": 0, "optimizer": 11, "activations": activations, "other": other}

    whole = Footprint({"forward": held(14, 0), "backward": held(13, 6), "step": held(0, 20)}, held(14, 20))
    one = whole.shared_out(devices=2, frozen=80, lent=10)
    assert (whole.peak, whole.phase) == (111, "step") and (one.peak, one.phase) == (80, "backward")
    assert one.phases == {"forward": 75, "backward": 80, "step": 71}
    assert one.parts == held(13, 16) | {"weights": 40} and one.peaks == held(14, 30) | {"weights": 40}
