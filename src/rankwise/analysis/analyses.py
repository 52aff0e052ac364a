"""One analysis as a JSON document: which, of what, with which options, and what was found."""

from pathlib import Path
from typing import Any

from rankwise.adapters.runs import open_adapter
from rankwise.analysis import WHAT, subspaces, truncation, updates
from rankwise.analysis.weights import labels, opened, together
from rankwise.errors import Refused
from rankwise.tracking.record import finite, now

_SIDED = ("subspaces", "intruders")  # each has the side of its paper where none is given


def analyze(
    name: str,
    folders: list[Path],
    layer: int | None = None,
    module: str | None = None,
    side: str | None = None,
    of: str | None = None,
) -> dict[str, Any]:
    """The document of one analysis of finished runs; options that an analysis has no use for are refused."""
    if side and name not in _SIDED:
        raise Refused(f"--side {side}: with {' and '.join(_SIDED)} only; {name} has both sides or none")
    if of and name != "subspaces":
        raise Refused(f"--of {of}: with subspaces only; {name} is of ΔW")
    if name == "truncation" and (layer is not None or module is not None):
        raise Refused("--layer, --module: not with truncation, which cuts the whole adapter")
    runs = [open_adapter(folder) if name == "truncation" else opened(folder) for folder in folders]
    if name == "truncation":
        result = truncation.truncation(runs)
    else:
        given = {key: value for key, value in (("side", side), ("of", of)) if value}
        result = getattr(subspaces if name == "subspaces" else updates, name)(together(runs, layer, module), **given)
    who = [
        {"id": run.record.run["id"], "name": run.name, "label": label, "study": run.config.study}
        | {"method": run.config.method.name, "seed": run.config.seed, "task": run.config.task.name}
        for run, label in zip(runs, labels(runs), strict=True)
    ]
    head = {"analysis": name, "question": WHAT[name], "made": now(), "layer": layer, "module": module}
    document: dict[str, Any] = finite(head | {"base": runs[0].config.model.name, "runs": who} | result)
    return document
