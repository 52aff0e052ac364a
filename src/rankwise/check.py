"""Everything about a config that can be refused before anything is loaded."""

import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Any

from rankwise import assets, callbacks, machine, methods, metrics
from rankwise.allowed import check_values, one_of
from rankwise.alpha import check_alpha
from rankwise.config import Config, Task, Trainer
from rankwise.errors import Refused
from rankwise.files import read_json
from rankwise.identity import folder

_MOST_LAYERS, _MOST_TOKENS = 10_000, 10**7  # of a model; of a forward pass that is timed
_FEW = 8  # processes of one run, which a CPU may have more of than cores

QUANT_LIBRARIES = {"int8": "bitsandbytes", "int8_torchao": "torchao", "nf4": "bitsandbytes", "fp4": "bitsandbytes"}
_WRITTEN = ("prompt", "template", "completion", "messages", "packing", "blocks", "reasoning")
_READ_BY = {  # the kinds of a task that read a key
    **dict.fromkeys(_WRITTEN, ("causal_lm",)),
    **dict.fromkeys(("labels", "threshold"), ("classification",)),
    **dict.fromkeys(("pair", "min_abs_label"), ("classification", "regression")),
}
PRESETS = ("all_linear", "attention", "mlp", "q", "k", "v", "o", "qv", "qkvo")


def check(config: Config) -> None:
    """Raise Refused for the first value or combination that cannot run."""
    check_values(config)
    methods.check(config)
    _check_quant(config)
    _check_targets(config)
    _check_task(config)
    _check_optim(config)
    _check_trainer(config)
    _check_names(config)
    shape = _shape(config)
    _check_rank_fits(config, shape)
    _check_latency(config, shape)


def check_here(config: Config) -> None:
    """Raise Refused for what can be planned, but not run: on this machine, or at all."""
    check_planned(config)
    if not (config.task.path or config.task.package or config.task.synthetic):
        raise Refused("task: give task.path=FILE or choose a task that brings its data")
    shape = config.model.shape
    if shape and "vocab_size" in shape and not (config.model.path or config.model.package):
        raise Refused(f"model {config.model.name}: has no weights to load; it can be planned, not trained")
    library = QUANT_LIBRARIES.get(config.quant.kind or "")
    if library and importlib.util.find_spec(library) is None:
        remedy = "pip install 'rankwise[quant]', or use quant=none or bf16"
        raise Refused.value("quant", config.quant.name, f"needs {library}, which is not installed", remedy)
    tracker = config.tracking.name
    if tracker in ("trackio", "tensorboard") and importlib.util.find_spec(tracker) is None:
        remedy = f"pip install 'rankwise[{tracker}]', or use tracking=wandb or none"
        raise Refused.value("tracking", tracker, f"needs {tracker}, which is not installed", remedy)


def check_planned(config: Config, here: bool = True) -> None:
    """Raise Refused for what cannot run whatever the model and data are; unless ``here``, on another's GPU."""
    _check_outputs(config)
    if here:
        _check_device(config.trainer)
    elif config.trainer.device not in ("auto", "cuda"):
        raise Refused.value("trainer.device", config.trainer.device, "auto or cuda with --gpu")
    callbacks.check(config, [*_objectives(config), "train/loss"])


def _check_device(trainer: Trainer) -> None:
    """Refuse a device that this machine lacks, more of them than it has, and what it cannot do."""
    device = trainer.device
    if device == "cuda" and not machine.gpus():
        raise Refused.value("trainer.device", device, "no GPU is visible here", "use trainer.device=auto")
    on_cpu = device == "cpu" or (device == "auto" and not machine.gpus())
    if on_cpu and trainer.precision == "fp16":
        raise Refused.value("trainer.precision", "fp16", "fp32, bf16 or auto on a CPU, where fp16 is slower than fp32")
    most = max(_FEW, machine.cores()) if on_cpu else max(1, len(machine.gpus()))
    if trainer.devices > most:
        what = "processes of one run on this machine's cores" if on_cpu else "the GPUs that are visible here"
        raise Refused.value("trainer.devices", trainer.devices, f"at most {most}, {what}")


def _check_outputs(config: Config) -> None:
    """Refuse a place for runs that cannot be written."""
    wanted = folder(config)
    if str(wanted).startswith("~"):
        raise Refused.value("outputs", config.outputs, "another folder: this user has no home")
    there = next(path for path in (wanted, *wanted.absolute().parents) if os.path.exists(path))
    if not os.access(there, os.W_OK | os.X_OK):
        raise Refused.value("outputs", config.outputs, f"{there} cannot be written", "give another outputs=FOLDER")
    data = os.path.realpath(os.path.expanduser(config.task.path or ""))
    if config.task.path and os.path.isdir(data) and Path(os.path.realpath(wanted)).is_relative_to(data):
        allowed = f"a folder outside of task.path={config.task.path}, all files of which are the data"
        raise Refused.value("outputs", config.outputs, allowed)


def _check_quant(config: Config) -> None:
    quant, method = config.quant, methods.of(config.method)
    if quant.kind is None:
        if quant.double is not None:
            raise Refused.value("quant.double", quant.double, "null with quant=none", "quant=nf4_double, or fp4_double")
        return
    one_of("quant.kind", quant.kind, ("bf16", *QUANT_LIBRARIES))
    if method.changes_base:
        allowed = f"none with method={method.name}: what is stored in few bits cannot be trained"
        raise Refused.value("quant", quant.name, allowed)
    if config.method.bias not in (None, "none"):
        raise Refused.value("method.bias", config.method.bias, f"none with quant={quant.name}, whose biases are frozen")
    if quant.double and quant.kind not in ("nf4", "fp4"):
        raise Refused.value("quant.double", True, "null, or quant.kind nf4 or fp4, whose constants it quantizes")
    if config.trainer.precision == "bf16_true":
        raise Refused.value("trainer.precision", "bf16_true", f"fp32, bf16 or fp16 with quant={quant.name}")


def _check_targets(config: Config) -> None:
    targets = config.targets
    if not methods.of(config.method).on_targets:
        return
    if targets.modules and targets.regex:
        raise Refused.value("targets.regex", targets.regex, "null when targets.modules is given")
    if targets.name == "custom" and not (targets.modules or targets.regex):
        raise Refused("targets=custom: give targets.modules=[…] or targets.regex=…")
    if not (targets.modules or targets.regex):
        one_of("targets.name", targets.name, (*PRESETS, "custom"))
    if targets.regex:
        _check_pattern("targets.regex", targets.regex)
    if any(layer < 0 for layer in targets.layers or []):
        raise Refused.value("targets.layers", targets.layers, "block numbers from 0, or null for all")
    _check_patterns(config)


def _check_pattern(key: str, pattern: object) -> None:
    try:
        re.compile(str(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise Refused.value(key, pattern, f"a regular expression ({error})") from None


def _check_patterns(config: Config) -> None:
    """Refuse ``targets.ranks`` and ``targets.alphas`` where there is no rank to differ from, and bad values."""
    targets, method = config.targets, config.method
    for key in ("ranks", "alphas"):
        patterns = getattr(targets, key)
        if patterns is None:
            continue
        if not methods.of(method).is_lora:
            raise Refused.value(f"targets.{key}", patterns, f"null with method={method.name}; only LoRA has them")
        if key == "ranks" and (method.budget is not None or method.init == "eva"):
            other = "method.budget" if method.budget is not None else "method.init=eva"
            raise Refused.value("targets.ranks", patterns, f"null with {other}, which settles the ranks")
        _check_mapping(f"targets.{key}", patterns, "{query: 4}")
        for pattern, value in patterns.items():
            _check_pattern(f"targets.{key}", pattern)
            if key == "ranks" and (type(value) is not int or value < 1):
                raise Refused.value(f"targets.ranks.{pattern}", value, "an integer of at least 1")
            if key == "alphas":
                check_alpha(f"targets.alphas.{pattern}", value, roots=False)


def _check_task(config: Config) -> None:
    task = config.task
    one_of("task.metric", task.metric, metrics.of_kind(task.kind), f"for task.kind={task.kind}")
    if task.validation_share + task.test_share >= 1:
        both = f"{task.validation_share:g} + {task.test_share:g}"
        raise Refused(f"task.validation_share + task.test_share: {both}; below 1, so that training rows are left")
    high = math.inf if math.isinf(metrics.named(task.metric).high) else 1
    if not (margin := task.margin) < high:
        percent = f"{margin:g}% is {margin / 100:g}" if 1 <= margin < 100 else ""
        raise Refused.value("task.margin", margin, f"between 0 and {high}, both excluded", percent)
    for key, kinds in _READ_BY.items():
        if getattr(task, key) != getattr(Task, key) and task.kind not in kinds:
            raise Refused(f"task.{key}: needs task.kind={' or '.join(kinds)}; here it is {task.kind}")
    given = task.labels
    listed = isinstance(given, list) and all(isinstance(name, str | int | float) for name in given)
    mapped = isinstance(given, dict) and all(isinstance(name, str | int | float | None) for name in given.values())
    if not (given is None or listed or mapped):
        raise Refused.value("task.labels", task.labels, "a list of classes, or {label: class}, or null")
    for key in ("files", "splits"):
        _check_mapping(f"task.{key}", getattr(task, key), "{train: NAME, test: NAME}")
    names = [str(name) for name in task.labels or ()]
    if isinstance(task.labels, list) and (twice := [name for name in task.labels if names.count(str(name)) > 1]):
        yaml = "" if isinstance(twice[0], str) else "; in a file, YAML reads 007 as 7, on as true: quote such names"
        raise Refused(f"task.labels: the class {twice[0]} stands there twice{yaml}")
    if task.writes:
        _check_generation(task)
        if task.blocks and (
            task.packing or task.group or task.prompt or task.template or task.completion or task.messages
        ):
            raise Refused(
                "task.blocks: joins plain texts; leave task.packing, group, prompt, completion and messages out"
            )
    elif task.generation.metrics:
        raise Refused(f"task.generation.metrics: needs task.kind=causal_lm; here it is {task.kind}")
    if task.reasoning and (task.path or task.package or not task.synthetic):
        remedy = "give task.synthetic=N, the number of its rows, and neither task.path nor task.package"
        raise Refused(f"task.reasoning={task.reasoning}: {remedy}")


def _check_generation(task: Task) -> None:
    wanted = task.generation
    if wanted.metrics and not (task.prompt or task.template or task.messages):
        raise Refused(
            "task.generation.metrics: answers prompts, not plain texts; give task.prompt, template or messages"
        )
    for metric in wanted.metrics:
        one_of("task.generation.metrics", metric, metrics.of_kind("text"))
    if "json_keys" in wanted.metrics and not wanted.keys:
        raise Refused("task.generation.keys: name the keys that metric json_keys asks for")
    if "reasoning" in wanted.metrics and not task.reasoning:
        raise Refused("task.reasoning: name the data set whose own scorer metric reasoning uses")


def _check_optim(config: Config) -> None:
    optim = config.optim
    if not methods.of(config.method).is_baseline and not 0 < optim.lr <= 10:
        key = "method.lr" if config.method.lr == optim.lr else "optim.lr"  # which follows it
        raise Refused.value(key, optim.lr, "above 0 and at most 10")
    if optim.name == "adafactor" and optim.kernel == "fused":
        raise Refused.value("optim.kernel", "fused", "null, foreach or loop for optim.name=adafactor")
    if optim.kernel == "fused" and config.trainer.precision == "fp16" and config.trainer.clip:
        allowed = (
            "null, foreach or loop with trainer.precision=fp16, as it would clip scaled gradients; or trainer.clip=0"
        )
        raise Refused.value("optim.kernel", "fused", allowed)
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise Refused.value("optim.betas", optim.betas, "two numbers from 0 up to, not including, 1")


def _check_trainer(config: Config) -> None:
    trainer = config.trainer
    if trainer.strategy == "fsdp2":
        _check_sharded(config)
    if trainer.devices > 1 and config.quant.kind == "int8_torchao":
        allowed = "1 with quant=int8_torchao, whose weights torch cannot send from one device to another"
        raise Refused.value("trainer.devices", trainer.devices, allowed, "quant=int8, nf4 and bf16 can")
    if trainer.max_time is not None and not re.fullmatch(r"[0-9]+(:[0-9]{2}){3}", trainer.max_time):
        raise Refused.value("trainer.max_time", trainer.max_time, "days:hours:minutes:seconds, as 00:00:10:00")


def _check_sharded(config: Config) -> None:
    """FSDP2 shares out a base that is frozen and that all devices go through together."""
    odd = {
        f"method={config.method.name} leaves no base frozen": methods.of(config.method).trains != "adapter",
        f"weights of quant={config.quant.name} cannot be cut": config.quant.kind not in (None, "bf16"),
        f"forgetting={config.forgetting.name} asks one device": config.forgetting.name != "none",
    }
    if why := next((why for why, is_so in odd.items() if is_so), None):
        raise Refused.value("trainer.strategy", "fsdp2", f"ddp: {why}")


def _check_names(config: Config) -> None:
    for key in ("project", "entity"):
        value = getattr(config.tracking, key)
        if value is not None and not re.fullmatch(r"[^/\\#?%:]{1,128}", value):
            raise Refused.value(f"tracking.{key}", repr(value), "W&B takes names of 1 to 128 signs without /\\#?%:")
    for tag in config.tracking.tags:
        if not (isinstance(tag, str) and 1 <= len(tag) <= 64):
            raise Refused.value("tracking.tags", repr(tag), "W&B takes tags of 1 to 64 signs")
    allowed = _objectives(config)
    if config.objective not in allowed:
        why = "; a test score must not select anything" if config.objective.startswith("test/") else ""
        raise Refused.value("objective", config.objective, f"one of {', '.join(allowed)}{why}")
    if not config.outputs.strip():
        raise Refused.value("outputs", repr(config.outputs), "a folder", "outputs=. is this one")
    for key in ("study", "name"):
        value = getattr(config, key)
        if value is not None and not re.fullmatch(r"[\w.+=,@-]{1,100}", value):
            raise Refused.value(key, repr(value), "letters, digits and . _ - + = , @ only: it names a folder")
        if value is not None and value.strip(".") in ("", "wandb"):
            raise Refused.value(key, repr(value), "a name of its own")
    for parent in folder(config).parents:
        if os.path.exists(parent) and not os.path.isdir(parent):
            raise Refused.value("outputs", config.outputs, f"{parent} is a file, not a folder")


def _objectives(config: Config) -> list[str]:
    """What is logged of every validation."""
    return [f"val/{name}" for name in metrics.of_kind(config.task.kind)] + ["val/loss"]


def width(shape: dict[str, Any]) -> int | None:
    """Of a model's residual stream, by its architecture's own name for it; None where it is not given."""
    return _first(shape, "hidden_size", "n_embd", "d_model")


def narrowest(shape: dict[str, Any]) -> int | None:
    """The width, or that of the keys and values where attention heads share them; None where it is not given."""
    if not (widest := width(shape)) or not (shared := shape.get("num_key_value_heads")):
        return widest
    return min(widest, int(shared) * int(shape.get("head_dim") or widest // shape["num_attention_heads"]))


def _check_rank_fits(config: Config, shape: dict[str, Any]) -> None:
    """Refuse a rank above the model's width, which no adapted matrix of a block is narrower than on both sides.

    Narrower layers are found when it is built. VeRA's rank is the width of matrices that stay as they were drawn: 1024
    on RoBERTa base in its paper (Kopiczko et al. 2024, Table 2).
    """
    if config.method.rank is None or config.method.name == "vera":
        return
    widest = width(shape)
    if widest and config.method.rank > widest:
        remedy = "a rank above min(in, out) adds parameters but no rank"
        raise Refused.value(
            "method.rank", config.method.rank, f"at most {widest}, the width of {config.model.name}", remedy
        )


def _check_latency(config: Config, own: dict[str, Any]) -> None:
    """A baseline has no forward pass to time, as it has no step to follow: nothing of it is asked for."""
    if methods.of(config.method).is_baseline or not config.tracking.latency:
        return
    if config.quant.kind is not None:
        allowed = f"[] with quant={config.quant.name}: what is timed is an unquantized base"
        raise Refused.value("tracking.latency", config.tracking.latency, allowed)
    for shape in config.tracking.latency:
        pair = isinstance(shape, list) and [type(n) for n in shape] == [int, int]
        if not (pair and min(shape) > 0 and math.prod(shape) <= _MOST_TOKENS):
            allowed = f"pairs of rows and length, as [[1,128],[32,512]], of at most {_MOST_TOKENS} tokens"
            raise Refused.value("tracking.latency", shape, allowed)
    check_lengths(config, _first(own, "n_positions", "max_position_embeddings"))


def check_lengths(config: Config, longest: int | None) -> None:
    """Refuse to time longer texts than a model has positions for; a loaded RoBERTa has fewer, for its padding."""
    for shape in config.tracking.latency:
        if longest and shape[1] > longest:
            allowed = f"a length of at most {longest}, the positions of {config.model.name}"
            raise Refused.value("tracking.latency", shape, allowed)


def check_length(max_length: int, positions: int | None) -> None:
    """Refuse longer texts than a model has positions for."""
    if positions and max_length > positions:
        allowed = f"at most {positions}, the longest sequence that this model has positions for"
        raise Refused.value("task.max_length", max_length, allowed)


def _check_mapping(key: str, value: Any, example: str) -> None:
    if value is not None and not (isinstance(value, dict) and all(isinstance(name, str) for name in value)):
        raise Refused.value(key, value, f"a mapping such as {example}, or null")


def _shape(config: Config) -> dict[str, Any]:
    """The model's own config where that is at hand, else nothing. Raises Refused for what takes hours to build."""
    _check_mapping("model.shape", config.model.shape, "{model_type: bert}")
    path = assets.cached(config.model)
    shape: Any = {} if path or config.model.package else config.model.shape or {}
    if path is not None and (Path(path) / "config.json").is_file():
        shape = read_json(Path(path) / "config.json", "a model's config")
        if not isinstance(shape, dict):
            raise Refused(f"{path}/config.json: not a model's config (no keys with values)")
    for key, value in shape.items():
        if key.endswith(("layer", "layers")) and type(value) is int and not 0 <= value <= _MOST_LAYERS:
            raise Refused.value(f"model.shape.{key}", value, f"an integer from 0 to {_MOST_LAYERS}")
        if key in ("hidden_size", "intermediate_size", "vocab_size") and type(value) is int and value < 1:
            raise Refused.value(f"model.shape.{key}", value, "an integer of at least 1")
    return shape


def _first(shape: dict[str, Any], *keys: str) -> int | None:
    """The first of these keys that a model's own config has."""
    for key in (key for key in keys if key in shape):
        if type(shape[key]) is not int or shape[key] < 1:
            raise Refused.value(f"model.shape.{key}", shape[key], "an integer of at least 1")
        return int(shape[key])
    return None
