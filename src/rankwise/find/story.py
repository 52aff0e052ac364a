"""``rankwise find``, readable from top to bottom: rates, pilot, and real runs until the question is decided."""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rankwise.compare import Scores
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.find.evidence import arm_of, faults, gather, is_sound
from rankwise.find.pilot import Guess, pilot, pilot_run
from rankwise.find.question import TUNE, Question
from rankwise.find.rates import Failed, Rates, tune
from rankwise.find.rule import Decision, Evidence, Rule, decide
from rankwise.identity import folder
from rankwise.report.arms import UNDER_TRAINED
from rankwise.report.flags import TOO_FEW, collapse, unfit
from rankwise.study import outdated
from rankwise.study.outcome import Outcome
from rankwise.study.worker import REFUSED
from rankwise.tracking import lease
from rankwise.tracking import record as records
from rankwise.tracking.fields import at
from rankwise.tracking.mirror import Mirror
from rankwise.tracking.record import FINISHED, Record

Launch = Callable[[Sequence[Config], str], Sequence[Outcome] | None]


class Spent(Exception):
    """The budget does not reach for the next runs."""


@dataclass
class Runs:
    """Runs what is asked within the budget, and remembers it. ``jobs`` run side by side."""

    question: Question
    launch: Launch
    jobs: int = 1
    records: dict[Path, Record] = field(default_factory=dict)

    def __call__(self, configs: Sequence[Config], stage: str) -> list[Record]:
        """The records of ``configs``, in their order. Raises Spent when running what is left would cost too much, and
        Refused for a run that another process has, that is refused itself, or whose model or data have changed since.
        """
        done = {folder(config): config for config in configs if records.is_done(config)}
        other = outdated.summary([config for where, config in done.items() if where not in self.records], margin=False)
        if changed := re.search(r"with other (model|data)", other):
            remedy = "study=OTHER asks anew; with the old ones the same command goes on"
            raise Refused(f"{answer_file(self.question).parent}: has runs {changed[0]} than there are now; {remedy}")
        self.records |= {where: self._read(config) for where, config in done.items()}
        asked = [config for config in configs if records.is_done(config) or not self._is_over(config)]
        left = [config for config in asked if not records.is_done(config)]
        if other and not left:  # else the launch says it
            print(f"rankwise: runs ({stage}) that finished before: {other}", file=sys.stderr)
        if left:  # what is there costs nothing more, however small the budget is by now
            budget = self.question.budget
            if budget.runs is not None and len(self.records) + len(left) > budget.runs:
                raise Spent
            if budget.seconds is not None:
                if not self.records and len(left) > self.jobs:
                    self(left[: self.jobs], stage)  # which tell what the others cost
                    return self(configs, stage)
                if self.seconds + self.cost_s(left) > budget.seconds:
                    raise Spent
            for outcome in self.launch(asked, stage) or ():
                if outcome.status == REFUSED:  # no other seed or rate of it would do better
                    raise Refused(f"{outcome.folder.name}: {outcome.error}")
        ended = {folder(config): self._read(config) for config in configs}
        self.records |= ended
        return [ended[folder(config)] for config in configs]

    def _is_over(self, config: Config) -> bool:
        """Of one that has not finished: what failed in this start is; what failed before is tried again, unless the
        guess is settled, with the rates, which its success would change.
        """
        tuned = config.stage == TUNE and answer_file(self.question).exists()
        return folder(config) in self.records or (tuned and (folder(config) / "result.json").exists())

    def _read(self, config: Config) -> Record:
        if not records.is_done(config) and lease.is_live(folder(config)):
            has = "another process has this run; the same command goes on when it has ended"
            raise Refused(f"{folder(config)}: {has}")
        if (folder(config) / "result.json").exists():
            return records.read(folder(config))
        record = records.begin(config, None)  # its process died before it could write
        record.run["status"] = records.FAILED
        return record

    @property
    def seconds(self) -> float:
        """Wall time of all runs so far, side by side as they were."""
        return math.fsum(at(run, "compute.seconds.total_s") or 0.0 for run in self.records.values()) / self.jobs

    def cost_s(self, configs: Sequence[Config]) -> float:
        """What these will take, by the mean of those that trained longest: training by its steps, the rest alike."""
        most = max((_steps(run.config["trainer"]) for run in self.records.values()), default=0.0)
        longest = [run for run in self.records.values() if _steps(run.config["trainer"]) == most]
        known = [run.compute.get("seconds", {}) for run in longest]
        parts = ([of.get(part) or of.get("total_s") or 0.0 for of in known] for part in ("total_s", "train_s"))
        total_s, train_s = (math.fsum(part) / max(1, len(known)) for part in parts)
        return sum(total_s + train_s * (_steps(vars(c.trainer)) / most - 1) for c in configs if most) / self.jobs


def _steps(trainer: Mapping[str, Any]) -> float:
    return float(trainer.get("max_steps") or trainer["epochs"])


@dataclass(frozen=True)
class Findings:
    """How far it got. ``stopped`` says why nothing more was run, where that was not the rule's own decision."""

    question: Question
    runs: Runs
    rates: Rates | None = None
    guess: Guess | None = None
    rule: Rule | None = None
    decision: Decision = field(default_factory=lambda: Decision({}))
    looks: dict[int, list[Evidence]] = field(default_factory=dict)
    arms: dict[int | None, list[Record]] = field(default_factory=dict)  # runs that count; None is the reference
    faults: dict[int, list[str]] = field(default_factory=dict)  # of the ranks that were run, as the report says them
    stopped: str = ""  # "", "budget", or what failed

    @property
    def times(self) -> int:
        """How many questions were asked in this study, each at the whole level; they may look at the same runs."""
        file = answer_file(self.question)
        return len({file, *file.parent.glob("answer-*.json")})


def find(question: Question, launch: Launch, jobs: int = 1) -> Findings:
    """Tune, guess, confirm. What is finished is not run again, so that a second start goes on from what is there."""
    runs = Runs(question, launch, jobs)
    rates, stopped = None, ""
    try:
        rates = tune(question, runs)
        guess = _settled(question, rates, runs)
    except Spent:
        stopped = "budget"
    except Failed as why:
        stopped = str(why)
    if rates is None or stopped:
        return Findings(question, runs, rates, stopped=stopped)
    return confirm(question, guess, rates, runs)


def _settled(question: Question, rates: Rates, runs: Runs) -> Guess:
    """The pilot's guess, written down before the first run of a rank that counts and never changed after it."""
    file = answer_file(question)
    if file.exists():
        try:
            noted: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            curve = {int(rank): float(score) for rank, score in noted["pilot"].items()}
            if records.is_done(config := pilot_run(question, rates)):
                runs([config], "pilot")  # it counts to what was spent
            return Guess(question.ranks[question.ranks.index(noted["guess"])], curve, str(noted.get("why", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused(f"{file}: not what rankwise find wrote there; remove it to start again") from None
    guess = pilot(question, rates, runs)
    _write(file, _noted(guess))
    return guess


def _noted(guess: Guess) -> dict[str, Any]:
    return {"guess": guess.rank, "pilot": guess.curve, "why": guess.why}


def keep(findings: Findings, document: dict[str, Any]) -> None:
    """Write the answer beside the runs, with the guess that it began from; its sentence into the last run's record."""
    if findings.guess:
        _write(answer_file(findings.question), _noted(findings.guess) | document | {"date": records.now()})
    last = next((run for run in reversed(findings.runs.records.values()) if run.status == FINISHED), None)
    if last and last.run.get("answer") != document["sentence"]:
        last.run["answer"] = document["sentence"]
        last.write()
        mirror = Mirror(last)
        mirror.start()  # it has ended and is told anew, with the sentence in its summary
        mirror.close(last)
        last.write()


def _write(file: Path, values: dict[str, Any]) -> None:
    records.write_atomically(file, json.dumps(records.finite(values), indent=1) + "\n")


def confirm(question: Question, guess: Guess, rates: Rates, runs: Runs) -> Findings:
    """Add seeds in looks until the rule has decided, a run fails or cannot be compared, or the budget is spent.

    Raises Refused for what passes, such as a run that another process has: no answer comes of it.
    """
    rule = Rule.of(question.ranks, guess.rank, question.margin, question.looks)
    looks: dict[int, list[Evidence]] = {}
    arms: dict[int | None, list[Record]] = {}
    wrong: dict[int, list[str]] = {}
    stopped = ""
    while (decision := decide(rule, looks)).following is not None:
        rank, seeds = decision.following
        try:
            arms |= _paired(question, rates, rank, seeds, runs)
            of_both = arms[rank], arms[None], question.metric, Scores([*arms[rank], *arms[None]], question.metric)
            try:
                evidence = gather(*of_both)
            except Refused as why:
                stopped = str(why)
                break
            wrong[rank], against = faults(*of_both)
            # Two seeds tell little of chance; from the first look that can prove something on, it must be above it.
            if rule.shares[rule.looks.index(seeds)]:
                few = all(fault.endswith(TOO_FEW) for fault in against)
                if against and (seeds == rule.looks[-1] or not few):
                    remedy = "; train it longer" + ", or with --rates tune" * (not question.tuned)
                    remedy *= not few and against[0] not in collapse(arms[None])
                    stopped = f"{question.reference_name}'s runs are no reference ({against[0]}){remedy}"
                    decision = Decision({})  # what it was compared with before is void, too
                else:
                    wrong[rank][:0] = [f"{question.reference_name} is {fault}" for fault in against]
                evidence = replace(evidence, sound=is_sound(wrong[rank]))
            elif not looks and (short := _foreseen(question, arms[None])):
                print(f"rankwise: {short}", file=sys.stderr)
            looks.setdefault(rank, []).append(evidence)
        except Spent:
            stopped = "budget"
        except Failed as why:
            stopped = str(why)
        if stopped:
            break
    return Findings(question, runs, rates, guess, rule, decision, looks, arms, wrong, stopped)


def _foreseen(question: Question, reference: Sequence[Record]) -> str:
    """What no seed is likely to mend, to be said while there are runs to be saved; empty where nothing is known."""
    short = next((f for f in unfit(arm_of(reference), question.metric, None) if f.startswith(UNDER_TRAINED)), "")
    return short and (
        f"{question.reference_name} is {short}, so far: if further seeds say the same, there will be no answer; "
        "trainer.max_steps or trainer.epochs trains longer"
    )


def _paired(question: Question, rates: Rates, rank: int, seeds: int, runs: Runs) -> dict[int | None, list[Record]]:
    """``seeds`` runs of a rank and of the reference, on the same seeds. Raises Failed where one has not finished."""
    asked = [(arm, seed) for seed in range(seeds) for arm in (None, rank)]
    configs = [question.run_of(arm, seed, rates.of(arm)) for arm, seed in asked]
    arms: dict[int | None, list[Record]] = {None: [], rank: []}
    for (arm, _), record in zip(asked, runs(configs, f"rank {rank}"), strict=True):
        if record.status != FINISHED:
            raise Failed(record)
        arms[arm].append(record)
    return arms


def answer_file(question: Question) -> Path:
    """Where the guess, and later the answer, of this question stand: beside the study's runs."""
    return folder(question.method).parent / f"answer-{question.id()}.json"
