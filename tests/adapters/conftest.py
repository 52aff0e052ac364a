"""What is done to the runs of ``trained``."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_configs import tiny as tiny_config

from rankwise.adapters.runs import Run
from rankwise.assets import resolve
from rankwise.model import base


@pytest.fixture(scope="session")
def other_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``other_head("bert")``: a saved base whose head was trained for another task, with three labels at a time."""

    @functools.cache
    def save(shape: str) -> str:
        source, folder = tiny_config(shape).model, tmp_path_factory.mktemp(f"head-{shape}")
        model, tokenizer = base.load(source, resolve(source), 3, 0)
        model.config.problem_type = "multi_label_classification"  # type: ignore[union-attr]
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def logits() -> Callable[..., torch.Tensor]:
    """``logits(model, tokenizer)``: of two texts, in fp32."""

    def compute(model: torch.nn.Module, tokenizer: Any) -> torch.Tensor:
        with torch.inference_mode():
            texts = ["sun joy win", "fog ill mud box map cup sun"]
            found: torch.Tensor = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        return found.float()

    return compute


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Run], Path]:
    """A copy of a run's folder, to break."""

    def copy(source: Run) -> Path:
        return Path(shutil.copytree(source.folder, tmp_path / source.name))

    return copy
