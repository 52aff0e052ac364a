"""Plans: what is predicted without weights is what is measured with them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tiny_configs import CONF, SHAPES, Tiny

from rankwise.assets import resolve
from rankwise.cli import main
from rankwise.config import Config, Model, Quant
from rankwise.errors import Refused
from rankwise.measure.ledger import PARTS, Ledger
from rankwise.measure.parameters import count
from rankwise.measure.shape import Shape
from rankwise.model import base
from rankwise.model.adapt import adapt
from rankwise.model.base import architecture
from rankwise.model.methods.warm_start import start_file
from rankwise.model.weights import export
from rankwise.plan.estimate import LARGEST, Question, _measured_mfu, largest_batch, plan
from rankwise.plan.fake import FakeRun, build
from rankwise.plan.hardware import CONTEXT_BYTES, Hardware
from rankwise.run import run
from rankwise.tasks.scores import ClassScorer, TokenScorer
from rankwise.tracking import record as records
from rankwise.tracking.record import Record

H100 = Hardware.named("h100-80gb")
GIB = 2**30


def published(tiny: Tiny, model: str, method: str = "lora", targets: str = "qv", **keys: Any) -> Config:
    """A causal LM of ``conf/model``, to be planned."""
    values = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())
    quant = keys.pop("quant", None)
    config = tiny("llama", method, targets, task__kind="causal_lm", task__metric="perplexity", **keys)
    storage = Quant(name=quant or "none", kind=quant and quant.split("_")[0], double=quant == "nf4_double" or None)
    return replace(config, model=Model(name=model, shape=values["shape"]), quant=storage)


def row(config: Config, **question: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"hardware": H100, "limit_bytes": H100.memory_bytes} | question
    found: dict[str, Any] = plan([config], Question(**asked))["runs"][0]
    return found


def measured(record: Record, rel: float) -> None:
    """The peaks of training and of evaluation are as predicted."""
    for phase in ("train", "eval"):
        found = record.memory[phase]
        assert found["predicted"]["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=rel)


PREDICTED = [
    (shape, method, ("fp32", "bf16")[(row + column) % 2])
    for row, shape in enumerate(SHAPES) for column, method in enumerate(("lora", "full", "head"))
]  # fmt: skip


@pytest.mark.parametrize(("shape", "method", "precision"), PREDICTED)
def test_what_was_predicted_is_measured(tiny, shape, method, precision):
    record = run(tiny(shape, method, "all_linear", tracking__ledger=True, trainer__precision=precision))
    measured(record, rel=0.02)
    for found in (record.memory["train"], record.memory["eval"]):
        assert sum(found[f"{part}_bytes"] for part in PARTS) == found["peak_bytes"]
        assert found["predicted"]["weights_bytes"] == found["weights_bytes"]
        assert found["predicted"]["optimizer_bytes"] == found["optimizer_bytes"]
    found = record.memory["train"]
    assert found["predicted"]["peaks"]["gradients_bytes"] == found["peaks"]["gradients_bytes"]
    assert record.compute["flops"]["per_step"] == record.compute["flops"]["per_step_counted"]


HELD_OUT: list[dict[str, Any]] = [
    {"optim__name": "adafactor", "trainer__accumulate": 3, "trainer__precision": "bf16"},
    {"optim__kernel": "foreach", "trainer__gradient_checkpointing": True, "trainer__attention": "sdpa"},
    {"optim__name": "sgd", "trainer__batch_size": 5, "trainer__precision": "bf16_true", "method": "full"},
    {"method__bias": "all", "method__dropout": 0.1, "targets": "qv", "trainer__clip": 0},
]


@pytest.mark.parametrize("keys", HELD_OUT, ids=str)
def test_other_optimizers_checkpointing_and_accumulation_are_predicted_too(tiny, keys):
    options = {"method": "lora", "targets": "mlp"} | keys
    record = run(tiny("bert", tracking__ledger=True, **options))
    measured(record, rel=0.02)
    flops = record.compute["flops"]
    assert flops["per_step"] == flops["per_step_counted"]
    assert 5 * flops["per_step"] < flops["train_total"] <= 6 * flops["per_step"]


def test_a_model_that_no_plan_can_follow_trains_and_is_measured(tiny):
    config, size = tiny(tracking__ledger=True), {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    config.model = Model(name="odd", shape={"model_type": "mixtral"} | size | heads)
    record = run(config)
    found = record.memory["train"]
    assert record.status == "finished" and sum(found[f"{part}_bytes"] for part in PARTS) == found["peak_bytes"]
    assert "predicted" not in found and "cannot be followed" in found["unpredicted"]
    assert record.compute["flops"]["per_step_counted"] > 0
    with pytest.raises(Refused, match=r"^mixtral: its step cannot be followed"):
        row(config, hardware=Hardware.here())


def test_a_plan_before_the_run_says_what_the_run_then_holds(tiny):
    """The synthetic sentences are all equally long, so that the longest batch is the one that is planned."""
    config = tiny(tracking__ledger=True)
    record = run(config)
    found = record.memory["train"]
    (rows, length), *_ = found["batch"]
    config.task.max_length = length
    planned = row(config, hardware=Hardware.here())
    assert planned["batch"] == [rows, length]
    assert planned["memory"]["train"]["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.02)
    assert planned["params"] == record.params
    assert planned["compute"]["steps"] == record.compute["steps"]
    assert planned["compute"]["flops"]["per_step"] == record.compute["flops"]["per_step"]
    assert planned["storage"]["adapter_bytes"] == pytest.approx(record.storage["adapter_bytes"], rel=0.2)  # the header


def test_the_probed_step_is_the_largest_from_the_second_on_and_losses_are_as_without_it(tiny):
    with_it = run(tiny(tracking__ledger=True))
    without = run(tiny(tracking__ledger=False, rerun=True))
    assert _losses(with_it) == _losses(without)
    assert with_it.memory["train"]["step"] >= 2
    assert "peak_bytes" not in without.memory["train"] and "flops" not in without.compute


def _losses(record: Record) -> list[float]:
    return [record.metrics[part]["loss"]["value"] for part in ("validation", "test")]


class AllTokensAtOnce(TokenScorer):
    losses = ClassScorer.losses


# Figures of the published runs: PEFT's method comparison (max reserved), in GiB. Their loss is of all tokens at once.
@pytest.mark.parametrize(
    ("method", "keys", "reserved", "within"),
    [
        ("lora", {"method__rank": 32, "quant": "bf16", "trainer__precision": "fp32"}, 20.76, 0.05),
        ("lora", {"method__rank": 64, "quant": "bf16", "trainer__precision": "fp32"}, 21.00, 0.05),
        ("full", {"trainer__precision": "bf16_true", "optim__kernel": "foreach"}, 36.20, 0.10),
    ],
)
def test_llama_3b_is_near_what_was_published(tiny, method, keys, reserved, within):
    config = published(tiny, "llama3_3b", method, **keys)
    step = FakeRun(config, architecture(config.model, None), AllTokensAtOnce(), H100.settle(config.trainer))
    allocated = step.train([Shape(4, 768)]).peak / GIB
    assert allocated == pytest.approx(reserved, rel=within) and allocated < reserved


@pytest.mark.parametrize(("quant", "megabytes"), [("nf4_double", 3865.8), ("nf4", 4167.6), ("bf16", 13476.8)])
def test_a_quantized_7b_base_has_the_bytes_of_its_format(tiny, quant, megabytes):
    """Embedding and head in bf16 are 524.3 MB of it."""
    config = published(tiny, "llama2_7b", quant=quant, trainer__precision="bf16", method__rank=1)
    adapted = build(config, architecture(config.model, None), 0, None, "bf16")
    params = count(adapted.model, adapted.heads)
    assert params["frozen"] == 6_738_415_616
    held = Ledger(adapted.model).footprint().parts["weights"] - 4 * params["trainable"]
    assert held / 1e6 == pytest.approx(megabytes, rel=0.001)


def test_a_gpu_keeps_no_matrix_of_scores_and_a_cpu_does(tiny):
    config = tiny("bert", trainer__attention="sdpa", task__max_length=128)
    peaks = [row(config, hardware=where)["memory"]["train"]["peaks"] for where in (H100, Hardware.here())]
    scores = 2 * 8 * 2 * 128 * 128 * 4  # layers × rows × heads × length² × bytes
    assert peaks[1]["activations_bytes"] - peaks[0]["activations_bytes"] > scores


def test_a_gpu_takes_the_loss_of_more_tokens_at_once_than_a_cpu(tiny):
    """All of these 512 × 65,536 logits, in place of a 32nd: twice in fp32 and once in bf16."""
    config = published(tiny, "llama3_3b", trainer__precision="bf16")
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config.model.shape.update(narrow, num_key_value_heads=2, vocab_size=2**16)
    on_gpu, on_cpu = (
        FakeRun(config, architecture(config.model, None), TokenScorer(), H100.settle(config.trainer)) for _ in range(2)
    )
    on_cpu.scorer = TokenScorer()  # whose tensors are on the CPU
    gpu, cpu = (run.train([Shape(2, 256)]).parts["other"] for run in (on_gpu, on_cpu))
    assert gpu - cpu == (4 + 4 + 2) * (2**25 - 2**20)


def test_foreach_needs_a_copy_of_all_gradients_and_the_fused_kernel_none(tiny):
    keys: dict[str, Any] = {"trainer__batch_size": 1, "task__max_length": 8, "trainer__precision": "fp32"}
    steps = {
        kernel: row(tiny("bert", "full", optim__kernel=kernel, **keys))["memory"]["train"]["phases"]["step"]
        for kernel in ("fused", "foreach")
    }
    trained = 4 * row(tiny("bert", "full", **keys), only_parameters=True)["params"]["trainable"]
    assert steps["foreach"] - steps["fused"] == pytest.approx(trained, rel=0.1)


def test_memory_is_planned_without_operations_where_it_alone_is_asked(tiny):
    whole, memory = row(tiny(), find_batch=True), row(tiny(), find_batch=True, only_memory=True)
    assert whole.keys() - memory.keys() == {"compute"} and memory == {key: whole[key] for key in memory}


def test_runs_that_cost_the_same_are_worked_out_once_and_summed(tiny, monkeypatch):
    from rankwise.plan import estimate

    calls: list[Config] = []
    real = estimate._row
    monkeypatch.setattr(estimate, "_row", lambda config, *rest: calls.append(config) or real(config, *rest))
    configs = [tiny(seed=seed, optim__lr=lr) for seed in (0, 1) for lr in (1e-3, 1e-2)] + [tiny(method__rank=2)]
    configs[-1].trainer.devices, configs[0].tracking.name = 3, "wandb"
    found = plan(configs, Question(Hardware.here(), 10**12, mfu=0.5, gpus=3))
    assert len(calls) == 2 and len(found["runs"]) == 5
    assert len({run["id"] for run in found["runs"]}) == 5
    totals = found["totals"]
    assert totals["train_s"] == pytest.approx(sum(run["compute"]["train_s"] for run in found["runs"]))
    times = [run["compute"]["train_s"] for run in found["runs"]]
    assert totals["device_s"] == pytest.approx(sum(times) + 2 * times[-1])
    assert totals["elapsed_s"] == pytest.approx(max(totals["device_s"] / 3, *times))
    assert totals["wandb"]["rows"] == 8 and totals["files"] == 5 * 8 + 11
    assert totals["file_operations"] == 5 * (170 + 8)  # of runs that take no time
    assert totals["disk_bytes"] == sum(4 * run["params"]["trainable"] for run in found["runs"])
    assert totals["fits"] and not plan(configs, Question(Hardware.here(), 1000))["totals"]["fits"]


def test_a_step_that_several_tasks_have_is_counted_once(tiny, monkeypatch):
    from rankwise.plan import estimate

    calls: list[int] = []
    real = estimate._step
    monkeypatch.setattr(estimate, "_step", lambda run, length, asked: calls.append(length) or real(run, length, asked))
    epochs, asked = {"trainer__max_steps": None, "trainer__epochs": 2.0}, Question(Hardware.here(), 10**12, mfu=0.5)
    configs = [tiny(**epochs, **task) for task in ({}, {"task__n_train": 64}, {"task__max_length": 16})]
    found = plan(configs, asked)["runs"]
    assert calls == [configs[0].task.max_length, 16]
    (alone,) = plan(configs[1:2], asked)["runs"]
    assert found[1] == alone | {"label": found[1]["label"]}
    assert found[1]["compute"]["steps"] < found[0]["compute"]["steps"]


def test_time_follows_from_the_operations_that_mfu_is_defined_by(tiny):
    """Recomputation is in the operations of a step and not in an MFU, so it takes no time of its own."""
    once, twice = (row(tiny(trainer__gradient_checkpointing=again), mfu=0.5)["compute"] for again in (False, True))
    assert twice["flops"]["per_step"] > once["flops"]["per_step"]
    assert twice["step_s"] == once["step_s"]


def test_a_run_on_two_devices_is_planned_for_each_with_half_of_every_batch(tiny):
    one, two = (row(tiny(trainer__batch_size=8, trainer__devices=n), mfu=0.5) for n in (1, 2))
    assert (one["batch"][0], two["batch"][0]) == (8, 4)
    assert two["memory"]["train"]["activations_bytes"] < one["memory"]["train"]["activations_bytes"]
    assert two["compute"]["flops"]["per_step"] == pytest.approx(one["compute"]["flops"]["per_step"], rel=0.01)
    assert two["compute"]["train_s"] == pytest.approx(one["compute"]["train_s"] / 2, rel=0.02)


def test_a_run_for_the_processor_is_planned_for_it_beside_a_gpu_too(tiny, monkeypatch, capsys):
    asked = ["plan", "debug=fast", "trainer.device=cpu", "--json"]
    assert main(asked) == 0
    alone = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert main(asked) == 0
    beside = json.loads(capsys.readouterr().out)
    assert [found["runs"][0]["memory"] for found in (alone, beside)] == 2 * [alone["runs"][0]["memory"]]


def test_an_mfu_counts_for_runs_that_recompute_alike(tiny):
    config, device = tiny(), Hardware.here().device
    record = records.begin(config, None)
    record.compute |= {"precision": "fp32", "device": device, "mfu": 0.3}
    record.write()  # it runs
    asked = (config.outputs, config.model.name, "fp32", device)
    assert _measured_mfu(*asked, False) == []
    _measured_mfu.cache_clear()
    record.run["status"] = records.FINISHED
    record.write()
    assert [_measured_mfu(*asked, again) for again in (False, True)] == [[0.3], []]


def test_the_steps_of_a_run_of_joined_texts_are_not_known_and_a_mask_is(tiny):
    keys: dict[str, Any] = {"task__kind": "causal_lm", "task__metric": "perplexity", "task__n_train": 1000}
    keys |= {"trainer__max_steps": None, "task__max_length": 64}
    plain, *joined = (tiny("llama", **keys, **{f"task__{way}": True}) for way in ("skip_empty", "packing", "blocks"))
    found = plan([plain, *joined], Question(H100, H100.memory_bytes))
    known, *unknown = (each["compute"] for each in found["runs"])
    assert known["steps"] and known["train_s"] and known["step_s"] and all(each["step_s"] for each in unknown)
    assert {each[key] for each in unknown for key in ("steps", "train_s")} == {None}
    assert found["totals"]["train_s"] is found["totals"]["flops"] is None
    held = [each["memory"]["train"]["peak_bytes"] for each in found["runs"]]
    assert held[1] - held[0] >= 4 * plain.trainer.batch_size * 64 * 64 - 64**2


@pytest.mark.parametrize("method", ["lora", "pissa", "olora", "lora_fa", "randlora", "bitfit"])
def test_what_is_kept_has_the_bytes_that_were_planned(tiny, method, tmp_path):
    config = tiny("bert", method)
    planned = row(config, only_parameters=True)["storage"]
    adapted = adapt(base.load(config.model, resolve(config.model), 2, 0)[0], config)
    export(adapted.model, tmp_path, False, adapted.start)
    file = start_file(str(tmp_path))
    assert file is not None
    stored = sum(tensor.numel() * tensor.element_size() for tensor in load_file(file).values())
    assert planned["adapter_bytes"] == planned["disk_bytes"] == stored
    assert (stored == planned["best_bytes"]) == (method in ("lora", "randlora", "bitfit"))


def lines(*pairs: tuple[int, int]) -> Callable[[int], Mapping[str, int]]:
    """Phases whose peaks grow along lines: (at no rows, per row)."""
    return lambda rows: {str(i): start + slope * rows for i, (start, slope) in enumerate(pairs)}


@pytest.mark.parametrize(
    ("phases", "limit", "rows"),
    [
        (lines((100, 10)), 109, 0),
        (lines((100, 10)), 110, 1),
        (lines((100, 10)), 129, 2),
        (lines((100, 10)), 1105, 100),
        (lines((500, 0), (100, 10)), 700, 60),
        (lines((500, 0)), 700, LARGEST),
        (lambda n: {"forward": 100 + (10 * n if n < 50 else 30 * n - 1000)}, 2000, 96),  # steeper from 50 on
        (lambda n: {"forward": 100 + (30 * n if n < 50 else 10 * n + 1000)}, 2000, 90),  # flatter
    ],
)
def test_the_largest_batch_is_found(phases, limit, rows):
    asked: list[int] = []

    def watched(n: int) -> Mapping[str, int]:
        asked.append(n)
        return phases(n)

    assert largest_batch(watched, limit) == rows
    assert len(asked) <= 12


def test_the_batch_that_fits_fits_and_the_next_does_not(tiny):
    config = tiny(trainer__eval_batch_size=1)
    tensors = 3_000_000
    asked: dict[str, Any] = {"hardware": Hardware.here(), "limit_bytes": tensors + CONTEXT_BYTES["cpu"]}
    rows = row(config, find_batch=True, **asked)["largest_batch"]
    assert rows > 2
    for batch, fits in ((rows, True), (rows + 1, False)):
        config.trainer.batch_size = batch
        planned = row(config, **asked)
        assert (planned["memory"]["train"]["peak_bytes"] <= tensors) == planned["fits"] == fits


def test_gpt_3_is_counted_from_its_published_shape(tiny):
    """LoRA's Table 4 counts 4.7M at r=1 on query and value; here the fused projection gives the same number."""
    planned = row(published(tiny, "gpt3_175b", targets="attention", method__rank=1), only_parameters=True)
    assert planned["params"]["frozen"] == 174_604_259_328
    config = published(tiny, "gpt3_175b", targets="custom", method__rank=4)
    config.targets.modules = ["c_attn"]
    assert row(config, only_parameters=True)["params"]["trainable"] == 18_874_368


# They classify by what they compute at the end token.
POOLED: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
             "decoder_start_token_id": 2, "max_position_embeddings": 128},
}  # fmt: skip


@pytest.mark.parametrize("name", POOLED)
def test_the_step_of_a_model_that_pools_at_the_end_token_is_predicted(tiny, name):
    config = tiny(tracking__ledger=True)
    config.model = Model(name=name, shape=POOLED[name] | {"model_type": name})
    record = run(config)
    measured(record, rel=0.01)
    assert record.compute["flops"]["per_step"] == record.compute["flops"]["per_step_counted"]
