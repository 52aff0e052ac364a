"""The one kind of error that is the user's to mend, and words that all messages share."""

import difflib
import shutil
import sys
import textwrap
from collections.abc import Iterable

_LONGEST = 1000  # characters of a line: a value that somebody gave may be any


class Refused(Exception):
    """An input that rankwise will not run: one line that says what, where, given, allowed and the remedy.

    Commands print it as ``rankwise: <line>`` and exit with 2. Anything else that escapes is a bug of ours.
    """

    def __init__(self, message: str):
        line = printable(" ".join(message.split()))
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 300]} … {line[-300:]}")

    @classmethod
    def value(cls, key: str, value: object, allowed: str, remedy: str = "") -> "Refused":
        """A config value that is not allowed: ``key=given: allowed; remedy``."""
        shown = "null" if value is None else value
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
            shown = int(value)  # as it is typed
        return cls(f"{key}={shown}: {allowed}" + (f"; {remedy}" if remedy else ""))


def plural(n: float, one: str, many: str = "") -> str:
    """``1 run``, ``2 runs``, ``2.5 runs``."""
    return f"{f'{n:,}'.removesuffix('.0')} {one if n == 1 else many or f'{one}s'}"


def tell(line: str) -> None:
    """Print a line of a result, on a terminal broken between words; elsewhere it stays one, for those who read it."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    print(line)


def printable(text: str) -> str:
    """The text with what moves a terminal's cursor, colours it or cannot be encoded written as an escape."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def reason(error: BaseException) -> str:
    """The first line of an error, cut where it becomes a list of everything that there is."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else line[:199] + "…"


def one_line(error: BaseException) -> str:
    """Its kind, and its ``reason``."""
    return f"{type(error).__name__}: {reason(error)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean x?)"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word[:100], list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
