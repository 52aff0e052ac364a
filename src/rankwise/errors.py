"""The one kind of error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Refused(Exception):
    """An input that rankwise will not run: one line that says what, where, given, allowed and the remedy.

    Commands print it as ``rankwise: <line>`` and exit with 2. Anything else that escapes is a bug of ours.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))

    @classmethod
    def value(cls, key: str, given: object, allowed: str, remedy: str = "") -> Refused:
        """A config value that is not allowed: ``key=given: allowed; remedy``."""
        shown = "null" if given is None else given
        return cls(f"{key}={shown}: {allowed}" + (f"; {remedy}" if remedy else ""))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean x?)"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""
