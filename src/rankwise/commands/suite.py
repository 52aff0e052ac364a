"""``rankwise suite``: a set of tasks, trained and reported together."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

from rankwise.commands._shared import parse, show, split
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder

HELP = """usage: rankwise suite glue [--json] [--jobs N] [--rerun] [--dry-run] [KEY=VALUE …]
       rankwise suite glue [--json] --read PATH …

Train the nine tasks of GLUE, as rankwise train -m task=glue/cola,glue/sst2,… does, and report them together: each
by its official metrics, with the averages of the papers. The rest is as for rankwise train: what finished is skipped.

  rankwise suite glue method=lora,full seed=0,1,2
  rankwise suite glue task.path=GLUE_FOLDER task.protocol=paper
  rankwise suite glue --read outputs/glue       only report what has finished

  --read PATH …    folders of runs, or wandb:ENTITY/PROJECT[/GROUP]; nothing is trained
  --json           print one JSON document instead of the table

Runs land in outputs/glue/. Exit codes: 0 done, 1 some runs failed, 2 input refused, 130 interrupted."""
_NO_RUNS = ("--dry-run", "--cfg", "-c", "--info", "-i", "--hydra-help")  # flags of train that train nothing


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 some runs failed."""
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(HELP)
        return 0
    from rankwise.report.suites import named

    name, *rest = arguments
    suite = named(name)
    if "--read" in rest:
        _report(suite.name, *_read(suite.name, rest))
        return 0
    if "--config" in rest:
        raise Refused("--config: not with a suite, which is several runs; use rankwise train --config")
    as_json = "--json" in rest
    line = [f"experiment={suite.name}", *(word for word in rest if word != "--json")]
    code = _train(line, quiet=as_json)
    if not any(word.split("=")[0] in _NO_RUNS for word in rest):
        _report(suite.name, _studies(line), as_json)
    return code


def _read(name: str, rest: list[str]) -> tuple[list[Path], bool]:
    parser = argparse.ArgumentParser(f"rankwise suite {name}", add_help=False)
    parser.add_argument("--read", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--json", action="store_true")
    options = parse(parser, rest)
    return options.read, options.json


def _train(line: list[str], quiet: bool) -> int:
    """Run what is not finished; ``quiet`` leaves standard output to the document."""
    from rankwise.commands import train

    with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
        return train.main(line)


def _studies(line: list[str]) -> list[Path]:
    """The folders in which the runs of a command line are, composed once more."""
    from rankwise.study.app import call_hydra

    flags, overrides, _ = split(line)
    folders: dict[Path, None] = {}

    def note(configs: list[Config]) -> int:
        folders.update(dict.fromkeys(folder(config).parent for config in configs))
        return 0

    with contextlib.redirect_stderr(io.StringIO()):  # what is said of the runs has been said
        call_hydra([*flags, *overrides], lambda config: note([config]), note)
    return list(folders)


def _report(name: str, paths: list[Path], as_json: bool) -> None:
    from rankwise.report import suite_table, suites
    from rankwise.tracking.record import finite

    report = suites.build(paths, suites.named(name))
    if as_json:
        print(json.dumps(finite(suites.document(report)), indent=1))
    else:
        show(suite_table.render(report))
