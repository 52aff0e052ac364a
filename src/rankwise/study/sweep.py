"""From the axes of a command line to the runs that are left to do."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobStatus
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rankwise.check import check, check_here
from rankwise.config import Config, merged
from rankwise.errors import Refused
from rankwise.identity import folder, run_id
from rankwise.study import changes
from rankwise.study.axes import Row, excluded, paired
from rankwise.study.compose import explain, known_keys, to_typed, unresolved
from rankwise.study.tuning import Tuning
from rankwise.tracking import record

if TYPE_CHECKING:
    from hydra_plugins.rankwise.plugins import StudySweeper

exit_code = 0  # of the last sweep: hydra.main returns nothing
instead: Callable[[list[Config]], int] | None = None  # what to do with the study's configs in place of running them


def sweep(sweeper: StudySweeper, arguments: list[str]) -> None:
    """Compose, deduplicate, skip what is finished, and launch the rest. Sets ``exit_code`` to 1 if a run failed."""
    global exit_code
    from hydra_plugins.rankwise.plugins import LocalLauncher

    local = isinstance(sweeper.launcher, LocalLauncher)
    if isinstance(sweeper.launcher, LocalLauncher):
        _check_jobs(sweeper.launcher.jobs)
    study = _study(sweeper, arguments)
    configs = [config for config, _ in study]
    tuning = Tuning.of(sweeper.tune, known_keys()) if sweeper.tune else None
    if tuning and not local:
        raise Refused("hydra.sweeper.tune: needs the launcher of this machine, hydra/launcher=local")
    trials = tuning.trials(configs) if tuning else []
    if instead is not None:
        if trials:
            print(f"rankwise: the last {len(configs)} runs wait for what the others choose", file=sys.stderr)
        exit_code = instead([*trials, *configs])
        return
    for config in [*trials, *configs]:
        check_here(config)
    if tuning:
        _launch_rest(sweeper, trials, "tuning ")
        exit_code = _not_done(trials) or _launch_rest(sweeper, tuning.frozen(configs))
    elif local:
        exit_code = _launch_rest(sweeper, configs)
    else:
        todo = [row for config, row in study if config.rerun or not record.is_done(config)]
        _announce(len(study), len(todo))
        assert sweeper.launcher is not None
        returns = sweeper.launcher.launch(todo, initial_job_idx=0) if todo else []
        exit_code = int(any(result.status != JobStatus.COMPLETED for result in returns))


def _not_done(trials: Sequence[Config]) -> int:
    """1, and a line, where a trial failed or is another process's: what is best of the others may not be best."""
    left = [trial for trial in trials if not record.is_done(trial)]
    if left:
        print(f"rankwise: the study waits: {len(left)} of {len(trials)} tuning runs did not finish here, such as "
              f"{folder(left[0]).name}; the same command goes on", file=sys.stderr)  # fmt: skip
    return int(bool(left))


def _study(sweeper: StudySweeper, arguments: list[str]) -> list[tuple[Config, Row]]:
    """The distinct runs of the axes, without what is excluded. Raises Refused for the first that cannot run."""
    rows = [[*row, *more] for row in expand(sweeper, arguments) for more in paired(sweeper.pairs)]
    composed = Composer(sweeper)
    runs = [(config, row) for row in rows if (config := composed(row)) is not None]
    if not runs:
        given = ", ".join(map(str, sweeper.exclude))
        raise Refused(f"hydra.sweeper.exclude: {given}: leaves no combination; drop a rule or add values")
    study = distinct(runs)
    if len(runs) > len(study):
        print(f"rankwise: {len(runs) - len(study)} of {len(runs)} combinations are the same run", file=sys.stderr)
    return study


def expand(sweeper: StudySweeper, arguments: list[str]) -> list[Row]:
    """Every combination of the axes, as override strings. Raises Refused for an empty axis."""
    assert sweeper.hydra_context is not None
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    overrides = parser.parse_overrides([*(f"{k}={v}" for k, v in (sweeper.params or {}).items()), *arguments])
    for override in overrides:
        if override.is_sweep_override() and not list(override.sweep_string_iterator()):
            raise Refused(f"{override.input_line}: an empty sweep; nothing matches")
    rows = [row for batch in sweeper.split_arguments(overrides, None) for row in batch]
    if not rows:
        raise Refused("an empty sweep: no combination of the given values is left")
    return rows


def distinct(runs: Sequence[tuple[Config, Row]]) -> list[tuple[Config, Row]]:
    """The first of each run id, one seed of every arm before the second seed, else in the order given."""
    first: dict[str, tuple[Config, Row]] = {}
    for config, row in runs:
        first.setdefault(run_id(config), (config, row))
    return sorted(first.values(), key=lambda run: run[0].seed)


class Composer:
    """Composes rows of overrides, once per distinct choice of groups, since each composition takes about 50 ms.

    Plain values are then set on the composed node, in place: all rows of a sweep set the same keys.
    """

    def __init__(self, sweeper: StudySweeper):
        assert sweeper.hydra_context is not None and sweeper.config is not None
        self.loader, self.master = sweeper.hydra_context.config_loader, sweeper.config
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.nodes: dict[tuple[str, ...], DictConfig] = {}
        self.choices: dict[tuple[str, ...], dict[str, str | None]] = {}
        self.keys, self.exclude = set(known_keys()), list(sweeper.exclude)

    def __call__(self, row: Row) -> Config | None:
        """The row's config, or None where the study leaves it out. Raises Refused for one that cannot run."""
        parsed = self.parser.parse_overrides(row)
        slow = tuple(o.input_line or "" for o in parsed if not self._is_plain(o))
        try:
            if slow not in self.nodes:
                loaded = self.loader.load_sweep_config(self.master, list(slow))
                self.nodes[slow] = merged(unresolved(loaded))
                self.choices[slow] = dict(loaded.hydra.runtime.choices)
            for override in parsed:
                if self._is_plain(override):
                    OmegaConf.update(self.nodes[slow], override.key_or_group, override.value())
        except OmegaConfBaseException as error:
            raise Refused(explain(error)) from None
        config = to_typed(self.nodes[slow])
        if excluded(config, self.exclude, [*self.keys], self.choices[slow]):
            return None
        check(config)
        return config

    def _is_plain(self, override: Override) -> bool:
        """A scalar or list for an existing key of the schema: no group's choice, addition, deletion or dict."""
        simple = override.type == OverrideType.CHANGE and not isinstance(override.value(), dict)
        return simple and override.key_or_group in self.keys and not self._is_group(override.key_or_group)

    @functools.cache  # noqa: B019  one composer per sweep
    def _is_group(self, key: str) -> bool:
        return bool(self.loader.get_group_options(key))


def _launch_rest(sweeper: StudySweeper, configs: Sequence[Config], what: str = "") -> int:
    """Launch what is not finished, after saying how much that is."""
    done = [config for config in configs if not config.rerun and record.is_done(config)]
    _announce(len(configs), len(configs) - len(done), what, changes.summary(done))
    return launch_missing(configs, sweeper.launcher.jobs)  # type: ignore[union-attr]


def launch_missing(configs: Sequence[Config], jobs: int | None) -> int:
    """Launch what is not finished here, each run once; 1 if one failed, else 0."""
    todo = {folder(config): config for config in configs if config.rerun or not record.is_done(config)}
    return _launch_here([*todo.values()], jobs) if todo else 0


def _launch_here(todo: list[Config], jobs: int | None) -> int:
    from rankwise import assets
    from rankwise.study.launcher import launch

    for source in {repr(s): s for config in todo for s in (config.model, config.task)}.values():
        assets.resolve(source)  # once, here, with its progress in view, not in several runs at a time
    failed = [outcome for outcome in launch(todo, jobs) if outcome.status not in ("finished", "skipped")]
    for outcome in failed:
        print(
            f"rankwise: {outcome.folder.name} {outcome.status}: {outcome.error}; log: {outcome.folder / 'log'}",
            file=sys.stderr,
        )
    return int(bool(failed))


def _check_jobs(jobs: object) -> None:
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise Refused.value("hydra.launcher.jobs", jobs, "an integer of at least 1, or null")


def _announce(runs: int, left: int, what: str = "", other: str = "") -> None:
    """How much there is to do, and whether what is done was done with other code, model or data."""
    before = f", {runs - left} finished before" if runs > left else ""
    before += f" ({other}; --rerun runs them again)" if other else ""
    print(f"rankwise: {runs} {what}runs{before}; {left} to run", file=sys.stderr)
