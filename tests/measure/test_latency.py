"""Forward passes against each other: what is timed, how turns are taken, and what is refused. No test asks how long."""

import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from rankwise.assets import resolve
from rankwise.check import check
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.measure import latency
from rankwise.measure.random_models import batch
from rankwise.model.adapt import Adapted
from rankwise.model.base import architecture
from rankwise.model.numerics import settle
from rankwise.report.report import build
from rankwise.run import run

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


class Clock:
    """Seconds that pass when a call says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now, self.called = 0.0, ""
        monkeypatch.setattr(latency, "perf_counter", lambda: self.now)

    def call(self, name: str, *seconds: float) -> latency.Call:
        """A call that takes these seconds, the last of them again and again."""
        left = list(seconds)

        def call() -> None:
            self.called += name
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def times(config: Config) -> list[dict[str, Any]]:
    return latency.latencies(config, architecture(config.model, resolve(config.model)), settle(config.trainer))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many blocks as a test needs."""
    monkeypatch.setattr(latency, "LEAST", 3)
    monkeypatch.setattr(latency, "MOST", 3)


def test_every_block_makes_every_call_in_another_order_and_the_first_is_not_counted(monkeypatch):
    clock = Clock(monkeypatch)
    seconds_cb = latency.interleaved([clock.call("a", 100, 1), clock.call("b", 100, 2), clock.call("c", 100, 3)], 6)
    assert seconds_cb.tolist() == [[1] * 6, [2] * 6, [3] * 6]
    blocks = [clock.called[i : i + 3] for i in range(0, len(clock.called), 3)]
    assert len(blocks) == 7 and {"".join(sorted(block)) for block in blocks} == {"abc"}
    assert len(set(blocks[1:])) == 6, "no call always follows the same other"


def test_slow_calls_get_fewer_blocks_but_enough_for_an_interval(monkeypatch):
    clock = Clock(monkeypatch)
    assert latency.interleaved([clock.call("a", 1.0)], 100, least=10, budget_s=20).shape == (1, 20)
    assert latency.interleaved([clock.call("a", 60.0)], 100, least=10, budget_s=20).shape == (1, 10)
    assert latency.interleaved([clock.call("a", 0.1)], 100, least=10, budget_s=20).shape == (1, 100)


def test_a_ratio_is_of_medians_and_noise_that_falls_on_both_cancels():
    noise = np.random.default_rng(0).lognormal(0, 0.5, 40)
    found = latency.ratio_of_medians(1.5 * noise, noise)
    assert found == pytest.approx(dict.fromkeys(("value", "low", "high"), 1.5))
    own = latency.ratio_of_medians(1.5 * noise, noise[::-1].copy())
    assert own["low"] < own["value"] == found["value"] < own["high"]


@pytest.mark.parametrize(
    ("shape", "method", "merged"),
    [
        ("gpt2", "lora", True),
        ("llama", "dora", True),
        ("t5", "pissa", True),
        ("bert", "adalora", True),
        ("bert", "bottleneck", False),
        ("bert", "full", False),
        ("bert", "did", False),
    ],
)
@pytest.mark.usefixtures("few")
def test_each_shape_has_milliseconds_and_ratios_to_the_base(tiny, shape, method, merged):
    small = {"method__dim": 50} if method == "did" else {}
    cells = times(tiny(shape, method, tracking__latency=[[2, 8], [1, 4]], **small))
    assert [(cell["rows"], cell["length"], cell["blocks"]) for cell in cells] == [(2, 8, 3), (1, 4, 3)]
    for cell in cells:
        assert cell["base_ms"] > 0 and cell["adapted_ms"] > 0
        ratios = [cell["adapted_of_base"]] + ([cell["merged_of_base"]] if merged else [])
        assert all(0 < ratio["low"] <= ratio["value"] <= ratio["high"] for ratio in ratios)
        assert (cell["merged_ms"] is not None) == (cell["merged_of_base"] is not None) == merged


@pytest.mark.parametrize(("pad", "drawn"), [(0, {4, 5, 6, 7}), (4, {3, 5, 6, 7}), (7, {4, 5, 6})])
def test_no_token_of_a_random_batch_is_the_paddings(pad, drawn):
    shape = BertConfig(vocab_size=8, pad_token_id=pad, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    assert set(batch(BertModel(shape), 50, 20)["input_ids"].unique().tolist()) == drawn


@pytest.mark.usefixtures("few")
def test_a_method_that_delays_every_pass_comes_out_slower(tiny, monkeypatch):
    real = latency.adapt

    def delayed(*given: Any) -> Adapted:
        adapted = real(*given)
        adapted.model.register_forward_pre_hook(lambda *_: time.sleep(0.2))
        return adapted

    monkeypatch.setattr(latency, "adapt", delayed)
    (cell,) = times(tiny("bert", tracking__latency=[[1, 4]]))
    assert cell["adapted_of_base"]["low"] > 3 and cell["adapted_ms"] > 200


@pytest.mark.usefixtures("few")
def test_the_precision_of_the_run_is_that_of_the_passes(tiny, monkeypatch):
    seen: list[torch.dtype] = []
    held: list[torch.dtype] = []  # a weight that a product reads
    real = latency.forward

    def watched(model: torch.nn.Module, *given: Any) -> latency.Call:
        model.register_forward_hook(lambda _, __, output: seen.append(output.logits.dtype))
        held.append(model.get_parameter("transformer.h.0.attn.c_attn.weight").dtype)
        return real(model, *given)

    monkeypatch.setattr(latency, "forward", watched)
    for precision in ("fp32", "bf16", "bf16_true"):
        times(tiny("gpt2", "full", task="synthetic_lm", trainer__precision=precision, tracking__latency=[[1, 4]]))
    assert list(dict.fromkeys(seen)) == [torch.float32, torch.bfloat16]
    assert seen.count(torch.bfloat16) == 2 * seen.count(torch.float32)
    assert held == [torch.float32] * 2 + [torch.bfloat16] * 4  # as in training, in place of a copy in every pass


def test_what_memory_is_too_small_for_is_absent(tiny, monkeypatch):
    def exhausted(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(latency, "base_model", exhausted)
    absent = {"rows": 1, "length": 4, "absent": "out of memory"}
    assert times(tiny(tracking__latency=[[1, 4]])) == [absent]


@pytest.mark.usefixtures("few")
def test_a_run_that_is_asked_leaves_its_latency_in_the_record_and_in_the_report(tiny):
    config = tiny("bert", tracking__latency=[[2, 8]])
    record = run(config)
    (stored,) = json.loads((record.folder / "result.json").read_text())["compute"]["latency"]
    assert (stored["rows"], stored["length"]) == (2, 8) and stored["merged_ms"] > 0
    assert record.compute["seconds"]["latency_s"] > 0
    report = build([record.folder])
    assert report.document()["arms"][0]["latency"][0]["base_ms"] == stored["base_ms"]
    assert "Latency of a forward pass" in report.to_markdown()


@pytest.mark.parametrize(
    ("shapes", "keys", "line"),
    [
        ([1, 128], {}, r"tracking.latency=1: pairs of rows and length"),
        ([["a", 1.5]], {}, r"tracking.latency=\['a', 1.5\]: pairs of rows and length"),
        ([[1]], {}, r"tracking.latency=\[1\]: pairs of rows and length"),
        ([[1, 8], [0, 8]], {}, r"tracking.latency=\[0, 8\]: pairs of rows and length"),
        ([[1, 200]], {}, r"tracking.latency=\[1, 200\]: a length of at most 128"),
        ([[1, 8]], {"quant__name": "bf16", "quant__kind": "bf16"}, r".*\[\] with quant=bf16: what is timed is an unq"),
    ],
)
def test_shapes_that_cannot_be_timed_are_refused_in_one_line(tiny, shapes, keys, line):
    with pytest.raises(Refused, match=f"^{line}") as refused:
        check(tiny("gpt2", tracking__latency=shapes, **keys))
    assert "\n" not in str(refused.value)


def test_a_length_that_only_the_loaded_model_shows_to_be_too_long_is_refused_before_training(tiny):
    config = tiny("roberta", tracking__latency=[[1, 128]])
    check(config)
    steps: list[int] = []
    with pytest.raises(Refused, match=r"^tracking.latency=\[1, 128\]: a length of at most 127"):
        run(config, lambda step, *_: steps.append(step))
    assert not steps


def test_a_baseline_is_not_timed_and_may_stand_in_a_study_that_is(tiny):
    config = tiny(method="tfidf", tracking__latency=[[1, 8]])
    check(config)
    assert "latency" not in run(config).compute
