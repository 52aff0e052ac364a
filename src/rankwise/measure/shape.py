"""The shape of a batch, which decides what a step holds and computes."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """Examples in a batch, and the tokens of its longest.

    ``padded`` says whether any example is shorter: a mask that hides nothing is dropped by transformers, and the scores
    then stay in the low precision of autocast.
    """

    rows: int
    length: int
    padded: bool = True

    @property
    def tokens(self) -> int:
        """With padding."""
        return self.rows * self.length
