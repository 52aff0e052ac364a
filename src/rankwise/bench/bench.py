"""Measure rankwise and its peers on the same rows, steps and seed, in turns, so that a busy machine is busy for all.

Every number is of whole processes. A run is measured at N and at 4 N steps: the difference is what 3 N steps cost, with
all that is tracked and measured, and the rest is start-up, evaluation and saving.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rankwise import assets, machine
from rankwise.bench.peers import PEERS
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.model import base, numerics, targets
from rankwise.statistics import Z95
from rankwise.study.compose import composed
from rankwise.tasks import data, scores
from rankwise.tasks.batches import Loaders, schedule
from rankwise.tracking.provenance import provenance

OURS = "rankwise"
LONG = 4  # times as many steps as the shorter run has: start-up varies by as much as some steps cost
COMMANDS = {"--help": ["--help"], "plan": ["plan"]}
_CLASSIFY = ("task.n_test=1000", "task.n_validation=400", "trainer.validations=2")
_BATCHES = ("trainer.batch_size=8", "trainer.eval_batch_size=8", "trainer.validations=1")
_WRITE = ("model=smollm2_instruct", "task=define_words", *_BATCHES)


@dataclass(frozen=True)
class Workload:
    """What all do: a config, and how many steps; the sweep's ranks, of which None is full fine-tuning."""

    name: str
    overrides: tuple[str, ...]
    steps: int
    ranks: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One process, or those of a sweep: seconds on the clock, seconds of processors, memory of the largest."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    score: float | None = None


class Process:
    """A command that runs, told to use so many ``threads``, with its output in ``log``."""

    def __init__(self, who: str, command: Sequence[str], log: Path, threads: int | None):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        self.who, self.log, self.begun = who, log, time.perf_counter()
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=output, stderr=subprocess.STDOUT, env=environment
            )

    def measured(self) -> Measured:
        """The cost of it and of all that it waited for. Raises Refused, with its last line, where it failed."""
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode:
            last = (self.log.read_text().strip().splitlines() or ["it said nothing"])[-1]
            raise Refused(f"{self.who}: exit code {self.process.returncode} ({last})")
        kib = 1024 if sys.platform == "linux" else 1
        return Measured(time.perf_counter() - self.begun, used.ru_utime + used.ru_stime, used.ru_maxrss * kib)

    def end(self) -> None:
        """Stop it, unless it has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def workloads(quick: bool) -> tuple[Workload, ...]:
    """Classification with a sweep of ranks, and a causal LM with a large vocabulary."""
    ranks = (1, 64, None) if quick else (1, 2, 4, 8, 16, 32, 64, None)
    rows = ("task.n_test=24", "task.n_validation=24") if quick else ("task.n_test=100", "task.n_validation=50")
    classify = Workload("classification", _CLASSIFY, 20 if quick else 70, ranks)
    return classify, Workload("causal LM", (*_WRITE, *rows), 3 if quick else 20)


def bench(quick: bool, repeats: int, told: Any = lambda text: None) -> dict[str, Any]:
    """All measurements, with medians and ratios; ``told`` is called with what is measured next."""
    results: dict[str, Any] = {"provenance": provenance(), "quick": quick, "repeats": repeats}
    results |= {"workloads": {}, "commands": {}}
    with tempfile.TemporaryDirectory(prefix="rankwise-bench-") as folder:
        for workload in workloads(quick):
            results["workloads"][workload.name] = _Bench(workload, Path(folder) / workload.name, told).measure(repeats)
        for name, words in COMMANDS.items():
            runs = [Process(OURS, [OURS, *words], Path(folder) / "log", 1).measured() for _ in range(repeats)]
            results["commands"][name] = statistics.median(run.cpu_s for run in runs)
    return results


class _Bench:
    """One workload in a folder: the base and the tokenized rows that the peers read, and everyone's outputs."""

    def __init__(self, workload: Workload, folder: Path, told: Any):
        self.workload, self.folder, self.told = workload, folder, told
        self.config = composed([*workload.overrides, f"trainer.max_steps={workload.steps}"])
        self.settings = numerics.settle(self.config.trainer)
        self.work = _prepare(self.config, folder) | {"bf16": self.settings.precision == "bf16"}
        self.number = 0

    def measure(self, repeats: int) -> dict[str, Any]:
        """Single runs at N and 4 N steps on one core, then sweeps on all of them."""
        steps, rank = self.workload.steps, self.config.method.rank
        single: dict[str, dict[int, list[Measured]]] = {who: {steps: [], LONG * steps: []} for who in (*PEERS, OURS)}
        for repeat in range(repeats):
            for who, lengths in single.items():
                for length, runs in lengths.items():
                    self.told(f"{self.workload.name}: {who}, {length} steps, {repeat + 1} of {repeats}")
                    runs.append(self._one(who, rank, length, threads=1))
        sweeps: dict[str, list[Measured]] = {}
        cores = machine.cores()
        kinds: dict[str, Callable[[], Measured]] = {
            "trainer, one at a time": lambda: self._peers("trainer", 1, None),
            "tuned, one at a time": lambda: self._peers("tuned", 1, cores),
            "tuned, one per core": lambda: self._peers("tuned", cores, 1),
            OURS: self._ours,
        }
        for repeat in range(repeats if self.workload.ranks else 0):
            for name, sweep in kinds.items():
                self.told(f"{self.workload.name}: sweep, {name}, {repeat + 1} of {repeats}")
                sweeps.setdefault(name, []).append(sweep())
        return {
            "runs": {who: _summary(lengths[steps], lengths[LONG * steps], steps) for who, lengths in single.items()},
            "sweeps": {name: _medians(runs) for name, runs in sweeps.items()},
            "scores_agree": _agree([lengths[LONG * steps][0].score for lengths in single.values()], self.work),
        }

    def _one(self, who: str, rank: int | None, steps: int, threads: int | None) -> Measured:
        if who != OURS:
            process = self._start(who, rank, steps, threads)
            return replace(process.measured(), score=json.loads(process.log.read_text().splitlines()[-1])["score"])
        measured, study = self._train([f"trainer.threads={threads}"], steps, threads)
        record = json.loads(next(study.glob("*/result.json")).read_text())
        test = record["metrics"]["test"]
        return replace(measured, score=test["loss" if self.work["writes"] else "accuracy"]["value"])

    def _ours(self) -> Measured:
        ranks = ",".join(str(rank) for rank in self.workload.ranks if rank)
        return self._train(["-m", "method=full,lora", f"method.rank={ranks}"], self.workload.steps, None)[0]

    def _train(self, words: list[str], steps: int, threads: int | None) -> tuple[Measured, Path]:
        """What ``rankwise train`` costs, and the folder of its study."""
        self.number += 1
        study = [f"study=ours{self.number}", f"outputs={self.folder}", f"trainer.max_steps={steps}"]
        command = [OURS, "train", *self.workload.overrides, *study, "tracking.mode=offline", *words]
        process = Process(OURS, command, self.folder / f"log{self.number}", threads)
        return process.measured(), self.folder / f"ours{self.number}"

    def _peers(self, who: str, at_once: int, threads: int | None) -> Measured:
        begun, runs = time.perf_counter(), []
        ranks = self.workload.ranks
        for first in range(0, len(ranks), at_once):
            together = ranks[first : first + at_once]
            started = [self._start(who, rank, self.workload.steps, threads) for rank in together]
            try:
                runs += [process.measured() for process in started]
            finally:
                for process in started:  # of which one failed
                    process.end()
        wall = time.perf_counter() - begun
        return Measured(wall, sum(run.cpu_s for run in runs), max(run.peak_bytes for run in runs))

    def _start(self, who: str, rank: int | None, steps: int, threads: int | None) -> Process:
        self.number += 1
        out = self.folder / f"peer{self.number}"
        out.mkdir()
        batches = self.work["batches"][:steps]
        lr = self.work["lr"] if rank else self.work["full_lr"]
        work = self.work | {"peer": who, "rank": rank, "steps": steps, "batches": batches, "lr": lr, "out": str(out)}
        (out / "work.json").write_text(json.dumps(work))
        return Process(who, ["rankwise.bench.peers", str(out / "work.json")], out / "log", threads)


def _prepare(config: Config, folder: Path) -> dict[str, Any]:
    """Write the base with its head and the tokenized rows; returns what every peer is told."""
    rows = data.load(config.task, assets.resolve(config.task), config.data_seed)
    scorer = scores.scorer_for(config.task, rows.classes, rows.train.labels)
    asset, outputs = assets.resolve(config.model), scorer.outputs
    lm, tokenizer = base.load(config.model, asset, outputs, config.seed, kind=config.task.kind)
    lm.save_pretrained(folder / "model")  # type: ignore[operator]
    tokenizer.save_pretrained(folder / "model")
    loaders = Loaders.of(config, rows, tokenizer)
    parts = {"train": loaders.train_rows, "validation": loaders.validation.dataset, "test": loaders.test.dataset}
    torch.save({name: [_row(part[i]) for i in range(len(part))] for name, part in parts.items()}, folder / "rows.pt")  # type: ignore[arg-type]
    trainer, steps = config.trainer, config.trainer.max_steps or 0
    plan = schedule(loaders.train_rows.lengths, trainer.batch_size, LONG * steps, config.seed, by_length=True)
    names = [name.rpartition(".")[2] for name in targets.adapted_modules(lm, config.targets)]
    return {
        "folder": str(folder),
        "writes": config.task.writes,
        "seed": config.seed,
        "lr": config.method.lr,
        "full_lr": composed(["method=full"]).method.lr,
        "alpha": config.method.alpha,
        "modules": sorted(set(names)),
        "batch_size": trainer.batch_size,
        "eval_batch_size": trainer.eval_batch_size,
        "batches": plan,
        "validations": trainer.validations,
        "n_test": len(rows.test),
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """One row as transformers wants it."""
    if "ids" not in row:
        return {key: value for key, value in row.items() if key != "row"} | {"labels": int(row["labels"])}
    labels = [token if wanted else -100 for token, wanted in zip(row["ids"], row["learned"], strict=True)]
    return {"input_ids": row["ids"], "attention_mask": [1] * len(row["ids"]), "labels": labels}


def _medians(runs: list[Measured]) -> dict[str, float]:
    return {key: statistics.median(getattr(run, key) for run in runs) for key in ("wall_s", "cpu_s", "peak_bytes")}


def _summary(short: list[Measured], long: list[Measured], steps: int) -> dict[str, Any]:
    """Medians of 4 N steps; ``step_cpu_s`` is what one step costs and ``rest_cpu_s`` all but the steps."""
    few, many = _medians(short), _medians(long)
    step = (many["cpu_s"] - few["cpu_s"]) / ((LONG - 1) * steps)
    return many | {"step_cpu_s": step, "rest_cpu_s": few["cpu_s"] - steps * step, "score": long[0].score}


def _agree(measured: list[float | None], work: dict[str, Any]) -> bool | None:
    """Whether accuracies of all are as close as test items of the same model allow; None of losses, which are shown."""
    if work["writes"]:
        return None
    values = [value for value in measured if value is not None]
    centre = statistics.mean(values)
    return max(values) - min(values) <= Z95 * (2 * centre * (1 - centre) / work["n_test"]) ** 0.5
