"""From a command line's overrides to a question. What cannot be answered is refused before anything is made."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

from rankwise import methods
from rankwise.check import check, check_here, narrowest
from rankwise.config import DEBUGGING, Config, Task, changed
from rankwise.errors import Refused
from rankwise.find.question import FULL, LOOKS, RANKS, Budget, Question
from rankwise.find.rates import least_runs
from rankwise.find.rule import Rule
from rankwise.metrics import Metric, mean, named
from rankwise.statistics import over_resamples, unseen
from rankwise.study import debug
from rankwise.study.compose import composed, explained, hydra_tree, load, refuse_idle, to_typed, unresolved
from rankwise.study.micro_batch import settled
from rankwise.tasks.data import already_read, check_files

_LEAST_TEST_ROWS = 50
_UNNAMED = ("default", "debug")  # studies that nobody chose


def question(
    overrides: Sequence[str], budget: str | None, margin: str | None, rates: str, reference: str, seeds: int = LOOKS[-1]
) -> Question:
    """What the command line asks. Raises Refused for whatever cannot be answered."""

    def runs(words: list[str]) -> list[Config]:
        alike = question(words, budget, margin, rates, reference, seeds)
        return [alike.run_of(rank, seed) for seed in range(alike.looks[-1]) for rank in (None, alike.ranks[-1])]

    typed, rest = _taken("method.rank", settled(debug.settled(overrides), runs))
    asked_ranks = None if typed is None else _ranks(typed)
    base = _composed(rest, margin, asked_ranks or (1,))
    if "rank" not in methods.of(base.method).keys:
        raise Refused.value("method", base.method.name, "a method that has a rank, such as lora")
    widest = narrowest(base.model.shape or {}) or RANKS[-1]
    ranks = tuple(rank for rank in RANKS if rank <= widest) if asked_ranks is None else asked_ranks
    against = re.fullmatch(r"(?:r=)?(\d+)", reference)
    name, *extra = reference.split() or [""]
    if against:
        largest = int(against[1])
        above = [rank for rank in ranks if rank >= largest]
        if asked_ranks is not None and above:
            allowed = f"a rank above all candidates; method.rank has {', '.join(map(str, above))}"
            raise Refused(f"--reference {reference}: {allowed}")
        ranks = tuple(rank for rank in ranks if rank < largest)
        other = changed(base, {"method.rank": largest})
    elif name == FULL and all(o.startswith("method.") for o in extra):
        full = composed([f"method={FULL}", "quant=none", f"optim={base.optim.name}", *extra])  # of no experiment
        refuse_idle([(full, extra)])
        other = replace(base, method=full.method, targets=full.targets, quant=full.quant)
        other = changed(other, {"method.lr": full.method.lr})
    else:
        raise Refused(f"--reference {reference}: full, full with keys of its own ('full method.lr=3e-4'), or r=64")
    if not ranks:
        raise Refused(f"--reference {reference}: a rank above the candidates; there is none below it")
    asked = Question(base, other, ranks, rates == "tune", Budget.parse(budget), LOOKS[: LOOKS.index(seeds) + 1])
    for config in [asked.run_of(None, 0), *(asked.run_of(rank, 0) for rank in ranks)]:
        check(config)
        check_here(config)
    check_files([base])
    _check_size(asked)
    return asked


def too_few(asked: Question) -> str:
    """What to know of a share of few test rows before the first run; empty where they may do or are not known yet.

    A rank that is better than the reference may be named on any number, so that few are not refused.
    """
    metric, margin, top = asked.metric, asked.margin, asked.ranks[-1]
    read = already_read(asked.method).items()
    known = [data.test.clusters for (task, *_), data in read if task == str(asked.method.task)]
    if not known or not (metric.name == "accuracy" or (metric.percent and metric.weighted is mean)):
        return ""
    units = len(np.unique(known[-1]))
    tail = Rule.of(asked.ranks, top, margin, asked.looks).tail(top, asked.looks[-1])  # the largest that a rank can have
    if (least := over_resamples(tail, units) * unseen(units)) < margin:
        return ""
    what = "test rows" if units == len(known[-1]) else "groups of test rows"
    alike = f"even a rank that gives the very answers of {asked.reference_name} would not be named"
    more = f"use at least {math.ceil((units + 2) * least / margin):,} of them (task.n_test, task.test_share)"
    wider = f"or a --margin above {metric.width(least)}"
    return f"rankwise: {units} {what} are too few for a margin of {metric.width(margin)}: {alike}; {more} {wider}"


def _composed(overrides: Sequence[str], margin: str | None, ranks: Sequence[int]) -> Config:
    """The config, in a study named after model and task unless a name is given. Its rank is the method's own, which is
    none of ``ranks`` and is not checked.
    """
    with explained(overrides), hydra_tree():
        config = to_typed(unresolved(load([*overrides])))
    check(changed(config, {"method.rank": ranks[0]}))
    metric = named(config.task.metric)
    if margin is not None:
        config = changed(config, {"task.margin": margin_of(margin, metric)})
    elif metric.name == "mae" and config.task.margin == Task.margin and not any("task.margin=" in o for o in overrides):
        raise Refused("--margin: give how much more of mae is still enough, in the unit of the labels")
    refuse_idle([(config, overrides)])
    if any(o.startswith("name=") for o in overrides):
        raise Refused("name: a question has many runs; leave it away, or give study=NAME")
    if config.rerun:
        raise Refused("rerun=true: what has finished is not run again; give study=NAME")
    if config.optim.lr != config.method.lr:
        raise Refused.value("optim.lr", config.optim.lr, "give method.lr, with which find trains")
    if key := next((key for key in DEBUGGING if getattr(config.trainer, key)), None):
        raise Refused(f"trainer.{key}: of runs that are in no comparison; leave it out")
    if config.study in _UNNAMED:
        slug = re.sub(r"[^\w.]+", "-", f"{config.task.name} {config.model.name}").strip("-").lower()
        config = replace(config, study=f"find-{slug}"[:80])
    return config


def margin_of(text: str, metric: Metric) -> float:
    """A number in the metric's unit; of a fraction also ``2%`` or ``2 points``."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%|points?|pts?)?\s*", text)
    if not match or float(match[1]) <= 0 or (match[2] and not metric.percent):
        allowed = "a fraction such as 0.02, or 2%" if metric.percent else f"a number such as 0.02, of {metric.name}"
        raise Refused(f"--margin {text}: {allowed}")
    margin = float(match[1]) / (100 if match[2] else 1)
    if metric.percent and not match[2] and margin >= 1:
        raise Refused(f"--margin {text}: a fraction such as 0.02; {text} points are --margin {text}%")
    if metric.percent and margin >= 0.5:
        raise Refused(f"--margin {text}: below 50%")
    return margin


def _taken(key: str, overrides: Sequence[str]) -> tuple[list[object] | None, list[str]]:
    """The values of one override, and the other overrides."""
    with explained(overrides):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    values: list[object] | None = None
    for one in parsed:
        if one.key_or_group == key:
            values = list(one.sweep_iterator()) if one.is_sweep_override() else [one.value()]
        elif one.is_sweep_override():
            raise Refused(f"{one.input_line}: one value; only method.rank lists candidates")
    return values, [o for o, one in zip(overrides, parsed, strict=True) if one.key_or_group != key]


def _ranks(values: list[object]) -> tuple[int, ...]:
    ranks = []
    for value in values:
        text = str(value)
        if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
            raise Refused.value("method.rank", value, "candidates such as 1,2,4,8,16,32,64")
        ranks.append(int(text))
    if len(set(ranks)) < len(ranks):
        raise Refused.value("method.rank", ",".join(map(str, ranks)), "each candidate once")
    return tuple(sorted(ranks))


def _check_size(asked: Question) -> None:
    """Refuse margins in the wrong unit, test sets that decide nothing and budgets that reach no decision."""
    metric, task = named(asked.method.task.metric), asked.method.task
    if metric.percent and asked.margin >= 0.5:
        raise Refused(f"task.margin={asked.margin:g}: below 0.5; 2 points are 0.02, or --margin 2%")
    if task.protocol == "paper":
        raise Refused.value("task.protocol", "paper", "clean: the test rows may choose neither rate nor rank")
    if task.n_test is not None and task.n_test < _LEAST_TEST_ROWS:
        raise Refused.value("task.n_test", task.n_test, f"{_LEAST_TEST_ROWS} rows or more, which can show a difference")
    proving = next(k for k, share in zip(LOOKS, Rule.shares, strict=True) if share)
    tunes = least_runs(asked) if asked.tuned else 0
    least = 2 * proving + (len(asked.ranks) > 1) + tunes
    room = asked.budget.runs or asked.budget.seconds  # no run takes less than a second
    if room is not None and room < least:
        parts = f"{proving} seeds of a rank and of the reference" + (", the pilot" if len(asked.ranks) > 1 else "")
        more = f"; --rates default needs {tunes} less" if asked.tuned else ""
        tuning = f" and {tunes} to tune learning rates" if asked.tuned else ""
        limit = asked.budget.runs or f"{asked.budget.seconds:g}s"
        raise Refused(f"--budget {limit}: at least {least} runs: {parts}{tuning}{more}")
