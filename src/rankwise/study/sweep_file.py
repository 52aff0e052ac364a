"""A W&B sweep file, read as ``wandb sweep`` and ``wandb agent`` would, for running it here."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rankwise.errors import Refused, did_you_mean

_ENGINE = ("method", "metric", "parameters", "early_terminate")  # what W&B's engine knows
_REST = ("name", "description", "program", "command", "project", "entity", "run_cap")
_ARGUMENTS = "${args_no_hyphens}"  # W&B puts KEY=VALUE of the run's parameters here


@dataclass(frozen=True)
class SweepFile:
    """What to search, and the command line that every run of it shares."""

    path: Path
    engine: dict[str, Any]  # method, metric, parameters, early_terminate
    overrides: list[str]  # of the command, before the parameters
    cap: int | None  # most runs

    @property
    def method(self) -> str:
        """grid, random or bayes."""
        return str(self.engine["method"])

    @property
    def size(self) -> int | None:
        """Points of a grid; None where there is no end."""
        if self.method != "grid":
            return None
        values = self.engine["parameters"].values()
        return math.prod(len(each["values"]) if "values" in each else _whole(each) for each in values)

    @property
    def chooses(self) -> bool:
        """Whether scores decide what runs, or for how long: such runs are no fair comparison."""
        return self.method == "bayes" or "early_terminate" in self.engine


def read(path: Path, keys: Sequence[str]) -> SweepFile:
    """Read and check a sweep file whose parameters are config ``keys``. Raises Refused, with the place."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict) or not isinstance(values.get("parameters"), dict):
        raise Refused(f"{path}: not a sweep file; it needs method and parameters")
    for name in values:
        if name not in (*_ENGINE, *_REST):
            raise Refused(f"{path}: {name}: no such key{did_you_mean(str(name), (*_ENGINE, *_REST))}")
    for problem in _parameters(values["parameters"], keys):
        raise Refused(f"{path}: {problem}")
    engine = {name: values[name] for name in _ENGINE if name in values}
    for problem in _schema(engine):
        raise Refused(f"{path}: {problem}")
    cap = values.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise Refused(f"{path}: run_cap: {cap}; an integer of at least 1")
    file = SweepFile(path, engine, _overrides(path, values.get("command")), cap)
    _check_choice(file)
    return file


def _parameters(parameters: dict[str, Any], keys: Sequence[str]) -> Iterator[str]:
    for name, given in parameters.items():
        if not isinstance(given, dict):
            yield f"parameters.{name}: give value, values, or min and max"
        elif "parameters" in given:  # W&B's engine drops them, or repeats the first point for ever
            yield f"parameters.{name}: nested parameters; write {name}.{next(iter(given['parameters']), 'KEY')}: {{…}}"
        elif name not in keys:
            yield f"parameters.{name}: no such config key{did_you_mean(name, keys)}"
        else:
            for word, value in given.items():
                if word in ("min", "max", "mu", "sigma", "q") and isinstance(value, str):
                    yield f"parameters.{name}.{word}: {value} is text to YAML; write 0.00001 or 1.0e-5"
            for value in [*(given.get("values") or []), given.get("value", "")]:
                if isinstance(value, dict) or value is None:
                    yield f"parameters.{name}: {value} cannot pass through W&B's agent; name a config group's option"
                if isinstance(value, str) and re.fullmatch(r"[0-9.]+[eE][-+]?[0-9]+", value):
                    yield f"parameters.{name}: {value} is text to YAML; write 0.00001 or 1.0e-5"


def _whole(given: dict[str, Any]) -> int:
    """Integers from min to max; one for a single value."""
    return int(given["max"]) - int(given["min"]) + 1 if "min" in given else 1


def _schema(engine: dict[str, Any]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's, of names that have changed
        from sweeps import schema_violations_from_proposed_config

    try:
        found: list[str] = schema_violations_from_proposed_config(engine)
    except (TypeError, KeyError, ValueError) as error:
        found = [str(error)]
    return found


def _overrides(path: Path, command: object) -> list[str]:
    """What stands between ``rankwise train`` and the arguments."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    example = f'command: ["${{env}}", "rankwise", "train", "study=NAME", "{_ARGUMENTS}"]'
    if "rankwise" not in words or "train" not in words or words[-1:] != [_ARGUMENTS]:
        raise Refused(f"{path}: command: it must run rankwise train and end in the arguments; {example}")
    middle = words[words.index("train") + 1 : -1]
    if odd := [word for word in middle if "=" not in word or word.startswith("-")]:
        raise Refused(f"{path}: command: {odd[0]}: only KEY=VALUE may stand before {_ARGUMENTS}")
    return middle


def _check_choice(file: SweepFile) -> None:
    if file.chooses:
        if "purpose=search" not in file.overrides:
            why = "early termination" if "early_terminate" in file.engine else "a bayes search"
            raise Refused(f"{file.path}: command: {why} lets scores choose the runs; add purpose=search")
        if (file.engine.get("metric") or {}).get("name") != "objective":
            raise Refused(f"{file.path}: metric.name: objective, the one number that every run reports flat")
