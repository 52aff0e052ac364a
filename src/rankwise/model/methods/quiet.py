"""PEFT without the warnings that say nothing to a user of rankwise."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks transformers by a name that is on its way out, and doubts that a seed gives VeRA's matrices again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", ".*vera_A.*")
        yield
