"""Raw numbers: one CSV line per arm, and the JSON document."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from rankwise.errors import Refused
from rankwise.metrics import of_kind
from rankwise.report import costs
from rankwise.report.arms import Arm
from rankwise.report.findings import Findings
from rankwise.report.forgetting import forgotten
from rankwise.report.intrinsic import d90
from rankwise.report.latency import timed
from rankwise.report.table import rank_fraction
from rankwise.statistics import Interval
from rankwise.tracking.record import finite


def csv_text(report: Findings) -> str:
    """Raw numbers, one line per arm; empty where unknown."""
    out = io.StringIO()
    rows = [_raw(report, arm) for arm in report.arms]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def document(report: Findings) -> dict[str, Any]:
    """The JSON document."""
    found = {
        "headline": str(report.headline),
        "notes": report.notes,
        "arms": [_arm(report, arm) for arm in report.arms],
        "sufficiency": [
            {
                "family": f.label, "margin": f.margin, "rank": f.answer.rank if f.answer else None,
                "conclusive": f.conclusive, "none_share": f.none_share, "detectable": f.detectable,
                "steps": [{"rank": s.rank, "passed": s.passed, "share": s.share} for s in f.steps],
            }
            for f in report.families
        ],
        "intrinsic_dimension": _intrinsic(report),
        "runs": [record.to_dict() for record in report.records],
    }  # fmt: skip
    return finite(found)


def _intrinsic(report: Findings) -> list[dict[str, Any]]:
    """Empty without a random subspace, or where d90 has no answer; ``dim`` is null where none tried is enough."""
    try:
        return [asdict(each) for each in d90(report.arms, report.reference)]
    except Refused:
        return []


def _arm(report: Findings, arm: Arm) -> dict[str, Any]:
    comparison = report.comparison(arm)
    said = comparison.verdict if comparison else None
    params = {key: arm.first(f"params.{key}") for key in ("trainable", "frozen", "total", "adapter", "head")}
    return {
        "label": arm.label, "method": arm.method, "rank": arm.rank, "rank_fraction": rank_fraction(arm),
        "alpha": arm.settings.get("alpha"), "scale": arm.first("lora.scale"), "targets": arm.settings.get("targets"),
        "quant": arm.settings.get("quant"), "lr": arm.lr, "n": len(arm.runs),
        "scores": {name: _interval(found) for name, found in arm.scores.items()},
        "forgetting": _forgetting(arm), "generation": _generation(arm),
        "latency": [asdict(each) for each in timed(arm)],
        "params": params, "compute": costs.compute(arm),
        "memory": {during: costs.memory(arm, during) for during in ("train", "eval")},
        "storage": {"adapter_bytes": arm.median("storage.adapter_bytes")},
        "reference": arm is report.reference, "comparable": arm.comparable,
        "differs": {key: {"here": here, "reference": there} for key, (here, there) in arm.differs.items()},
        "same_as_full": {"same": True, "worse": False, "better": False}.get(said or ""),
        "comparison": _compared(report, arm),
        "trials": [asdict(trial) for trial in arm.trials],
        "unscored": [{"name": run.run.get("name"), "status": run.status} for run in arm.unscored],
        "flags": arm.flags,
    }  # fmt: skip


def _forgetting(arm: Arm) -> dict[str, Any] | None:
    """Positive where the arm forgot, whatever the measure; with the answers before and after."""
    found = forgotten(arm)
    if found is None:
        return None
    answers = {part: each and asdict(each) for part, each in (("before", found.before), ("after", found.after),
                                                              ("cosines", found.cosines))}  # fmt: skip
    return asdict(found.amount) | {"measure": found.measure, "texts": found.texts} | answers


def _generation(arm: Arm) -> dict[str, Any] | None:
    """What writing took, medians over runs, and why a metric is absent."""
    took = {key: arm.median(f"compute.generation.{key}") for key in ("prompts", "tokens", "seconds_s", "tokens_per_s")}
    absent = arm.first("metrics.absent")
    return took | {"absent": absent or {}} if absent or took["prompts"] is not None else None


def _compared(report: Findings, arm: Arm) -> dict[str, Any] | None:
    c = report.comparison(arm)
    if c is None:
        return None
    boot = c.bootstrap
    return {
        "metric": report.metric.name, "verdict": c.verdict, "reason": c.reason, "margin": c.margin,
        "difference": c.estimate, "se": boot and boot.se, "low": boot and boot.low, "high": boot and boot.high,
        "level": 0.9, "p": boot and boot.p, "p_holm": c.p_holm, "detectable": boot and boot.detectable,
        "seeds": c.seeds, "items": c.items,
    }  # fmt: skip


def _interval(found: Interval) -> dict[str, Any]:
    return asdict(found)


def _raw(report: Findings, arm: Arm) -> dict[str, Any]:
    """An arm's CSV line."""
    found, compared = arm.scores.get(report.metric.name), _compared(report, arm) or {}
    line: dict[str, Any] = {key: arm.settings.get(key) for key in ("rank", "alpha", "targets", "quant")}
    line = {"method": arm.method, **line}
    line |= {"rank_fraction": rank_fraction(arm), "scale": arm.first("lora.scale"), "lr": arm.lr, "n": len(arm.runs)}
    line["metric"] = report.metric.name
    line |= {f"test_{key}": getattr(found, key, None) for key in ("mean", "median", "se", "low", "high")}
    line["test_interval"] = found and found.kind
    line |= {f"difference_{key}": compared.get(key) for key in ("se", "low", "high", "p_holm")}
    line |= {"difference": compared.get("difference"), "verdict": compared.get("verdict")}
    line |= {f"{key}_params": arm.first(f"params.{key}") for key in ("trainable", "total", "adapter", "head")}
    line |= _cost(arm) | _beside(report, arm)
    line |= {"adapter_bytes": arm.median("storage.adapter_bytes"), "comparable": arm.comparable}
    line["flags"] = "; ".join(arm.flags)
    return {key: "" if value is None or value != value else value for key, value in line.items()}


def _beside(report: Findings, arm: Arm) -> dict[str, Any]:
    """Generated metrics, writing speed and forgetting in an arm's CSV line, where any arm has them."""
    line: dict[str, Any] = {}
    for metric in (name for name in of_kind("text") if any(name in other.scores for other in report.arms)):
        found = arm.scores.get(metric)
        line |= {f"{metric}_{key}": getattr(found, key, None) for key in ("mean", "low", "high")}
    if any(_generation(other) for other in report.arms):
        line["generated_tokens_per_s"] = arm.median("compute.generation.tokens_per_s")
    if any(forgotten(other) for other in report.arms):
        lost = forgotten(arm)
        amount = lost and lost.amount
        line |= {f"forgetting_{key}": getattr(amount, key, None) for key in ("mean", "se", "low", "high")}
        line["forgetting_measure"] = lost and lost.measure
    return line


def _cost(arm: Arm) -> dict[str, float | None]:
    """Memory, computation and time in an arm's CSV line."""
    found = costs.flops(arm)
    return {
        "train_peak_bytes": costs.peak_bytes(arm), "predicted_peak_bytes": costs.predicted_bytes(arm),
        **{key: costs.memory(arm).get(key) for key in costs.SYSTEM},
        "eval_peak_bytes": costs.peak_bytes(arm, "eval"), "flops_per_token": found["per_token"],
        "flops_of_full": found["of_full"], "break_even_rank": found["break_even_rank"],
        "mfu": arm.median("compute.mfu"), "train_s": arm.median("compute.seconds.train_s"),
        "total_s": arm.median("compute.seconds.total_s"), "tokens_per_s": arm.median("compute.tokens_per_s"),
    }  # fmt: skip
