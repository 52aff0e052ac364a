"""When two configs are the same run: the canonical form, its hash, and the names that come of it."""

import copy
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rankwise import methods
from rankwise.alpha import parse_alpha
from rankwise.config import TABS, Config, Quant, Task, flat, plain

Source = tuple[str, str | None]  # the name and the path of a model or a task

# What cannot change a result, so that it is in no hash: where things go, how they are shown, how fast they run.
_IMMATERIAL = (
    *("study", "name", "outputs", "rerun", "tracking", "logger", "model.name", "task.name", "task.margin"),
    *("quant.name", "trainer.threads", "trainer.device", "trainer.strategy", "trainer.save_full"),
    *("trainer.eval_batch_size",),
)
OFF = {  # values that mean the same as null, so that a canonical form is without the key
    f"{group}.{own.name}": own.metadata["off"]
    for group, kind in (("method", methods.Method), ("task", Task), ("quant", Quant))
    for own in fields(kind)
    if own.metadata.get("off") is not None
}
# How a task's files are read.
_OF_FILES = ("revision", "subset", "files", "splits", "format", "encoding", "delimiter", "decimal", "columns", "split")
_THEIRS = ("peft", "shape")  # configs of PEFT and transformers, in which a null is a value
_EVALUATED = ("precision", "attention", "matmul_precision")  # what a model that is only read is read with


def canonical(values: dict[str, Any]) -> dict[str, Any]:
    """What decides the result, of a run's plain values: two configs that must give the same run are equal here.

    Keys that cannot matter are left out (rank under full fine-tuning, a package that a path overrides), as are nulls,
    so that a new optional key does not change the hash of old runs. The names of LoRA's variants are not told apart:
    their keys are.
    """
    method = methods.of(values["method"]["name"])
    drop = [*_IMMATERIAL, "method.lr", *idle(values), *["model"] * (method.name == "tfidf")]
    if values.get("trainer", {}).get("devices", 1) == 1:  # several draw dropout otherwise
        drop.append("trainer.devices")
    drop.append("trainer.epochs" if values.get("trainer", {}).get("max_steps") else "trainer.max_steps")
    drop += [*_overridden("model", values.get("model", {}), "shape"), *_overridden("task", values["task"], "synthetic")]
    form = copy.deepcopy(values)
    form["method"] = methods.own(form["method"]) | {"name": "lora" if method.is_lora else method.name}
    for key in drop:
        remove(form, key)
    form.setdefault("data_seed", 0)
    for key, off in OFF.items():
        group, name = key.split(".")
        if form.get(group, {}).get(name) == off:
            del form[group][name]
    for key in ("ranks", "alphas"):
        if not (patterns := form.get("targets", {}).get(key)):
            remove(form, f"targets.{key}")
            continue
        marks = ["" if str(name).isidentifier() else str(name) for name in patterns]  # two names fit no layer both
        if marks != sorted(marks):  # the first that fits decides
            form["targets"][key] = [[name, value] for name, value in patterns.items()]
    if form["task"].get("delimiter") in TABS:
        form["task"]["delimiter"] = TABS[0]
    labels = form["task"].get("labels")
    if isinstance(labels, dict) and (list(labels) != sorted(labels) or any("*" in label for label in labels)):
        # The first pattern that fits decides, null too; and F1 of two classes is that of the last.
        form["task"]["labels"] = [[label, name] for label, name in labels.items()]
    if form["method"].get("alpha") is not None:
        form["method"]["alpha"] = _spelled(form["method"]["alpha"])
    for group, key in (("model", "path"), ("task", "path"), ("forgetting", "path"), ("method", "init_from")):
        if path := (form.get(group) or {}).get(key):  # one spelling of a local one; a hub id has no other
            form[group][key] = os.path.normpath(path)
    if not form.get("callbacks"):
        form.pop("callbacks", None)
    return _without_nulls(form)


def idle(values: dict[str, Any]) -> list[str]:
    """Keys of which a run makes no use, whatever they say, because of its method, optimizer or rows, or as what they
    are part of is switched off.
    """
    method, task = methods.of(values["method"]["name"]), values["task"]
    keys = [f"method.{name}" for name in values["method"] if name not in method.keys | {"name", "lr"}]
    keys += [] if method.on_targets else ["targets"]
    keys += ["data_seed"] if task.get("n_train") is None else []
    optimizer = values.get("optim", {}).get("name")
    keys += ["optim.momentum"] * (optimizer != "sgd") + ["optim.betas"] * (optimizer in ("sgd", "adafactor"))
    generated = task.get("synthetic") and not (task.get("path") or task.get("package"))
    if generated:
        keys += [f"task.{name}" for name in _OF_FILES]
    generation = task.get("generation") or {}
    if not generation.get("metrics"):
        of_rows = bool(generated and generation.get("keys"))  # whose answers have these keys
        keys += [f"task.generation.{name}" for name in generation if name != "keys"] if of_rows else ["task.generation"]
    if method.is_baseline:
        used = [*_IMMATERIAL, *(f"trainer.{key}" for key in _EVALUATED if method.name == "few_shot")]
        keys += [key for name in values.get("trainer", {}) if (key := f"trainer.{name}") not in used]
        keys += ["method.lr", "optim", "quant.kind", "quant.double", "forgetting", "callbacks"]
    elif (values.get("forgetting") or {}).get("name", "none") == "none":
        keys.append("forgetting")
    return keys


def of_hub(config: Config) -> list[str]:
    """Keys of a hub id where none is given; not ``idle``, which must not ask this disk. Local GLUE has subsets."""
    given = {group: getattr(config, group).path for group in ("model", "task", "forgetting")}
    here = [group for group, path in given.items() if path is None or os.path.exists(os.path.expanduser(path))]
    subset = ["task.subset"] * ("task" in here and config.task.format != "glue")
    return [f"{group}.revision" for group in here] + subset


def run_id(config: Config) -> str:
    """The first 10 hex digits of the SHA-256 of the canonical form: the run's identity."""
    text = json.dumps(canonical(plain(config)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def label(config: Config) -> str:
    """A short readable name: method, what sizes it (``r8``, ``b32``, ``d1000``), targets, learning rate, seed."""
    method = config.method
    declared, keys = methods.of(method), methods.size_keys().items()
    sizes = (f"{letter}{n}" for key, (letter, _) in keys if (n := getattr(method, key)) is not None)
    parts = [methods.with_class(method), *sizes]
    if method.name == "lora" and method.init:
        parts.append(method.init)
    if declared.on_targets:
        parts.append(str(config.targets.name))
    if config.quant.kind:
        parts.append(config.quant.name)
    if not declared.is_baseline:
        parts.append(f"lr{config.optim.lr:g}")
    return "-".join([*parts, f"s{config.seed}"])


def labels(configs: Sequence[Config]) -> list[str]:
    """The name that each was given, or its label, after the model and the task where these differ; behind what is then
    still alike, the other keys that differ (``batch_size=8``).
    """
    named = [[config.name or label(config)] for config in configs]
    for key in ("task", "model"):
        sources = [(getattr(config, key).name, getattr(config, key).path) for config in configs]
        names = called(sources)
        for parts, source in zip(named, sources if len(names) > 1 else (), strict=False):
            parts.insert(0, names[source])
    alike: dict[str, list[int]] = {}
    for i, parts in enumerate(named):
        alike.setdefault("-".join(parts), []).append(i)
    for same in alike.values():
        forms = [flat(canonical(plain(configs[i]))) for i in same if len(same) > 1]
        for key in dict.fromkeys(key for form in forms for key in form):
            values = [str(form.get(key)) for form in forms]
            for i, value in zip(same, values if len(set(values)) > 1 else (), strict=False):
                named[i].append(f"{key.split('.')[-1]}={value}")
    return list(map("-".join, named))


def called(sources: Iterable[Source]) -> dict[Source, str]:
    """What each model or task is called among these: its name. One that is named by its path, or as another is, is
    called by the end of its path as well, as much of it as tells them apart.
    """
    different = set(sources)
    names = Counter(name for name, _ in different)
    paths = {one: Path(one[1]).parts for one in different if one[1] and (one[0] == one[1] or names[one[0]] > 1)}
    most = max(map(len, paths.values()), default=0)
    tails = [{one: "/".join(parts[-n:]) for one, parts in paths.items()} for n in range(1, most + 1)]
    ends = next((tail for tail in tails if len({*tail.values()}) == len(tail)), tails[-1] if tails else {})
    return {one: " ".join(filter(None, [one[0] * (one[0] != one[1]), ends.get(one)])) for one in different}


def folder(config: Config) -> Path:
    """Where the run lives: ``outputs/<study>/<label>-<id>``."""
    return Path(os.path.expanduser(config.outputs)) / config.study / f"{config.name or label(config)}-{run_id(config)}"


def _spelled(alpha: Any) -> Any:
    """One spelling of an alpha policy: 16, 16.0 and "16" are the same; what is none stays as it is."""
    try:
        number, kind = parse_alpha(alpha)
    except ValueError:
        return alpha
    short = f"{number:g}"  # of six digits; what needs more of them keeps all
    return f"{short if float(short) == number else repr(number)}{kind}"


def _overridden(group: str, source: dict[str, Any], last: str) -> list[str]:
    """Where an asset comes from: a path wins over a package, that over what is generated."""
    if source.get("path"):
        return [f"{group}.package", f"{group}.{last}"]
    return [f"{group}.{last}"] if source.get("package") else []


def remove(values: dict[str, Any], key: str) -> None:
    """Take a dotted key out of nested values, where it is there."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.get(parent) or {}
    values.pop(last, None)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v if k in _THEIRS else _without_nulls(v) for k, v in value.items() if v is not None}
    return value
