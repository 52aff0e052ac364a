"""Runs the points of a sweep file with W&B's own engine and no server: grid, random, bayes, early termination."""

from __future__ import annotations

import fcntl
import json
import random
import sys
import time
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder, run_id
from rankwise.study.launcher import Outcome
from rankwise.study.sweep_file import SweepFile
from rankwise.tracking import record as records
from rankwise.tracking.journal import read_lines, read_rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic's, of names that have changed
    import sweeps
    import sweeps.bayes_search
    import sweeps.hyperband_stopping
    import sweeps.random_search
    from sweeps.run import SweepRun

Point = dict[str, Any]
_RATES = ("method.lr", "optim.lr")  # what early termination may choose among
_REPEATS = 10  # of a suggestion, until another way is tried
_LOOK_S = 1.0  # between two looks at running runs


class Search:
    """The source of a sweep's runs: asks the engine, tells it how they went, stops those without hope.

    A journal beside the runs keeps the points in order, so that the same command goes on where it was: finished runs
    are told again, stopped ones run again. Early termination compares learning rates within an arm alone: small ranks
    learn slowly, and would lose to large ones at every early look.
    """

    def __init__(self, file: SweepFile, compose: Callable[[list[str]], Config], cap: int, seed: int, rerun: bool):
        self.file, self.compose, self.cap = file, compose, cap
        self.runs: list[SweepRun] = []
        self.points: dict[str, Point] = {}  # by the name of the run in the engine
        self.folders: dict[Path, list[SweepRun]] = defaultdict(list)  # several points may be one run
        self.configs: dict[Path, Config] = {}
        self.hopeless_at: dict[Path, int] = {}
        self._again: list[Config] = []
        self._exhausted, self._looked_s = False, 0.0
        first = self._config({})
        self.journal = Path(first.outputs) / first.study / f"{file.path.stem}.sweep.jsonl"
        self.close = weakref.finalize(self, self._lock().close)  # lets others go on with the journal
        self._resume(rerun)
        random.seed(seed + len(self.runs))  # the engine draws from the global generators
        np.random.seed(seed + len(self.runs))

    def next(self) -> Config | None:
        """The next point that has to be run; points whose run is finished are told at once."""
        if self._again:
            return self._again.pop(0)
        while self.more():
            point = self._suggest()
            if point is None:
                self._exhausted = True
                return None
            config = self._add(point)
            self._write({"point": point, "run": run_id(config) if config else None})
            if config and self._is_new(config):
                return config
        return None

    def more(self) -> bool:
        """Until the cap, or the end of the grid."""
        return bool(self._again) or not (self._exhausted or len(self.runs) >= self.cap)

    def ended(self, outcome: Outcome) -> None:
        """Tell the engine what came of a run."""
        place = outcome.folder
        if place in self.hopeless_at:
            step = self.hopeless_at[place]
            self._write({"pruned": run_id(self.configs[place]), "step": step})
            print(f"rankwise: {place.name} stopped early at step {step}", file=sys.stderr)
        self._tell(place)

    def hopeless(self) -> Collection[Path]:
        """Running runs that W&B's early termination would stop, each compared with others of its own arm."""
        if "early_terminate" in self.file.engine and time.monotonic() - self._looked_s > _LOOK_S:
            self._looked_s = time.monotonic()
            for arm in self._arms():
                for run in sweeps.stop_runs(self.file.engine, arm):
                    place = next(place for place, runs in self.folders.items() if run in runs)
                    self.hopeless_at.setdefault(place, len(run.history))
        running = (place for place, runs in self.folders.items() if runs[0].state == "running")
        return [place for place in running if place in self.hopeless_at]

    def best(self) -> tuple[Point, float] | None:
        """The point with the best objective so far."""
        goal = (self.file.engine.get("metric") or {}).get("goal", "minimize")
        scored = [(run, run.summary_metrics["objective"]) for run in self.runs if run.summary_metrics]
        if not scored:
            return None
        run, value = (max if goal == "maximize" else min)(scored, key=lambda pair: pair[1])
        return self.points[run.name], value

    def _arms(self) -> Iterator[list[SweepRun]]:
        arms: dict[str, list[SweepRun]] = defaultdict(list)
        for place, (run, *_) in self.folders.items():
            if run.state == "running":
                run.history = self._history(place)
            point = {key: value for key, value in self.points[run.name].items() if key not in _RATES}
            arms[json.dumps(point, sort_keys=True)].append(run)
        yield from arms.values()

    def _suggest(self) -> Point | None:
        """A point that was not tried: the engine's, or a random one when it repeats itself; None when none is left."""
        engine = self.file.engine
        tried = {json.dumps(point, sort_keys=True) for point in self.points.values()}
        for attempt in range(100 * _REPEATS):
            if attempt == _REPEATS and self.file.method == "bayes":
                engine = engine | {"method": "random"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn's, of a Gaussian process with few points
                suggestion = sweeps.next_run(engine, self.runs, validate=False)
            if suggestion is None:
                return None
            point = {key: _plain(value["value"]) for key, value in suggestion.config.items()}
            if json.dumps(point, sort_keys=True) not in tried:
                return point
        return None

    def _add(self, point: Point) -> Config | None:
        """Enter a point; None for one that cannot run, which counts as failed."""
        run = SweepRun(name=str(len(self.runs)), config={key: {"value": value} for key, value in point.items()})
        run.state = "running"
        self.runs.append(run)
        self.points[run.name] = point
        try:
            config = self._config(point)
        except Refused as refused:
            print(f"rankwise: {refused}", file=sys.stderr)
            run.state = "failed"
            return None
        place = folder(config).absolute()
        self.folders[place].append(run)
        self.configs[place] = config
        return config

    def _is_new(self, config: Config) -> bool:
        """Whether the run has to be started: no other point is the same run, and it is not finished."""
        place = folder(config).absolute()
        return not self._tell(place) and len(self.folders[place]) == 1

    def _config(self, point: Point) -> Config:
        return self.compose([*self.file.overrides, *(f"{key}={_text(value)}" for key, value in point.items())])

    def _tell(self, place: Path) -> bool:
        """Hand on a run's result, if it has one; False while it has none."""
        found = records.read(place) if (place / "result.json").exists() else None
        if found is None or (found.status != records.FINISHED and place not in self.hopeless_at):
            state = "failed" if found and found.status == records.FAILED else "running"
            for run in self.folders[place]:
                run.state = state
            return False
        for run in self.folders[place]:
            run.history = self._history(place)
            run.state = "finished" if found.status == records.FINISHED else "killed"
            if found.objective is not None and found.status == records.FINISHED:
                run.summary_metrics = {"objective": found.objective}
        return True

    def _history(self, place: Path) -> list[dict[str, float]]:
        """One row per validation, as the engine counts its iterations."""
        file, key = place / "metrics.jsonl", self.configs[place].objective
        attempts = read_rows(file) if file.exists() else []
        return [{"objective": row[key]} for row in attempts if row.get(key) is not None]

    def _resume(self, rerun: bool) -> None:
        if rerun:
            self.journal.unlink(missing_ok=True)
        said = json.dumps(self.file.engine, sort_keys=True)
        kept = read_lines(self.journal)
        if not kept:
            return self._write({"engine": said})
        if not self.journal.read_bytes().endswith(b"\n"):  # a torn line: the next begins after it
            with self.journal.open("a", encoding="utf-8") as file:
                file.write("\n")
        first, *lines = kept
        if first.get("engine") != said:
            raise Refused(f"{self.journal}: kept of another search; give another study=NAME in the command, or --rerun")
        pruned = {line["pruned"]: line["step"] for line in lines if "pruned" in line}
        for line in lines:
            if "point" in line and line["point"] not in self.points.values():
                config = self._add(line["point"])
                if config and line["run"] in pruned:
                    self.hopeless_at[folder(config).absolute()] = pruned[line["run"]]
                if config and self._is_new(config):
                    self._again.append(config)
        return None

    def _lock(self) -> IO[str]:
        """Keep other searches of this journal away. Raises Refused where one is at it."""
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        file = self.journal.with_suffix(".lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Refused(f"{self.journal}: another search is at it; wait for it, or give another study=NAME") from None
        return file

    def _write(self, line: dict[str, Any]) -> None:
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _plain(value: Any) -> Any:
    """Python's own number for numpy's."""
    return value.item() if hasattr(value, "item") else value


def _text(value: Any) -> str:
    """As W&B's agent writes it on a command line."""
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)
