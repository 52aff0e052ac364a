"""Tune, freeze, final: learning rates are chosen per arm on seeds of their own, then judged on fresh ones."""

import dataclasses
import functools
import itertools
import json
import operator
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rankwise import methods
from rankwise.check import check
from rankwise.compare import preference
from rankwise.config import Config, changed, known_keys, plain
from rankwise.errors import Refused
from rankwise.identity import canonical, folder, label, remove, run_id
from rankwise.study.axes import Row, excluded
from rankwise.study.compose import Composer, override
from rankwise.synonyms import near_key
from rankwise.tracking import record as records

STAGE = "tune"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is tried for every arm, and on which seeds."""

    axes: dict[str, list[Any]]
    seeds: list[int]
    exclude: dict[str, bool]  # conditions, as of the study
    choices: dict[str, Mapping[str, str | None]]  # of groups, by arm

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], exclude: dict[str, bool], study: Sequence[tuple[Config, Row]] = ()
    ) -> "Tuning":
        """From ``hydra.sweeper.tune``, for a study. Raises Refused for anything but axes with values and seeds."""
        axes, seeds = settings.get("axes") or {}, settings.get("seeds") or []
        lists = [seeds, *axes.values()] if isinstance(axes, Mapping) else []
        listed = all(entry and isinstance(entry, Sequence) and not isinstance(entry, str) for entry in lists)
        if not axes or not lists or not listed or set(settings) - {"axes", "seeds"}:
            raise Refused("hydra.sweeper.tune: give {axes: {KEY: [VALUES]}, seeds: [SEEDS]}")
        if own := {"seed", "study", "name", "stage"} & set(axes):
            raise Refused(f"hydra.sweeper.tune: {min(own)}: nothing to choose among; axes are keys such as method.lr")
        for key in axes:
            if key not in known_keys():
                raise Refused(f"hydra.sweeper.tune: {key}: no such key{near_key(key, known_keys())}")
            if dataclasses.is_dataclass(known_keys()[key][0]):
                raise Refused(f"hydra.sweeper.tune: {key}: a group of keys; an axis is one of them, such as {key}.name")
        tuning = cls({key: list(values) for key, values in axes.items()}, list(seeds), exclude, {})
        if exclude and study:
            compose = Composer()
            tuning.choices.update({tuning._key(config): compose(row)[1] for config, row in study})
        return tuning

    def trials(self, finals: Sequence[Config]) -> list[Config]:
        """Every value of the axes for every arm of ``finals``, on the tuning seeds. Raises Refused on shared seeds, and
        for a value that cannot run.
        """
        used = {config.seed for config in finals}
        if shared := used & set(self.seeds):
            raise Refused(f"hydra.sweeper.tune: seed {min(shared)} is also a seed of the study; tune on others")
        tried = [
            trial
            for seed in self.seeds
            for key, arm in self._arms(finals).items()
            for values in itertools.product(*self.axes.values())
            for trial in [changed(arm, dict(zip(self.axes, values, strict=True)) | {"seed": seed, "stage": STAGE})]
            if not excluded(trial, self.exclude, self.choices.get(key, {}))
        ]
        different = {run_id(trial): trial for trial in tried}
        for trial in different.values():
            check(trial)
        return [*different.values()]

    def frozen(self, finals: Sequence[Config]) -> list[Config]:
        """``finals`` with the values that did best in the trials, by ``preference`` over the tuning seeds.

        Raises Refused when an arm has no finished trial.
        """
        best = {key: self._best(arm) for key, arm in self._arms(finals).items()}
        return [changed(config, best[key]) if (key := self._key(config)) in best else config for config in finals]

    def without(self, trial: Config) -> str:
        """The words by which a study leaves out what was tried in a trial, for all of its arms."""
        values = [override(key, value) for key, value in self._values(trial).items()]
        return shlex.quote(f"hydra.sweeper.exclude={json.dumps([*self.exclude, ' '.join(values)])}")

    def _best(self, arm: Config) -> dict[str, Any]:
        runs: dict[str, list[records.Record]] = defaultdict(list)
        for trial in self.trials([dataclasses.replace(arm, seed=-1)]):
            path = folder(trial)
            record = records.read(path) if (path / "result.json").exists() else None
            if record and record.status == records.FINISHED and record.objective is not None:
                runs[json.dumps(self._values(trial))].append(record)
        if not runs:
            raise Refused(
                f"{folder(arm).parent.name}: no trial of {folder(arm).name} has finished; nothing to choose from"
            )
        full = [text for text, of_one in runs.items() if len(of_one) == max(map(len, runs.values()))]
        text = max(full, key=lambda text: preference(runs[text]))
        best: dict[str, Any] = json.loads(text)
        at_edge = any(self._is_last(key, value) for key, value in best.items())
        at = "; at the edge of its axis, a wider one may do better" if at_edge else ""
        chosen = ", ".join(itertools.starmap(override, best.items()))
        print(f"rankwise: {label(arm).split('-lr')[0]}: {chosen}{at}", file=sys.stderr)
        return best

    def _is_last(self, key: str, value: Any) -> bool:
        """Whether it is the smallest or the largest of three numbers or more."""
        numbers = [tried for tried in self.axes[key] if isinstance(tried, int | float)]
        return len(numbers) > 2 and value in (min(numbers), max(numbers))

    def _arms(self, finals: Sequence[Config]) -> dict[str, Config]:
        """One config per arm; what is fitted without steps has nothing to tune."""
        return {self._key(config): config for config in finals if not methods.of(config.method).is_baseline}

    def _key(self, config: Config) -> str:
        values = canonical(plain(config))
        for key in [*self.axes, "optim.lr", "seed"]:
            remove(values, key)
        return json.dumps(values, sort_keys=True)

    def _values(self, config: Config) -> dict[str, Any]:
        return {key: functools.reduce(operator.getitem, key.split("."), plain(config)) for key in self.axes}
