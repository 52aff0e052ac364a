"""The Hydra app: one command line in, one run or one study out."""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rankwise import metrics
from rankwise.check import check_here
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.forks import fork_server
from rankwise.paths import conf_dir
from rankwise.study import compose, debug, micro_batch, multirun
from rankwise.tasks.data import check_files
from rankwise.tracking import record as records


class _Single:
    """The single run that ``call_hydra`` is about to start, and how it ended."""

    start: Callable[[Config], int] | None = None
    ended: int | BaseException = 0


def call_hydra(
    arguments: list[str],
    single: Callable[[Config], int],
    study: Callable[[list[Config]], int] | None = None,
    here: bool = True,
) -> int:
    """Let Hydra compose and dispatch ``arguments``; a single run goes to ``single``, a study's to the launcher, or to
    ``study``. Returns the exit code. ``here`` is whether it must be possible on this machine.

    Raises Refused for whatever the user can mend.
    """
    if "hydra/sweeper=basic" in arguments:
        raise Refused("hydra/sweeper=basic: walks through the same combinations as -m does without it; leave it out")
    arguments = micro_batch.settled(debug.settled(arguments), _listed)
    compose.register_schema()
    multirun.exit_code, multirun.instead, multirun.here = 0, study, here
    _Single.start, _Single.ended, argv = single, 0, sys.argv
    full_error, log = os.environ.get("HYDRA_FULL_ERROR"), logging.getLogger()
    level, handlers = log.level, log.handlers[:]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _refuse_code_of(arguments)
        chosen = _chosen(arguments)
        sweeper = chosen.hydra.runtime.choices["hydra/sweeper"] if chosen else "rankwise"
        if chosen and sweeper == "rankwise" and "n_trials" in chosen.hydra.sweeper:  # an experiment cannot choose one
            arguments, sweeper = [*arguments, "hydra/sweeper=optuna"], "optuna"
        if study and sweeper != "rankwise":
            need = f"plan, --dry-run and {micro_batch.AUTO} need"
            raise Refused(f"hydra/sweeper={sweeper}: chooses its runs by their scores; none is known before, as {need}")
        if chosen and sweeper != "rankwise":
            arguments = [*arguments, *_of_search(chosen, sweeper, arguments)]
        axes = chosen and any(chosen.hydra.sweeper.get(axes) for axes in ("params", "pairs", "tune"))
        mode = ["hydra.mode=MULTIRUN"] if axes and "-m" not in arguments else []
        sys.argv = ["rankwise train", *arguments, *mode]
        with compose.explained(arguments), fork_server.kept():
            hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(task)()
    finally:
        sys.argv = argv
        log.setLevel(level)  # Hydra's last as long as the process
        log.handlers[:] = handlers
        os.environ.pop("HYDRA_FULL_ERROR") if full_error is None else os.environ.update(HYDRA_FULL_ERROR=full_error)
    if isinstance(_Single.ended, BaseException):
        raise _Single.ended
    return _Single.ended or multirun.exit_code


def _listed(arguments: list[str]) -> list[Config]:
    """The configs that a command line asks for, their files checked. What is said of them is said when they are
    composed to be run.
    """
    configs = list[Config]()
    with contextlib.redirect_stderr(io.StringIO()):
        call_hydra(arguments, lambda config: configs.append(config) or 0, lambda study: configs.extend(study) or 0)  # type: ignore[func-returns-value]
    check_files((config for config in configs if not records.is_done(config)), hub=False)
    return configs


def _refuse_code_of(arguments: list[str]) -> None:
    """Raise Refused where a folder of options, which may be somebody else's, brings code that nobody asked for by name.

    Of an axis every option is looked at; several options in brackets are one choice.
    """
    words = _words(arguments)
    theirs = Path("conf").is_dir() and Path("conf").resolve() != conf_dir().resolve()
    if not (theirs or any(word.startswith("hydra.searchpath=") for word in words)):
        return
    fixed = [word for word in words if "," not in word or re.fullmatch(r"\w+=\[[^\[\]]*\]", word)]
    axes = [word.partition("=") for word in words if word not in fixed]
    with compose.hydra_tree():
        for more in [[], *([f"{key}={option}"] for key, _, options in axes for option in options.split(","))]:
            try:
                compose.load([*fixed, *more])
            except Refused:
                raise
            except Exception:  # Hydra will say it of the whole line
                continue


def _words(arguments: list[str]) -> list[str]:
    """The overrides; a folder of options is one of them."""
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    folders = [f"file://{Path(word.partition('=')[2]).absolute()}" for word in arguments if "--config-dir=" in word]
    return words + [compose.override("hydra.searchpath", folders)] * bool(folders)


def _chosen(arguments: list[str]) -> DictConfig | None:
    """What an experiment or words of Hydra's choose: the sweeper, its objective, and whether there are axes, which
    make a study of a single command (from Hydra 1.4 on an experiment cannot say so itself).
    """
    words = [word for word in _words(arguments) if word.startswith(("experiment=", "hydra/", "hydra.searchpath="))]
    of_objective = re.compile(r"(task|task\.metric|objective)=[^,()]*|hydra\.launcher\.returns=.*")
    if not words or any(word.startswith("hydra.mode=") for word in arguments):
        return None
    with contextlib.suppress(Exception), compose.hydra_tree():  # Hydra will say what is wrong
        return compose.load([*words, *filter(of_objective.fullmatch, _words(arguments))])
    return None


def _of_search(chosen: DictConfig, sweeper: str, arguments: list[str]) -> list[str]:
    """What runs are that a sweeper chooses by their scores, unless it is typed: of stage search, which no comparison
    takes in. Optuna is told which way the objective is better, and to be quiet; by itself it minimizes.
    """
    typed = {word.partition("=")[0].lstrip("+") for word in arguments}
    words = ["stage=search"] * (chosen.stage is None and "stage" not in typed)
    if sweeper != "optuna":
        return words
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    if not sys.stderr.isatty():
        os.environ.setdefault("NO_COLOR", "1")
    given, returns = chosen.hydra.sweeper.get("direction"), chosen.hydra.launcher.get("returns") or ["objective"]
    directions = given if OmegaConf.is_list(given) else [getattr(given, "name", given)] * len(returns)
    better = "minimize" if metrics.named(chosen.objective).lower_is_better else "maximize"
    ours = [better if key == "objective" else one for key, one in zip(returns, directions, strict=False)]
    return words + [f"hydra.sweeper.direction=[{','.join(ours)}]"] * ("hydra.sweeper.direction" not in typed)


def task(cfg: DictConfig) -> Any:
    """What Hydra calls for one run: a job of a foreign launcher (pickled by name), whose objective its sweeper may ask
    for, or the single run.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from rankwise.run import run

        return run(compose.to_config(compose.unresolved(cfg))).objective
    assert _Single.start is not None
    try:
        for word in HydraConfig.get().overrides.hydra:
            of_study = word.lstrip("+").startswith(("hydra/", "hydra.sweeper", "hydra.launcher"))
            if of_study and "hydra.launcher.jobs" not in word:
                given = word.replace("hydra.launcher.join=true", "--join")
                raise Refused(f"{given}: of a study; add -m, for one run on this machine leave it out")
        config = compose.to_config(compose.unresolved(cfg))
        if "WANDB_SWEEP_ID" not in os.environ:  # another point of a sweep may use what this one does not
            compose.refuse_idle([(config, HydraConfig.get().overrides.task)])
        if multirun.here:
            check_here(config)
        _Single.ended = _Single.start(config)
    except BaseException as error:  # raised by call_hydra, past Hydra, which would print its own lines about it
        _Single.ended = error
    return None
