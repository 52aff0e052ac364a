"""What has changed since a finished run was made: code, model or data, which its identity does not hold."""

from collections import Counter
from collections.abc import Callable, Sequence

from rankwise import assets
from rankwise.config import Config, Model, Task
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.tracking import record as records
from rankwise.tracking.provenance import code_fingerprint


def summary(finished: Sequence[Config]) -> str:
    """``2 with other code, 1 with other data`` of the finished runs, or nothing."""
    known: dict[str, str | None] = {}  # a study has few sources, and many runs of each

    def fingerprint(source: Model | Task) -> str | None:
        if repr(source) not in known:
            known[repr(source)] = _fingerprint(source)
        return known[repr(source)]

    counts = Counter(name for config in finished for name in _changed(config, fingerprint))
    return ", ".join(f"{count} with other {name}" for name, count in counts.items())


def _changed(config: Config, fingerprint: Callable[[Model | Task], str | None]) -> list[str]:
    """Of code, model and data, what is other than in the finished run's record. What cannot be told is left out."""
    made = records.read(folder(config)).provenance
    then = {
        "code": made.get("code"),
        "model": (made.get("model") or {}).get("fingerprint"),
        "data": (made.get("data") or {}).get("asset"),
    }
    now = {"code": code_fingerprint(), "model": fingerprint(config.model), "data": fingerprint(config.task)}
    return [name for name in then if then[name] and now[name] and then[name] != now[name]]


def _fingerprint(source: Model | Task) -> str | None:
    """Of what is on this disk or generated; None for what would have to be fetched first."""
    try:
        is_here = assets.cached(source) or not (source.path or source.package)
        return assets.resolve(source, progress=False).fingerprint if is_here else None
    except Refused:
        return None
