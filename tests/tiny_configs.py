"""Configs of tiny random models, put together from the shipped ``conf/`` files as ``debug=fast`` does."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from rankwise.config import Config, merged, typed
from rankwise.study.app import call_hydra

CONF = Path(__file__).parents[1] / "conf"
Tiny = Callable[..., Config]  # the fixture ``tiny``
SHAPES = ("bert", "roberta", "gpt2", "llama")


def tiny(
    shape: str = "bert", method: str = "lora", targets: str = "attention", task: str = "synthetic", **keys: Any
) -> Config:
    """A config of six steps in fp32, untracked; ``method__rank=4`` sets ``method.rank``."""
    fast = _read("debug", "fast")
    groups = {
        "model": f"tiny_{shape}",
        "task": task,
        "method": method,
        "targets": targets,
        "quant": "none",
        "optim": "adamw",
        "tracking": "none",
    }
    values = {group: _read(group, choice) for group, choice in groups.items()}
    node = merged(values | {"study": fast["study"], "trainer": fast["trainer"] | {"precision": "fp32"}})
    for key, value in keys.items():
        OmegaConf.update(node, key.replace("__", "."), value, merge=not isinstance(value, dict))
    return typed(node)


def study_of(*arguments: str) -> list[Config]:
    """The runs of a command line of ``rankwise train``, composed and not run."""
    runs: list[Config] = []

    def keep(configs: list[Config]) -> int:
        runs.extend(configs)
        return 0

    call_hydra(list(arguments), lambda config: keep([config]), keep)
    return runs


@functools.cache
def _read(group: str, choice: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / group / f"{choice}.yaml").read_text()))
