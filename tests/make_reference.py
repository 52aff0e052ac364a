"""Writes ``docs/reference.md``, the names that others may read: ``python tests/make_reference.py``.

Keys, types and comments are those of the code: the schema of the config, the groups of a record, the columns of the
report and the fields of the trackers.
"""

import dataclasses
import inspect
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Required, get_args, get_origin, get_type_hints, is_typeddict

from synthetic_study import write_run

from rankwise.config import Config
from rankwise.metrics import METRICS, of_kind
from rankwise.report.columns import columns
from rankwise.report.export import document
from rankwise.report.report import Report, build
from rankwise.tracking.fields import RESULTS, SETUP, SPLITS
from rankwise.tracking.record import Record

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
INTRODUCTION = """# Reference: config, record, CSV, JSON, W&B

Made by `python tests/make_reference.py` from the code; not to be edited. Fractions are 0–1, bytes end in `_bytes`,
seconds in `_s`; `[]` stands for each of a list, `*` for names that depend on the run. A key of a record may be absent:
what a run did not reach, or does not have.
"""
PREDICTIONS = """`predictions.parquet` beside it has a line per test item:

| column | of classes | of values | of written text |
| --- | --- | --- | --- |
| `item` | number of the row from 0, also of rows left out, through all files | as left | as left, each completion |
| `label` | number of the right class in `provenance.data.classes` | the right value | how many tokens were asked |
| `prediction` | number of the class that was chosen | the value that was said | |
| `score` | probability of the last class, of two that of class 1 | as `prediction` | sum of their losses, nats |
| `bytes` | | | of the text that was asked |
| `cluster` | number of what rows share: a text, or `task.group` | as left | a prompt, or `task.group` |
"""
NAMES = {
    str: "text",
    bool: "true or false",
    NoneType: "null",
    dict: "group",
    list: "list",
    int: "integer",
    float: "number",
    Any: "any",
    Path: "path",
}
# What a column is, where its header does not say it.
ABOUT = {
    "method": "of the arm",
    "rank": "of its adapters",
    "dim": "dimensions of a random subspace",
    "alpha": "as configured: 16, 2r, 16sqrt",
    "targets": "the preset, or the modules",
    "quant": "storage of the frozen base",
    "metric": "what test_… is of",
    "constant": "score of the one best constant answer",
    "rates": "learning rates that its own was chosen from, here or in the first round of tuning on other seeds",
    "best_of_rates": "whether it was chosen from several on the reported seeds, so that scores are somewhat too high",
    "trainable_params": "parameters that are trained",
    "total_params": "all parameters",
    "total_s": "all seconds but start_up_s, attempts that were cut included, a killed one up to its last checkpoint",
    "flops_per_token": "padding counts as tokens",
    "tokens_per_s": "of training, without padding",
    "n": "runs that are scored",
    "difference_se": "standard error of the difference",
    "difference_low": "of its 90 % interval",
    "difference_high": "of its 90 % interval",
    "verdict": "same, worse, better … than full fine-tuning",
    "comparable": "false: differs from the reference in more than the arm",
    "flags": "what speaks against the arm, separated by semicolons",
    "detectable": "one-sided at 5 %, divided by the number of families",
    "forgetting": "positive where it forgot",
    "forgetting_measure": "loss (nats per token), probe (accuracy)",
}

# What a part of a score is, by the end of its name.
PARTS = {
    "mean": "mean over runs",
    "median": "median over runs, with task.protocol=paper alone",
    "se": "standard error",
    "low": "of its 95 % interval",
    "high": "of its 95 % interval",
    "interval": "what its interval is over: items, seeds, both, none",
}


def page() -> str:
    """The whole page."""
    with tempfile.TemporaryDirectory() as folder:
        report = whole_report(Path(folder))
    config = [(key, kind, _shown(default), about) for key, kind, default, about in keys(Config)]
    record = [(key, kind, about) for key, kind, _, about in keys(Record) if not key.startswith(("config", "folder"))]
    found = document(report)
    arm = next(arm for arm in found["arms"] if arm["comparison"]) | {"memory": {"train": {}, "eval": {}}}
    outside = {key: value for key, value in found.items() if key not in ("arms", "runs")}
    trackers = [(name, path) for name, path in (SETUP | RESULTS).items()]
    scores = [
        (f"{shown}/*{end}", f"metrics.{split}.*.{key}")
        for shown, split in SPLITS.items()
        for end, key in (("", "value"), ("_se", "se"))
    ]
    of_classes, of_values = (", ".join(of_kind(kind)) for kind in ("classification", "regression"))
    parts = [
        INTRODUCTION,
        "## Config\n\nOf `rankwise train KEY=VALUE`, of `config.yaml`, and in a record under `config`. Options of a "
        "group (`model=`, `task=` …) set its keys; `rankwise train --help` lists them.\n",
        table(("key", "type", "default", "meaning"), config),
        "## Record\n\n`result.json` of a run.\n",
        table(("key", "type", "meaning"), record),
        PREDICTIONS,
        "## CSV\n\n`report.csv`: one line per arm, empty where unknown. Beside `test_…` there are such "
        f"columns for every other metric of the task (of classes {of_classes}, of values {of_values}); those of "
        "written text and of forgetting where any arm has them.\n",
        table(("column", "header, or what it is", "in table"), csv_rows(report)),
        "## JSON\n\n`report.json`, `rankwise report --json`. Any value may be null. `runs` are records as above. "
        "What is `detectable` is so at the one-sided `level` of a `sufficiency`, which is `conclusive` where it names "
        "an answer or shows the largest arm to be worse. `answers` are those "
        "of `rankwise find`, as it wrote them. An arm's `memory` is that of the run whose peak is the median. "
        "Of `scores` and `forgetting`, `low` and `high` end a 95 % interval, `kind` is what that is over (items, "
        "seeds, both, none), and `n` counts runs, where the `n` of a record's score counts test items; a `comparison` "
        "has the interval at its `level`. `arms` have\n",
        table(("key", "type"), [(f"arms[].{key}", kind) for key, kind in json_rows(arm)]),
        "and beside them stand\n",
        table(("key", "type"), json_rows(outside)),
        "## W&B, Trackio, TensorBoard\n\nConfig and summary of a mirrored run, and where the record has it; `arm.*` "
        "are the keys that the method has, `config.*` every other key that decides the result.\n",
        table(("key", "record"), [*trackers, *scores]),
    ]
    return "\n".join(parts)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose first column is code."""
    names = list(header)
    lines = [names, ["---"] * len(names), *([f"`{key}`", *rest] for key, *rest in rows)]
    cells = [[cell.replace(" | ", ", ").replace("|", r"\|").replace("``", "`") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n".replace("  ", " ") for line in cells)


def keys(kind: Any, above: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """The dotted keys of a dataclass or TypedDict and of what is nested there: key, type, default, comment.

    Groups of one kind beside each other are one: ``before, after``.
    """
    comments = _comments(kind)
    fields = {} if is_typeddict(kind) else {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind, include_extras=True).items()
    for inner, group in itertools.groupby(hints, lambda named: nested(named[1])):
        if inner[0] is not None:
            names = [name for name, _ in group]
            together = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
            yield from keys(inner[0], f"{above}{together}{inner[1]}.")
        else:
            for name, hint in group:
                default, taken = (_default(fields[name]), _taken(fields[name], hint)) if fields else (None, "")
                yield f"{above}{name}", taken or said(hint), default, comments.get(name, "")


def _comments(kind: Any) -> dict[str, str]:
    """What stands behind the fields of a class and of those that it extends, which a TypedDict forgets."""
    source = inspect.getsource(kind)
    above = re.search(r"class \w+\((.*?)\):", source)
    bases = [
        getattr(sys.modules[kind.__module__], name, None) for name in re.findall(r"\w+", above[1] if above else "")
    ]
    found = [_comments(base) for base in bases if is_typeddict(base) or dataclasses.is_dataclass(base)]
    own = dict(re.findall(r"^ +(\w+): [^#\n]*?  # (.*)$", source, re.M))
    return {key: text for comments in [*found, own] for key, text in comments.items()}


def nested(hint: Any) -> tuple[Any, str]:
    """The dataclass or TypedDict that a value is, or a list (``[]``) or dict (``.*``) has; None for others."""
    origin, parts = get_origin(hint), get_args(hint)
    if is_typeddict(hint) or dataclasses.is_dataclass(hint):
        return hint, ""
    if origin is Required or (origin is not None and NoneType in parts):
        return nested(parts[0])
    if origin is Annotated and not isinstance(parts[1], str):
        return nested(parts[1])
    if origin in (list, dict):
        inner, suffix = nested(parts[-1])
        return inner, f"{'[]' if origin is list else '.*'}{suffix}"
    if len(parts) > 1 and origin not in (Annotated, Literal):
        return nested(parts[0])
    return None, ""


def said(hint: Any) -> str:
    """A type in words: "integer ≥ 0 or null"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Required:
        return said(parts[0])
    if origin is Annotated:
        return f"{said(parts[0])} {parts[1]}" if isinstance(parts[1], str) else said(parts[1])
    if origin is Literal:
        return ", ".join(parts)
    if origin is list:
        return f"list of {said(parts[0])}"
    if origin is dict:
        return f"{said(parts[1])}, by name"
    return " or ".join(map(said, parts)) if parts else NAMES[hint]


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _taken(field: dataclasses.Field, hint: Any) -> str:
    """The names or bounds that a key has, with null where it may be."""
    allowed = field.metadata.get("allowed", "")
    return f"{allowed}, or null" if allowed and NoneType in get_args(hint) else allowed


def _shown(default: Any) -> str:
    if default is dataclasses.MISSING or default == "???":
        return ""
    return json.dumps(default, ensure_ascii=False).strip('"')


def csv_rows(report: Report) -> list[tuple[str, str, str]]:
    """Each CSV column with its header and tables; scores, which the metric of the study names, under one name."""
    rows = []
    for column in columns(report):
        if column.key in METRICS:
            continue
        for part in column.raw:
            tables = ", ".join(column.tables.replace("wide", "main").split())
            header = column.header.replace("\N{NO-BREAK SPACE}", " ")
            about = [ABOUT.get(column.key), PARTS[part.key.rpartition("_")[2]] if column.interval else ""]
            rows.append((part.key, ": ".join(filter(None, [header, ", ".join(filter(None, about))])), tables))
    return rows


def json_rows(values: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """The keys of a JSON document with the types found."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above}{'*' if key == 'accuracy' else key}"
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and inner:
            rows += json_rows(inner, f"{name}{'[]' if isinstance(value, list) else ''}.")
        else:
            rows.append((name, NAMES[type(value)] if value not in (None, [], {}) else ""))
    return rows


def whole_report(folder: Path) -> Report:
    """Of a study that has all that a report may show."""
    for seed in range(2):
        for method, rank in (("lora", 8), ("full", None)):
            record = write_run(folder, method, rank, seed=seed, forgetting={"name": "news"})
            score = {"value": 0.5, "se": 0.1, "n": 100}
            record.metrics["forgetting"] = {"measure": "loss", "before": score, "after": score, "difference": score}
            record.compute["generation"] = {"prompts": 10, "tokens": 100, "seconds_s": 1.0, "tokens_per_s": 100.0}
            times = {"value": 1.0, "low": 0.9, "high": 1.1}
            timed = {"base_ms": 1.0, "adapted_ms": 1.0, "merged_ms": 1.0}
            ratios = {"adapted_of_base": times, "merged_of_base": times}
            record.compute["latency"] = [{"rows": 1, "length": 128, "blocks": 9} | timed | ratios]
            record.write()
    return build([folder])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
