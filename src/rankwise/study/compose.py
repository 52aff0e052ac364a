"""From what Hydra composed to a Config, and from Hydra's errors to one line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rankwise.check import check
from rankwise.config import Config, typed
from rankwise.errors import Refused, did_you_mean
from rankwise.paths import conf_dir


def unresolved(cfg: DictConfig) -> dict[str, Any]:
    """The composed values without Hydra's own, interpolations as they are written."""
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    values.pop("hydra", None)
    return values  # type: ignore[return-value]


def to_config(values: dict[str, Any] | DictConfig) -> Config:
    """A checked ``Config`` from composed values; raises Refused for what cannot run."""
    config = to_typed(values)
    check(config)
    return config


def to_typed(values: dict[str, Any] | DictConfig) -> Config:
    """A ``Config`` from composed values, not checked yet; raises Refused for unknown keys and wrong types.

    Plain values, or ``merged`` ones: Hydra opens its own tree for ``+key=value``, which is refused here.
    """
    try:
        return typed(values)
    except OmegaConfBaseException as error:
        raise Refused(explain(error)) from None


def composed(overrides: list[str]) -> Config:
    """A checked config from a command line's overrides, without Hydra's main. Raises Refused for what cannot run."""
    register_schema()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            values = unresolved(compose("config", overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(explain(error)) from None
    return to_config(values)


def register_schema() -> None:
    """Tell Hydra what the config tree's ``schema`` is."""
    ConfigStore.instance().store(name="schema", node=Config, provider="rankwise")


def option_groups() -> list[str]:
    """Config groups, whose value on a command line is an option's name."""
    return [path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"]


def from_snapshot(path: Path, overrides: list[str]) -> Config:
    """The config of an earlier run, from its ``config.yaml``, with ``key=value`` changes on top.

    What followed another key there follows it again, so that a changed ``method.lr`` is trained with.
    """
    try:
        earlier: Any = OmegaConf.load(path)
        earlier.rerun = False  # that run was asked to run again, not this one
        if earlier.optim.lr == earlier.method.lr:
            earlier.optim.lr = "${method.lr}"
        if earlier.objective == f"val/{earlier.task.metric}":
            earlier.objective = "val/${task.metric}"
        values = OmegaConf.merge(earlier, OmegaConf.from_dotlist(overrides))
        assert isinstance(values, DictConfig)
    except FileNotFoundError:
        raise Refused(f"--config {path}: no such file; give a run's config.yaml") from None
    except Exception as error:  # a YAML parser has many ways to fail on a foreign file
        raise Refused(f"--config {path}: not a config snapshot ({str(error).splitlines()[0]})") from None
    return to_config(unresolved(values))


def explain(error: BaseException) -> str:
    """One line for an error of Hydra or OmegaConf: what was given and what would be allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        near = did_you_mean(choice, error.options)
        return f"{group}={choice}: no such option; one of {', '.join(error.options)}{near}"
    if isinstance(error, OverrideParseException):
        twice = "'KEY=\"VALUE\"'"
        return f"{error.override}: cannot be read as key=value; quote twice what has spaces or other signs: {twice}"
    for cause in _causes(error):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            reason = str(cause.msg or cause).splitlines()[0]
            if cause.full_key in known_keys():
                return f"{cause.full_key}: {reason}"
            near = did_you_mean(cause.full_key, known_keys())
            return f"{cause.full_key}: no such key{near}; 'rankwise train --cfg job' prints all"
    text = str(error).strip().splitlines()[0]
    if text.startswith("Ambiguous value"):
        given = text.partition("'")[2].rpartition("'")[0]
        return f"{given}: several values for one key make a study; add -m, or quote twice what is one value"
    return text


def known_keys() -> list[str]:
    """Every dotted key of the schema."""

    def walk(values: dict[str, Any], prefix: str) -> Iterator[str]:
        for key, value in values.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return list(walk(OmegaConf.to_container(OmegaConf.structured(Config)), ""))  # type: ignore[arg-type]


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        if (one := queue.pop(0)) is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            queue += [one.__cause__, one.__context__]
