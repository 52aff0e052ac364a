"""How runs end, on this machine or another, as their records tell."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankwise import metrics
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.study import progress
from rankwise.study.worker import SKIPPED, End
from rankwise.tracking import aside, lease
from rankwise.tracking import record as records
from rankwise.tracking.mirror import shortfall
from rankwise.tracking.record import FAILED, FINISHED, RUNNING, STOPPED, Record

_DEATHS = 3  # of a run with no word, each perhaps with its machine, before nobody takes it again


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    folder: Path
    status: str  # finished | failed | refused | stopped | skipped
    error: str | None = None  # one line
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it ended badly; a run that another process has did not."""
        return self.status not in (FINISHED, SKIPPED)


def elsewhere(config: Config, join: Mapping[str, int] | None = None) -> Outcome | None:
    """How a run stands that another process has, or has had since; None where it may be started. ``join``: ``launch``.

    Raises Refused for a record that cannot be read.
    """
    path = folder(config).absolute()
    if lease.is_live(path):
        return Outcome(path, SKIPPED)
    if join is None or not (path / "result.json").exists():
        return None
    record, error = records.read(path), None
    before = join.get(path.name, 0)
    tries, deaths = record.run["attempts"] - before, sum(number > before for number in records.deaths(record))
    rerun = (config.rerun and record.run.get("rerun")) or {}  # whose place the earlier result has taken again
    if tries > 0 and FAILED in (record.status, rerun.get("status")):
        error = str((rerun or record.error or {}).get("message"))
    elif record.status == STOPPED and record.error is None and deaths >= _DEATHS:
        error = f"its process or machine died in {deaths} attempts; the same command without --join tries again"
    elif not records.is_done(config) or (config.rerun and (tries <= 0 or rerun)):
        return None
    seconds = record.compute.get("seconds", {}).get("total_s") or 0.0
    return Outcome(path, FINISHED if error is None else FAILED, error, seconds)


_said: set[tuple[Path, str]] = set()  # of the studies of this process


def show_end(shown: progress.Display, config: Config, outcome: Outcome) -> None:
    """Say how a run has ended, with its objective; and what its data noted and its tracker lacks, once a study."""
    objective = None
    with contextlib.suppress(Refused):  # a record that cannot be read
        if outcome.status == FINISHED:
            record = records.read(outcome.folder)
            objective = record.objective
            notes = [f"rankwise: {note}" for note in record.provenance.get("data", {}).get("notes", ())]
            for note in [*notes, *filter(None, [shortfall(record)])]:
                if (outcome.folder.parent, note) not in _said:
                    _said.add((outcome.folder.parent, note))
                    shown.say(note)
    shown_score = "" if objective is None else score(config.objective, objective)
    shown.ended(outcome.folder.name, outcome.status, outcome.seconds, shown_score, outcome.error)


def score(name: str, value: float) -> str:
    return f"{name} {metrics.named(name).with_unit(value)}"


def correct(path: Path, status: str, error: dict[str, Any]) -> None:
    """Rewrite a record that still says "running" though its process is gone. Any other is left as it is."""

    def end(record: Record) -> None:
        ended = replace(record, run=record.run | {"status": status, "ended": records.now()}, error=error)
        if record.status == RUNNING and not aside.put_back(path, ended):
            record.run, record.error = ended.run, ended.error

    with contextlib.suppress(Refused, OSError):  # not a record, or a full disk: nothing to mend
        if (path / "result.json").exists():
            records.revise(path, end, wait_s=2.0)  # what the run had started may hold it until it is gone too


def finished_by(path: Path, pid: int) -> End | None:
    """The end that a process has reached by its record, where it was killed before its last word, or that is gone."""
    with contextlib.suppress(Refused):  # no record, or one that cannot be read
        record = records.read(path)
        if record.status == FINISHED and record.run.get("pid") == pid:
            return End(FINISHED)
    return None


def refuse(config: Config, error: str, before: int) -> End:
    """Write a record of a run that was refused before its first step and has left none.

    Between its end and this, another machine may have tried it as well: one of them tells of it. ``before`` are the
    attempts that were made before this study.
    """
    path = folder(config)
    with lease.owned(path) as mine:
        earlier = records.read(path) if (path / "result.json").exists() else None
        recorded = earlier is not None and earlier.status == FAILED and earlier.run["attempts"] > before
        if mine and not recorded:
            record = records.begin(config, earlier)
            record.run |= {"status": FAILED, "ended": records.now()}
            record.error = {"type": "Refused", "message": error}
            record.write()
    return End(FAILED, error)
