"""Filters and orders of ``Api().runs``: as much of MongoDB's language as is asked here."""

import re
from collections.abc import Callable
from typing import Any

_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, other: value == other,
    "$gt": lambda value, other: value is not None and value > other,
    "$regex": lambda value, pattern: value is not None and re.search(pattern, value) is not None,
}
_NAMES = {"created_at": "createdAt"}


def matches(node: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a run is what ``{"config.a.b": 1, "$and": [{…}, …], "summary_metrics.x": {"$gt": 2}}`` says."""
    for key, condition in wanted.items():
        tests = condition if isinstance(condition, dict) else {"$eq": condition}
        if key == "$and":
            fits = all(matches(node, part) for part in condition)
        else:
            fits = all(_TESTS[name](_value(node, key), other) for name, other in tests.items())
        if not fits:
            return False
    return True


def ordered(nodes: list[dict[str, Any]], order: str | None) -> list[dict[str, Any]]:
    """By ``+key`` or ``-key``; a run that lacks the key comes last."""
    key = (order or "+created_at").lstrip("+-")
    have = [node for node in nodes if _value(node, key) is not None]
    lack = [node for node in nodes if _value(node, key) is None]
    return sorted(have, key=lambda node: _value(node, key), reverse=(order or "").startswith("-")) + lack


def _value(node: dict[str, Any], key: str) -> Any:
    """``config.a.b`` reads ``config["a"]["value"]["b"]``; metrics have flat names with dots and slashes in them."""
    group, _, rest = key.partition(".")
    if group == "summary_metrics":
        return node["summaryMetrics"].get(rest)
    if group != "config":
        return node[_NAMES.get(key, key)]
    first, *path = [part for part in rest.split(".") if part != "value"]
    value = node["config"].get(first, {}).get("value")
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value
