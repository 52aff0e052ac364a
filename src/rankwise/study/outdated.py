"""What has changed since a finished run was made: code, model, data or latencies, which its identity does not hold."""

from collections import Counter
from collections.abc import Callable, Sequence

from rankwise import assets, methods
from rankwise.config import Config, Model, Task
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.tasks.data import forgetting_task
from rankwise.tracking import record as records
from rankwise.tracking.provenance import code_fingerprint


def summary(finished: Sequence[Config]) -> str:
    """``2 with other code, 1 without tracking.latency`` of several finished runs, no numbers of one, or nothing."""
    known: dict[str, str | None] = {}  # a study has few sources, and many runs of each

    def fingerprint(source: Model | Task) -> str | None:
        if repr(source) not in known:
            known[repr(source)] = _fingerprint(source)
        return known[repr(source)]

    counts = Counter(name for config in finished for name in _changed(config, fingerprint))
    return ", ".join(f"{count} {name}" if len(finished) > 1 else name for name, count in counts.items())


def _changed(config: Config, fingerprint: Callable[[Model | Task], str | None]) -> list[str]:
    """What is other in the finished run's record, of code, model and data, and what it lacks; left out: the unknown."""
    record = records.read(folder(config))
    provenance = record.provenance
    timed = [[cell["rows"], cell["length"]] for cell in record.compute.get("latency") or []]
    wanted = [] if methods.of(config.method).is_baseline else config.tracking.latency
    lacks = ["without tracking.latency"] if any(list(shape) not in timed for shape in wanted) else []
    source = config.method.init_from
    then = {
        "code": provenance.get("code"),
        "model": (provenance.get("model") or {}).get("fingerprint"),
        "data": (provenance.get("data") or {}).get("asset"),
        "method.init_from": (record.lora.get("init_from") or {}).get("sha256"),
        "forgetting": provenance.get("forgetting"),
    }
    now = {
        "code": code_fingerprint(),
        "model": fingerprint(config.model),
        "data": fingerprint(config.task),
        "method.init_from": _start(source) if source else None,
        "forgetting": fingerprint(forgetting_task(config)) if config.forgetting.name != "none" else None,
    }
    changed = [f"with other {name}" for name in then if then[name] and now[name] and then[name] != now[name]]
    return changed + lacks


def _start(source: str) -> str | None:
    """Of the weights that it starts from; None where they are gone."""
    from rankwise.model.methods.warm_start import start_file  # brings torch

    return assets.file_digest(file) if (file := start_file(source)) else None


def _fingerprint(source: Model | Task) -> str | None:
    """Of what is on this disk or generated; None for what would have to be fetched first."""
    try:
        is_here = assets.cached(source) or not (source.path or source.package)
        return assets.resolve(source).fingerprint if is_here else None
    except Refused:
        return None
