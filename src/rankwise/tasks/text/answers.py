"""Whether an answer is right: the same text, the same number, or JSON with the keys that were asked for.

Each function gives an array (N,) of 1 (right) and 0.
"""

import json
import re
import reprlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from rankwise.errors import Refused
from rankwise.tasks.text.overlap import References

# 1,234.5 or 12 or .5 or 1.5e3; a sign unless it stands behind a word or number (10-5), before or after a currency
_NUMBER = re.compile(
    "((?<![\\w.])[-\u2212])?(?:[$\u00a3\u20ac]([-\u2212])?)?"
    r"((?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\w))?)"
)
_ANSWER = "####"


def exact_match(hypotheses: Sequence[str], references: References) -> np.ndarray:
    """1 where the text is one of the references, but for runs of white space and the ends."""
    pairs = zip(hypotheses, references, strict=True)
    return np.array([text.split() in [other.split() for other in others] for text, others in pairs], dtype=float)


def number_match(hypotheses: Sequence[str], references: References) -> np.ndarray:
    """1 where the final number equals that of a reference: 1,000.50 is $1000.5, as in GSM8K (Cobbe et al. 2021)."""
    pairs = zip(hypotheses, numbers_of(references), strict=True)
    return np.array([final_number(text) in numbers for text, numbers in pairs], dtype=float)


def numbers_of(references: References) -> list[set[Decimal | None]]:
    """The final numbers of each item's references. Raises Refused for an item that has none."""
    wanted = [{final_number(other) for other in others} - {None} for others in references]
    for number, (numbers, others) in enumerate(zip(wanted, references, strict=True), 1):
        if not numbers:
            told = f"prompt {number} has no number in its reference {reprlib.repr(others[0])}"
            raise Refused(f"metric number_match: {told}; choose another")
    return wanted


def final_number(text: str) -> Decimal | None:
    """The first number after the last ``####``, else the last of the text; None where there is none."""
    _, marked, tail = text.rpartition(_ANSWER)
    if marked and (first := _NUMBER.search(tail)):
        return _decimal(first)
    numbers = list(_NUMBER.finditer(text))
    return _decimal(numbers[-1]) if numbers else None


def _decimal(match: re.Match[str]) -> Decimal:
    return Decimal(("-" if match[1] or match[2] else "") + match[3].replace(",", ""))


def json_keys(hypotheses: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """1 where the text is one JSON object (RFC 8259) that has at least ``keys``.

    Failures: text or a code fence around it, a key given twice at any depth, NaN and Infinity.
    """
    return np.array([_has_keys(text, set(keys)) for text in hypotheses], dtype=float)


def _has_keys(text: str, keys: set[str]) -> bool:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and keys <= value.keys()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(mapping := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return mapping


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
