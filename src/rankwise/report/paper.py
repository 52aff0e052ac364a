"""What a paper says of its experiments, written from the records: a methods paragraph and the items of a checklist.

Nothing is said that the records do not hold; what they leave out is said to be unknown.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rankwise.metrics import named
from rankwise.report.arms import Arm
from rankwise.report.formats import plural, rate, si
from rankwise.report.summary import TESTS
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED, Record

if TYPE_CHECKING:
    from rankwise.report.report import Report


def paragraph(report: Report) -> list[str]:
    """The methods, a sentence or two each: models and data, arms, budget, tuning, seeds, tests, hardware, compute."""
    sentences = [_models(report), _data(report), _arms(report), _training(report), _tuning(report), _evaluation(report)]
    return [sentence for sentence in [*sentences, *_tests(report), _machine(report), report.total] if sentence]


def checklist(report: Report) -> list[tuple[str, str, str]]:
    """The experimental items of the NeurIPS paper checklist: (item, answer, why), as far as the records answer them."""
    packed = "rankwise report STUDY --pack FILE.zip holds every config, record and prediction, and the commands."
    return [
        ("Experimental result reproducibility", "Yes", packed),
        ("Experimental setting and details", "Yes", " ".join(filter(None, [_training(report), _tuning(report)]))),
        (
            "Experiment statistical significance",
            "Yes" if _tests(report) else "No",
            " ".join(_tests(report)) or "One seed: no interval over seeds.",
        ),
        ("Experiments compute resources", "Yes", " ".join([_machine(report), report.total])),
        ("Licenses for existing assets", "TODO", f"{_models(report)} {_data(report)} Their licences are not recorded."),
    ]


def _tests(report: Report) -> list[str]:
    return TESTS if any(c.bootstrap for c in report.comparisons.values()) else []


def _models(report: Report) -> str:
    names = _values(report, "config.model.name")
    sizes = {arm.first("params.total") for arm in report.arms if arm.method == "full"} - {None}
    size = f" ({si(min(sizes))} parameters)" if len(sizes) == 1 else ""
    prints = [str(text).removeprefix("sha256:") for text in _values(report, "provenance.model.fingerprint")]
    return f"Base model: {_list(names)}{size}{_fingerprints(prints)}."


def _data(report: Report) -> str:
    first = next((run for arm in report.arms for run in arm.runs), None)
    data: dict[str, Any] = dict(first.provenance.get("data") or {}) if first else {}
    sizes = [f"{data[part]:,} {part}" for part in ("train", "validation", "test") if data.get(part)]
    prints = [str(text).removeprefix("sha256:") for text in _values(report, "provenance.data.fingerprint")]
    of = f": {', '.join(sizes)} examples" if sizes else ""
    return f"Data: {_list(_values(report, 'config.task.name'))}{of}{_fingerprints(prints)}."


def _arms(report: Report) -> str:
    names = [arm.label for arm in report.arms if arm.comparable and arm.runs]
    return f"Compared: {', '.join(names)}."


def _training(report: Report) -> str:
    arm = report.reference or next(arm for arm in report.arms if arm.runs or arm.unscored)
    config = (arm.runs or arm.unscored)[0].config
    trainer, optim, task = (config.get(group) or {} for group in ("trainer", "optim", "task"))
    steps = {round(n) for other in _trained(report) if (n := other.median("compute.steps"))}
    batch = (trainer.get("batch_size") or 0) * (trainer.get("accumulate") or 1)
    parts = [  # (what is known, how it is said)
        (steps, f"for {min(steps, default=0):,}{' or more' if len(steps) > 1 else ''} steps"),
        (not steps and trainer.get("epochs"), f"for {trainer.get('epochs') or 0:g} epochs"),
        (batch, f"of {batch} sequences"),
        (task.get("max_length"), f"of at most {task.get('max_length')} tokens"),
        (optim.get("name"), f"with {optim.get('name')}"),
        (optim.get("weight_decay"), f"weight decay {optim.get('weight_decay') or 0:g}"),
        (optim.get("schedule"), f"{100 * (optim.get('warmup') or 0):g} % warm-up and {optim.get('schedule')} schedule"),
        (trainer.get("clip"), f"gradients clipped at norm {trainer.get('clip') or 0:g}"),
        (_values(report, "compute.precision"), f"in {_list(_values(report, 'compute.precision'))}"),
    ]
    known = [text for value, text in parts if value]
    chosen = trainer.get("validations"), config.get("objective")
    best = "; the checkpoint is the best of {} by {}".format(*chosen) if all(chosen) else ""
    return f"Every arm trains {' '.join(known[:3])}{''.join(f', {text}' for text in known[3:])}{best}." if known else ""


def _tuning(report: Report) -> str:
    """How the learning rates came about, and whether all sides had the same."""
    tuned = Counter(
        (str(at(run, "config.method.name")), at(run, "config.optim.lr"))
        for run in report.all_records
        if run.config.get("stage") == "tune"
    )
    shown = ", ".join(f"{arm.label} {rate(arm.lr)}" for arm in _trained(report))
    if tuned:
        grids = {name: len({lr for method, lr in tuned if method == name}) for name, _ in tuned}
        tried = ", ".join(f"{n} for {name}" for name, n in grids.items())
        parity = "" if len(set(grids.values())) == 1 else " (not the same number for all)"
        return f"Learning rates were chosen on validation data and seeds of their own, out of {tried}{parity}: {shown}."
    grids = {arm.label: len(arm.trials) for arm in _trained(report)}
    if max(grids.values(), default=0) > 1:
        same = len(set(grids.values())) == 1
        tried = f"{max(grids.values())} each" if same else ", ".join(f"{n} of {name}" for name, n in grids.items())
        return f"Learning rates are the best on validation data out of {tried}, on the seeds reported: {shown}."
    return f"Learning rates were not tuned: {shown}." if shown else ""


def _evaluation(report: Report) -> str:
    seeds = sorted({run.config.get("seed", 0) for arm in _trained(report) for run in arm.runs})
    cells = [cell for arm in report.arms for run in arm.runs for cell in (run.metrics.get("test") or {}).values()]
    n = sorted({size for cell in cells if (size := cell.get("n"))})
    items = f" on {' or '.join(f'{size:,}' for size in n)} test items" if n else ""
    name, margin = named(report.metric.name).name, report.metric.width(report.margin)
    return f"We report test {name} over {plural(len(seeds), 'seed')}{items}; the margin, fixed before, is {margin}."


def _machine(report: Report) -> str:
    finished = [run for run in report.all_records if run.status == FINISHED]
    machines = Counter(_hardware(run) for run in finished)
    packages = ("torch", "transformers", "peft", "lightning", "rankwise")
    versions = [
        f"{name} {_list(known)}" for name in packages if (known := _values(report, f"provenance.packages.{name}"))
    ]
    hardware = "; ".join(text for text, _ in machines.most_common())
    return f"Hardware: {hardware or 'unknown'}. Software: {', '.join(versions) or 'unknown'}."


def _hardware(run: Record) -> str:
    hardware: dict[str, Any] = at(run, "provenance.hardware") or {}
    gpus = [f"{n} × {name}" for name, n in Counter(hardware.get("gpus") or []).items()]
    threads = at(run, "compute.threads")
    used = f"{plural(threads, 'thread')} per run" if threads else "threads unknown"
    return ", ".join(gpus) if gpus else f"{hardware.get('cpu', 'unknown processor')}, no GPU, {used}"


def _trained(report: Report) -> list[Arm]:
    return [arm for arm in report.arms if arm.comparable and arm.runs and not arm.is_baseline]


def _values(report: Report, path: str) -> list[str]:
    runs = [run for arm in report.arms if arm.comparable for run in arm.runs]
    return [str(value) for value in dict.fromkeys(at(run, path) for run in runs) if value is not None]


def _list(values: list[str]) -> str:
    return ", ".join(values) or "unknown"


def _fingerprints(prints: list[str]) -> str:
    return f", SHA-256 {', '.join(f'{text[:12]}…' for text in prints)}" if prints else ""
