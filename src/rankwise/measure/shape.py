"""The shape of a batch, which decides what a step holds and computes."""

from typing import NamedTuple


class Shape(NamedTuple):
    """Examples in a batch, and the tokens of its longest.

    ``padded`` says whether any example is shorter: a mask that hides nothing is dropped by transformers, and the scores
    then stay in the low precision of autocast. ``labelled`` tokens of a causal LM are learned, and have logits; None is
    all of them. ``packed`` says that its rows hold several examples that do not see each other.
    """

    rows: int
    length: int
    padded: bool = True
    labelled: int | None = None
    packed: bool = False

    @property
    def tokens(self) -> int:
        """With padding."""
        return self.rows * self.length

    @property
    def logits(self) -> int:
        """Tokens of a causal LM that have logits."""
        return self.tokens if self.labelled is None else self.labelled

    @property
    def size(self) -> tuple[int, int]:
        """Orders the batches of a run by what they hold: the logits of a causal LM, then the tokens."""
        return self.labelled or 0, self.tokens
