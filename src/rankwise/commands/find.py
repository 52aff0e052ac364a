"""``rankwise find``: the smallest rank that is enough."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankwise.commands._shared import groups, overrides, parse, parser, print_json, show, show_table, with_jobs
from rankwise.errors import Refused, plural

if TYPE_CHECKING:
    from rankwise.config import Config
    from rankwise.find.question import Question
    from rankwise.find.show import Table

DESCRIPTION = """Find the smallest rank that is as good as full fine-tuning within a margin, with few runs.

  rankwise find                                        the default model and task, ranks 1 to 64
  rankwise find model=smollm2_instruct task=define_words --budget 2h
  rankwise find task=local task.path=FILE.csv task.text=COLUMN task.label=COLUMN targets=all_linear
  rankwise find method.rank=4,8,16 --margin 1% --rates default

Three stages. Learning rates are tuned for both sides by the same rule, on validation rows. A pilot, one run of the
largest rank cut to every other, says where to start. Then the rank in question and the reference run on fresh seeds, 2,
3, 5 and 8 in all, until the test rows have decided. The chance of naming a rank that is not enough is at most 5 %,
if scores spread normally over seeds. The same command goes on where it stopped.
"""


def main(arguments: list[str]) -> int:
    """Print the sentence and the table. Exit code: 0 done, 1 some runs failed."""
    spec = parser("find", DESCRIPTION, f"groups:\n{groups()}", jobs=True, as_json=True)
    spec.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train; method.rank lists candidates")
    spec.add_argument("--budget", metavar="30m|RUNS", help="stop before more is spent, earlier starts included")
    spec.add_argument("--margin", metavar="SIZE", help="what counts as the same: 0.02 or 2%% (default: the task's)")
    spec.add_argument("--seeds", choices=("3", "5", "8"), default="8", help="of an arm, at most: fewer decide less")
    spec.add_argument("--rates", choices=("tune", "default"), default="tune", help="tune learning rates or not")
    spec.add_argument("--reference", default="full", metavar="full|r=N", help="what the ranks are compared with")
    spec.add_argument("--dry-run", action="store_true", help="show the stages and their cost; run nothing")
    spec.add_argument("--simulate", action="store_true", help="error rates of the decision, simulated")
    spec.add_argument(
        "--replay", type=Path, nargs="+", metavar="STUDY", help="what would have been said of grids that were run whole"
    )
    options = parse(spec, arguments)
    if options.simulate or options.replay:
        alone = ["--simulate"] if options.simulate else ["--replay", *map(str, options.replay)]
        if options != parse(spec, [*alone, *["--json"] * options.json]):
            margins = "--simulate has a margin of 2 points, --replay that of each grid's runs"
            raise Refused(f"{alone[0]}: takes nothing else but --json; {margins}")
        return _simulate(options.json) if options.simulate else _replay(options.replay, options.json)
    if cut := next((word for word in options.overrides if re.fullmatch(r"%|pts?|points?|[hms]|min", word)), None):
        raise Refused(f"{cut}: a size and its unit are one word: --budget 10m, --margin 2%")
    options.overrides = with_jobs(overrides(options.overrides), options.jobs)
    typed = {word.partition("=")[0] for word in options.overrides}
    if options.margin is not None and "task.margin" in typed:
        raise Refused("task.margin: given twice, as --margin is the same; leave one of them out")
    if "stage" in typed:
        raise Refused("stage: of each run, which find chooses itself; leave it out")
    from rankwise import machine
    from rankwise.find.ask import question
    from rankwise.forks import fork_server
    from rankwise.forks.preload import HEAVY

    with fork_server.kept():
        if not options.dry_run and not any(word.startswith("hydra/launcher") for word in options.overrides):
            fork_server.begin(HEAVY, bool(machine.gpus()))  # while the question is composed, and its data are read
        limits = (options.budget, options.margin, options.rates, options.reference, int(options.seeds))
        asked = question(options.overrides, *limits)
        if options.dry_run:
            return _list(asked, options.jobs, options.json)
        return _find(asked, arguments, options)


def _find(asked: Question, arguments: list[str], options: argparse.Namespace) -> int:
    from rich.text import Text

    from rankwise.find import answer, story
    from rankwise.find.ask import too_few
    from rankwise.report.answers import by_rank
    from rankwise.report.table import rendered
    from rankwise.study.launcher import run
    from rankwise.study.multirun import launcher_of
    from rankwise.tasks.data import fetch_all

    launcher = launcher_of(options.overrides)
    side_by_side = launcher.at_once(_of_reference(asked))
    if (few := too_few(asked)) and not story.answer_file(asked).exists():
        fetch_all([asked.method])  # what is refused stands alone
        print(few, file=sys.stderr)
    findings = story.find(asked, lambda configs, stage: run(launcher, configs, stage), side_by_side)
    pairs = zip(["", *arguments], arguments, strict=False)
    asks = [word for before, word in pairs if "--budget" not in (before, word.partition("=")[0])]
    told = answer.answer(findings, shlex.join(["rankwise", "find", *asks]))
    story.keep(findings, told)
    if options.json:
        print_json(told)
    else:
        for part in [Text(told["sentence"], style="bold"), *rendered(by_rank(told))]:
            show(part)
        study = shlex.quote(str(story.answer_file(asked).parent))
        print(f"rankwise: rankwise report {study} shows all runs", file=sys.stderr)
    return 0 if all(record.status == "finished" for record in findings.runs.records.values()) else 1


def _list(asked: Question, jobs: int | None, as_json: bool) -> int:
    """The stages with the time that they train here, runs side by side."""
    from rankwise.find.ask import too_few
    from rankwise.find.question import middle
    from rankwise.find.show import stages
    from rankwise.find.story import answer_file
    from rankwise.plan import estimate
    from rankwise.plan.hardware import Hardware
    from rankwise.report import formats as fmt
    from rankwise.study import launcher
    from rankwise.tasks.data import already_read

    runs = [asked.run_of(middle(asked.ranks), 0), asked.run_of(None, 0)]
    here = Hardware.here(runs[0].trainer.device)
    planned = estimate.plan(runs, estimate.Question(here, here.memory_bytes))["runs"]
    together = launcher.share(_of_reference(asked), jobs).jobs
    times = [row["compute"]["train_s"] and row["compute"]["train_s"] / together for row in planned]
    if few := too_few(asked):
        print(few, file=sys.stderr)
    if as_json:
        print_json({"stages": _objects(*stages(asked, *times)), "jobs": together, "mfu": planned[0]["compute"]["mfu"]})
        return 0
    show_table(*stages(asked, *times))
    share, source = (planned[0]["compute"][key] for key in ("mfu", "mfu_source"))
    if planned[0]["compute"]["steps"] is None:
        show("No time: how many batches the texts make is not known here; trainer.max_steps would say it.")
    at_once = f"Training alone, {plural(together, 'run')} at once, every batch at full length"
    show(f"{at_once}, at {fmt.percent(share)} % ({source}) of the peak speed.")
    show(f"The margin is {asked.metric.margin_of(asked.margin)}.")
    for (task, *_), data in already_read(asked.method).items():
        if task == str(asked.method.task):
            parts = ", ".join(f"{len(getattr(data, part)):,} {part}" for part in ("train", "validation", "test"))
            show(f"Rows of each run that counts: {parts}.{''.join(f' Note: {note}.' for note in data.notes)}")
    if there := len([*answer_file(asked).parent.glob("*/result.json")]):
        show(f"The study has {plural(there, 'run')}: what this question needs of them costs nothing more.")
    return 0


def _of_reference(asked: Question) -> list[Config]:
    """As many runs as may go on side by side."""
    return [asked.run_of(None, seed) for seed in range(asked.looks[-1])]


def _replay(studies: list[Path], as_json: bool) -> int:
    from rankwise.find.replay import replay
    from rankwise.find.show import by_guess, replayed

    grids = [grid for study in studies for grid in replay(study)]
    return _tell({"grids": replayed(grids), "guesses": by_guess(grids)}, as_json)


def _simulate(as_json: bool) -> int:
    from rankwise.find.show import simulation
    from rankwise.find.simulate import table

    return _tell({"studies": simulation(table(0.02, 2000, (0.0, 0.005, 0.02), (500, 2000, 5000)))}, as_json)


def _tell(tables: dict[str, Table], as_json: bool) -> int:
    from rankwise.report.table import md_table

    if as_json:
        print_json({name: _objects(*table) for name, table in tables.items()})
    else:
        for headers, rows in tables.values():
            print("\n".join(["", *md_table([*headers], [[str(cell) for cell in row] for row in rows]), ""]))
    return 0


def _objects(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(headers, row, strict=True)) for row in rows]
