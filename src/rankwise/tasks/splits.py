"""The part of a row by the hash of its text: a text is always in the same one, whatever else is in the file."""

import hashlib
import re
from collections.abc import Iterable

import numpy as np

from rankwise.errors import Refused

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)  # numbers in PARTS

_COPY = 0.75  # share of training rows in a part that is a copy, as a validation part may be cut from the original
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


def repeated(content: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows whose content one before them has, and the first that has it."""
    _, first, group = np.unique(content[rows], return_index=True, return_inverse=True)
    again = first[group] != np.arange(len(rows))
    return rows[again], rows[first[group]][again]


def cut(position: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    """The number in ``PARTS`` of each place: the lowest are the test rows, the next the validation rows."""
    rest = np.where(position < test_share + validation_share, VALIDATION, TRAIN)
    return np.where(position < test_share, TEST, rest).astype(np.int8)


def shared_rows(
    content: np.ndarray, verbatim: np.ndarray, chosen: list[np.ndarray], notes: list[str]
) -> dict[str, dict[str, int]]:
    """How many of the chosen rows of validation and test are training rows. Raises Refused where most of them are."""
    counts = {}
    for name, rows in zip(PARTS[1:], chosen[1:], strict=True):
        near = int(np.isin(content[rows], content[chosen[TRAIN]]).sum())
        same = int(np.isin(verbatim[rows], verbatim[chosen[TRAIN]]).sum())
        if len(rows) and same > _COPY * len(rows):
            raise Refused(
                f"task data: {same} of {len(rows)} {name} rows are training rows; name another file for that part,"
                " or none, so that it is cut from train"
            )
        if near:
            counts[name] = {"verbatim": same, "near": near}
            notes.append(
                f"{near} of {len(rows)} {name} rows say the same as a training row, {same} of them verbatim; "
                "task.deduplicate=true leaves them out"
            )
    return counts
