"""Procedural reasoning tasks of the package reasoning-gym (Stojanovski et al. 2025), with its own scoring."""

import importlib
import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from rankwise.errors import Refused, did_you_mean

# Their rows follow the order of sets, which Python shuffles anew in each process (version 0.1.25).
_UNSTABLE = (
    *("intermediate_integration", "isomorphic_strings", "knight_swap"),
    *("polynomial_multiplication", "ransom_note", "word_ladder"),
)


def rows(name: str, size: int) -> list[dict[str, str]]:
    """``size`` rows {question, answer} of the data set ``name``, always the same.

    Raises Refused for an unknown name, for data that are not the same in every process or have no written answers,
    and where reasoning-gym is not installed.
    """
    _, entries = _generated(name, size)
    if any(entry["answer"] is None for entry in entries):  # there are some that only a simulator can judge
        raise Refused.value("task.reasoning", name, "has no answers to learn from", "choose another data set")
    return [{"question": str(entry["question"]), "answer": str(entry["answer"])} for entry in entries]


def scores(name: str, size: int, answers_by_item: Mapping[int, str]) -> np.ndarray:
    """What the data set gives for each answer (0–1), in the order of the mapping, whose keys are row numbers.

    Raises Refused as ``rows``, but for the written answers.
    """
    data, entries = _generated(name, size)
    return np.array([_score(data, text, entries[item]) for item, text in answers_by_item.items()])


def _score(data: Any, text: str, entry: dict[str, Any]) -> float:
    try:
        return float(data.score_answer(text, entry))
    except Exception:  # some scorers raise whatever their parsing raises; what cannot be read is wrong
        return 0.0


def _generated(name: str, size: int) -> tuple[Any, list[dict[str, Any]]]:
    """The data set and its rows, made in order, since some draw from the global generators."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning of its dependencies, when they are first compiled
            gym = importlib.import_module("reasoning_gym")
            known = importlib.import_module("reasoning_gym.factory").DATASETS
    except ImportError as error:
        allowed, remedy = f"needs reasoning-gym, which is missing ({error})", "pip install 'rankwise[reasoning]'"
        raise Refused.value("task.reasoning", name, allowed, remedy) from error
    if name not in known:
        allowed = f"not a data set of reasoning-gym{did_you_mean(name, known)}"
        raise Refused.value("task.reasoning", name, allowed, "its README lists them")
    if name in _UNSTABLE:
        allowed = "gives other rows in every process, so that no two runs could be compared"
        raise Refused.value("task.reasoning", name, allowed, "choose another data set")
    from lightning.pytorch.utilities.seed import isolate_rng

    with isolate_rng(include_cuda=False):
        random.seed(0)
        np.random.seed(0)
        try:
            data = gym.create_dataset(name, size=size, seed=0)
            return data, [data[item] for item in range(size)]
        except (AssertionError, TypeError, ValueError) as error:
            raise Refused.value("task.reasoning", name, f"cannot be made with its defaults ({error})") from error
