"""What language models write: scores of the generated text by arm, and what writing costs."""

from __future__ import annotations

import json
from collections import Counter

from rankwise.metrics import METRICS, of_kind
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm, dig
from rankwise.report.findings import Findings
from rankwise.report.sections import Section


def section(report: Findings) -> Section | None:
    """A row per arm that wrote; None where none did."""
    arms = [arm for arm in report.arms if arm.median("compute.generation.prompts") or _absent(arm)]
    if not arms:
        return None
    metrics = [METRICS[name] for name in of_kind("text") if any(name in arm.scores for arm in arms)]
    header = ["arm", *(metric.header for metric in metrics), "prompts", "tokens /s", "seconds"]
    measured = any(arm.median("memory.generate.peak_bytes") for arm in arms)
    rows = [
        [
            arm.label, *(metric.interval(arm.scores.get(metric.name)) for metric in metrics),
            fmt.si(arm.median("compute.generation.prompts")), fmt.si(arm.median("compute.generation.tokens_per_s")),
            fmt.seconds(arm.median("compute.generation.seconds_s")),
            *([fmt.megabytes(arm.median("memory.generate.peak_bytes"))] if measured else []),
        ]
        for arm in arms
    ]  # fmt: skip
    return Section("generation", "Generated text", header + (["peak MB"] if measured else []), rows, _notes(arms))


def _notes(arms: list[Arm]) -> list[str]:
    """Intervals, how the text was written, and what could not be scored."""
    runs = [run for arm in arms for run in arm.runs]
    settings = {json.dumps(_settings(dig(run, "config.task.generation") or {})) for run in runs}
    kept = ["± 95 % over seeds (one seed: over prompts). Speed and peak are medians over runs."]
    if len(settings) == 1:
        shown = ", ".join(f"{key}={value}" for key, value in json.loads(settings.pop()).items())
        kept.append(f"Written with {shown}.")
    elif settings:
        kept.append(f"The runs wrote with {len(settings)} different settings of task.generation: compare with care.")
    reasons = Counter(pair for run in runs for pair in (dig(run, "metrics.absent") or {}).items())
    return kept + [f"Absent: {metric} of {n} run(s): {reason}" for (metric, reason), n in reasons.items()]


def _settings(generation: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in generation.items() if key != "metrics" and value is not None}


def _absent(arm: Arm) -> bool:
    return bool(arm.first("metrics.absent"))
