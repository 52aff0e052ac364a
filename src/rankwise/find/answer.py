"""The answer in one sentence, and the table of what was learned per rank and at what cost."""

import math
from dataclasses import asdict
from typing import Any

from rankwise.errors import plural
from rankwise.find.evidence import arm_of
from rankwise.find.power import LIKELY, need
from rankwise.find.question import LOOKS, Question
from rankwise.find.rates import Tuned
from rankwise.find.rule import ENOUGH, HOPELESS, OPEN, UNDECIDED, WORSE, Evidence, Rule, chance
from rankwise.find.story import Findings
from rankwise.identity import run_id
from rankwise.metrics import duration
from rankwise.report.arms import UNDER_TRAINED
from rankwise.report.costs import beside, peak_bytes
from rankwise.report.flags import collapse
from rankwise.report.formats import out_of, percent, rate
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED

_WORTH = 0.5  # the chance from which on more seeds are recommended
_SAVED = {"trainable parameters": "parameters", "peak training memory": "memory", "FLOPs per token": "operations"}
_WORDS = {ENOUGH: "enough", WORSE: "worse", HOPELESS: "given up", OPEN: "not decided"}


def answer(findings: Findings, again: str = "rankwise find") -> dict[str, Any]:
    """What is told, for the terminal, ``--json`` and the report; ``again`` is the command as it was typed, without its
    budget. ``rank`` is the smallest that is enough, if any; ``decided`` whether the question is closed.
    """
    rank = findings.decision.answer
    undecided = [r for r, status in findings.decision.status.items() if status == UNDECIDED]
    likeliest = max(undecided, key=lambda r: findings.looks[r][-1].high(0.05), default=None)  # to pass, were there more
    open_rank, _ = findings.decision.following or (likeliest, 0)
    if rank is not None:  # which a failed run of a smaller rank does not take back
        sentence = _enough(findings, rank)
    elif findings.stopped not in ("", "budget"):
        sentence = f"No conclusion: {findings.stopped}. {_spent(findings)}"
    elif open_rank is not None or findings.stopped:
        sentence = _undecided(findings, open_rank, again)
    else:
        sentence = _none(findings)
    question, largest = findings.question, findings.looks.get(findings.question.ranks[-1])
    closed = open_rank is None and largest and _is_plain(question, largest[-1])  # else rows may lack
    decided = not findings.stopped and (rank is not None or bool(closed))
    course, unrun = _course(findings), _unrun(findings, decided)
    return {
        "sentence": sentence,
        "rank": rank,
        "decided": decided,
        "margin": question.margin,
        "metric": question.metric.name,
        "reference": question.reference_name,
        "reference_run": run_id(question.run_of(None, 0, findings.rates.of(None))) if findings.rates else None,
        "ranks": [_row(findings, r) for r in question.ranks],
        "course": course,
        "not_run": unrun,
        "notes": [*filter(None, [course, *_notes(findings), unrun])],
        "cost": _cost(findings),
        "rule": asdict(findings.rule) if findings.rule else None,
    }


def _enough(findings: Findings, rank: int) -> str:
    question, (low, level) = findings.question, _tested(findings, rank)
    gain, worst = _by_score(question, findings.looks[rank][-1].gain), _by_score(question, low)
    unit = "" if question.metric.percent else f"{question.metric.difference_unit} "  # points say theirs themselves
    within = f"within {question.metric.width(question.margin)} {unit}of {question.reference_name}"
    gains = f"({unit}{gain}, at worst {worst} at {level})"
    saves = ", ".join(
        f"{percent(mine / theirs)} % of the {_SAVED[what]}"
        for what, mine, theirs, _ in beside(*(arm_of(findings.arms[arm]) for arm in (rank, None)))
        if what in _SAVED
    )
    short = any(wrong.startswith(UNDER_TRAINED) for wrong in findings.faults.get(rank, []))
    enough = f"Rank {rank} is enough{' at this budget' * short}"
    ended = "the budget ended" if findings.stopped == "budget" else findings.stopped
    smaller = f"; whether a smaller rank is, was left open: {ended}" if ended else ""
    return f"{enough}: {within} {gains}{f', with {saves}' if saves else ''}{smaller}. {_spent(findings)}"


def _tested(findings: Findings, rank: int) -> tuple[float, str]:
    """The lower limit by which a rank was judged, and its level."""
    assert findings.rule is not None
    seen = findings.looks[rank][-1]
    tail = findings.rule.tail(rank, seen.seeds)
    return seen.low(tail), f"{100 * (1 - tail):.3g} %"


def _undecided(findings: Findings, rank: int | None, again: str) -> str:
    question, budget = findings.question, findings.question.budget
    within = f"within {budget.runs} runs" if budget.runs else f"within {duration(budget.seconds or 0)}"
    start = f"Not decided {within if findings.stopped else f'with {question.looks[-1]} seeds'}"
    if rank is None or not findings.looks.get(rank):
        begun = f"rank {rank} is begun" if findings.looks else "the first comparison of two seeds"
        return f"{start}: the budget ends before {begun}. {_spent(findings)}"
    seen = findings.looks[rank][-1]
    shown = f"rank {rank} is {_apart(question, seen)}"
    if seen.sound is None:
        more = "a larger --budget" if findings.stopped else "more test rows (task.n_test), or longer training"
        return f"{start}: {shown}, but {findings.faults[rank][0]}. Next to try: {more}. {_spent(findings)}"
    plain = f", plainly beyond the margin of {question.metric.width(question.margin)}" * _is_plain(question, seen)
    return f"{start}: {shown}{plain}. {_advice(findings, rank, seen, again)}"


def _apart(question: Question, seen: Evidence) -> str:
    """How far a rank is ahead or behind, whichever way its metric counts: ``4.1 points worse [3.8, 4.4] at 90 %``."""
    low, high = seen.low(0.05), seen.high(0.05)
    values, nearest = (-seen.gain, -high, -low), "worse" if high < 0 else "behind, which may be chance"
    if seen.gain > 0:
        values, nearest = (seen.gain, low, high), "ahead"
    gap, least, most = (question.metric.difference(value).lstrip("+") for value in values)
    return f"{gap} {question.metric.difference_unit} {nearest} [{least}, {most}] at 90 %"


def _is_plain(question: Question, seen: Evidence) -> bool:
    """Whether a rank is worse by more than the margin, by its interval at 90 %."""
    return seen.high(0.05) < -question.margin


def _by_score(question: Question, gain: float) -> str:
    """A gain as the difference of the scores, in which the report shows it: of an error, less is a gain."""
    return question.metric.difference(question.metric.sign * gain)


def _advice(findings: Findings, rank: int, seen: Evidence, again: str) -> str:
    """How many more seeds would decide it; or, where seeds are not likely to, how many test rows."""
    assert findings.rule is not None
    question, rule = findings.question, findings.rule
    chances = {k: chance(rule, rank, seen, k) for k in question.looks if k > seen.seeds}
    is_plain = _is_plain(question, seen)  # then the next look is likely to say so
    seeds = next((k for k in chances if is_plain or chances[k] >= LIKELY), None)
    seeds = seeds or max(chances, key=lambda k: chances[k], default=0)
    is_likely = chances.get(seeds, 0.0) >= _WORTH
    if not is_likely and not (seeds and findings.stopped):
        return f"Next to try: {_larger(findings, rank, seen)}. {_spent(findings)}"
    more, runs = 2 * (seeds - seen.seeds), question.budget.runs
    cost_s = findings.runs.cost_s([question.method] * more)
    budget = str(runs + more) if runs else f"{math.ceil((findings.runs.seconds + cost_s) / 60)}m"
    go_on = f"{again} --budget {budget}"
    if is_plain:
        return f"To confirm it: {go_on}; next to try: {_beyond(question)}. {_spent(findings)}"
    seeds_more = f"{plural(seeds - seen.seeds, 'more seed')} (about {duration(cost_s)})"
    shown = f"{seeds_more} would show it to be enough with {100 * chances[seeds]:.0f} % chance: {go_on}."
    return shown if is_likely else f"Next to try: {_larger(findings, rank, seen)}. {shown} {_spent(findings)}"


def _larger(findings: Findings, rank: int, seen: Evidence) -> str:
    """What a new study needs to name the rank from the same guess, should the difference stay as it is."""
    assert findings.rule is not None
    question = findings.question
    rule = Rule.of(question.ranks, findings.rule.guess, question.margin, LOOKS)
    rows = at(findings.arms[None][0], f"metrics.test.{question.metric.name}.n") if findings.arms.get(None) else None
    more = need(rule, rank, seen.with_size(1), int(rows)).rows if rows else None
    if rows and more and more > rows:
        return f"{more:,} test rows in place of {rows:,} (task.n_test) and --seeds {LOOKS[-1]}, or a larger margin"
    return f"--seeds {LOOKS[-1]}, or a larger margin" if question.looks[-1] < LOOKS[-1] else "a larger margin"


def _none(findings: Findings) -> str:
    question = findings.question
    largest = question.ranks[-1]
    seen = findings.looks[largest][-1]
    where = f" on {question.method.targets.name}" if question.method.targets.name else ""
    start = f"No rank up to {largest} was shown to be enough{where}: rank {largest} is {_apart(question, seen)}"
    wrong = next(iter(findings.faults.get(largest, [])), "")
    if wrong:
        remedy = f"longer training (trainer.max_steps, trainer.epochs), a lower method.lr, or {_beyond(question)}"
        return f"{start}, but its runs cannot be judged ({wrong}). Next to try: {remedy}. {_spent(findings)}"
    more = f"{_larger(findings, largest, seen)}, or " * (not _is_plain(question, seen))
    return f"{start}. Next to try: {more}{_beyond(question)}. {_spent(findings)}"


def _beyond(question: Question) -> str:
    """What may be enough where the largest rank is not."""
    if question.method.targets.name != "all_linear":
        return "targets=all_linear"
    return f"method.rank={2 * question.ranks[-1]},{4 * question.ranks[-1]}" if question.tuned else "--rates tune"


def _cost(findings: Findings) -> dict[str, Any]:
    """What was run, and what the whole grid would have been."""
    runs, (arms, seeds, tried) = findings.runs, _grid(findings)
    grid = arms * (seeds + tried) if seeds else 0
    grid_s = runs.cost_s([findings.question.method] * grid)
    return {"runs": len(runs.records), "seconds": runs.seconds, "grid_runs": grid, "grid_s": grid_s}


def _grid(findings: Findings) -> tuple[int, int, int]:
    """Its arms, which are every rank and the reference; seeds, as any had here; rates that were tried here."""
    seeds = max((e.seeds for looks in findings.looks.values() for e in looks), default=0)
    middle = findings.rates.middle if findings.rates and findings.question.tuned else None
    return len(findings.question.ranks) + 1, seeds, middle.tried + middle.beyond if middle else 0


def _spent(findings: Findings) -> str:
    cost = _cost(findings)
    spent = f"{cost['runs']} runs, {duration(cost['seconds'])}"
    grid = f"; the grid would have taken {cost['grid_runs']} runs, {duration(cost['grid_s'])}"
    return f"{spent}{grid if cost['grid_runs'] else ''}."


def _row(findings: Findings, rank: int) -> dict[str, Any]:
    """What is known of one rank: its verdict, its gain with 90 % limits, what it costs."""
    looks, arm = findings.looks.get(rank, []), arm_of(findings.arms.get(rank, []))
    seen = looks[-1] if looks else None
    status = findings.decision.status.get(rank)  # none where what it was compared with is void
    void = not status or (status in (HOPELESS, WORSE) and findings.faults.get(rank))
    word = "not judged" if void else _WORDS.get(str(status), str(status))
    return {
        "rank": rank,
        "verdict": word if seen else "failed" if rank in _failed(findings) else "not run",
        "seeds": seen.seeds if seen else 0,
        "gain": seen.gain if seen else None,
        "low": seen.low(0.05) if seen else None,
        "high": seen.high(0.05) if seen else None,
        "pilot": findings.guess.curve.get(rank) if findings.guess else None,
        "lr": findings.rates.of(rank) if findings.rates else None,
        "trainable": arm.first("params.trainable"),
        "peak_bytes": peak_bytes(arm),
    }


def _course(findings: Findings) -> str:
    """Where it began, when it looked and how often it may err; empty before there is a guess."""
    if not (guess := findings.guess):
        return ""
    question, times = findings.question, findings.times
    how = "the pilot's guess" if guess.curve else f"the middle one{', as ' if guess.why else ''}{guess.why}"
    start = f"Started from rank {guess.rank}, {how}. " if len(question.ranks) > 1 else ""
    often = "5 %" + f", over all {times} questions of this study {min(5 * times, 100)} %" * (times > 1)
    chance = f"The chance of naming a rank that is not enough is at most {often}, if scores spread normally over seeds."
    return f"{start}Looks after {', '.join(map(str, question.looks))} seeds. {chance}"


def _unrun(findings: Findings, decided: bool) -> str:
    """Which ranks were never compared; empty where all were, or none."""
    unseen = [str(r) for r in findings.question.ranks if not findings.looks.get(r) and r not in _failed(findings)]
    if not unseen or not findings.looks:
        return ""
    return f"Not run: rank {', '.join(unseen)}{'; the question was decided without' if decided else ''}."


def _failed(findings: Findings) -> set[int]:
    """The ranks of which a run that was to count did not finish, for want of memory say."""
    counted = [run for run in findings.runs.records.values() if run.status != FINISHED and not run.config.get("stage")]
    return {int(at(run, "config.method.rank") or 0) for run in counted}


def _notes(findings: Findings) -> list[str]:
    """What else qualifies the sentence."""
    question, notes = findings.question, []
    if (rank := findings.decision.answer) is not None:
        (low, level), seen = _tested(findings, rank), findings.looks[rank][-1]
        side = "upper" if question.metric.lower_is_better else "lower"
        limit = f"its {side} limit at {level}, {_by_score(question, low)}"
        judged = f"Rank {rank} was judged after {seen.seeds} seeds by {limit}"
        rare = f"that up to {100 * (1 - 0.05 ** (1 / seen.seeds)):.0f} % of seeds collapse"
        left = f" {seen.seeds} seeds without a collapse leave open, at 95 %, {rare}."
        left *= not collapse(findings.arms[rank])
        notes.append(f"{judged}; the table's 90 % leave 5 % on either side.{left}")
    if findings.looks:
        notes.append(
            "The report's own intervals of these gains are wider as a rule: what test items do differently from seed "
            "to seed stands in the spread over seeds, and they count it over items as well, to be on the safe side."
        )
    arms, seeds, tried = _grid(findings)
    if seeds:
        each = f"({seeds} seeds + {tried} learning rates)" if tried else f"{seeds} seeds"
        notes.append(f"The grid: {arms} arms, which are every rank and {question.reference_name}, × {each}.")
    rates = findings.rates if question.tuned else None
    if not question.tuned:
        notes.append("Learning rates were not tuned here: they are the defaults, or as given.")
    sides: dict[str, Tuned] = {"the method": rates.middle, "the reference": rates.reference} if rates else {}
    sides |= {f"rank {rank}": tuned for rank, tuned in rates.own.items()} if rates else {}
    for name, tuned in sides.items():
        edge, of = ", at the edge of what was tried" * tuned.at_edge, out_of(tuned.tried, tuned.beyond)
        notes.append(f"Learning rate of {name}: {rate(tuned.lr)}, the best of {of} on validation{edge}.")
    notes += [f"Rank {rank}: {wrong}." for rank, faults in findings.faults.items() for wrong in faults]
    for r, runs in findings.arms.items():
        notes += [f"{f'Rank {r}' if r else 'The reference'}: {what}." for what in collapse(runs)]
    failed = [record for record in findings.runs.records.values() if record.status != FINISHED]
    kept = "; its seed was not replaced"  # of what counts
    return notes + [f"{run.run['name']} {run.status}{kept * (not run.config.get('stage'))}." for run in failed]
