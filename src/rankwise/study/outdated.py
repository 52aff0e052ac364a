"""What has changed since a finished run was made: code, model, data or margin, which its identity does not hold."""

from collections import Counter
from collections.abc import Sequence

from rankwise import assets
from rankwise.config import Config, Model, Task
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.tracking import record as records
from rankwise.tracking.fields import at
from rankwise.tracking.provenance import code_fingerprint


def summary(finished: Sequence[Config], margin: bool = True) -> str:
    """``2 with other code, 1 with other data`` of several finished runs, no numbers of one, or nothing. ``margin``:
    whether that of their records is the one that counts.
    """
    now: dict[str, str | None] = {}  # a study has few sources, and many runs of each
    counts = Counter[str]()
    for config in finished:
        record = records.read(folder(config))
        provenance = record.provenance
        if margin and at(record, "config.task.margin") not in (None, config.task.margin):
            counts["with other task.margin"] += 1
        model, data = provenance.get("model") or {}, provenance.get("data") or {}
        then = {"code": provenance.get("code"), "model": model.get("fingerprint"), "data": data.get("asset")}
        for name, source in (("code", None), ("model", config.model), ("data", config.task)):
            if repr(source) not in now:
                now[repr(source)] = _fingerprint(source) if source else code_fingerprint()
            if then[name] and now[repr(source)] not in (None, then[name]):
                counts[f"with other {name}"] += 1
    return ", ".join(f"{count} {name}" if len(finished) > 1 else name for name, count in counts.items())


def _fingerprint(source: Model | Task) -> str | None:
    """Of what is on this disk or generated; None for what would have to be fetched first."""
    try:
        is_here = assets.cached(source) or not (source.path or source.package)
        return assets.resolve(source).fingerprint if is_here else None
    except Refused:
        return None
