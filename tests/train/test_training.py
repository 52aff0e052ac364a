"""Whole runs of tiny models: what is trained, chosen, tested and written down."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_configs import SHAPES
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rankwise.assets import resolve
from rankwise.run import run
from rankwise.tasks import data
from rankwise.tracking.journal import read_rows
from rankwise.tracking.record import Record, read
from rankwise.train.loop import Watch
from rankwise.train.module import rate

CONSTANT = {"optim__schedule": "constant", "optim__warmup": 0.0}


pytestmark = pytest.mark.usefixtures("torch_as_it_was")


def predictions(record: Record) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(record.folder / "predictions.parquet").to_pydict()
    return columns


def adapter(record: Record) -> dict[str, torch.Tensor]:
    return load_file(record.folder / "adapter" / "adapter_model.safetensors")


def watch(monkeypatch: pytest.MonkeyPatch, hook: str, see: Callable[..., Any]) -> None:
    """Call ``see(trainer, module, *rest)`` before what Watch does at a hook."""
    before = getattr(Watch, hook, None)

    def both(self: Watch, *arguments: Any) -> None:
        see(*arguments)
        if before:
            before(self, *arguments)

    monkeypatch.setattr(Watch, hook, both)


@pytest.mark.parametrize(
    ("shape", "method", "lr", "share"),
    [*((shape, "lora", 5e-3, 0.95) for shape in SHAPES), ("gpt2", "full", 3e-3, 0.75), ("llama", "head", 5e-2, 0.97)],
)
def test_a_run_learns_and_leaves_a_whole_record(tiny, shape, method, lr, share):
    """Sixteen sentences by heart, as far as random features allow; and the record is whole."""
    sixteen = {"task__n_train": 16, "trainer__batch_size": 16, "trainer__max_steps": 30, "trainer__validations": 1}
    record = run(tiny(shape, method, "all_linear", method__alpha="2r", optim__lr=lr, **CONSTANT, **sixteen))
    assert record.status == "finished" and record.error is None and not record.compute["diverged"]
    assert record.to_dict() == read(record.folder).to_dict()
    losses = [row["train/loss"] for row in read_rows(record.folder / "metrics.jsonl") if "train/loss" in row]
    assert len(losses) == 30 and np.mean(losses[-10:]) < share * losses[0]  # dropout makes single ones noisy
    assert record.compute["steps"] == 30 and record.params["trainable"] > 0
    assert record.metrics["test"]["accuracy"]["n"] == 64
    assert record.objective == record.metrics["validation"]["accuracy"]["value"]
    assert set(record.compute["seconds"]) >= {"load_s", "train_s", "validate_s", "test_s", "total_s"}


def test_a_regression_is_learnt_and_reported_in_the_unit_of_the_data(tiny):
    keys = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson"}
    record = run(tiny(method="full", trainer__max_steps=150, trainer__batch_size=16, optim__lr=3e-3, **keys))
    columns = predictions(record)
    assert record.metrics["test"].keys() == {"loss", "pearson", "spearman", "mae"}
    assert record.metrics["test"]["pearson"]["value"] == pytest.approx(
        np.corrcoef(columns["label"], columns["prediction"])[0, 1], abs=1e-5
    )
    assert record.metrics["test"]["pearson"]["value"] > 0.5
    assert np.abs(columns["prediction"]).max() > 1
    assert columns["prediction"] == pytest.approx(columns["score"], abs=1e-5)
    assert {float(label) for label in columns["label"]} <= set(map(float, range(-6, 7)))


def test_the_same_config_gives_the_same_numbers_twice(tiny, tmp_path):
    """With dropout on, and other random numbers drawn before."""
    first = run(tiny(method__dropout=0.2))
    torch.manual_seed(999)
    np.random.seed(5)
    again = run(tiny(method__dropout=0.2, outputs=str(tmp_path / "again")))
    assert again.folder != first.folder
    assert predictions(first) == predictions(again)
    assert first.metrics == again.metrics and first.objective == again.objective
    assert all(torch.equal(value, adapter(again)[name]) for name, value in adapter(first).items())
    other = run(tiny(method__dropout=0.2, seed=1))
    assert not all(torch.equal(value, adapter(other)[name]) for name, value in adapter(first).items())


def test_every_arm_sees_the_same_rows_in_the_same_order_and_starts_with_the_same_random_numbers(tiny, monkeypatch):
    """Whatever was drawn to build its model: dropout is the same for all. A run is stopped at its last batch."""
    seen: list[list[int]] = []
    states: list[torch.Tensor] = []

    def see(trainer: Any, module: Any, batch: dict[str, torch.Tensor], index: int) -> None:
        seen.append(batch["row"].tolist())
        if len(seen) == 6:
            raise KeyboardInterrupt

    watch(monkeypatch, "on_train_start", lambda *_: states.append(torch.get_rng_state()))
    watch(monkeypatch, "on_train_batch_start", see)

    def start(**keys: Any) -> tuple[list[list[int]], list[int]]:
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            run(tiny(**keys))
        return list(seen), states[-1].tolist()

    first = start()
    assert len(first[0]) == 6 and all(len(rows) == 8 for rows in first[0])
    for keys in ({"method__rank": 2, "targets": "mlp"}, {"method": "full"}, {"method": "head", "optim__lr": 0.1}):
        assert start(**keys) == first
    assert start(data_seed=1) == first  # other sentences in the same places
    assert all(mine != its for mine, its in zip(start(seed=1), first, strict=True))


def test_a_start_from_data_is_the_same_however_often_a_run_is_validated(tiny, monkeypatch):
    starts: list[torch.Tensor] = []

    def see(trainer: Any, module: Any) -> None:
        starts.append(torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad]))
        raise KeyboardInterrupt

    watch(monkeypatch, "on_train_start", see)
    for validations in (1, 6):
        with pytest.raises(KeyboardInterrupt):
            run(tiny(method="lora_ga", trainer__validations=validations))
    assert torch.equal(*starts)


def test_two_micro_batches_are_one_batch_of_twice_the_size(tiny):
    """Llama has no dropout, a step draws one rank for all; its rows are the same; clipping sees its whole gradient.

    Losses are means over the learned tokens of the whole step, of which its micro-batches have more and fewer.
    """
    plan = {"trainer__max_steps": 10, "trainer__validations": 2}
    keys = plan | {"trainer__group_by_length": False, "trainer__clip": 0.05}
    keys |= {"task": "synthetic_lm", "method": "nested", "method__rank": 8, "method__nested": [1, 2, 4]}
    whole = run(tiny("llama", trainer__batch_size=16, **keys))
    halves = run(tiny("llama", trainer__batch_size=8, trainer__accumulate=2, **keys))
    assert whole.compute["steps"] == halves.compute["steps"] == 10
    assert whole.compute["tokens"] == halves.compute["tokens"]
    assert [[row["step"] for row in record.metrics["curve"]] for record in (whole, halves)] == [[5, 10]] * 2
    losses = [[row["train/loss"] for row in logged(record)] for record in (whole, halves)]
    assert len(losses[0]) == 10 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    once = run(tiny("llama", trainer__batch_size=8, **keys))
    far = _distance(adapter(whole), adapter(once))
    assert _distance(adapter(whole), adapter(halves)) < 1e-4 < far / 10


def logged(record: Record) -> list[dict[str, Any]]:
    return [row for row in read_rows(record.folder / "metrics.jsonl") if "lr" in row]


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_the_step_that_is_best_by_validation_is_kept_and_tested(tiny):
    """Eight sentences by heart are worse than fewer steps; a run that ends at the best one has exactly its weights."""
    keys = {**CONSTANT, "optim__lr": 0.01, "objective": "val/loss", "task__n_train": 8}
    record = run(tiny("llama", **keys, trainer__max_steps=40, trainer__validations=10))
    curve, best = record.metrics["curve"], record.metrics["best_step"]
    assert [row["step"] for row in curve] == list(range(4, 41, 4))
    assert best < 40 and curve[-1]["val/loss"] > record.objective + 0.5
    assert record.objective == min(row["val/loss"] for row in curve) == record.metrics["validation"]["loss"]["value"]
    assert next(row for row in curve if row["step"] == best)["val/loss"] == record.objective
    for earlier, row in itertools.pairwise(curve):  # paired by row, so surer than the level
        assert row["loss_fall"] == pytest.approx(earlier["val/loss"] - row["val/loss"], abs=1e-5)
    assert 0 < curve[1]["loss_fall_se"] < curve[1]["val/loss_se"]
    assert record.metrics["first_loss"] == logged(record)[0]["train/loss"]

    ends_there = run(tiny("llama", **keys, trainer__max_steps=best, trainer__validations=best // 4))
    assert ends_there.metrics["best_step"] == best
    assert predictions(record) == predictions(ends_there)
    assert record.metrics["test"] == ends_there.metrics["test"]


def test_of_two_equally_good_steps_the_earlier_is_kept(tiny):
    record = run(tiny(method="head", optim__lr=1e-6, trainer__validations=3))
    assert len({row["val/accuracy"] for row in record.metrics["curve"]}) == 1
    assert record.metrics["best_step"] == 2


def test_early_stopping_ends_a_run_that_gets_no_better(tiny):
    keys = {"optim__lr": 1e-6, "trainer__max_steps": 12, "trainer__validations": 6}
    assert run(tiny(method="head", **keys)).compute["steps"] == 12
    record = run(tiny(method="head", trainer__early_stopping=2, **keys))
    assert [row["step"] for row in record.metrics["curve"]] == [2, 4, 6]  # the first, and two that are no better
    assert record.compute["steps"] == 6 and record.metrics["test"]


EXPLODING = {
    **CONSTANT,
    "optim__lr": 1.0,
    "optim__weight_decay": 10.0,
    "trainer__clip": 0.0,
    "trainer__max_steps": 40,
    "trainer__validations": 20,
}


def test_the_best_of_adalora_has_the_ranks_that_it_is_named_after(tiny):
    """It prunes up to step 4; with such a rate no validation is better than the first."""
    rate = {"optim__lr": 1e-12, "trainer__max_steps": 8, "trainer__validations": 8}
    record = run(tiny(method="adalora", method__rank=4, objective="val/accuracy", **rate))
    assert record.metrics["best_step"] == 4 and len(record.metrics["curve"]) == 8
    assert np.mean(list(record.lora["ranks"].values())) == 4


@pytest.mark.parametrize(("objective", "accumulate"), [("val/accuracy", 1), ("val/loss", 2)])
def test_a_run_that_diverges_is_marked_tested_and_written_down(tiny, objective, accumulate):
    """Each step multiplies every matrix by −9, until a product of them is more than fp32 holds; maybe within a step."""
    record = run(tiny("llama", "full", objective=objective, trainer__accumulate=accumulate, **EXPLODING))
    assert record.status == "finished" and record.compute["diverged"] is True
    assert 2 < record.compute["steps"] < 40
    stored = json.loads((record.folder / "result.json").read_text(), parse_constant=pytest.fail)
    finite = [row["step"] for row in stored["metrics"]["curve"] if row["val/loss"] is not None]
    assert 0 < len(finite) < len(stored["metrics"]["curve"])
    assert stored["metrics"]["best_step"] in finite
    assert math.isfinite(stored["metrics"]["test"]["loss"]["value"]) and stored["objective"] is not None
    assert len(predictions(record)["item"]) == 64
    for line in (record.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_run_that_never_had_a_finite_loss_has_no_objective(tiny, saved_base, tmp_path):
    file = shutil.copytree(saved_base("bert"), tmp_path / "poisoned") / "model.safetensors"
    weights = load_file(file)
    weights["bert.embeddings.LayerNorm.weight"][3] = math.nan
    save_file(weights, file, metadata={"format": "pt"})

    (other := tmp_path / "other.csv").write_text("text,label\n" + "".join(f"word{i},{i % 2}\n" for i in range(120)))
    asked = {"forgetting__name": "other", "forgetting__path": str(other), "forgetting__n": None}
    record = run(tiny(model__path=str(tmp_path / "poisoned"), **asked))
    assert record.status == "finished" and record.compute["diverged"] and record.compute["steps"] <= 1
    assert record.objective is None and record.metrics["validation"] == {} and record.metrics["best_step"] == 0
    assert "forgetting" not in record.metrics
    assert record.metrics["test"]["accuracy"]["n"] == 64 and len(predictions(record)["item"]) == 64
    assert read(record.folder).metrics["test"]["loss"]["value"] is None


@pytest.mark.parametrize(("shape", "method"), [("bert", "lora"), ("roberta", "full"), ("gpt2", "head")])
def test_dropout_is_on_in_training_and_off_in_evaluation(tiny, monkeypatch, shape, method):
    """In every stretch between two validations, and for every method."""
    differ: dict[str, list[bool]] = {"train": [], "evaluate": []}

    def forward_twice(phase: str, module: Any, batch: dict[str, torch.Tensor]) -> None:
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "row")}
        state = torch.get_rng_state()
        with torch.no_grad():
            first, second = module.model(**inputs).logits, module.model(**inputs).logits
        torch.set_rng_state(state)
        differ[phase].append(not torch.equal(first, second))

    watch(monkeypatch, "on_train_batch_start", lambda trainer, module, batch, *_: forward_twice("train", module, batch))
    for hook in ("on_validation_batch_start", "on_test_batch_start"):
        watch(monkeypatch, hook, lambda trainer, module, batch, *_: forward_twice("evaluate", module, batch))
    run(tiny(shape, method))
    assert differ["train"] == [True] * 6
    assert len(differ["evaluate"]) == 3 and not any(differ["evaluate"])


def test_gradients_are_clipped_to_the_norm_that_is_asked(tiny, monkeypatch):
    norms: list[float] = []

    def see(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    def start(trainer: Any, *_: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(see)

    watch(monkeypatch, "on_train_start", start)
    run(tiny(trainer__clip=0))
    free = list(norms)
    norms.clear()
    bound = min(free) / 2
    run(tiny(trainer__clip=bound))
    assert len(norms) == len(free) >= 4 and norms == pytest.approx([bound] * len(norms), rel=1e-3)


def test_the_learning_rate_that_is_logged_is_the_one_of_the_step(tiny):
    config = tiny(trainer__max_steps=10, optim__warmup=0.2, optim__lr=2e-3)
    rows = logged(run(config))
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["lr"] for row in rows] == pytest.approx([2e-3 * rate(config.optim, step, 10) for step in range(10)])


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_what_runs_and_what_is_recorded(tiny, monkeypatch, precision, kind):
    kinds: set[torch.dtype] = set()

    def see(trainer: Any, module: Any, *_: Any) -> None:
        query = module.model.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query")
        query.register_forward_hook(lambda *given: kinds.add(given[2].dtype))

    watch(monkeypatch, "on_train_start", see)
    record = run(tiny(trainer__precision=precision))
    assert kinds == {kind} and record.compute["precision"] == precision
    assert {value.dtype for value in adapter(record).values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers so
@pytest.mark.parametrize("shape", ["bert", "llama"])
def test_test_predictions_are_those_of_the_exported_adapter_row_by_row(tiny, saved_base, tmp_path, shape):
    """One text at a time, by its item number: no row is mixed up by sorting, padding or batching."""
    folder = saved_base(shape)
    lines = [f"{'sun joy win '[: i % 12 + 1] * (i * 7 % 5 + 1)}{i}\t{i * 5 % 2}\n" for i in range(400)]
    (tmp_path / "data.tsv").write_text("text\tlabel\n" + "".join(lines))
    paths = {"model__path": str(folder), "task__path": str(tmp_path / "data.tsv"), "task__max_length": 100}
    sizes = {"trainer__max_steps": 40, "trainer__eval_batch_size": 16, "task__n_validation": 50}
    config = tiny(shape, optim__lr=1e-2, **paths, **sizes)
    record = run(config)
    columns = predictions(record)
    rows = data.load(config.task, resolve(config.task), 0)
    assert len({len(text) for text in rows.test.texts}) > 20
    assert columns["item"] == rows.test.items.tolist() and columns["label"] == rows.test.labels.tolist()
    fresh = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(fresh, record.folder / "adapter").eval()
    with torch.inference_mode():
        logits = [adapted(**tokenizer([text], return_tensors="pt")).logits[0] for text in rows.test.texts]
    scores = [one.softmax(-1)[1].item() for one in logits]
    assert columns["score"] == pytest.approx(scores, abs=1e-5)
    assert columns["prediction"] == [int(one.argmax()) for one in logits]
    assert np.std(scores) > 1e-4
    right = np.mean([p == label for p, label in zip(columns["prediction"], columns["label"], strict=True)])
    assert record.metrics["test"]["accuracy"]["value"] == pytest.approx(right)


def test_tokens_are_counted_without_padding(tiny, monkeypatch):
    seen: list[int] = []

    def see(trainer: Any, module: Any, batch: dict[str, torch.Tensor], *_: Any) -> None:
        seen.append(int((batch["input_ids"] != 0).sum()))

    watch(monkeypatch, "on_train_batch_start", see)
    record = run(tiny(trainer__max_steps=12, trainer__accumulate=2, trainer__group_by_length=False))
    assert len(seen) == 24 and record.compute["tokens"] == sum(seen)
    assert record.compute["tokens_per_s"] > 0


@pytest.mark.parametrize(("method", "file"), [("lora", "adapter_model.safetensors"), ("head", "head.safetensors")])
def test_nothing_but_what_is_promised_is_left_in_a_runs_folder(tiny, method, file):
    record = run(tiny(method=method))
    names = {path.name for path in record.folder.iterdir()} - {".lock"}
    assert names == {"result.json", "config.yaml", "metrics.jsonl", "predictions.parquet", "adapter"}
    sizes = {path.name: path.stat().st_size for path in (record.folder / "adapter").iterdir()}
    assert record.storage["adapter_bytes"] == sizes[file]
    assert set(sizes) <= {file, "adapter_config.json"}
