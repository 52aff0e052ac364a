"""What a paper says of its experiments, written from the records.

Nothing is said that the records do not hold; what they leave out is said to be unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankwise.errors import plural
from rankwise.report import tuning
from rankwise.report.formats import si
from rankwise.report.naming import differing, kind, worded
from rankwise.report.summary import budget, evaluation, margin, of_data, tests
from rankwise.report.table import written_with
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED, Record

if TYPE_CHECKING:
    from rankwise.report.report import Report


def paragraph(report: Report) -> list[str]:
    """The methods, a sentence or two each: models and data, arms, budget, tuning, seeds, tests, hardware, compute."""
    labels = ", ".join(arm.label for arm in report.arms if arm.comparable and arm.runs)
    compared = f"Compared: {labels}." if labels else ""
    lines = [_models(report), _data(report), *of_data(report.records), compared, *_in_common(report)]
    lines += [*budget(report.arms, report.reference or report.arms[0]), *tuning.rates(report.arms)]
    lines += [*written_with(report.arms), *evaluation(report), *_tests(report), _machine(report)]
    return [sentence for sentence in [*lines, report.total] if sentence]


def _in_common(report: Report) -> list[str]:
    """What all arms of a method have, which no name says: their layers, alpha with its scale, dropout, …"""
    methods: dict[str, list[str]] = {}  # of which each is said
    compared = [arm for arm in report.arms if arm.comparable and arm.runs]
    quantized = any(arm.settings["quant"] != "none" for arm in compared)  # then it is said of all
    for method in dict.fromkeys(map(kind, compared)):
        arms = [arm for arm in compared if kind(arm) == method]
        alike = {
            k: v for k, v in arms[0].settings.items() if k not in ("rank", "quant", "peft._target_", *differing(arms))
        }
        targets = alike.pop("targets", "")
        layers = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in arms[0].first("lora.ranks") or ()))
        where = f" on {targets}{f' ({layers})' * bool(layers)}" if targets else ""
        scales = {scale for arm in arms if (scale := arm.first("lora.scale"))}
        ends = " to ".join(f"{end:.3g}" for end in sorted({min(scales), max(scales)})) if scales else ""
        settings = [(key, value) for key, value in sorted(alike.items()) if value != method]
        parts = [
            worded(key, value) + f" (scale s = {ends})" * (key == "alpha" and bool(ends)) for key, value in settings
        ]
        kinds = dict.fromkeys(arm.settings["quant"] for arm in arms)
        stored = ", ".join(name for name in kinds if name != "none")
        words = ["unquantized"] * ("none" in kinds) + [f"stored as {stored}"] * bool(stored)
        parts += [f"base {' or '.join(words)}"] * (quantized and not arms[0].is_baseline)
        if where or parts:
            methods.setdefault(f"{where}{': ' * bool(parts)}{', '.join(parts)}.", []).append(method)
    return [", ".join(names) + said for said, names in methods.items()]


def markdown(report: Report, wanted: Sequence[str] = ()) -> str:
    """The methods paragraph."""
    return f"{' '.join(paragraph(report))}\n"


def _tests(report: Report) -> list[str]:
    compared = any(c.bootstrap for c in report.comparisons.values())
    lines = [*(margin(report) if compared else []), *(a.decided_by for a in report.answers)]
    return [*filter(None, lines), *tests(report)]


def _models(report: Report) -> str:
    names = _values(report, "config.model.name")
    sizes = {arm.first("params.total") for arm in report.arms if arm.method == "full"} - {None}
    size = f" ({si(min(sizes))} parameters)" if len(sizes) == 1 else ""
    return f"Base model: {_list(names)}{size}{_fingerprints(report, 'model')}."


def _data(report: Report) -> str:
    data: dict[str, Any] = next((arm for arm in report.arms if arm.runs), report.arms[0]).first("provenance.data") or {}
    sizes = [f"{data[part]:,} {part}" for part in ("train", "validation", "test") if data.get(part)]
    of = f": {', '.join(sizes)} examples" if sizes else ""
    of += f" of {len(data['classes'])} classes" if sizes and data.get("classes") else ""
    return f"Data: {_list(_values(report, 'config.task.name'))}{of}{_fingerprints(report, 'data')}."


def _machine(report: Report) -> str:
    finished = [run for run in report.all_records if run.status == FINISHED]
    trained = [run for run in finished if at(run, "compute.threads")]
    machines = Counter(_hardware(run) for run in trained or finished)
    packages = ("torch", "transformers", "peft", "bitsandbytes", "torchao", "lightning", "rankwise")
    versions = [
        f"{name} {_list(known)}" for name in packages if (known := _values(report, f"provenance.packages.{name}"))
    ]
    hardware = "; ".join(text for text, _ in machines.most_common())
    return f"Hardware: {hardware or 'unknown'}. Software: {', '.join(versions) or 'unknown'}."


def _hardware(run: Record) -> str:
    """What it computed on, of the machine that its record describes."""
    hardware: dict[str, Any] = at(run, "provenance.hardware") or {}
    device = at(run, "compute.device")
    devices = at(run, "config.trainer.devices") or 1
    gpus = [f"{min(n, devices)} × {name}" for name, n in Counter(hardware.get("gpus") or []).items() if device != "cpu"]
    threads = at(run, "compute.threads")
    used = f"{f'{devices} × ' * (devices > 1)}{plural(threads, 'thread')} per run" if threads else "threads unknown"
    return ", ".join(gpus) if gpus else f"{hardware.get('cpu', 'unknown processor')}, no GPU, {used}"


def _values(report: Report, path: str) -> list[str]:
    runs = [run for arm in report.arms if arm.comparable for run in arm.runs] or report.records
    return [str(value) for value in dict.fromkeys(at(run, path) for run in runs) if value is not None]


def _list(values: list[str]) -> str:
    return ", ".join(values) or "unknown"


def _fingerprints(report: Report, part: str) -> str:
    prints = [text.rpartition(":")[2][:12] for text in _values(report, f"provenance.{part}.fingerprint")]
    return f", SHA-256 {', '.join(f'{text}…' for text in prints)}" if prints else ""
