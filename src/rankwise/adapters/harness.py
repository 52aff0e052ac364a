"""Finished runs on tasks of lm-evaluation-harness: scores, errors and every answer, written into their records."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rankwise.adapters import loading
from rankwise.adapters.runs import Run
from rankwise.compare import on_rows, unlike
from rankwise.errors import Refused, did_you_mean, reason
from rankwise.metrics import Metric, named
from rankwise.tracking import predictions
from rankwise.tracking.record import Record, revise

_RESAMPLES = 10_000  # of items, for a standard error to 1 %, where a mean's formula is not that of the score

Ask = Callable[[nn.Module, Any, Run], dict[str, Any]]
Tested = tuple[dict[str, Any], dict[str, np.ndarray]]  # scores by metric, and columns of what each item scored


def evaluate(
    runs: list[Run],
    tasks: list[str],
    *,
    include: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    base: bool = False,
) -> dict[str, Any]:
    """Score runs as they were trained on ``tasks``, and the ``base`` as it is where that is asked.

    ``include`` is a folder with tasks of one's own, ``shots`` how many examples precede a question, ``limit`` how many
    items are asked. Raises Refused without lm-evaluation-harness, for a model that does not write, unknown tasks and
    tasks that cannot be loaded.
    """
    for run in runs:
        if not run.config.task.writes:
            raise Refused(f"{run.folder}: task {run.config.task.name} trains no language model, which the tasks ask")
    ask = _harness(tasks, include, {"num_fewshot": shots, "limit": limit, "bootstrap_iters": _RESAMPLES})
    asked = {key: n for key, n in (("shots", shots), ("limit", limit)) if n is not None}
    before: dict[Any, dict[str, Any]] = {}  # by base, which several runs share
    return {"runs": [_evaluate(run, ask, asked, before if base else None) for run in runs]}


def _evaluate(run: Run, ask: Ask, asked: dict[str, int], before: dict[Any, dict[str, Any]] | None) -> dict[str, Any]:
    lm, tokenizer = loading.stored_base(run)
    of_base = {}
    if before is not None:
        key = (run.base, loading.numerics(run).precision)  # it answers otherwise where it computes otherwise
        if key not in before:
            before[key] = _read(ask(loading.ready(lm, run), tokenizer, run))
        of_base = before[key]
    tasks = _read(ask(loading.ready(loading.adapted(lm, run), run), tokenizer, run))
    scores, answers = {}, {}
    for task, (cells, columns) in tasks.items():
        for name, cell in cells.items():
            metric = named(f"{task}:{name}")
            gained = _gained(metric, of_base[task], (cells, columns)) if of_base else {}
            scores[metric.name] = cell | asked | gained
        answers[run.folder / predictions.harness_file(task)] = columns

    def add(record: Record) -> None:
        for file, columns in answers.items():
            predictions.store(file, columns)
        record.metrics["harness"] = record.metrics.get("harness", {}) | scores

    if not revise(run.folder, add):
        raise Refused(f"{run.folder}: another process is at the run; ask again when it has ended: no score is recorded")
    return {"run": run.name, "scores": scores}


def _gained(metric: Metric, before: Tested, after: Tested) -> dict[str, Any]:
    """The base's score and the difference from it, paired over items; null, and why, where a score is no mean of its
    items, as a perplexity is not.
    """
    name = metric.columns[1]
    found: dict[str, Any] = {"before": before[0][name], "difference": None}
    for cells, columns in (before, after):
        if name not in columns:
            return found | {"not_paired": f"{metric.name} has no number for each item"}
        if why := unlike(metric, columns, cells[name]["value"]):
            return found | {"not_paired": f"the mean over items gives {why}"}
    return found | {"difference": on_rows(metric, before[1], after[1])}


def _harness(tasks: list[str], include: Path | None, options: dict[str, Any]) -> Ask:
    """What asks a model all tasks, each of which is known."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lm_eval import evaluator
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise Refused(f"adapter eval: needs lm-eval ({error}); pip install 'rankwise[eval]'") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    evaluator.get_git_commit_hash = str  # it asks git, which complains where there is no repository
    if include is not None and not include.is_dir():
        raise Refused(f"--include-path {include}: no such folder")
    manager = TaskManager(include_path=include, include_defaults=False) if include else None
    if manager is None or not set(tasks) <= set(manager.all_tasks):
        manager = TaskManager(include_path=include)  # thousands of files: seconds
    if unknown := next((task for task in tasks if task not in manager.all_tasks), None):
        near = did_you_mean(unknown, manager.all_tasks)
        raise Refused(f"--tasks {unknown}: no task of lm-evaluation-harness or of --include-path{near}")

    def ask(model: nn.Module, tokenizer: Any, run: Run) -> dict[str, Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                how = {"batch_size": run.config.trainer.eval_batch_size, "backend": "causal"}
                how["mixed_precision_dtype"] = loading.numerics(run).mixed  # it turns off an autocast around it
                lm = HFLM(pretrained=model, tokenizer=tokenizer, **how)
                with contextlib.redirect_stdout(sys.stderr):  # it tells there what it bootstraps
                    results = evaluator.simple_evaluate(lm, tasks=list(tasks), task_manager=manager, **options)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:  # a stranger's file, or the hub
            raise Refused(f"--tasks {','.join(tasks)}: cannot be asked ({reason(error)})") from None
        return dict(results or {})

    return ask


def _read(results: dict[str, Any]) -> dict[str, Tested]:
    """By task its scores {value, se, n} by metric, and a column for each metric with what each item scored."""
    return {task: (_cells(results, task), _columns(samples)) for task, samples in results["samples"].items()}


def _cells(results: dict[str, Any], task: str) -> dict[str, Any]:
    """Scores by metric, ``metric@filter`` where answers are filtered before they are judged."""
    of_task, cells = results["results"][task], {}
    for key, value in of_task.items():
        name, _, filtered = key.partition(",")
        if not filtered or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        if results["higher_is_better"][task].get(name) is named(f"{task}:{name}").lower_is_better:
            continue  # of a metric whose name does not tell its direction
        error = of_task.get(f"{name}_stderr,{filtered}")
        se = float(error) if isinstance(error, int | float) else None
        n = int(results["n-samples"][task]["effective"])
        cells[_named(name, filtered)] = {"value": float(value), "se": se, "n": n}
    return cells


def _columns(samples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Items in their order: number, label (a hash of the prompt), the right answer, and by filter what was answered and
    how each metric judged it."""
    by_filter: dict[str, list[dict[str, Any]]] = {}
    for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
        by_filter.setdefault(sample["filter"], []).append(sample)
    first = next(iter(by_filter.values()))
    columns = {
        "item": np.array([int(sample["doc_id"]) for sample in first]),
        "label": np.array([int(sample["prompt_hash"][:12], 16) for sample in first]),
        "target": np.array([str(sample["target"]) for sample in first]),
    }
    for filtered, rows in by_filter.items():
        answers = [json.dumps(row["filtered_resps"], default=str) for row in rows]
        columns[_named("answer", filtered)] = np.array(answers)
        for name in rows[0]["metrics"]:
            values = [row[name] for row in rows]
            if all(isinstance(value, int | float | np.number) for value in values):
                columns[_named(name, filtered)] = np.array(values, dtype=float)
    return columns


def _named(name: str, filtered: str) -> str:
    return name if filtered == "none" else f"{name}@{filtered}"
