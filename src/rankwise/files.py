"""Files that anybody may have written: read whole and within bounds, or refused in one line.

``kind`` is what the file should be, in words that follow "not": "a sweep file".
"""

import json
import re
import stat
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from rankwise.errors import Refused, printable

_MOST_VALUES = 100_000  # with those that a YAML file repeats by name: ten lines of it can say a billion
_DEEPEST = 100
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPED = re.compile(rf"{_CONTROL.pattern}|\\u(?:00[0189]|007f|d[89a-f]|202[a-e]|206[6-9])", re.IGNORECASE)


def shown(folder: Path) -> list[Path]:
    """The files below a folder, in order, without those that are hidden or in a hidden folder (``.git``)."""
    files = ((file, file.relative_to(folder).parts) for file in folder.rglob("*") if file.is_file())
    return sorted(file for file, parts in files if not any(part.startswith(".") for part in parts))


def read_text(path: Path, kind: str, most_bytes: int = 2**20) -> str:
    """The text of a UTF-8 file. Raises Refused for what is no such file, cannot be read or is larger than allowed."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            if status.st_size <= most_bytes:
                return path.read_text(encoding="utf-8")
            reason = f"{status.st_size:,} bytes, where at most {most_bytes:,} belong"
        else:  # a pipe would be waited for, a device never ends
            reason = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
    except OSError as error:
        reason = str(error.strerror)
    except ValueError as error:  # not UTF-8, or a name with NUL in it
        reason = str(error)
    raise Refused(f"{path}: not {kind} ({reason})")


def read_json(path: Path, kind: str, remedy: str = "") -> Any:
    """The value in a JSON file. Raises Refused, as ``read_text``, and, with the ``remedy``, for what is not JSON."""
    text = read_text(path, kind, 2**26)
    try:
        return _without_controls(json.loads(text)) if _ESCAPED.search(text) else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not {kind} (not JSON: {error}){remedy}") from None


def _without_controls(value: Any) -> Any:
    """What a terminal would take for a command is written as an escape; line breaks and tabs stay."""
    if isinstance(value, str):
        return _CONTROL.sub(lambda sign: printable(sign[0]), value)
    if isinstance(value, dict):
        return {_without_controls(key): _without_controls(inner) for key, inner in value.items()}
    return [_without_controls(inner) for inner in value] if isinstance(value, list) else value


def read_yaml(path: Path, kind: str) -> dict[Any, Any]:
    """The keys and values in a YAML file. Raises Refused, as ``read_text``, and for anything else or without an end."""
    text = read_text(path, kind)
    endless = f"{path}: not {kind} (over {_MOST_VALUES:,} values or {_DEEPEST} levels, with what it repeats)"
    levels = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text))
    if max(levels, default=0) > 2 * _DEEPEST:  # of which the parser would first read on for a second
        raise Refused(endless)
    try:
        values = yaml.safe_load(text)  # in Python, which tells of nesting; libyaml needs minutes for it
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise Refused(f"{path}: not {kind} (not YAML: {' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict):
        raise Refused(f"{path}: not {kind} (no keys with values)")
    if not _is_bounded(values):
        raise Refused(endless)
    return values


def _is_bounded(values: Any) -> bool:
    """Whether all values can be walked through: a YAML file may hold itself."""
    waiting, seen = [(values, 0)], 0
    while waiting and seen < _MOST_VALUES and waiting[-1][1] < _DEEPEST:
        value, depth = waiting.pop()
        seen += 1
        if isinstance(value, dict | list):
            waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
    return not waiting
