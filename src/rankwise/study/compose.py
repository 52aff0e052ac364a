"""Hydra's part: from a command line to Configs, and from Hydra's errors to one line each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rankwise.check import check
from rankwise.config import Config, plain, typed
from rankwise.errors import Refused, did_you_mean

TOP_KEYS = ("hydra", "experiment", "debug")


def conf_dir() -> str:
    """The Hydra tree: beside the package in a wheel, two levels up in a checkout (never a stale copy by name)."""
    here = Path(__file__).resolve().parents[1]
    return str(next(path for path in (here / "conf", here.parents[1] / "conf") if (path / "config.yaml").is_file()))


def unresolved(cfg: DictConfig) -> dict[str, Any]:
    """The composed values without Hydra's own, interpolations as they are written."""
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    values.pop("hydra", None)
    return values  # type: ignore[return-value]


def to_config(values: dict[str, Any] | DictConfig) -> Config:
    """A checked ``Config`` from composed values; raises Refused for what cannot run.

    Plain values, or ``merged`` ones: Hydra opens its own tree for ``+key=value``, which is refused here.
    """
    try:
        config = typed(values)
    except OmegaConfBaseException as error:
        raise Refused(explain(error)) from None
    check(config)
    return config


def from_snapshot(path: Path, overrides: list[str]) -> Config:
    """The config of an earlier run, from its ``config.yaml``, with ``key=value`` changes on top."""
    try:
        values = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
        assert isinstance(values, DictConfig)
    except FileNotFoundError:
        raise Refused(f"--config {path}: no such file; give a run's config.yaml") from None
    except Exception as error:  # a YAML parser has many ways to fail on a foreign file
        raise Refused(f"--config {path}: not a config snapshot ({str(error).splitlines()[0]})") from None
    return to_config(unresolved(values))


class _Single:
    """The single run that ``call_hydra`` is about to start, and how it ended."""

    start: Callable[[Config], int] | None = None
    argv: ClassVar[list[str]] = []
    ended: int | BaseException = 0


def call_hydra(arguments: list[str], single: Callable[[Config], int]) -> int:
    """Let Hydra compose and dispatch ``arguments``; a single run goes to ``single``. Returns the exit code.

    Raises Refused for whatever the user can mend.
    """
    from rankwise.study import sweep

    ConfigStore.instance().store(name="schema", node=Config, provider="rankwise")
    sweep.exit_code = 0
    _Single.start, _Single.argv, _Single.ended = single, sys.argv, 0
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    program = "rankwise" if "-sc" in arguments else "rankwise train"  # the words that completion is registered for
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [program, *arguments], "1"
    try:
        hydra.main(config_path=conf_dir(), config_name="config", version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(explain(error)) from None
    finally:
        sys.argv = _Single.argv
        os.environ.pop("HYDRA_FULL_ERROR") if full_error is None else os.environ.update(HYDRA_FULL_ERROR=full_error)
    if isinstance(_Single.ended, BaseException):
        raise _Single.ended
    return _Single.ended or sweep.exit_code


def task(cfg: DictConfig) -> Any:
    """What Hydra calls for one run: a job of a foreign launcher (pickled by name), or the single run."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from rankwise.run import run

        return run(to_config(unresolved(cfg))).to_dict()
    sys.argv = _Single.argv  # what relaunches a process (Lightning's DDP) must see the user's own command line
    assert _Single.start is not None
    try:
        _Single.ended = _Single.start(to_config(unresolved(cfg)))
    except BaseException as error:  # raised by call_hydra, past Hydra, which would print its own lines about it
        _Single.ended = error
    return None


def explain(error: BaseException) -> str:
    """One line for an error of Hydra or OmegaConf: what was given and what would be allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        near = did_you_mean(choice, error.options)
        return f"{group}={choice}: no such option; one of {', '.join(error.options)}{near}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; quote values with spaces or special characters"
    for cause in _causes(error):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            reason = str(cause.msg or cause).splitlines()[0]
            if cause.full_key in known_keys():
                return f"{cause.full_key}: {reason}"
            near = did_you_mean(cause.full_key, known_keys())
            return f"{cause.full_key}: no such key{near}; 'rankwise train --cfg job' prints all"
    text = str(error).strip().splitlines()[0]
    if text.startswith("Ambiguous value"):
        return "several values for one key make a sweep: add -m (or quote the value)"
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


def snapshot(config: Config) -> str:
    """The config as YAML, as it is written beside the record."""
    return OmegaConf.to_yaml(plain(config))
