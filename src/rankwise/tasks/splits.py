"""The part of a row by the hash of its text: a text is always in the same one, whatever else is in the file."""

import hashlib
import re
from collections.abc import Iterable

import numpy as np

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)  # numbers in PARTS

_NOT_WORD = re.compile(r"[^\w]+")
_BETWEEN = "\x1f"  # of several texts; no normalised text has it


def normalise(text: str) -> str:
    """Lower case, punctuation and white space folded: texts that read the same become the same.

    A text of nothing but punctuation stays as it is: ":)" is not ":(".
    """
    return _NOT_WORD.sub(" ", text.lower()).strip() or text.strip()


def digest(texts: Iterable[str]) -> int:
    """The first 64 bits of the SHA-256 of normalised texts."""
    joined = _BETWEEN.join(map(normalise, texts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(joined).digest()[:8])


def place(digest: int) -> float:
    """A number from 0 up to 1: the first 48 bits of a digest."""
    return (digest >> 16) / 16.0**12


def cut(position: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    """The number in ``PARTS`` of each place: the lowest are the test rows, the next the validation rows."""
    rest = np.where(position < test_share + validation_share, VALIDATION, TRAIN)
    return np.where(position < test_share, TEST, rest).astype(np.int8)
