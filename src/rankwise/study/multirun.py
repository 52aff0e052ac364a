"""A multirun: from the axes of a command line to the runs that are left to do."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rankwise import machine
from rankwise.check import check, check_here
from rankwise.config import Config
from rankwise.errors import Refused, one_line, plural
from rankwise.forks import fork_server
from rankwise.forks.preload import HEAVY
from rankwise.identity import folder, run_id
from rankwise.study import debug
from rankwise.study.axes import Row, excluded, paired
from rankwise.study.compose import Composer, explained, hydra_tree, load, refuse_idle
from rankwise.study.launcher import done, run
from rankwise.study.tuning import Tuning
from rankwise.tasks.data import check_files
from rankwise.tracking import record as records

if TYPE_CHECKING:
    from hydra_plugins.rankwise.plugins import LocalLauncher, StudySweeper

exit_code = 0  # of the last multirun: hydra.main returns nothing
instead: Callable[[list[Config]], int] | None = None  # what to do with the study's configs in place of running them
here = True  # whether it must be possible on this machine


def multirun(sweeper: StudySweeper, arguments: list[str]) -> None:
    """Compose, deduplicate, skip what is finished, and run the rest. Sets ``exit_code`` to 1 if a run failed."""
    global exit_code
    from hydra_plugins.rankwise.plugins import LocalLauncher

    check_keys(sweeper.launcher, sweeper)
    local = isinstance(sweeper.launcher, LocalLauncher)
    pairs = sweeper.pairs or []
    walked = {key for group in pairs for key in group}
    if twice := next((word for word in arguments if word.partition("=")[0] in walked), None):
        raise Refused(f"{twice}: hydra.sweeper.pairs has it too; hydra.sweeper.pairs=[] leaves those axes out")
    assert sweeper.config is not None
    choices = sweeper.config.hydra.runtime.choices
    if type(sweeper.launcher) is LocalLauncher and here and instead is None:
        fork_server.begin(HEAVY, bool(machine.gpus()))  # while the study is composed, and its data are read
    rows = [[*row, *more] for row in expand(sweeper, arguments) for more in paired(pairs)]
    rows = debug.fitted(rows, arguments, choices)
    brought = set(sweeper.params or {}) - {word.partition("=")[0] for word in arguments}
    exclude = dict.fromkeys(sweeper.exclude or [], False)
    study = compose_study(rows, exclude, here, brought)
    configs = [config for config, _ in study]
    tuning = Tuning.of(sweeper.tune, exclude, study) if sweeper.tune else None
    for key in tuning.axes if tuning else ():
        if len({word for row in rows for word in row if word.startswith(f"{key}=")}) > 1:
            raise Refused(f"{key}: an axis of the study and of hydra.sweeper.tune, which chooses it; leave one out")
    if getattr(sweeper.launcher, "join", False) and any(config.rerun for config in configs):
        raise Refused("--rerun: not with --join, which takes what no machine has run yet")
    if tuning and not local:
        raise Refused("hydra.sweeper.tune: needs the launcher of this machine, hydra/launcher=local")
    trials = tuning.trials(configs) if tuning else []
    for condition in (one for one, has_held in exclude.items() if not has_held):
        print(f"rankwise: hydra.sweeper.exclude: {condition}: holds for no run", file=sys.stderr)
    if here:
        check_files((config for config in [*trials, *configs] if not done(config)), hub=instead is None)
    if instead is not None:
        say_fewer(rows, study)
        if trials:
            print(f"rankwise: {plural(len(configs), 'run')} will wait for what the others choose", file=sys.stderr)
        exit_code = instead([*trials, *configs])
        return
    if isinstance(sweeper.launcher, LocalLauncher):
        sweeper.launcher.check()
    say_fewer(rows, study)
    if isinstance(sweeper.launcher, LocalLauncher):
        exit_code = _run_here(sweeper.launcher, configs, trials, tuning)
    else:
        exit_code = _run_on_foreign(sweeper, study)


def _run_on_foreign(sweeper: StudySweeper, study: list[tuple[Config, Row]]) -> int:
    """Run what is left on a launcher of somebody else's, and name what failed. Raises Refused if it starts nothing."""
    assert sweeper.launcher is not None and sweeper.config is not None
    left = [(config, row) for config, row in study if not done(config)]
    print(f"rankwise: {plural(len(study), 'run')}; {len(left)} to run", file=sys.stderr)
    jobs: Sequence[JobReturn | None] = [None] * len(left)
    try:
        jobs = sweeper.launcher.launch([row for _, row in left], initial_job_idx=0) if left else []
    except Exception as error:  # its own: no scheduler is here, or a process of its was killed
        name = sweeper.config.hydra.runtime.choices["hydra/launcher"]
        reason = f"hydra/launcher={name}: {one_line(error)}"
        if all(records.state(config) == "new" for config, _ in left):
            raise Refused(reason) from None
        print(f"rankwise: {reason}", file=sys.stderr)
    failed = [_say_failed(config, job) for (config, _), job in zip(left, jobs, strict=True)]
    say_report([config for config, _ in study])
    return int(any(failed))


def _run_here(launcher: LocalLauncher, configs: list[Config], trials: list[Config], tuning: Tuning | None) -> int:
    """Run trials first, where there are some, then the study with what they choose."""
    if tuning:
        run(launcher, trials, "tuning")
        if left := [trial for trial in trials if not records.is_done(trial)]:
            print(
                f"rankwise: the study waits: {len(left)} of {len(trials)} tuning runs did not finish here, such as "
                f"{folder(left[0]).name}; the same command{' without --join' * launcher.join} goes on",
                file=sys.stderr,
            )
            if failed := next((trial for trial in left if records.state(trial) == records.FAILED), None):
                more = tuning.without(failed)
                print(f"rankwise: what fails again is left out of all arms by {more}", file=sys.stderr)
            return 1
        configs = tuning.frozen(configs)
    outcomes = run(launcher, configs)
    say_report(configs)
    return int(any(outcome.failed for outcome in outcomes))


def say_report(configs: Sequence[Config]) -> None:
    """Say how runs are compared, where there are several and not all of them failed."""
    if len(configs) > 1 and any(map(records.is_done, configs)):
        places = dict.fromkeys(str(folder(config).parent) for config in configs)
        by = " --by task" * (len({(config.task.name, config.task.path) for config in configs}) > 1)
        print(f"rankwise: to compare them: rankwise report {shlex.join(places)}{by}", file=sys.stderr)


def launcher_of(overrides: Sequence[str]) -> LocalLauncher:
    """The launcher that a command line chooses, without a sweeper. Raises Refused for one that is not rankwise's."""
    from hydra_plugins.rankwise.plugins import LocalLauncher

    asked = [word for word in overrides if word.startswith("hydra")]
    if sweeper := next((word for word in asked if re.match("hydra.sweeper", word)), None):
        raise Refused(f"{sweeper}: of train -m; here the runs are chosen otherwise")
    with explained(asked), hydra_tree():
        chosen = load(asked).hydra
        if not str(chosen.launcher.get("_target_")).startswith(f"{LocalLauncher.__module__}."):
            raise Refused.value("hydra/launcher", chosen.runtime.choices["hydra/launcher"], "local or slurm")
        launcher: LocalLauncher = instantiate(chosen.launcher)
    check_keys(launcher)
    launcher.check()
    return launcher


def _say_failed(config: Config, job: JobReturn | None) -> bool:
    """Whether a run on a launcher of somebody else's failed; then its name and reason are a line on stderr."""
    name = folder(config).name
    if job is None:  # the launcher itself gave up
        if not (finished := records.is_done(config)):
            print(f"rankwise: {name} {records.state(config)}: the same command goes on", file=sys.stderr)
        return not finished
    if job.status == JobStatus.COMPLETED:
        return False
    try:
        reason = f"its job is {job.status.name.lower()}: {job.return_value}"
    except Refused as error:
        reason = str(error)
    except Exception as error:
        reason = one_line(error)
    print(f"rankwise: {name} failed: {reason}", file=sys.stderr)
    return True


_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {  # of keys that no schema holds
    "sweeper.params": (lambda value: isinstance(value, Mapping), '{method.rank: "1,8,64"}'),
    "sweeper.pairs": (lambda value: _is_list_of(value, Mapping), "[{method.rank: [1, 8], method.lr: [4e-3, 1e-3]}]"),
    "sweeper.exclude": (lambda value: _is_list_of(value, str), '["method=full quant=nf4"]'),
    "sweeper.tune": (lambda value: isinstance(value, Mapping), "{axes: {method.lr: [1e-3, 2e-3]}, seeds: [100, 101]}"),
    **{
        f"launcher.{name}": (lambda value: type(value) is int and value > 0, "an integer of at least 1")
        for name in ("jobs", "workers", "gpus", "cpus")
    },
    **{
        f"launcher.{name}": (lambda value: isinstance(value, str | int), "a name")
        for name in ("partition", "account", "memory")
    },
    "launcher.time": (lambda value: type(value) is int and value > 2, "an integer of at least 3, in minutes"),
    "launcher.sbatch": (lambda value: isinstance(value, Mapping), "{qos: short}"),
    "launcher.join": (lambda value: isinstance(value, bool), "true"),
    "launcher.returns": (lambda value: _is_list_of(value, str), "[objective]"),
}


def check_keys(launcher: Any, sweeper: Any = None) -> None:
    """Raise Refused for the first key of a launcher or a sweeper whose value has another shape than it must."""
    for key, (fits, example) in _SHAPES.items():
        owner, _, name = key.partition(".")
        holder: Any = sweeper if owner == "sweeper" else launcher
        value = getattr(holder, name, getattr(holder, "keys", {}).get(name))
        if value is not None and not fits(value):
            raise Refused.value(f"hydra.{key}", value, f"null, or such as {example}")
    for key in getattr(launcher, "returns", None) or ():
        if re.match(r"metrics\W+(test|harness)\b", key):
            raise Refused.value("hydra.launcher.returns", key, "a test score must not select anything; [objective]")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, kind) for item in value)


def expand(sweeper: StudySweeper, arguments: list[str]) -> list[Row]:
    """Every combination of the axes, as override strings. Raises Refused for an empty axis."""
    assert sweeper.hydra_context is not None
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    overrides = parser.parse_overrides([*(f"{k}={v}" for k, v in (sweeper.params or {}).items()), *arguments])
    for override in overrides:
        if override.is_interval_sweep():
            drawn = "hydra/sweeper=optuna draws from an interval; here give values with commas"
            raise Refused(f"{override.input_line}: {drawn}")
        if override.is_sweep_override() and not list(override.sweep_string_iterator()):
            raise Refused(f"{override.input_line}: an empty axis; nothing matches")
    rows = [row for batch in sweeper.split_arguments(overrides, None) for row in batch]
    if not rows:
        raise Refused("an empty study: no combination of the given values is left")
    return rows


def compose_study(
    rows: Iterable[Row], exclude: dict[str, bool] | None = None, here: bool = False, brought: Collection[str] = ()
) -> list[tuple[Config, Row]]:
    """The distinct runs of rows of overrides, but those excluded.

    Raises Refused for the first that cannot run, or not ``here``: of runs that are the same, too, as they may ask for
    other devices. And for a key of which no run makes use, unless it is one that an experiment has ``brought``.
    """
    runs, compose, refused, exclude = [], Composer(), list[tuple[Row, Refused]](), exclude or {}
    for row in rows:
        config, choices = compose(row)
        if not excluded(config, exclude, choices):
            try:
                check(config)
                if here:
                    check_here(config)
            except Refused as refusal:
                refused.append((row, refusal))
            runs.append((config, row))
    if refused:
        row, why = refused[0]
        pair = [word for word in row if word in re.split(r"[:; ]+", str(why))]
        without = f"""; without it: 'hydra.sweeper.exclude=["{" ".join(pair)}"]'""" if len(pair) == 2 else ""
        raise Refused(f"{why}{without}")
    if not runs:
        raise Refused(f"hydra.sweeper.exclude: {', '.join(exclude)}: leaves no combination; drop a rule or add values")
    refuse_idle((config, [word for word in row if word.partition("=")[0] not in brought]) for config, row in runs)
    return distinct(runs)


def say_fewer(rows: Sequence[Row], study: Sequence[tuple[Config, Row]]) -> None:
    """Say where combinations of values are excluded, or mean the same run."""
    if len(study) < len(rows):
        print(f"rankwise: {len(rows):,} combinations come to {plural(len(study), 'distinct run')}", file=sys.stderr)


_PLACES = ("study", "outputs", "name")


def distinct(runs: Sequence[tuple[Config, Row]]) -> list[tuple[Config, Row]]:
    """The first of each run id, one seed of every arm before the second seed, else in the order given. Raises Refused
    for a run that would stand in two places.
    """
    first: dict[str, tuple[Config, Row]] = {}
    for config, row in runs:
        kept, _ = first.setdefault(run_id(config), (config, row))
        if key := next((key for key in _PLACES if getattr(config, key) != getattr(kept, key)), None):
            both = f"{getattr(kept, key)},{getattr(config, key)}"
            raise Refused(f"{key}={both}: the same run in both; give one of them")
    return sorted(first.values(), key=lambda run: run[0].seed)


def run_rows(launcher: LocalLauncher, rows: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Run each row of overrides for a sweeper of somebody else's (Optuna); returns what ``launcher.returns`` names.

    Finished runs are not run again. A run that failed is a failed job, whose error the sweeper raises or counts.
    """
    check_keys(launcher)
    compose, typed = Composer(), launcher.config.hydra
    rows = debug.fitted([list(row) for row in rows], typed.overrides.task, typed.runtime.choices)
    composed = [_composed(compose, row) for row in rows]
    configs = [config for config in composed if isinstance(config, Config)]
    check_files(configs)
    run(launcher, configs, counted=False)  # it asks for a few at a time
    return [_returned(one, row, launcher.returns or ["objective"]) for one, row in zip(composed, rows, strict=True)]


def _composed(compose: Composer, row: Row) -> Config | Refused:
    """The config of a row, or why it is none."""
    try:
        config, _ = compose(row)
        check(config)
        check_here(config)
    except Refused as refused:
        return refused
    return config


def _returned(composed: Config | Refused, row: Sequence[str], wanted: Sequence[str]) -> JobReturn:
    job = JobReturn(overrides=list(row), status=JobStatus.COMPLETED)
    try:
        if isinstance(composed, Refused):
            raise composed
        job.working_dir = str(folder(composed))
        values = _values(folder(composed), wanted)
        job.return_value = values[0] if len(values) == 1 else values
    except Refused as refused:
        job.status, job.return_value = JobStatus.FAILED, refused
    return job


def _values(path: Path, wanted: Sequence[str]) -> list[float]:
    record = records.read(path)
    if record.status != records.FINISHED:
        raise Refused(f"{path}: {record.status}: {(record.error or {}).get('message', 'see its log')}")
    values: list[Any] = [OmegaConf.select(OmegaConf.create(record.to_dict()), key) for key in wanted]
    for key, value in zip(wanted, values, strict=True):
        if not isinstance(value, int | float):
            raise Refused(f"hydra.launcher.returns: {key}: no number of this record ({path})")
    return list(map(float, values))
