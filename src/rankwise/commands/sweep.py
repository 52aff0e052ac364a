"""``rankwise sweep``: a W&B sweep file, run here, without a server."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rankwise.commands._shared import parse, prepare_environment, refuse_twice
from rankwise.errors import Refused

if TYPE_CHECKING:
    from rankwise.config import Config
    from rankwise.study.sweep_file import SweepFile

DESCRIPTION = """Run a W&B sweep file with W&B's own engine (grid, random, bayes, early termination) and no server.
The same file serves a server: wandb sweep FILE, then wandb agent.

  rankwise sweep sweeps/rank_lr.yaml
  rankwise sweep sweeps/search.yaml --count 20 --jobs 2
  rankwise sweep sweeps/rank_lr.yaml seed=1            any KEY=VALUE is added to each run
  rankwise sweep --convert experiment=rank_sweep       print the sweep file of a study
"""


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 some runs failed."""
    parser = argparse.ArgumentParser(
        "rankwise sweep", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a W&B sweep file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train, for every run")
    parser.add_argument("--count", type=int, help="most runs (default: the file's run_cap; a grid ends by itself)")
    parser.add_argument("--jobs", type=int, help="runs at once")
    parser.add_argument("--seed", type=int, default=0, help="of the engine's draws (default: 0)")
    parser.add_argument(
        "--convert", action="store_true", help="print the sweep file of a study, such as experiment=rank_sweep"
    )
    parser.add_argument("--rerun", action="store_true", help="forget the points so far; finished runs still count")
    options = parse(parser, arguments)
    words = [word for word in [options.file, *options.overrides] if word]
    if options.convert:
        return _convert(words)
    if not words or "=" in words[0]:
        raise Refused("sweep: give a sweep file; see rankwise sweep --help")
    options.overrides = words[1:]
    refuse_twice(options.overrides)
    for flag in ("count", "jobs"):
        if getattr(options, flag) is not None and getattr(options, flag) < 1:
            raise Refused(f"--{flag} {getattr(options, flag)}: a number of at least 1")
    prepare_environment()
    from rankwise.study import sweep_file
    from rankwise.study.compose import composed, known_keys, option_groups

    file = sweep_file.read(Path(words[0]), [*known_keys(), *option_groups()])
    cap = min((n for n in (options.count, file.cap, file.size) if n is not None), default=None)
    if cap is None:
        raise Refused(f"{file.path}: a {file.method} search has no end; give run_cap in the file, or --count N")

    def compose(words: list[str]) -> Config:
        given = {word.split("=", 1)[0] for word in options.overrides}
        return composed([*(word for word in words if word.split("=", 1)[0] not in given), *options.overrides])

    return _run(file, compose, cap, options)


def _convert(overrides: list[str]) -> int:
    refuse_twice(overrides)
    from rankwise.study.convert import to_sweep_file

    print(to_sweep_file(overrides), end="")
    return 0


def _run(file: SweepFile, compose: Callable[[list[str]], Config], cap: int, options: argparse.Namespace) -> int:
    from rankwise import assets
    from rankwise.check import check_here
    from rankwise.study.launcher import drive
    from rankwise.study.search import Search

    first = compose(file.overrides)
    check_here(first)
    for source in (first.model, first.task):
        assets.resolve(source)
    search = Search(file, compose, cap, options.seed, options.rerun)
    try:
        drive(search, [first], cap, options.jobs)
    finally:
        search.close()
    states = Counter(str(run.state) for run in search.runs)
    print(f"{search.journal.parent}  " + ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    if best := search.best():
        point, value = best
        print("best: " + " ".join(f"{key}={shown}" for key, shown in point.items()) + f"  objective {value:.4f}")
    return int(states["failed"] > 0)
