"""From a few words in a claim (model, targets, rank) to a config, and to what ``rankwise plan`` says of it."""

import copy
import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

from rankwise.claims.claim import Spec
from rankwise.config import Config
from rankwise.measure.ledger import Footprint
from rankwise.measure.shape import Shape
from rankwise.model.base import architecture
from rankwise.plan.estimate import Question, facts, plan
from rankwise.plan.fake import Counted, FakeRun, build
from rankwise.plan.hardware import Hardware
from rankwise.plan.operations import beside_full
from rankwise.plan.totals import Row
from rankwise.study.compose import composed

T = TypeVar("T")
_Run = TypeVar("_Run", bound=Counted)

ENCODERS = ("minilm", "deberta_xxl", "roberta_base", "roberta_large", "bert_base", "tiny_bert")

_GROUPS = ("model", "task", "method", "targets", "quant")
_GPU = Hardware.named("a100-80gb")  # whose attention keeps no matrix of scores, and which has bf16


def config_of(spec: Spec) -> Config:
    """A checked config. Keys are groups (``model``, ``targets``), keys of the method (``rank``) or dotted.

    Without a task, an encoder classifies and any other model predicts tokens; nothing is fetched for either.
    ``blocks`` is how many blocks the model has in place of its own number.
    """
    config = copy.deepcopy(_composed({key: value for key, value in spec.items() if key != "blocks"}))
    config.model.package = None  # exact claims need nothing but the shape
    if "blocks" in spec:
        shape = dict(config.model.shape or {})
        config.model.shape = shape | {"n_layer" if "n_layer" in shape else "num_hidden_layers": spec["blocks"]}
    return config


def _once(function: Callable[[Spec], T]) -> Callable[[Spec], T]:
    """Claims share configs, and a step of a large model takes seconds."""
    cached = functools.cache(lambda text: function(json.loads(text)))
    return lambda spec: cached(json.dumps(spec, sort_keys=True))


@_once
def _composed(spec: Spec) -> Config:
    task = "synthetic" if spec.get("model") in ENCODERS else "next_token"
    return composed([f"{_key(key)}={_text(value)}" for key, value in ({"task": task} | spec).items()])


def blocks(spec: Spec) -> int:
    """How many blocks its model has."""
    return int(architecture(config_of(spec).model, None).num_hidden_layers)


@_once
def counted(spec: Spec) -> Row:
    """The plan's parameters and storage of a config."""
    question = Question(_GPU, _GPU.memory_bytes, only_parameters=True)
    row: Row = plan([config_of(spec)], question)["runs"][0]
    return row


@_once
def footprint(spec: Spec) -> Footprint:
    """What one optimizer step of a config holds on a GPU, as a plan predicts it, with batches of full length."""
    run, shape = _run(spec, FakeRun)
    return run.train([shape])


@_once
def operations(spec: Spec) -> Row:
    """What one step of a config computes, beside full fine-tuning of the same base."""
    run, shape = _run(spec, Counted)
    return beside_full(run, shape, run.count(shape))


@_once
def on_meta(spec: Spec) -> Any:
    """The model of a config, quantized and adapted, without data."""
    config = config_of(spec)
    precision = _GPU.settle(config.trainer).precision
    return build(config, architecture(config.model, None), 2, None, precision).model


def _run(spec: Spec, kind: type[_Run]) -> tuple[_Run, Shape]:
    config = config_of(spec)
    settings, scorer = _GPU.settle(config.trainer), facts(config).scorer
    run = kind(config, architecture(config.model, None), scorer, settings)
    return run, Shape(config.trainer.batch_size, config.task.max_length)


def _key(key: str) -> str:
    return key if key in _GROUPS or "." in key else f"method.{key}"


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list) else str(value)
