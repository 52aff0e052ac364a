"""``rankwise train``: one config, or a study."""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rankwise.commands._shared import groups, overrides, parse, parser, print_json, show, with_jobs
from rankwise.errors import Refused
from rankwise.synonyms import near_key

if TYPE_CHECKING:
    from rankwise.config import Config

DESCRIPTION = """Run one config, or with -m every combination of the comma-separated values, in Hydra's override syntax.

  rankwise train method.rank=4 seed=1
  rankwise train -m method=lora,full method.rank=1,2,4,8,16,32,64 seed=0,1,2
  rankwise train experiment=rank_sweep
  rankwise train debug=fast                     a few steps on a tiny random model, nothing to fetch

rank, lr and tags are short for method.rank, method.lr and tracking.tags.
"""
EPILOG = """groups:
{groups}

Runs land in outputs/<study>/; a ./conf folder of yours adds options to these groups.
Exit codes: 0 done, 1 some runs failed, 2 input refused, 130 interrupted."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 some runs failed."""
    flags, words, options = split(arguments)
    from rankwise.study.app import call_hydra
    from rankwise.study.compose import from_snapshot
    from rankwise.study.micro_batch import settled
    from rankwise.study.single import single

    if options.config is not None:
        hydra = [word for word in words if word.startswith("hydra")]
        asked = [
            *flags,
            *["--dry-run"] * options.dry_run,
            *["--join"] * options.join,
            *(word for word in hydra if "launcher.jobs" not in word),
        ]
        if asked:
            raise Refused(f"{asked[0]}: not with --config, which is one run as it was")
        words = [word for word in words if word not in hydra]
        config = from_snapshot(options.config, settled(words, lambda rest: [from_snapshot(options.config, rest)]))
        if config.stage and not any(word.startswith("stage=") for word in words):
            said = f"stage={config.stage} as in that config: in no comparison; stage=null makes it a result"
            print(f"rankwise: {said}", file=sys.stderr)
        return single(config)
    if options.dry_run:
        show_list = functools.partial(_list, as_json=options.json)
        from rankwise.tasks.data import check_files

        def show_one(config: Config) -> int:
            check_files([config], hub=False)
            return show_list([config])

        return call_hydra([*flags, *words], show_one, show_list)
    return call_hydra([*flags, *words], single)


def point_words(word: str) -> list[str]:
    """``point="method=lora method.rank=4"``, as a W&B sweep of distinct points gives it, is what it holds."""
    return shlex.split(word.removeprefix("point=")) if word.startswith("point=") else [word]


def split(arguments: list[str]) -> tuple[list[str], list[str], argparse.Namespace]:
    """Hydra's flags wherever they stood, overrides, and the options that are ours."""
    spec = parser("train", DESCRIPTION, EPILOG.format(groups=groups()), jobs=True)
    add = spec.add_argument
    add("overrides", nargs="*", metavar="KEY=VALUE", help="any config key")
    add("-m", "--multirun", action="store_true", help="a study: duplicates collapse, finished runs are skipped")
    add("--rerun", action="store_true", help="run again what has finished")
    add("--join", action="store_true", help="of -m, on each of several machines: share the runs of one study")
    add("--dry-run", action="store_true", help="list the runs with ids, states and costs; run nothing")
    add("--json", action="store_true", help="of --dry-run: print one JSON document")
    add("--config", type=Path, metavar="FILE", help="start from an earlier run's config.yaml instead of conf/")
    add("-cn", "--config-name", type=_config_name, help=argparse.SUPPRESS)
    add("-c", "--cfg", choices=("job", "hydra", "all"), help="print the composed config and stop")
    add("-cd", "--config-dir", metavar="FOLDER", help="another folder of options, beside ./conf")
    options = parse(spec, [word for argument in arguments for word in point_words(argument)])
    words = overrides(options.overrides)
    study = "dry_run" if options.dry_run else "multirun"
    asked = [name for name in (study, "cfg") if getattr(options, name)]
    if len(asked) > 1:
        raise Refused(f"{' '.join('--' + name.replace('_', '-') for name in asked)}: one of these at a time")
    if options.json and not options.dry_run:
        raise Refused("--json: of --dry-run; rankwise report STUDY --json prints what has run")
    if options.join and (other := next((word for word in words if word.startswith("hydra/launcher=")), None)):
        raise Refused(f"--join: not with {other}, which shares out the runs itself")
    words += ["hydra.launcher.join=true"] * options.join
    words = [*with_jobs(words, options.jobs), *["rerun=true"] * options.rerun]
    flags = ["-m"] * options.multirun
    flags += [f"--cfg={options.cfg}"] * bool(options.cfg)
    flags += [f"--config-dir={options.config_dir}"] * bool(options.config_dir)
    return flags, words, options


def _config_name(name: str) -> str:
    raise Refused(f"--config-name: no such flag{near_key('-cn', ())}")


def _list(configs: list[Config], as_json: bool) -> int:
    """The runs of a study, with their state and what those that are left will cost."""
    from rankwise import methods
    from rankwise.plan.estimate import Question, plan
    from rankwise.plan.hardware import Hardware
    from rankwise.report.plans import listed, listing
    from rankwise.study.launcher import done
    from rankwise.tracking.record import state

    here = Hardware.here(configs[0].trainer.device)
    left = [config for config in configs if not (done(config) or methods.of(config.method).is_baseline)]
    planned = plan(left, Question(here, here.memory_bytes))["runs"] if left else []
    states = ["again" if (was := state(config)) == "finished" and not done(config) else was for config in configs]
    if as_json:
        print_json({"runs": listed(configs, states, planned)})
    else:
        show(listing(configs, states, planned))
    return 0
