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

from rankwise.check import check_here
from rankwise.config import Config, folder, merged, run_id
from rankwise.errors import Refused
from rankwise.study.compose import explain, known_keys, to_config, unresolved
from rankwise.tracking import record

if TYPE_CHECKING:
    from hydra_plugins.rankwise.plugins import StudySweeper

Row = list[str]  # override strings of one combination
exit_code = 0  # of the last sweep: hydra.main returns nothing
instead: Callable[[list[Config]], int] | None = None  # what to do with the study's configs in place of running them


def sweep(sweeper: StudySweeper, arguments: list[str]) -> None:
    """Compose, deduplicate, skip what is finished, and launch the rest. Sets ``exit_code`` to 1 if a run failed."""
    global exit_code
    from hydra_plugins.rankwise.plugins import LocalLauncher

    if isinstance(sweeper.launcher, LocalLauncher):
        _check_jobs(sweeper.launcher.jobs)
    rows = expand(sweeper, arguments)
    composed = Composer(sweeper)
    study = distinct([(composed(row), row) for row in rows])
    if instead is not None:
        exit_code = instead([config for config, _ in study])
        return
    for config, _ in study:
        check_here(config)
    todo = [(config, row) for config, row in study if config.rerun or not is_finished(config)]
    _announce(len(rows), len(study), len(todo))
    if not todo:
        return
    if isinstance(sweeper.launcher, LocalLauncher):
        exit_code = _launch_here([config for config, _ in todo], sweeper.launcher.jobs)
        return
    assert sweeper.launcher is not None
    returns = sweeper.launcher.launch([row for _, row in todo], initial_job_idx=0)
    exit_code = int(any(result.status != JobStatus.COMPLETED for result in returns))


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


def is_finished(config: Config) -> bool:
    """Whether this run has a finished record in its study."""
    place = folder(config)
    return (place / "result.json").exists() and record.read(place).status == record.FINISHED


class Composer:
    """Composes rows of overrides, once per distinct choice of groups, since each composition takes about 50 ms.

    Plain values are then set on the composed node, in place: all rows of a sweep set the same keys.
    """

    def __init__(self, sweeper: StudySweeper):
        assert sweeper.hydra_context is not None and sweeper.config is not None
        self.loader, self.master = sweeper.hydra_context.config_loader, sweeper.config
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.nodes: dict[tuple[str, ...], DictConfig] = {}
        self.keys = set(known_keys())

    def __call__(self, row: Row) -> Config:
        parsed = self.parser.parse_overrides(row)
        slow = tuple(o.input_line or "" for o in parsed if not self._is_plain(o))
        try:
            if slow not in self.nodes:
                self.nodes[slow] = merged(unresolved(self.loader.load_sweep_config(self.master, list(slow))))
            for override in parsed:
                if self._is_plain(override):
                    OmegaConf.update(self.nodes[slow], override.key_or_group, override.value())
        except OmegaConfBaseException as error:
            raise Refused(explain(error)) from None
        return to_config(self.nodes[slow])

    def _is_plain(self, override: Override) -> bool:
        """A scalar or list for an existing key of the schema: no group's choice, addition, deletion or dict."""
        simple = override.type == OverrideType.CHANGE and not isinstance(override.value(), dict)
        return simple and override.key_or_group in self.keys and not self._is_group(override.key_or_group)

    @functools.cache  # noqa: B019  one composer per sweep
    def _is_group(self, key: str) -> bool:
        return bool(self.loader.get_group_options(key))


def _launch_here(todo: list[Config], jobs: int | None) -> int:
    from rankwise import assets
    from rankwise.study.launcher import launch

    for source in {repr(s): s for config in todo for s in (config.model, config.task)}.values():
        assets.resolve(source)  # once, here, with its progress in view, not in several runs at a time
    outcomes = launch(todo, jobs)
    failed = [outcome for outcome in outcomes if outcome.status not in ("finished", "skipped")]
    for outcome in failed:
        print(
            f"rankwise: {outcome.folder.name} {outcome.status}: {outcome.error}; log: {outcome.folder / 'log'}",
            file=sys.stderr,
        )
    return int(bool(failed))


def _check_jobs(jobs: object) -> None:
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise Refused.value("hydra.launcher.jobs", jobs, "an integer of at least 1, or null")


def _announce(rows: int, runs: int, left: int) -> None:
    parts = [f"{runs} runs"]
    if rows > runs:
        parts.append(f"{rows - runs} of {rows} combinations are the same run")
    if runs > left:
        parts.append(f"{runs - left} finished before")
    print(f"rankwise: {', '.join(parts)}; {left} to run", file=sys.stderr)
