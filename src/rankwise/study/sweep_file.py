"""A W&B sweep file: read and drawn from as ``wandb agent`` would, and written from a study's axes.

Grids and random searches run here without a server. Searches that learn from scores do not: Optuna and
``wandb agent`` do those.
"""

import contextlib
import itertools
import json
import math
import random
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rankwise import metrics
from rankwise.config import Config, known_keys, plain
from rankwise.errors import Refused, did_you_mean
from rankwise.files import read_yaml
from rankwise.identity import idle
from rankwise.study import debug, micro_batch
from rankwise.study.axes import Row
from rankwise.study.compose import explained, hydra_tree, load, override
from rankwise.synonyms import ALIASES, GROUPS, near_key
from rankwise.tracking.wandb_run import PROJECT

_KEYS = (
    *("method", "metric", "parameters", "early_terminate", "name", "description", "program", "command", "project"),
    *("entity", "run_cap"),
)
POINT = "point"  # a parameter of several KEY=VALUE per value, for arms that a product would repeat
_ARGUMENTS = "${args_no_hyphens}"  # W&B puts KEY=VALUE of the run's parameters here
_ELSEWHERE = "rankwise train hydra/sweeper=optuna does, or wandb sweep and wandb agent with this file"

Point = dict[str, Any]
_DRAWS: dict[str, Callable[[random.Random, Any, Any], float]] = {  # one draw between min and max
    "uniform": lambda draw, low, high: draw.uniform(low, high),
    "int_uniform": lambda draw, low, high: draw.randint(low, high),
    "log_uniform": lambda draw, low, high: math.exp(draw.uniform(low, high)),
    "log_uniform_values": lambda draw, low, high: math.exp(draw.uniform(math.log(low), math.log(high))),
}
_DISTRIBUTIONS = ("constant", "categorical", *_DRAWS)
_MOST = 100_000  # values of an axis of a grid


@dataclass(frozen=True)
class SweepFile:
    """What to search, and the command line that every run of it shares."""

    path: Path
    method: str  # grid | random
    parameters: dict[str, dict[str, Any]]
    overrides: list[str]  # of the command, before the parameters
    cap: int | None  # most runs

    def points(self, count: int | None = None, seed: int = 0) -> list[Point]:
        """The points to run, none twice: a grid's in order, or draws that ``seed`` repeats.

        At most ``count``, which wins over the file's cap. Raises Refused for a random search without an end.
        """
        most = count or self.cap
        if self.method == "grid":
            axes = [_values(parameter) for parameter in self.parameters.values()]
            grid = (dict(zip(self.parameters, values, strict=True)) for values in itertools.product(*axes))
            return list(itertools.islice(grid, most))
        if most is None:
            raise Refused(f"{self.path}: a random search has no end; give run_cap in the file, or --count N")
        draw, points = random.Random(seed), dict[str, Point]()
        for _ in range(100 * most):  # a small space may have fewer points
            try:
                point = {key: _drawn(parameter, draw) for key, parameter in self.parameters.items()}
            except OverflowError:
                raise Refused(f"{self.path}: draws numbers that are too large; narrow min and max") from None
            points.setdefault(json.dumps(point, default=str), point)
            if len(points) == most:
                break
        return list(points.values())


def read(path: Path) -> SweepFile:
    """Read and check a sweep file whose parameters are config keys or groups. Raises Refused, with the place."""
    values = read_yaml(path, "a sweep file")
    if not isinstance(values.get("parameters"), dict) or not values["parameters"]:
        raise Refused(f"{path}: not a sweep file; it needs method and parameters")
    for problem in _problems(values):
        raise Refused(f"{path}: {problem}")
    overrides = _overrides(path, values.get("command"))
    places = {f"tracking.{key}": values.get(key) for key in ("project", "entity")}  # where an agent's runs would go
    given = {word.partition("=")[0] for word in overrides}
    overrides = [*(f"{key}={value}" for key, value in places.items() if value and key not in given), *overrides]
    return SweepFile(path, values["method"], values["parameters"], overrides, values.get("run_cap"))


def _problems(values: dict[Any, Any]) -> Iterator[str]:
    for name in values:
        if name not in _KEYS:
            yield f"{name}: no such key{did_you_mean(str(name), _KEYS)}"
    method, cap = values.get("method"), values.get("run_cap")
    if method == "bayes" or "early_terminate" in values:
        what = "method: bayes" if method == "bayes" else "early_terminate"
        yield f"{what}: runs that scores choose or end are not run here; {_ELSEWHERE}"
    elif method not in ("grid", "random"):
        yield f"method: {method}: one of grid, random{did_you_mean(str(method), ('grid', 'random'))}"
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        yield f"run_cap: {cap}; an integer of at least 1"
    metric = values.get("metric", {"name": "objective"})
    named = isinstance(metric, dict) and re.fullmatch(r"objective|val/\w+", str(metric.get("name")))
    if not named or metric.get("goal", "minimize") not in ("minimize", "maximize"):
        yield f"metric: {metric}: {{name: objective or val/NAME, goal: maximize or minimize}}; no test score selects"
    for name, parameter in values["parameters"].items():
        yield from (f"parameters.{name}{problem}" for problem in _parameter(str(name), parameter, method))


def _parameter(name: str, values: Any, method: object) -> Iterator[str]:
    if not isinstance(values, dict):
        yield ": give value, values, or min and max"
    elif "parameters" in values:  # W&B joins nested names by dots for its own config, not for a command line
        yield f": nested parameters; write {name}.KEY: {{…}}"
    elif name not in (*known_keys(), *GROUPS, *ALIASES, POINT):
        yield f": no such config key{near_key(name, known_keys())}"
    elif "value" in values or "values" in values:
        yield from _choices(values)
        if name == POINT:
            yield from _points(_values(values))
    else:
        yield from _range(values, method)


def _points(values: list[Any]) -> Iterator[str]:
    for value in values:
        with contextlib.suppress(ValueError, AttributeError):  # an open quote, no text
            if all("=" in word for word in shlex.split(value)):
                continue
        yield f": {value}: KEY=VALUE, several in one text"


def _choices(parameter: dict[str, Any]) -> Iterator[str]:
    values = parameter.get("values", [parameter.get("value")])
    if not isinstance(values, list) or not values:
        yield f".values: {values}: a list of values"
        return
    for value in values:
        if isinstance(value, dict) or value is None:
            yield f": {value} cannot pass through W&B's agent; name a config group's option"
        elif _is_text_of_number(value):
            yield f": {value} is text to YAML; write 0.00001 or 1.0e-5"
    shares = parameter.get("probabilities", [1] * len(values))
    numbers = isinstance(shares, list) and len(shares) == len(values) and all(map(_is_number, shares))
    if not numbers or min(shares) < 0 or not sum(shares):
        yield ".probabilities: a number for each of the values, 0 or more, and not all 0"


def _range(parameter: dict[str, Any], method: object) -> Iterator[str]:
    name = _distribution(parameter)
    if name not in _DISTRIBUTIONS[2:]:
        known = f"one of {', '.join(_DISTRIBUTIONS)}{did_you_mean(name, _DISTRIBUTIONS)}"
        yield f".distribution: {name}: {known}; wandb sweep and wandb agent with this file draw from others too"
        return
    for word in ("min", "max"):
        value = parameter.get(word)
        if _is_text_of_number(value):
            yield f".{word}: {value} is text to YAML; write 0.00001 or 1.0e-5"
        elif not _is_number(value) or (name == "int_uniform" and not isinstance(value, int)):
            yield f".{word}: {value}: {'an integer' if name == 'int_uniform' else 'a number'}"
    low, high = parameter.get("min", 0), parameter.get("max", 0)
    logs = name.endswith("values")
    if _is_number(low) and _is_number(high) and (low > high or (logs and low <= 0)):
        yield f": min {low} and max {high}: min at most max{', above 0' if logs else ''}"
    if method == "grid" and name == "int_uniform" and _is_number(low) and _is_number(high) and high - low > _MOST:
        yield f": min {low} and max {high}: a grid of at most {_MOST:,} values"
    if method == "grid" and name != "int_uniform":
        yield ": a grid needs value, values, or whole min and max"


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


def _distribution(parameter: dict[str, Any]) -> str:
    """As named, or as W&B takes it from the bounds: whole numbers are drawn as such."""
    whole = isinstance(parameter.get("min"), int) and isinstance(parameter.get("max"), int)
    return str(parameter.get("distribution", "int_uniform" if whole else "uniform"))


def _values(parameter: dict[str, Any]) -> list[Any]:
    """Of a grid's axis."""
    if "value" in parameter or "values" in parameter:
        return list(parameter.get("values", [parameter.get("value")]))
    return list(range(parameter["min"], parameter["max"] + 1))


def _drawn(parameter: dict[str, Any], draw: random.Random) -> Any:
    if "value" in parameter or "values" in parameter:
        return draw.choices(_values(parameter), parameter.get("probabilities"))[0]
    return _DRAWS[_distribution(parameter)](draw, parameter["min"], parameter["max"])


def _is_number(value: Any) -> bool:
    with contextlib.suppress(OverflowError):  # of an integer beyond every float
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return False


def _is_text_of_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9.]+[eE][-+]?[0-9]+", value) is not None


def convert(overrides: list[str]) -> str:
    """The YAML of a grid over the axes of a command line: its experiment's, and those given with commas.

    Raises Refused where there is no axis, and for what a grid cannot say (pairs, exclusions, tuning).
    """
    from rankwise.study.multirun import check_keys  # which imports the launcher

    micro_batch.refuse(overrides)
    overrides = debug.settled(overrides)
    with explained(overrides):
        parsed = OverridesParser.create().parse_overrides(overrides)
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        with hydra_tree():
            composed = load(fixed)
        sweeper = SimpleNamespace(**composed.hydra.sweeper)
        check_keys(None, sweeper)
        axes = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in (sweeper.params or {}).items()])
    for name in ("pairs", "exclude", "tune", "n_trials"):
        if getattr(sweeper, name, None):
            raise Refused(f"hydra.sweeper.{name}: a W&B grid cannot say this; leave it out, or run it with train -m")
    typed = [o for o in parsed if o.is_sweep_override()]
    axes = [axis for axis in axes if axis.key_or_group not in {o.key_or_group for o in typed}] + typed
    if not axes:
        raise Refused("no axis: give values with commas, such as method.rank=1,8,64, or an experiment that has some")
    if launcher := next((word for word in fixed if re.match("hydra.launcher", word)), None):
        raise Refused(f"{launcher}: the agents of a W&B sweep start its runs; leave it out")
    run_once = ["hydra.mode=RUN"] if any(word.startswith("experiment=") for word in fixed) else []
    kept = [word for word in fixed if not re.match("hydra.sweeper", word)]
    goal = "minimize" if metrics.named(composed.objective).lower_is_better else "maximize"
    sweep = {
        "name": str(composed.study),
        "project": composed.tracking.project or PROJECT,
        **({"entity": composed.tracking.entity} if composed.tracking.entity else {}),
        "program": "rankwise",
        "method": "grid",
        "metric": {"name": "objective", "goal": goal},
        "command": ["${env}", "rankwise", "train", *kept, *run_once, _ARGUMENTS],
        "parameters": _parameters(
            fixed + run_once,
            {axis.key_or_group: _axis(axis) for axis in axes},
            lambda rows: debug.fitted(rows, overrides, composed.hydra.runtime.choices),
        ),
    }
    return yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, width=120)


def words(key: str, value: Any) -> list[str]:
    """A parameter's value as overrides."""
    return shlex.split(value) if key == POINT else [override(key, value)]


def _parameters(fixed: list[str], axes: dict[str, list[Any]], fitted: Callable[[list[Row]], list[Row]]) -> Point:
    """The axes; where their product has a run twice (a rank under full fine-tuning), or a value cannot pass through
    W&B's agent, which quotes no text, the distinct points in one.
    """
    from rankwise.study.multirun import compose_study  # which imports the launcher

    rows = [
        [override(*pair) for pair in zip(axes, values, strict=True)] for values in itertools.product(*axes.values())
    ]
    with hydra_tree():
        left = fitted(rows)
        study = compose_study([[*fixed, *row] for row in left])
    texts = [(key, value) for key, values in axes.items() for value in values if isinstance(value, str)]
    passes = not any(any(_choices({"values": values})) for values in axes.values())
    passes = passes and all(override(key, text) == f"{key}={text}" for key, text in texts)
    if passes and len(study) == len(rows) and left == rows:
        return {key: {"values": values} for key, values in axes.items()}
    points = [shlex.join(word for word in row[len(fixed) :] if _counts(word, config)) for config, row in study]
    return {POINT: {"values": points}}


def _counts(word: str, config: Config) -> bool:
    """Whether an override sets something that the run has: full fine-tuning has no rank."""
    return word.partition("=")[0] not in idle(plain(config))


def _axis(axis: Override) -> list[Any]:
    """Its values, as Hydra reads them; an experiment's may have one only. Raises Refused for what has no end, such as
    an interval.
    """
    try:
        texts = axis.sweep_string_iterator() if axis.is_sweep_override() else [axis.get_value_string()]
        return [OverridesParser.create().parse_override(f"{axis.key_or_group}={text}").value() for text in texts]
    except HydraException:
        written = f"{axis.key_or_group}={axis.get_value_string()}"
        raise Refused(f"{written}: a W&B grid cannot say this; give values with commas") from None
