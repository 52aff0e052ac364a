"""Raw numbers: one CSV line per arm, and the JSON document."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rankwise.errors import Refused
from rankwise.report import costs, tuning
from rankwise.report.arms import Arm
from rankwise.report.columns import KEYS, chosen, columns, rank_fraction
from rankwise.report.forgetting import forgotten
from rankwise.report.latency import timed
from rankwise.tracking.record import finite

if TYPE_CHECKING:
    from rankwise.report.report import Report


_SAME = {"same": True, "worse": False, "better": False}


def csv_text(report: Report, wanted: Sequence[str] = ()) -> str:
    """Raw numbers, one line per arm; empty where unknown."""
    out, picked = io.StringIO(), chosen(report, wanted) if wanted else columns(report)
    if unnamed := [column.header for column in picked if wanted and not column.key]:
        raise Refused(f"--columns {unnamed[0]}: of tables, not of CSV: {KEYS}")
    fields = {part.key: part for column in picked for part in column.raw}
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([fields, *([_cell(part.get(arm)) for part in fields.values()] for arm in report.arms)])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """What a spreadsheet shows as it is: a text that it would take for a formula begins with an apostrophe."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None or value != value else value


def json_parts(report: Report, wanted: Sequence[str] = ()) -> Iterator[str]:
    """The text of the JSON document, which is long where runs are many: each is one line."""
    head, tail = json.dumps(document(report) | {"runs": [None]}, indent=1, allow_nan=False).rsplit("null", 1)
    yield head
    for number, record in enumerate(report.records):
        yield ",\n  " * (number > 0) + json.dumps(record.to_dict(), allow_nan=False)
    yield f"{tail}\n"


def document(report: Report) -> dict[str, Any]:
    """The JSON document, but for the runs."""
    values = {
        "headline": report.headline.first,
        "other_headlines": report.headline.others,
        "notes": report.notes,
        "reference": report.reference and report.reference.label,
        "constant": report.constant,
        "answers": [one.document | {"notes": one.by_rank.notes} for one in (*report.answers, *report.elsewhere)],
        "arms": [_arm(report, arm) for arm in report.arms],
        "sufficiency": [
            {
                "family": f.label,
                "margin": f.margin,
                "rank": f.answer.arm.rank if f.answer else None,
                "answer": f.answer.arm.called if f.answer else None,
                "level": f.level,
                "conclusive": f.conclusive,
                "reason": f.reason,
                "detectable": f.detectable and f.detectable[1],
                "steps": [
                    {"arm": s.arm.called, "rank": s.arm.rank}
                    | {key: getattr(s, key) for key in ("passed", "reason", "low")}
                    for s in f.steps
                ],
            }
            for f in report.families
        ],
    }
    return finite(values)


def _arm(report: Report, arm: Arm) -> dict[str, Any]:
    lost, compared, rounds = forgotten(arm), _compared(report, arm), [] if arm.is_baseline else arm.rounds
    return arm.facts | {
        **{key: getattr(arm, key) for key in ("lr", "comparable", "churn", "unfit", "flags")},
        "rank_fraction": rank_fraction(arm),
        "rates": arm.tried,
        "best_of_rates": arm.picked,
        "scale": arm.first("lora.scale"),
        "n": len(arm.runs),
        "constant": report.constants[id(arm)],
        "scores": {name: asdict(score) for name, score in arm.scores.items()},
        "forgetting": lost and lost.document(),
        "generation": _generation(arm),
        "latency": timed(arm),
        "params": {key: arm.first(f"params.{key}") for key in ("trainable", "frozen", "total", "adapter", "head")},
        "compute": costs.compute(arm),
        "memory": {during: costs.memory(arm, during) for during in ("train", "eval")},
        "storage": {"adapter_bytes": arm.median("storage.adapter_bytes")},
        "reference": arm is report.reference,
        "differs": {key: {"here": here, "reference": there} for key, (here, there) in arm.differs.items()},
        "same_as_full": _SAME.get(report.verdict(arm)) if report.short == "full" else None,
        "comparison": compared,
        "trials": [asdict(trial) | {"length": tuning.length(part)} for part in rounds for trial in part.trials],
        "unscored": [{"name": run.run.get("name"), "status": run.status} for run in arm.unscored],
    }


def _generation(arm: Arm) -> dict[str, Any] | None:
    """What writing took, medians over runs, and why a metric is absent."""
    took = {key: arm.median(f"compute.generation.{key}") for key in ("prompts", "tokens", "seconds_s", "tokens_per_s")}
    absent = arm.first("metrics.absent")
    return took | {"absent": absent or {}} if absent or took["prompts"] is not None else None


def _compared(report: Report, arm: Arm) -> dict[str, Any] | None:
    c = report.comparison(arm)
    if c is None:
        return None
    boot = {key: c.bootstrap and getattr(c.bootstrap, key) for key in ("se", "low", "high", "p")}
    own = {"reason": c.reason, "margin": report.margin, "p_holm": c.p_holm, "seeds": c.seeds, "items": c.items}
    own |= {"verdict": report.verdict(arm), "detectable": c.detectable(report.level)}
    return boot | own | {"metric": report.metric.name, "level": 0.9, "difference": c.estimate}
