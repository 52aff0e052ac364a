"""A tiny model saved as anyone saves one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def saved(saved_base: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """``saved("bert")``: a folder with weights and tokenizer, to break."""
    return lambda shape: Path(shutil.copytree(saved_base(shape), tmp_path / f"saved-{shape}"))
