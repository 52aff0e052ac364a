"""Where Hydra looks for plugins: thin shims over rankwise.study, so that Hydra's scan imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(BasicSweeper):
    """Turns the axes of a command line into a study and hands what is left to run to the launcher."""

    def __init__(self, params: Any = None, pairs: Any = None, exclude: Any = None, tune: Any = None) -> None:
        super().__init__(None, params)
        self.pairs, self.exclude, self.tune = pairs, exclude, tune

    def sweep(self, arguments: list[str]) -> Any:
        from rankwise.study.multirun import multirun

        assert self.hydra_context is not None and self.config is not None
        return multirun(self, arguments)


class LocalLauncher(Launcher):
    """One process per run on this machine; see rankwise.study.launcher. Any Hydra sweeper can use it."""

    def __init__(self, jobs: int | None = None, returns: Any = None, join: bool = False) -> None:
        self.jobs, self.returns, self.join = jobs, returns, join
        self.begun: set[Path] = set()  # the folders of its runs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def check(self) -> None:
        """Raise Refused where it cannot run anything."""

    def at_once(self, configs: Sequence[Any]) -> int:
        """How many runs go on side by side."""
        from rankwise.study.launcher import share

        return share(configs, self.jobs).jobs

    def start(self, configs: Sequence[Any], stage: str) -> list[Any]:
        """Run the configs; returns their outcomes."""
        from rankwise.study.launcher import launch

        return launch(configs, self.jobs, stage=stage, join={} if self.join else None)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from rankwise.study.multirun import run_rows

        return run_rows(self, job_overrides)


class SlurmLauncher(LocalLauncher):
    """The same on the workers of a Slurm array; see rankwise.study.slurm, and conf/hydra/launcher/slurm.yaml."""

    def __init__(self, returns: Any = None, **keys: Any) -> None:
        super().__init__(keys.get("jobs"), returns)
        self.keys = keys

    def check(self) -> None:
        from rankwise.study.slurm import Slurm

        Slurm.of(self).check()

    def at_once(self, configs: Sequence[Any]) -> int:
        return int(self.keys.get("workers") or 1) * (self.jobs or 1)

    def start(self, configs: Sequence[Any], stage: str) -> list[Any]:
        from rankwise.study.slurm import Slurm, launch_on

        return launch_on(Slurm.of(self), configs, stage)


class UserConfigs(SearchPathPlugin):
    """Adds ``./conf`` of the working directory after rankwise's own tree: new options, never shadowed ones."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from rankwise.paths import conf_dir

        main = next((item.path for item in search_path.get_path() if item.provider == "main"), None)
        user = Path.cwd() / "conf"
        ours = conf_dir()
        if main is not None and main.removeprefix("file://") == str(ours) and user.is_dir() and user.resolve() != ours:
            search_path.append("user", f"file://{user}", SearchPathQuery(provider="main"))
