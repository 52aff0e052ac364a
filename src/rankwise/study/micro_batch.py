"""``trainer.batch_size=auto``: as many rows in a step, in the largest micro-batches that fit on this machine."""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rankwise import methods
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder

AUTO, JOBS = "trainer.batch_size=auto", "hydra.launcher.jobs="
_ELSEWHERE = r"hydra/launcher=(?!local$|basic$|joblib$)|hydra\.launcher\.join=true"


def refuse(words: Iterable[str]) -> None:
    """Raise Refused for ``AUTO`` where nothing chooses a batch."""
    if AUTO in words:
        raise Refused(f"{AUTO}: of train and find; plan --fit SIZE says which batch fits")


def settled(words: Sequence[str], configs_of: Callable[[list[str]], Sequence[Config]]) -> list[str]:
    """The words of a command line with ``AUTO`` replaced by a batch size and an accumulation, which are said on stderr.

    Both are the same for all runs, as a comparison wants it: those of the runs that are there already, else the largest
    part of the batch by which the plan of every run fits into a GPU's memory, or into its share of what is free here.
    ``configs_of`` composes the other words.
    Raises Refused where not even single rows fit, or an evaluation does not, for ``auto`` beside other sizes, and where
    other machines run.
    """
    rest = [word for word in words if word != AUTO]
    if odd := next((word for word in rest if re.fullmatch(r"trainer\.batch_size=.*auto.*", word, re.I)), None):
        raise Refused(f"{odd}: a number of rows, or auto alone for all runs of a study")
    if len(rest) == len(words):
        return rest
    if others := next((word for word in rest if re.match(_ELSEWHERE, word)), None):
        by = "rankwise plan --gpu NAME --fit SIZE says which batch fits those"
        raise Refused(f"{AUTO}: not with {others}, which runs on other machines; {by}")
    from rankwise.plan.estimate import Question, plan  # which imports torch
    from rankwise.plan.hardware import Hardware
    from rankwise.study.launcher import share

    configs = [config for config in configs_of(rest) if not methods.of(config.method).is_baseline]
    if len(batches := {(c.trainer.batch_size, c.trainer.accumulate) for c in configs}) > 1:
        raise Refused(f"{AUTO}: runs of one batch size; these have {sorted(batches)} (batch size, accumulation)")
    if not batches:
        raise Refused(f"{AUTO}: of no use with a method that trains nothing; leave it out")
    ((batch, accumulate),) = batches

    def told(size: int) -> list[str]:
        parts = [f"trainer.batch_size={size}", f"trainer.accumulate={accumulate * batch // size}"]
        print(f"rankwise: {AUTO}: {' '.join(parts)}", file=sys.stderr)
        return [*(word for word in rest if not word.startswith("trainer.accumulate=")), *parts]

    sizes = [size for size in range(batch, 0, -1) if batch % size == 0]
    for size in sizes:  # what is free now must not make other runs of those that were begun
        steps = accumulate * batch // size
        begun = (replace(c, trainer=replace(c.trainer, batch_size=size, accumulate=steps)) for c in configs)
        if any((folder(config) / "result.json").exists() for config in begun):
            return told(size)
    here = Hardware.here(configs[0].trainer.device)
    jobs = next((int(word[len(JOBS) :]) for word in rest if re.fullmatch(rf"{JOBS}\d+", word)), None)
    room = here.memory_bytes if here.device == "cuda" else here.memory_bytes // share(configs, jobs).jobs

    def most(parts: int) -> int:
        alike = [replace(c, trainer=replace(c.trainer, accumulate=accumulate * parts)) for c in configs]
        runs = plan(alike, Question(here, room, find_batch=True, only_memory=True))["runs"]
        evaluation = max(run["memory"]["eval"]["peak_bytes"] for run in runs) + here.context_bytes
        if evaluation > room:
            takes = f"an evaluation takes {evaluation / 1e9:.1f} GB of {room / 1e9:.1f}"
            raise Refused(f"{AUTO}: {takes}; lower trainer.eval_batch_size")
        return min(run["largest_batch"] for run in runs)

    rows = most(1)
    if rows < batch:  # a second part finds the gradients of the first
        rows = most(2)
    if rows < 1:
        raise Refused(f"{AUTO}: not even one row fits into {room / 1e9:.1f} GB; rankwise plan shows what takes them")
    return told(next(size for size in sizes if size <= rows))
