"""From a config and a device to one row of a plan."""

import functools
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoTokenizer

from rankwise import assets, methods
from rankwise.check import check_length
from rankwise.config import Config
from rankwise.errors import Refused, plural
from rankwise.identity import labels, run_id
from rankwise.measure.gpus import gpu, recognise
from rankwise.measure.parameters import count
from rankwise.measure.shape import Shape
from rankwise.model.base import architecture, check_tokens
from rankwise.plan.fake import FakeRun, build
from rankwise.plan.hardware import Hardware
from rankwise.plan.operations import beside_full, costing, needed
from rankwise.plan.totals import Row, totals
from rankwise.tasks import data, scores
from rankwise.tasks.scores import Scorer
from rankwise.tracking import record as records
from rankwise.train.budget import Budget

ASSUMED_MFU = 0.4  # where neither the user nor a finished run says
_RESERVED = 1.25  # of its tensors, what torch's allocator is taken to reserve of a GPU
LARGEST = 4096  # rows of a batch; beyond it nobody asks


@dataclass(frozen=True)
class Question:
    """What a plan is asked beside the configs."""

    hardware: Hardware
    limit_bytes: int
    find_batch: bool = False
    only_parameters: bool = False
    mfu: float | None = None
    gpus: int | None = None  # of a cluster, that the study has to itself
    only_memory: bool = False  # and parameters, without operations and time


@dataclass(frozen=True)
class Facts:
    """What the task's data say; ``rows`` for training is None where nobody has said yet."""

    scorer: Scorer
    rows: int | None


def plan(configs: Sequence[Config], question: Question) -> dict[str, Any]:
    """``{"hardware", "limit_bytes", "context_bytes", "runs": [row…], "totals"}``.

    Runs that differ in seed or learning rate alone are worked out once; baselines, which train no model, are left out.
    Raises Refused for what cannot be built.
    """
    rows, known, steps = [], dict[str, Row](), dict[str, tuple[Row, int]]()
    trained = [config for config in configs if not methods.of(config.method).is_baseline]
    if not trained:
        raise Refused(f"method={configs[0].method.name}: trains nothing that a plan could count")
    for config, name in zip(trained, labels(trained), strict=True):
        key = _same_cost(config)
        if key not in known:
            known[key] = _row(config, question, steps)
        rows.append({"label": name, "id": run_id(config), "method": config.method.name} | known[key])
    return {
        "hardware": question.hardware.name,
        "limit_bytes": question.limit_bytes,
        "context_bytes": question.hardware.context_bytes,
        "runs": rows,
        "totals": totals(trained, rows, question.gpus),
    }


def process_bytes(configs: Sequence[Config], gpu_name: str) -> int:
    """What the largest of these runs takes of a GPU: its tensors by the plan, what torch reserves for them, context.

    Of runs that differ in their method's size alone the largest is planned. Raises Refused for what cannot be built.
    """
    # A GPU that is not known is taken for one without bf16, where a run holds the most.
    here = Hardware(gpu_name, "cuda", 0, recognise(gpu_name) or gpu("t4"))
    largest: dict[str, Config] = {}
    sizes: dict[str, Any] = dict.fromkeys(methods.size_keys())
    for config in sorted(configs, key=lambda config: [getattr(config.method, key) or 0 for key in methods.size_keys()]):
        largest[_same_cost(replace(config, method=replace(config.method, **sizes)))] = config
    rows = plan([*largest.values()], Question(here, 0, only_memory=True))["runs"]
    peak = max(row["memory"][part]["peak_bytes"] for row in rows for part in ("train", "eval"))
    return int(_RESERVED * peak) + here.context_bytes


def _same_cost(config: Config) -> str:
    """Equal for runs that cost the same; what is measured of a study's runs is a part of that."""
    return json.dumps([costing(config), config.trainer.eval_batch_size, config.outputs], sort_keys=True)


def _row(config: Config, question: Question, steps: dict[str, tuple[Row, int]]) -> Row:
    """What a run costs; ``steps`` are those that were counted so far: many tasks may have the same."""
    task = facts(config)
    asset = assets.fetch(config.model) if _is_here(config) else None
    settings = question.hardware.settle(config.trainer)
    base = architecture(config.model, asset)
    adapted = build(config, base, task.scorer.outputs, settings.attention, settings.precision)
    if asset and asset.path and (tokenizer := _tokenizer(asset.path)):
        check_tokens(config.model, tokenizer, adapted.model)
    row: Row = {"params": count(adapted.model, adapted.heads), "devices": config.trainer.devices}
    row["lora"] = {key: adapted.lora.get(key) for key in ("rank", "scale")}
    row["storage"] = _storage(config, adapted.model)
    if question.only_parameters:
        return row
    length = _length(config, base)
    of_task = [config.task.kind, config.task.packing, task.scorer.outputs, length]
    key = json.dumps([costing(config) | {"task": of_task}, config.trainer.eval_batch_size], sort_keys=True)
    if key not in steps:
        run = FakeRun(config, base, task.scorer, settings, adapted)
        steps[key] = _step(run, length, question)
    step, needs = steps[key]
    if question.only_memory:
        return row | step
    return row | step | {"compute": step["compute"] | _time(config, task, needs, question, settings)}


def _step(run: FakeRun, length: int, question: Question) -> tuple[Row, int]:
    """Memory and operations of a step of so many tokens in a row, and what it needs without recomputation."""
    config, trainer = run.config, run.config.trainer
    rows = -(-trainer.batch_size // trainer.devices)  # each device holds the model and its part of a batch
    shape = Shape(rows, length, packed=bool(config.task.packing))
    step = [shape] * min(trainer.accumulate, 2)  # the second micro-batch finds gradients
    peak = run.train(step)
    micro_batch = run.flops // len(step)
    evaluation = run.evaluate(Shape(trainer.eval_batch_size, length))
    row: Row = {"memory": {"train": peak.to_dict(), "eval": evaluation.to_dict()}, "batch": [rows, length]}
    room = question.limit_bytes - question.hardware.context_bytes
    row["fits"] = max(peak.peak, evaluation.peak) <= room
    if question.find_batch:
        of_one = largest_batch(lambda n: run.train([shape._replace(rows=n)] * len(step)).phases, room)
        row["largest_batch"] = of_one * trainer.devices
    if question.only_memory:
        return row, 0
    flops = {"per_step": micro_batch * trainer.accumulate * trainer.devices} | beside_full(run, shape, micro_batch)
    row["compute"] = {"flops": flops}
    return row, needed(run, shape, micro_batch) * trainer.accumulate


@functools.cache
def _tokenizer(folder: Path) -> Any:
    """The tokenizer in a model's folder; None where there is none, or none that can be read, which a run says."""
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception:  # a stranger's files can fail in any way
        return None


def facts(config: Config) -> Facts:
    """From the data if it is here already, else from the config: two classes, ``task.n_train`` rows, which are all
    that is asked of text to be written."""
    task = config.task
    asks = not task.writes or task.n_train is None
    if asks and (task.synthetic or assets.cached(task) is not None):
        loaded = data.load(task, assets.resolve(task), config.data_seed)
        return Facts(scores.scorer_for(task, loaded.classes, loaded.train.labels), len(loaded.train))
    classes = ["no", "yes"] if task.has_classes else None
    return Facts(scores.scorer_for(task, classes, np.zeros(1)), task.n_train)


def largest_batch(phases_of: Callable[[int], Mapping[str, int]], limit_bytes: int) -> int:
    """The most rows whose peak is within ``limit_bytes``; 0 where one row is too many, at most ``LARGEST``.

    ``phases_of(rows)`` gives the peak of each phase in bytes. Each grows along a line with the rows, as long as it
    falls at the same place, so two points say where to look; what they say is confirmed at that batch and the next.
    """
    seen = {rows: dict(phases_of(rows)) for rows in (1, 2)}

    def fits(rows: int) -> bool:
        if rows not in seen:
            seen[rows] = dict(phases_of(rows))
        return max(seen[rows].values()) <= limit_bytes

    if not fits(1):
        return 0
    low, high = 1, LARGEST + 1  # the most known to fit, the fewest known not to
    while high - low > 1:
        guess = min(max(_crossing(seen, limit_bytes), low + 1), high - 1)
        for rows in (guess, guess + 1):
            if low < rows < high:
                low, high = (rows, high) if fits(rows) else (low, rows)
    return low


def _crossing(seen: Mapping[int, Mapping[str, int]], limit_bytes: int) -> int:
    """The rows at which the first phase reaches the limit, by the line through the two largest batches seen."""
    a, b = sorted(seen)[-2:]
    rooms = [LARGEST]
    for phase, at_b in seen[b].items():
        slope = (at_b - seen[a].get(phase, 0)) / (b - a)
        if slope > 0:
            rooms.append(int(b + (limit_bytes - at_b) // slope))
    return min(rooms)


def _is_here(config: Config) -> bool:
    """Whether the model's own config can be read without the network; a named model brings its shape."""
    model = config.model
    return assets.cached(model) is not None or (model.shape is None and model.path is not None) or bool(model.package)


def _length(config: Config, base: Any) -> int:
    """The longest a batch can be: what the task cuts at, or the model's positions."""
    positions = getattr(base, "max_position_embeddings", None) or getattr(base, "n_positions", None)
    check_length(config.task.max_length, positions)
    return config.task.max_length


def _storage(config: Config, model: Any) -> dict[str, int]:
    """Bytes kept after the run, and of the best weights while it trains.

    A file of PEFT's has more than what is trained: a frozen A, and the start beside what it became (PiSSA, OLoRA).
    """
    adapter = trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    if isinstance(model, PeftModel):
        written = get_peft_model_state_dict(model, save_embedding_layers=False)
        adapter = sum(tensor.nbytes for tensor in written.values())
        if methods.starts_from_base(config.method):
            adapter += sum(tensor.nbytes for name, tensor in written.items() if ".lora_" in name)
    saved = adapter if methods.of(config.method).trains != "all" or config.trainer.save_full else 0
    return {"adapter_bytes": adapter, "disk_bytes": saved, "best_bytes": trained}


def _time(config: Config, task: Facts, needed: int, question: Question, settings: Any) -> Row:
    """Steps, and seconds of training at the MFU that was given, measured or assumed; padding counts as full length.

    ``needed`` are the FLOPs of a step without recomputation: MFU is defined by them. Without ``trainer.max_steps`` a
    packed run's steps are unknown, and of one in blocks: how many rows share a batch depends on how long each is.
    """
    trainer = config.trainer
    known = trainer.max_steps or (task.rows is not None and not (config.task.packing or config.task.blocks))
    budget = Budget.of(config, task.rows or 1) if known else None
    steps = budget.steps if budget else None
    peak, source = question.hardware.peak(settings, trainer.matmul_precision)
    share, mfu_source = _mfu(question, config, settings.precision)
    step_s = needed / (peak * share) if peak else None
    return {
        "precision": settings.precision,
        "steps": steps,
        "rows": budget.rows if budget else None,
        "step_s": step_s,
        "train_s": step_s * steps if step_s is not None and steps is not None else None,
        "mfu": share,
        "mfu_source": mfu_source,
        "peak_flops": peak,
        "peak_flops_source": source,
    }


def _mfu(question: Question, config: Config, precision: str) -> tuple[float, str]:
    if question.mfu is not None:
        return question.mfu, "given"
    if question.hardware.is_here:
        outputs, recomputes = os.path.abspath(config.outputs), config.trainer.gradient_checkpointing
        measured = _measured_mfu(outputs, config.model.name, precision, question.hardware.device, recomputes)
        if measured:
            return statistics.median(measured), f"measured in {plural(len(measured), 'finished run')} of this model"
    return ASSUMED_MFU, "assumed"


@functools.cache
def _measured_mfu(outputs: str, model: str, precision: str, device: str, recomputes: bool) -> list[float]:
    """Of the finished runs of this model in the outputs folder, in this precision on this kind of device.

    Only of those that recompute alike: the time of gradient checkpointing is in an MFU, its operations are not.
    """
    shares = []
    for file in Path(outputs).glob("*/*/result.json"):
        try:
            record = records.read(file.parent)
        except Refused:
            continue
        compute, named = record.compute, (record.config.get("model") or {}).get("name")
        again = bool((record.config.get("trainer") or {}).get("gradient_checkpointing"))
        like = (record.status, named, compute.get("precision"), compute.get("device"), again)
        if like == (records.FINISHED, model, precision, device, recomputes) and (mfu := compute.get("mfu")):
            shares.append(mfu)
    return shares
