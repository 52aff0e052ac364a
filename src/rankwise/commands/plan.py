"""``rankwise plan``: what runs would cost."""

from __future__ import annotations

import argparse
import functools
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rankwise import machine
from rankwise.commands._shared import groups, overrides, parse, parser, positive, print_json, show, show_table
from rankwise.errors import Refused
from rankwise.measure.gpus import gpu

if TYPE_CHECKING:
    from rankwise.config import Config

DESCRIPTION = """Predict what a run, or with -m a whole study, costs, without loading weights: parameters exactly,
memory by component, operations, time, disk. One training step runs with tensors that have a shape and no content.

  rankwise plan                                        the default run, on this machine
  rankwise plan -m method=lora,full method.rank=1,8,64
  rankwise plan model=llama2_7b task=next_token quant=bf16 --gpu a100-80gb
  rankwise plan model=llama3_8b task=next_token quant=nf4_double --fit 24GB
  rankwise plan --power outputs/ranks --margin 1%      the seeds and test rows that a margin needs, by an earlier study
"""


def main(arguments: list[str]) -> int:
    """Print the plan; the exit code is 0 whether or not it fits."""
    spec = parser("plan", DESCRIPTION, f"groups:\n{groups()}", as_json=True)
    spec.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train")
    spec.add_argument("-m", "--multirun", action="store_true", help="every combination of the given values")
    spec.add_argument("--gpu", metavar="NAME", help="plan for this GPU, such as t4, rtx4090, a100-80gb, h100-80gb")
    many = functools.partial(positive, "--gpus")
    spec.add_argument("--gpus", type=many, metavar="N", help="how many of them a study has: how long it takes there")
    spec.add_argument("--fit", metavar="SIZE", help="does it fit, and which batch would: 24GB, 22.5GiB")
    spec.add_argument("--mfu", type=_share, help="share of the peak FLOP/s that training reaches, 0 to 1")
    spec.add_argument("--params", action="store_true", help="count parameters only")
    spec.add_argument("--power", type=Path, metavar="STUDY", help="seeds and test rows for a margin, by its spreads")
    spec.add_argument("--margin", metavar="SIZE", help="of --power: 0.02 or 2%% (default: the study's)")
    options = parse(spec, arguments)
    if options.power or options.margin is not None:
        alone = [f"--power={options.power}", *[f"--margin={options.margin}"] * (options.margin is not None)]
        if not options.power or options != parse(spec, [*alone, *["--json"] * options.json]):
            raise Refused("--power STUDY: takes nothing else but --margin and --json, and --margin needs it")
        return _power(options)
    if options.params and (options.fit or options.mfu or options.gpus):
        raise Refused("--params: counts parameters only; leave out --fit, --mfu and --gpus")
    from rankwise.study import micro_batch

    options.overrides = overrides(options.overrides)
    micro_batch.refuse(options.overrides)
    if options.gpu:
        gpu(options.gpu)  # refused here, before anything heavy is imported
    limit = _bytes(options.fit) if options.fit is not None else None
    from rankwise.study.app import call_hydra

    def answer(configs: list[Config]) -> int:
        with machine.importing():
            from rankwise.check import check_planned
            from rankwise.plan.estimate import Question, plan
            from rankwise.plan.hardware import Hardware
            from rankwise.report.plans import table
            from rankwise.tasks.data import check_files
        for config in configs:
            check_planned(config, here=options.gpu is None)
        check_files(configs, hub=False)
        hardware = Hardware.named(options.gpu) if options.gpu else Hardware.here(configs[0].trainer.device)
        if options.gpus and hardware.device == "cpu":
            raise Refused(f"--gpus {options.gpus}: of GPUs, and this plan is for a processor; give --gpu NAME")
        if options.gpus and options.gpus < (most := max(config.trainer.devices for config in configs)):
            raise Refused.value("--gpus", options.gpus, f"at least {most}, the trainer.devices of one run")
        room = hardware.memory_bytes if limit is None else limit
        asked = Question(hardware, room, limit is not None, options.params, mfu=options.mfu, gpus=options.gpus)
        planned = plan(configs, asked)
        print_json(planned) if options.json else show(table(planned))
        return 0

    flags = ["-m"] if options.multirun else []
    return call_hydra([*flags, *options.overrides], lambda config: answer([config]), answer, here=False)


def _power(options: argparse.Namespace) -> int:
    """What a margin asks of a study to come."""
    from rankwise.find.ask import margin_of
    from rankwise.find.power import needs, spreads
    from rankwise.find.show import power

    spread = spreads(options.power)
    margin = spread.margin if options.margin is None else margin_of(options.margin, spread.metric)
    if options.json:
        print_json([asdict(need) for need in needs(spread, margin)])
        return 0
    text, table = power(spread, margin)
    show(f"{text}\n")
    show_table(*table, 1)
    return 0


def _share(text: str) -> float:
    """0.4 or 40%."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(%?)", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share <= 1:
        raise Refused(f"--mfu {text}: a share above 0 and at most 1, as 0.4 or 40%")
    return share


_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}


def _bytes(text: str) -> int:
    """``24GB``, ``22.5GiB`` or a number of bytes; a small one without its unit was meant otherwise."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(?:([KMGT])(I?))?B?", text.strip().upper())
    size = float(match[1]) * (1024 if match[3] else 1000) ** _UNITS.get(match[2], 0) if match else 0
    if not (1 if match and match[2] else 1e6) <= size < 1e18:
        raise Refused(f"--fit {text}: a size such as 24GB (10⁹ bytes each) or 24GiB (2³⁰)")
    return int(size)
