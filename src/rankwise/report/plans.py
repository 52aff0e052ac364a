"""A plan as a table for the terminal."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rankwise.config import Config
from rankwise.errors import plural
from rankwise.identity import folder, labels, run_id
from rankwise.metrics import NOTHING, duration
from rankwise.report import formats as fmt
from rankwise.report.table import Wide, grid
from rankwise.tracking.groups import PARTS


def table(plan: dict[str, Any]) -> RenderableType:
    """A row for all runs that cost the same: what one trains and computes, then what it holds; totals and footnotes."""
    rows = _alike(plan["runs"])
    if "memory" not in rows[0]:
        return Group(_table(_COSTS[:5], rows), Text(), Text(_sum(plan)))
    memory = [*_MEMORY, *([_BATCH] if "largest_batch" in rows[0] else [])]
    notes = [Text(line, style="dim") for line in _notes(plan)]
    held = _table(memory, rows, plan["limit_bytes"] - plan["context_bytes"], "GB at the peak")
    return Group(_table(_COSTS, rows), Text(), held, Text(), Text(_sum(plan)), *notes)


Cell = Callable[[dict[str, Any], int], str]  # of a row and the bytes that its tensors may have
_COSTS: list[tuple[str, Cell]] = [
    ("scale", lambda row, limit: NOTHING if (scale := row["lora"]["scale"]) is None else f"{scale:.3g}"),
    ("trained parameters", lambda row, limit: f"{row['params']['trainable']:,}"),
    ("of", lambda row, limit: fmt.si(row["params"]["total"])),
    ("%", lambda row, limit: fmt.percent(row["params"]["trainable"] / row["params"]["total"])),
    ("keep MB", lambda row, limit: fmt.megabytes(row["storage"]["adapter_bytes"])),
    ("TFLOP/step", lambda row, limit: fmt.three(_flops(row, "per_step", 1e12))),
    ("of full", lambda row, limit: fmt.ratio(_flops(row, "of_full"))),
    ("steps", lambda row, limit: NOTHING if (n := row["compute"]["steps"]) is None else f"{n:,}"),
    ("train time", lambda row, limit: _time(row["compute"]["train_s"])),
]
_MEMORY: list[tuple[str, Cell]] = [
    *((p, lambda row, limit, key=f"{p}_bytes": _gigabytes(row["memory"]["train"][key])) for p in (*PARTS, "peak")),
    ("evaluation", lambda row, limit: _gigabytes(row["memory"]["eval"]["peak_bytes"])),
    ("fits", lambda row, limit: _verdict(row, limit)),
]
_BATCH: tuple[str, Cell] = ("largest batch", lambda row, limit: str(row["largest_batch"]))


def _table(columns: list[tuple[str, Cell]], rows: list[dict[str, Any]], limit: int = 0, first: str = "run") -> Wide:
    cells = [[row["label"], *(cell(row, limit) for _, cell in columns)] for row in rows]
    return Wide(grid([first, *(header for header, _ in columns)], cells, 1))


def _alike(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of the runs that cost the same, its label what all of theirs have in common and how many they are."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cost = {key: value for key, value in row.items() if key not in ("label", "id")}
        groups.setdefault(repr(cost), []).append(row)
    return [same[0] | {"label": _of_all([row["label"] for row in same])} for same in groups.values()]


def _of_all(labels: list[str]) -> str:
    """``lora-r8 × 6`` of six runs that differ in what else their labels say."""
    first, *others = (re.split(r"(?<!\de)-", label) for label in labels)
    common = [part for part in first if all(part in other for other in others)]
    return "-".join(common or first) + (f" × {len(labels):,}" if others else "")


def _flops(row: dict[str, Any], key: str, unit: float = 1) -> float | None:
    value = row["compute"]["flops"].get(key)
    return None if value is None else value / unit


def _verdict(row: dict[str, Any], limit: int) -> str:
    """What is too large, if anything is: trainer.eval_batch_size is easily mended."""
    if row["fits"]:
        return "yes"
    return "no" if row["memory"]["train"]["peak_bytes"] > limit else "not evaluation"


def listing(configs: Sequence[Config], states: Sequence[str], planned: Sequence[dict[str, Any]]) -> RenderableType:
    """The runs of a study: what each is, where it stands, and the cost of what is left."""
    rows = []
    for row in listed(configs, states, planned):
        cells = [NOTHING] * 3
        if "memory" in row:
            peak = _gigabytes(row["memory"]["train"]["peak_bytes"])
            cells = [f"{row['params']['trainable']:,}", peak, _time(row["compute"]["train_s"])]
        rows.append([row["label"], row["id"], row["state"], *cells])
    shown = Wide(grid(["run", "id", "state", "trained parameters", "peak GB", "train time"], rows, 3))
    left = sum(state != "finished" for state in states)
    times = [row["compute"]["train_s"] for row in planned]
    sum_s = "" if None in times or not times else f", about {duration(sum(times))} of training one after the other"
    notes = [Text(line, style="dim") for line in _no_time(planned)]
    return Group(shown, Text(), Text(f"{plural(len(configs), 'run')}, {left} to run{sum_s}"), *notes)


def listed(configs: Sequence[Config], states: Sequence[str], planned: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as plain values: label, id, state and folder, and of what is left the plan."""
    costs = {row["id"]: row for row in planned}
    return [
        costs.get(run_id(config), {})
        | {"label": name, "id": run_id(config), "state": state, "folder": str(folder(config))}
        for config, name, state in zip(configs, labels(configs), states, strict=True)
    ]


def _sum(plan: dict[str, Any]) -> str:
    totals = plan["totals"]
    parts = [plural(totals["runs"], "run")]
    if totals["elapsed_s"] is not None:
        hours = fmt.three(totals["device_s"] / 3600)
        parts.append(f"{hours} GPU-hours, at best {duration(totals['elapsed_s'])} on {plural(totals['gpus'], 'GPU')}")
    elif totals["train_s"] is not None:
        parts.append(f"{duration(totals['train_s'])} of training one after the other")
    parts.append(f"{fmt.megabytes(totals['disk_bytes'])} MB and {totals['files']:,} files to keep on disk")
    if totals["fits"] is not None:
        verdict = "all fit in" if totals["fits"] else "not all fit in"
        parts.append(f"{verdict} {_gigabytes(plan['limit_bytes'])} GB ({plan['hardware']})")
    return ", ".join(parts)


def _no_time(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Why some runs have none, a line for each reason."""
    untimed = [row["compute"] for row in rows if row["compute"]["train_s"] is None]
    lines = [
        "No time: the rows of data that are not here yet are not counted, nor how many of packed texts or blocks "
        "share a batch; give trainer.max_steps or, where texts are not joined, task.n_train."
    ] * any(compute["steps"] is None for compute in untimed)
    for precision in dict.fromkeys(compute["precision"] for compute in untimed if compute["steps"] is not None):
        lines.append(f"No time: this hardware has no peak speed in {precision} that is known, or lacks it.")
    return lines


def _notes(plan: dict[str, Any]) -> list[str]:
    computes = [row["compute"] for row in plan["runs"]]
    rows, length = map(fmt.span, zip(*(row["batch"] for row in plan["runs"]), strict=True))
    lines = [
        f"Memory: live tensors at the peak of a step of {rows} × {length} tokens (batch × longest), GB = 10⁹ bytes. "
        f"Beside it the process holds {_gigabytes(plan['context_bytes'])} GB of libraries or CUDA context, which fits "
        "leaves room for, and on a GPU some percent of fragmentation, which it does not."
    ]
    if speeds := dict.fromkeys(_speed(compute) for compute in computes if compute["train_s"] is not None):
        lines.append(f"Time: every batch at full length, so at most, at {', or at '.join(speeds)}.")
    lines += _no_time(plan["runs"])
    totals = plan["totals"]
    if totals["file_operations"] is not None:
        lines.append(f"Runs and launcher do {totals['file_operations']:,} operations on files in the study's folder.")
    if sent := totals["wandb"]:
        size = fmt.megabytes(sent["bytes"])
        lines.append(f"W&B, if online, is sent {size} MB: {sent['rows']:,} rows, in {sent['requests']:,} requests.")
    if ranks := [int(r) for compute in computes if (r := (compute["flops"] or {}).get("break_even_rank"))]:
        lines.append(f"Above rank {fmt.span(ranks)}, a step with these adapters computes more than full fine-tuning.")
    return lines


def _speed(compute: dict[str, Any]) -> str:
    peak = fmt.si(compute["peak_flops"], "FLOP/s")
    share = f"{fmt.percent(compute['mfu'])} % ({compute['mfu_source']})"
    return f"{share} of {peak} ({compute['peak_flops_source']}, {compute['precision']})"


def _gigabytes(value: float | None) -> str:
    return fmt.three(None if value is None else value / 1e9)


def _time(seconds: float | None) -> str:
    return NOTHING if seconds is None else duration(seconds)
