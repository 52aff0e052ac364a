"""A tiny model saved as anyone saves one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_configs import tiny

from rankwise.assets import resolve
from rankwise.model import base


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """``saved("bert")``: a folder with weights and tokenizer."""

    def save(shape: str = "bert") -> Path:
        source = tiny(shape).model
        model, tokenizer = base.load(source, resolve(source), 2, 0)
        folder = tmp_path / f"saved-{shape}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save
