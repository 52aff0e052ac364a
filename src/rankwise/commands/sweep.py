"""``rankwise sweep``: a W&B sweep file, run here, without a server."""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rankwise.commands._shared import overrides, parse, parser, positive, print_json, with_jobs
from rankwise.errors import Refused

if TYPE_CHECKING:
    from rankwise.config import Config
    from rankwise.study.sweep_file import SweepFile

DESCRIPTION = """Run the grid or the random search of a W&B sweep file, without a server.
The same file serves a server: wandb sweep FILE, then wandb agent.

  rankwise sweep sweeps/rank_lr.yaml
  rankwise sweep random.yaml --count 20 --jobs 2
  rankwise sweep sweeps/rank_lr.yaml seed=1            any KEY=VALUE is added to each run
  rankwise sweep --convert experiment=rank_sweep       print the sweep file of a study
"""


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 some runs failed."""
    spec = parser("sweep", DESCRIPTION, jobs=True, as_json=True)
    spec.add_argument("file", nargs="?", metavar="FILE", help="a W&B sweep file")
    spec.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train, for every run")
    at_least_1 = functools.partial(positive, "--count")
    spec.add_argument("--count", type=at_least_1, metavar="N", help="most runs (default: the file's run_cap, or all)")
    spec.add_argument("--seed", type=int, default=0, help="of a random search's draws (default: 0)")
    spec.add_argument("--convert", action="store_true", help="print a study (experiment=rank_sweep) as a sweep file")
    spec.add_argument("--rerun", action="store_true", help="run again what has finished")
    options = parse(spec, arguments)
    words = [word for word in [options.file, *options.overrides] if word]
    if options.convert and not words:
        raise Refused("sweep --convert: give a study, such as experiment=rank_sweep, or axes such as method.rank=1,8")
    if not words or (not options.convert and "=" in words[0]):
        raise Refused("sweep: give a sweep file; see rankwise sweep --help")
    flags = ("json", "count", "jobs", "rerun", "seed") if options.convert else ()
    if flag := next((name for name in flags if getattr(options, name)), None):
        raise Refused(f"--{flag}: not with --convert, which prints a sweep file")
    file, typed = (None, words) if options.convert else (Path(words[0]), words[1:])
    typed = with_jobs(overrides(typed), options.jobs)
    from rankwise.study import sweep_file

    if file is None:
        print(sweep_file.convert(typed), end="")
        return 0
    from rankwise.study.launcher import run
    from rankwise.study.multirun import launcher_of, say_report

    searched = sweep_file.read(file)
    configs = _configs(searched, typed, options)
    outcomes = run(launcher_of([*searched.overrides, *typed]), configs)
    _say(configs, options.json)
    say_report(configs)
    return int(any(outcome.failed for outcome in outcomes))


def _configs(file: SweepFile, typed: list[str], options: argparse.Namespace) -> list[Config]:
    """The distinct runs of a file's points, all checked. Raises Refused for a given key that the file searches over."""
    from rankwise.study import debug, micro_batch
    from rankwise.study.compose import hydra_tree
    from rankwise.study.multirun import compose_study, say_fewer
    from rankwise.study.sweep_file import words
    from rankwise.tasks.data import check_files

    keys = {word.split("=", 1)[0] for word in typed}
    typed = typed + (["rerun=true"] if options.rerun else [])
    given = [word for word in overrides(file.overrides) if word.split("=", 1)[0] not in keys]
    fixed = debug.settled(given + typed)
    points = [
        [word for key, value in point.items() for word in words(key, value)]
        for point in file.points(options.count, options.seed)
    ]
    if searched := keys & {word.split("=", 1)[0] for point in points for word in point}:
        raise Refused(f"{min(searched)}: {file.path} searches over it; leave it out here, or there")
    rows = [overrides([*fixed, *point]) for point in points]
    micro_batch.refuse(word for row in rows for word in row)
    with hydra_tree():
        study = compose_study(rows, here=True)
    configs = [config for config, _ in study]
    check_files(configs)
    say_fewer(rows, study)
    return configs


def _say(configs: list[Config], as_json: bool) -> None:
    """Where the runs are, and what became of them."""
    from rankwise.identity import folder
    from rankwise.tracking.record import state

    study, states = str(folder(configs[0]).parent), dict(sorted(Counter(map(state, configs)).items()))
    if as_json:
        print_json({"study": study, "states": states})
    else:
        print(f"{study}  " + ", ".join(f"{count} {name}" for name, count in states.items()))
