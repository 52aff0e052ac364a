"""From a Hydra study to a W&B sweep file that runs the same."""

from __future__ import annotations

from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rankwise import metrics
from rankwise.errors import Refused
from rankwise.paths import conf_dir
from rankwise.study.compose import explain, register_schema


def to_sweep_file(overrides: list[str]) -> str:
    """The YAML of a grid sweep over the axes of a command line: its experiment's, and those given with commas.

    Raises Refused where there is no axis, and for what a grid cannot say (pairs, exclusions, tuning).
    """
    register_schema()
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("config", fixed, return_hydra_config=True)
        sweeper: Any = OmegaConf.to_container(composed.hydra.sweeper, resolve=False)
        axes = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in (sweeper.get("params") or {}).items()])
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(explain(error)) from None
    for name in ("pairs", "exclude", "tune"):
        if sweeper.get(name):
            raise Refused(f"hydra.sweeper.{name}: a W&B grid cannot say this; leave it out, or run it with train -m")
    given = {o.key_or_group for o in parsed if o.is_sweep_override()}
    every = [axis for axis in axes if axis.key_or_group not in given] + [o for o in parsed if o.is_sweep_override()]
    if not every:
        raise Refused("no axis: give values with commas, such as method.rank=1,8,64, or an experiment that has some")
    run_once = ["hydra.mode=RUN"] if any(word.startswith("experiment=") for word in fixed) else []
    sweep = {
        "name": str(composed.study),
        "program": "rankwise",
        "method": "grid",
        "metric": {
            "name": "objective",
            "goal": "minimize" if metrics.named(composed.objective).lower_is_better else "maximize",
        },
        "command": ["${env}", "rankwise", "train", *fixed, *run_once, "${args_no_hyphens}"],
        "parameters": {axis.key_or_group: {"values": _values(axis)} for axis in every},
    }
    return yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, width=120)


def _values(axis: Override) -> list[Any]:
    """Those of an axis; an experiment's may have one only. Raises Refused for what has no end, such as an interval."""
    if not axis.is_sweep_override():
        return [_value(axis.get_value_string())]
    try:
        return [_value(text) for text in axis.sweep_string_iterator()]
    except HydraException:
        given = f"{axis.key_or_group}={axis.get_value_string()}"
        raise Refused(f"{given}: a W&B grid cannot say this; give values with commas") from None


def _value(text: str) -> Any:
    """A value as YAML reads it, numbers as numbers: 1e-3 is text to YAML, and to W&B's engine then."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
