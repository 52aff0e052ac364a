"""How language models wrote: settings, and what could not be scored."""

from __future__ import annotations

import json
from collections import Counter

from rankwise.report.arms import Arm
from rankwise.tracking.fields import at


def notes(arms: list[Arm]) -> list[str]:
    """Intervals, how the text was written, and what could not be scored."""
    runs = [
        run for arm in arms for run in arm.runs if at(run, "compute.generation.prompts") or at(run, "metrics.absent")
    ]
    asked = [at(run, "config.task.generation") or {} for run in runs]
    settings = {json.dumps({k: v for k, v in one.items() if k != "metrics" and v is not None}) for one in asked}
    kept = ["± 95 % over seeds and prompts. Speed and peak are medians over runs."]
    if len(settings) == 1:
        shown = ", ".join(f"{key}={value}" for key, value in json.loads(settings.pop()).items())
        kept.append(f"Written with {shown}.")
    elif settings:
        kept.append(f"The runs wrote with {len(settings)} different settings of task.generation: compare with care.")
    reasons = Counter(pair for run in runs for pair in (at(run, "metrics.absent") or {}).items())
    return kept + [f"Absent: {metric} of {n} run(s): {reason}" for (metric, reason), n in reasons.items()]
