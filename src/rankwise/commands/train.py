"""``rankwise train``: one config, or a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankwise.commands._shared import groups, prepare_environment, refuse_twice, show, split
from rankwise.errors import Refused

if TYPE_CHECKING:
    from rankwise.config import Config

HELP = """usage: rankwise train [-m] [--jobs N] [--rerun] [--dry-run] [--config FILE] [--cfg job] [--info] [KEY=VALUE …]

Run one config, or with -m every combination of the comma-separated values. What follows is Hydra override syntax.

  rankwise train method.rank=4 seed=1
  rankwise train -m method=lora,full method.rank=1,2,4,8,16,32,64 seed=0,1,2
  rankwise train experiment=rank_sweep
  rankwise train debug=fast                     a few steps on a tiny random model, nothing to fetch

  -m, --multirun   a study: duplicates collapse, finished runs are skipped
  --jobs N         runs at once (default: one per GPU, or as cores and memory allow)
  --rerun          run again what has finished
  --dry-run        list the runs with their ids, what is done already and what the rest will cost; run nothing
  --config FILE    start from an earlier run's config.yaml instead of conf/
  --cfg job        print the composed config and stop; --info [what] tells how Hydra made it

groups:
{groups}

Runs land in outputs/<study>/; a ./conf folder of yours adds options to these groups. Hydra's own help: --hydra-help
Exit codes: 0 done, 1 some runs failed, 2 input refused, 130 interrupted."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 some runs failed."""
    if "-h" in arguments or "--help" in arguments:
        print(HELP.format(groups=groups()))
        return 0
    flags, overrides, snapshot = split(arguments)
    refuse_twice(overrides)
    prepare_environment()
    from rankwise.study.app import call_hydra
    from rankwise.study.compose import from_snapshot
    from rankwise.study.single import single

    if snapshot is None:
        if "--dry-run" in flags:
            flags.remove("--dry-run")
            return call_hydra([*flags, *overrides], lambda config: _list([config]), _list)
        return call_hydra([*flags, *overrides], single)
    if flags:
        raise Refused(f"{flags[0]}: not with --config, which is one run as it was")
    return single(from_snapshot(snapshot, [o for o in overrides if not o.startswith("hydra")]))


def _list(configs: list[Config]) -> int:
    """The runs of a study, with their state and what those that are left will cost."""
    from rankwise.check import check_here
    from rankwise.config import BASELINES
    from rankwise.plan.estimate import Question, plan
    from rankwise.plan.hardware import Hardware
    from rankwise.report.plans import listing
    from rankwise.tracking.record import state

    for config in configs:
        check_here(config)
    here = Hardware.here()
    left = [config for config in configs if state(config) != "finished" and config.method.name not in BASELINES]
    planned = plan(left, Question(here, here.memory_bytes))["runs"] if left else []
    show(listing(configs, [state(config) for config in configs], planned))
    return 0
