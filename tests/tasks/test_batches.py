"""Which rows go together, in which order."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_configs import tiny
from transformers import ByT5Tokenizer

from rankwise.assets import resolve
from rankwise.model.base import byte_tokenizer
from rankwise.tasks import data
from rankwise.tasks.batches import Collate, Encoded, Loaders, eval_loader, schedule
from rankwise.tasks.scores import ValueScorer

LENGTHS = np.random.default_rng(0).geometric(0.05, 1000) + 2
Plan = list[list[int]]


def padding(plan: Plan, lengths: np.ndarray) -> float:
    """The share of a padded batch that is padding, over a plan."""
    padded = sum(len(batch) * lengths[batch].max() for batch in plan)
    return 1 - sum(lengths[batch].sum() for batch in plan) / padded


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(("rows", "batch_size"), [(100, 8), (96, 8), (7, 32), (1000, 32), (1, 4), (33, 32)])
def test_every_row_comes_once_an_epoch(rows, batch_size, by_length):
    each = math.ceil(rows / batch_size)
    plan = schedule(LENGTHS[:rows], batch_size, 3 * each, seed=1, by_length=by_length)
    assert len(plan) == 3 * each
    for epoch in range(3):
        batches = plan[epoch * each : (epoch + 1) * each]
        assert sorted(itertools.chain(*batches)) == list(range(rows))
        assert sorted(map(len, batches), reverse=True)[: each - 1] == [batch_size] * (each - 1)


@pytest.mark.parametrize("by_length", [False, True])
def test_the_order_is_the_seeds_and_another_in_every_epoch(by_length):
    first, again, other = (schedule(LENGTHS, 32, 64, seed, by_length) for seed in (0, 0, 1))
    assert first == again != other
    assert first[:32] != first[32:]
    assert {tuple(sorted(batch)) for batch in first[:32]} != {tuple(sorted(batch)) for batch in first[32:]}


def test_a_longer_run_begins_as_a_shorter_one():
    assert schedule(LENGTHS, 32, 100, 0, True)[:45] == schedule(LENGTHS, 32, 45, 0, True)


@pytest.mark.parametrize("rows", [200, 1000])
def test_grouping_by_length_saves_most_of_the_padding(rows):
    lengths = LENGTHS[:rows]
    batches = math.ceil(rows / 16)
    random, grouped = (padding(schedule(lengths, 16, batches, 0, by_length), lengths) for by_length in (False, True))
    assert random > 0.5 and grouped < 0.7 * random


def test_grouped_batches_do_not_come_sorted():
    """Long batches first would be a curriculum."""
    plan = schedule(LENGTHS, 16, 63, 0, True)
    means = [LENGTHS[batch].mean() for batch in plan]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


def encoded(texts: list[str], max_length: int = 12) -> Encoded:
    return Encoded(texts, np.arange(len(texts)), byte_tokenizer(), max_length)


def test_texts_are_cut_at_the_longest_allowed_with_their_end_token():
    rows = encoded(["ab", "x" * 50, ""])
    assert rows.lengths.tolist() == [4, 12, 2] == [len(row["input_ids"]) for row in (rows[0], rows[1], rows[2])]
    assert all(rows[i]["input_ids"][0] == 1 and rows[i]["input_ids"][-1] == 2 for i in range(3))
    assert len(rows) == 3 and rows[1]["labels"] == 1
    assert encoded(["</s>", "(/s>"]).columns["input_ids"][0].count(2) == 1, "an end that is written is no end"


@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_a_batch_is_padded_to_its_longest_row(dtype):
    rows, tokenizer = encoded(["ab", "abcdef", "a"]), byte_tokenizer()
    tokenizer.padding_side = "left"  # for writing; GPT-2 counts positions from the first token, padding or not
    batch = Collate(tokenizer, dtype)([rows[2], rows[1]])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 8)
    assert batch["attention_mask"].sum(1).tolist() == [3, 8]
    assert batch["input_ids"][0, 3:].tolist() == [tokenizer.pad_token_id] * 5
    assert batch["labels"].dtype == dtype and batch["labels"].tolist() == [2, 1] == batch["row"].tolist()


def test_evaluation_sees_every_row_once_longest_first():
    rows = encoded(["a" * n for n in (1, 9, 3, 9, 2)])
    batches = list(eval_loader(rows, Collate(byte_tokenizer(), torch.long), 2))
    assert [batch["row"].tolist() for batch in batches] == [[1, 3], [2, 4], [0]]
    assert batches[0]["input_ids"].shape == (2, 11)


def loaders(most: int = 512, **keys: Any) -> Loaders:
    config, tokenizer = tiny(**keys), byte_tokenizer()
    tokenizer.model_max_length = most
    return Loaders.of(config, data.load(config.task, resolve(config.task), config.data_seed), tokenizer)


def test_how_many_texts_lose_their_end_is_counted_and_said_with_what_would_hold_them(tmp_path):
    lengths = [*range(8, 208)]  # with the first and the last token
    (tmp_path / "d.csv").write_text("".join(f"{n % 2},{str(n).zfill(n - 2)}\n" for n in lengths))
    keys = {"task__path": str(tmp_path / "d.csv"), "task__columns": ["label", "text"]}
    most, default, less = (
        loaders(task="local", **keys, **length) for length in ({"task__max_length": 195}, {}, {"task__max_length": 107})
    )
    assert (most.cut, most.note) == (12, ""), "of fewer than a tenth nothing is said"
    assert default.note == "79 of 200 rows lose their end to task.max_length=128; 204 would hold nearly all"
    assert less.note == "100 of 200 rows lose their end to task.max_length=107; 203 would hold nearly all"
    short = loaders(128, task="local", model__name="short", **keys)
    assert short.note.endswith("task.max_length=128; short has positions for 128"), "of two models each has its note"


def test_what_a_tokenizer_cuts_is_counted_though_it_does_not_say():
    rows = Encoded(["a" * 7, "a" * 8, "a" * 20], np.zeros(3), ByT5Tokenizer(), 8)
    assert rows.lengths.tolist() == [8, 8, 8] and (rows.cut, rows.uncut) == (2, [9, 21])


def test_training_batches_are_those_of_the_plan():
    made = loaders()
    plan = [[5, 2, 9], [0], [5, 1]]
    assert [batch["row"].tolist() for batch in made.train(plan)] == plan
    assert len(made.train_rows) == 128


def test_labels_are_classes_or_numbers_as_the_task_is():
    assert next(iter(loaders().test))["labels"].dtype == torch.long
    numbers = next(iter(loaders(task__kind="regression", task__metric="pearson", objective="val/pearson").test))
    assert numbers["labels"].dtype == torch.float64
    rows = Encoded(["a", "b"], np.array([1.7e9, 1.7e9 + 10]), byte_tokenizer(), 12)
    labels_B = Collate(byte_tokenizer(), ValueScorer.labels)([rows[0], rows[1]])["labels"]
    losses_B = ValueScorer(mean=1.7e9, spread=10).losses(torch.zeros(2, 1), labels_B)
    assert losses_B.tolist() == [0, 1] and losses_B.dtype == torch.float32
