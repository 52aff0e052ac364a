"""Runs for a sweeper of somebody else's (Optuna), which hands over overrides and wants numbers back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus

from rankwise.check import check_here
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.study.compose import to_config, unresolved
from rankwise.tracking import record as records

if TYPE_CHECKING:
    from hydra_plugins.rankwise.plugins import LocalLauncher


def launch_rows(launcher: LocalLauncher, rows: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Run each row of overrides in a process of its own; the value of each is what ``launcher.returns`` names.

    Finished runs are not run again. A run that failed is a failed job, whose error the sweeper raises or counts.
    """
    from rankwise.study.sweep import launch_missing

    loader = launcher.hydra_context.config_loader
    configs = [to_config(unresolved(loader.load_sweep_config(launcher.config, list(row)))) for row in rows]
    for config in configs:
        check_here(config)
    launch_missing(configs, launcher.jobs)
    return [_returned(config, row, launcher.returns) for config, row in zip(configs, rows, strict=True)]


def _returned(config: Config, row: Sequence[str], wanted: Sequence[str]) -> JobReturn:
    place = folder(config)
    job = JobReturn(overrides=list(row), working_dir=str(place), status=JobStatus.COMPLETED)
    try:
        values = _values(place, wanted)
        job.return_value = values[0] if len(values) == 1 else values
    except Refused as refused:
        job.status, job.return_value = JobStatus.FAILED, refused
    return job


def _values(place: Path, wanted: Sequence[str]) -> list[float]:
    record = records.read(place)
    if record.status != records.FINISHED:
        raise Refused(f"{place}: {record.status}: {(record.error or {}).get('message', 'see its log')}")
    found = []
    for key in wanted:
        value: Any = record.to_dict()
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int | float):
            raise Refused(f"hydra.launcher.returns: {key}: no number of this record ({place})")
        found.append(float(value))
    return found
