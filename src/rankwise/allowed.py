"""What a key takes: bounds or names beside its field in the schema, and the refusal of any other value."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args

from rankwise.errors import Refused, did_you_mean
from rankwise.synonyms import meaning

Fits = Callable[[Any], bool]

_UNWRITABLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # others stand for bytes of a file's name
_NESTED = ("tracking.latency", "task.labels")


def keyed(default: Any = None, *, fits: Fits | None = None, allowed: str = "", **facts: Any) -> Any:
    """A field that takes what ``fits``, said in a refusal and in the reference as ``allowed``; and other facts of it.

    ``off`` is the value that means the same as none, ``size`` says how names and sentences have a method's size.
    """
    return field(default=default, metadata={"fits": fits, "allowed": allowed, **facts})


def integer(default: int | None, low: int, high: int) -> Any:
    """A field that counts. More is a slip of the hand that would be tried for hours, or kill the process."""
    return keyed(default, fits=lambda n: low <= n <= high, allowed=f"an integer from {low} to {high}")


def number(default: float, low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Any:
    """A field with a finite number from ``low`` to ``high``; ``above`` and ``below`` say that these are left out."""

    def fits(value: float) -> bool:  # NaN never does
        inside = (low < value if above else low <= value) and (value < high if below else value <= high)
        return inside and value < math.inf

    end = "" if math.isinf(high) else f" to {'below ' if below else ''}{high:g}"
    return keyed(default, fits=fits, allowed=f"a number {'above' if above else 'from'} {low:g}{end}")


def choice(*names: str | None, **facts: Any) -> Any:
    """A field with one of a few names, the first by default; where that is None, the field may be null."""
    known = tuple(filter(None, names))
    return keyed(names[0], allowed=f"one of {', '.join(known)}", names=known, **facts)


def distinct(values: list[Any] | None) -> list[Any] | None:
    """A list in order, each value once; one whose values are not plain as it is, to be refused."""
    with contextlib.suppress(TypeError):
        return values and sorted(set(values))
    return values


_SAID: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list[int]: "a list of integers, as [4,5]",
    list[float]: "a list of numbers, as [0.9,0.999]",
    list[str]: "a list of texts, as [a,b]",
    list[Any]: "a list of pairs, as [[1,128],[32,512]]",
}


def takes(hint: Any, own: Field[Any]) -> str:
    """What a key of this type takes, in words."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    said = _SAID.get(kinds[0], "keys with values, as {key: value}")
    return own.metadata.get("allowed") or f"{said}{', or null' * (NoneType in kinds)}"


def check_values(config: Any) -> None:
    """Refuse a value that is wrong whatever the others are. Null, where a key may have it, never is."""
    for key, value, own in _leaves(config):
        if value is None:
            continue
        if isinstance(value, dict | list):
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise Refused.value(key, value, "finite numbers") from None
        if isinstance(value, str) and _UNWRITABLE.search(value):
            raise Refused.value(key, repr(value), "a text without NUL and lone surrogates")
        if names := own.metadata.get("names"):
            one_of(key, value, names)
        if (fits := own.metadata.get("fits")) and not fits(value):
            raise Refused.value(key, value, own.metadata["allowed"] + meaning(f"{key}={value}"))
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused.value(key, value, "a finite number")
        if own.default is None and value in ("", [], {}):
            tab = "; a tab is task.delimiter=tab" if key == "task.delimiter" else ""
            raise Refused.value(key, repr(value), f"null, or what is not empty{tab}")
        if isinstance(value, list) and key not in _NESTED and any(isinstance(item, list | dict) for item in value):
            raise Refused.value(key, value, "a list of plain values")


def _leaves(group: Any, prefix: str = "") -> Iterator[tuple[str, Any, Field[Any]]]:
    """Dotted key, value and field of all that a config holds."""
    for own in fields(group):
        value = getattr(group, own.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{own.name}.")
        else:
            yield f"{prefix}{own.name}", value, own


def one_of(key: str, value: object, allowed: Iterable[str], note: str = "") -> None:
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(allowed) + (f" {note}" if note else "")
        near = meaning(f"{key}={value}") or did_you_mean(str(value), allowed)
        raise Refused.value(key, value, f"one of {listed}{near}")
