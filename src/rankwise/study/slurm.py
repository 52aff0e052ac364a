"""A study on a cluster: a Slurm array of workers, each the launcher of one machine at the same list of runs.

Needs the extra ``slurm`` (submitit). The command that started it watches the runs' records; what Slurm says of a job
is not asked, since a worker ends well when a run of its has failed.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rankwise.config import Config
from rankwise.errors import Refused, plural
from rankwise.forks import fork_server
from rankwise.identity import folder
from rankwise.paths import CHECKPOINTS
from rankwise.study import progress
from rankwise.study.launcher import launch
from rankwise.study.outcome import Outcome, elsewhere, show_end
from rankwise.study.worker import GRACE_S, SKIPPED
from rankwise.tracking import record as records
from rankwise.tracking.provenance import COMMAND, command

_LOOK_S = 2.0
_ANSWER_S = 60.0  # at most, of a controller that is asked
_QUEUE_S = 15.0  # how often the controller is asked whether the array is still there
_WARNED_S = 90  # a worker is told that its time ends so long before it does
_LOGS = ".slurm"  # a folder beside the runs


@dataclass
class Slurm:
    """The workers of a study; null leaves a value to the cluster. Keys of ``hydra.launcher``."""

    workers: int = 1  # jobs of the array
    jobs: int | None = None  # runs at once in each: as on one machine
    partition: str | None = None
    account: str | None = None
    time: int = 60  # minutes
    memory: str | None = None  # such as 16GB
    gpus: int | None = None
    cpus: int | None = None
    sbatch: Mapping[str, Any] | None = None  # any other option of sbatch: {qos: short, gres: "shard:1"}

    @classmethod
    def of(cls, launcher: Any) -> "Slurm":
        """From Hydra's launcher of the same keys. Raises Refused where submitit or Slurm is not installed, and for keys
        that there are not.
        """
        if unknown := set(launcher.keys) - {field.name for field in fields(cls)}:
            raise Refused(f"hydra.launcher.{min(unknown)}: no such key of hydra/launcher=slurm")
        if not importlib.util.find_spec("submitit"):
            raise Refused("hydra/launcher=slurm: needs submitit; pip install 'rankwise[slurm]'")
        if not shutil.which("sbatch"):
            raise Refused("hydra/launcher=slurm: no sbatch on this machine; log in where jobs are submitted")
        return cls(**launcher.keys)

    @property
    def options(self) -> dict[str, Any]:
        """Of sbatch, by their long names; True is one without a value."""
        asked = {
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "mem": self.memory,
            "gpus-per-node": self.gpus,
            "cpus-per-task": self.cpus,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return {**given, "requeue": True, **(self.sbatch or {})}

    def check(self) -> None:
        """Raise Refused for what sbatch would refuse, which is asked before anything is written."""
        words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in self.options.items()]
        command = ["sbatch", "--test-only", *words, "--wrap=true"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S)
            why = answer.stderr.strip().rpartition("\n")[2] if answer.returncode else ""
        except subprocess.TimeoutExpired:
            why = f"sbatch: no answer within {_ANSWER_S:.0f} s"
        if why:
            raise Refused(f"hydra/launcher=slurm: {why}; hydra/launcher=local runs on this machine")


@dataclass(frozen=True)
class Work:
    """What a worker is told; it crosses to its machine in submitit's pickle."""

    configs: list[Config]
    tries: dict[str, int]  # attempts before, by name of folder
    jobs: int | None
    command: str


def launch_on(slurm: Slurm, configs: Sequence[Config], stage: str = "") -> list[Outcome]:
    """Run every config on the workers and say how each ended, in the order given. Signals: as ``launcher.launch``.

    Raises Refused for what sbatch refuses.
    """
    if not configs:
        return []
    tries = {folder(config).name: _attempts(config) for config in configs}
    with fork_server.Signals() as signals:
        array, logs = _submit(slurm, Work(list(configs), tries, slurm.jobs, command()))
        with progress.Display(len(configs), slurm.workers, stage) as shown:
            shown.say(f"Slurm job {array}, {plural(slurm.workers, 'worker')}; logs: {logs}")
            try:
                return _watch(array, logs, configs, tries, shown, signals)
            except BaseException:
                subprocess.run(["scancel", array], check=False)
                _wait_for_the_end(array)
                raise


def _submit(slurm: Slurm, work: Work) -> tuple[str, Path]:
    """The array's number, and where its workers print."""
    import submitit

    logs = folder(work.configs[0]).absolute().parent / _LOGS
    executor = submitit.SlurmExecutor(folder=logs)
    executor.update_parameters(
        job_name="rankwise", signal_delay_s=_WARNED_S, stderr_to_stdout=True, additional_parameters=slurm.options
    )
    try:
        jobs = executor.map_array(worker, [work] * slurm.workers)
    except submitit.core.utils.FailedJobError as error:
        reason = " ".join(str(error).split()).removeprefix("sbatch: error: ")
        raise Refused(f"hydra/launcher=slurm: sbatch: {reason}") from None
    return jobs[0].job_id.partition("_")[0], logs


def _watch(
    array: str,
    logs: Path,
    configs: Sequence[Config],
    tries: Mapping[str, int],
    shown: progress.Display,
    signals: fork_server.Signals,
) -> list[Outcome]:
    """Look at the records until every run has ended, or no worker is left."""
    left, ended, begun = {folder(config): config for config in configs}, dict[Path, Outcome](), set[Path]()
    asked_s, there = time.monotonic(), True
    while left and not signals.count:
        if time.monotonic() > asked_s + _QUEUE_S:
            asked_s, there = time.monotonic(), _is_queued(array)
        for path, config in list(left.items()):
            outcome = elsewhere(config, tries) if path.exists() else None
            if outcome is None and not there:
                status = records.state(config)
                error = f"no worker is left: time, memory or Slurm ended it; see {logs}, and give the command again"
                outcome = Outcome(path.absolute(), records.STOPPED if status == "new" else status, error)
            if outcome and outcome.status != SKIPPED:
                ended[path] = outcome
                del left[path]
                show_end(shown, config, outcome)
            elif outcome and path not in begun:
                begun.add(path)
                shown.started(path.name)
        shown.tick()
        if left and not signals.count:
            time.sleep(_LOOK_S)
    if signals.count:
        shown.say(f"cancelling Slurm job {array}")
        raise KeyboardInterrupt
    return [ended[folder(config)] for config in configs]


def _is_queued(array: str) -> bool:
    """Whether any job of the array waits or runs; a controller that does not answer is no news."""
    answer = subprocess.run(["squeue", "-h", "-j", array, "-o", "%T"], capture_output=True, text=True, check=False)
    return bool(answer.stdout.strip()) or (answer.returncode != 0 and "Invalid job id" not in answer.stderr)


def _wait_for_the_end(array: str) -> None:
    """Give the workers of a cancelled array time to write their records."""
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and _is_queued(array):
        time.sleep(0.5)


def _attempts(config: Config) -> int:
    path = folder(config)
    return records.read(path).run["attempts"] if (path / "result.json").exists() else 0


def worker(work: Work) -> None:
    """A job of the array: take runs until none is left; told that time ends, stop them and ask for a second turn."""
    ending = []

    def end(*_: object) -> None:
        ending.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    # In place of submitit's handlers, which ignore SIGTERM and write the worker anew on SIGUSR2.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGUSR2, end)
    os.environ[COMMAND] = work.command
    before = _gained(work.configs)
    try:
        launch(work.configs, work.jobs, join=work.tries)
    except KeyboardInterrupt:
        if not ending:
            raise SystemExit(143) from None
        job = os.environ["SLURM_JOB_ID"]  # in an array, too, of this job alone
        if _gained(work.configs) == before:  # nor would the next turn, and so on for ever
            raise SystemExit(f"rankwise: the time of {job} ends before any run got anywhere; give more") from None
        print(f"rankwise: the time of {job} ends; it goes on in its next turn", file=sys.stderr, flush=True)
        subprocess.run(["scontrol", "requeue", job], check=True)


def _gained(configs: Sequence[Config]) -> set[tuple[Path, float]]:
    """What of the runs will not have to be done again: those that have finished, and the last checkpoints of others."""
    last = (folder(config) / CHECKPOINTS[0] for config in configs)
    kept = {(file, file.stat().st_mtime) for file in last if file.exists()}
    return kept | {(folder(config), 0.0) for config in configs if records.is_done(config)}
