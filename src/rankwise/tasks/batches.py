"""Tokens and batches: which rows go together, in which order, padded to the longest of the batch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rankwise.check import check_length
from rankwise.config import Config
from rankwise.measure.shape import Shape
from rankwise.tasks.data import Data, Split
from rankwise.tasks.language import CollateText, EncodedText, Packed, in_blocks
from rankwise.tasks.scores import ClassScorer, ValueScorer

_SOME = 256  # rows that are cut, by whose lengths a task.max_length is proposed
_NOTED = 0.1  # share of cut rows from which on it is said


class Encoded(Dataset[dict[str, Any]]):
    """Tokenized rows of one split, without padding."""

    def __init__(
        self, texts: list[str], labels: np.ndarray, tokenizer: Any, max_length: int, pairs: list[str] | None = None
    ):
        check_length(max_length, tokenizer.model_max_length)
        keys = {"add_special_tokens": True, "split_special_tokens": True}  # what is written like one is a text
        encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, **keys)
        names = ("input_ids", "attention_mask", "token_type_ids")
        self.columns = {key: values for key, values in encoded.items() if key in names}
        self.labels = labels
        self.lengths = self.order = np.array([*map(len, encoded["input_ids"])])  # what makes a batch large
        if tokenizer.is_fast:
            long = [row for row, tokens in enumerate(encoded.encodings) if tokens.overflowing]
        else:  # which does not say
            whole = tokenizer(texts, pairs, **keys, verbose=False)["input_ids"]
            long = [row for row, ids in enumerate(whole) if len(ids) > max_length]
        self.cut, some = len(long), long[:_SOME]  # rows that lost their end
        again = ([texts[row] for row in some], pairs and [pairs[row] for row in some])
        self.uncut = [*map(len, tokenizer(*again, **keys, verbose=False)["input_ids"])] if some else []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {key: values[row] for key, values in self.columns.items()} | {"labels": self.labels[row], "row": row}

    def shape(self, rows: Sequence[int]) -> Shape:
        """Of a batch of these rows."""
        lengths = self.lengths[list(rows)]
        return Shape(len(rows), int(lengths.max()), bool(lengths.min() < lengths.max()))


@dataclass(frozen=True)
class Collate:
    """Rows → tensors (batch, longest); ``row`` keeps their places in the split."""

    tokenizer: Any
    dtype: torch.dtype  # of the labels

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = {key: [row[key] for row in rows] for key in rows[0] if key not in ("labels", "row")}
        batch = dict(self.tokenizer.pad(inputs, padding_side="right", return_tensors="pt"))
        batch["labels"] = torch.tensor([row["labels"] for row in rows], dtype=self.dtype)
        batch["row"] = torch.tensor([row["row"] for row in rows])
        return batch


def schedule(lengths: np.ndarray, batch_size: int, batches: int, seed: int, by_length: bool) -> list[list[int]]:
    """The rows of every training batch of a run, in order: shuffled anew each epoch, from the seed alone.

    With ``by_length``, rows are sorted by length inside random chunks, so that a batch needs little padding.
    """
    plan: list[list[int]] = []
    for epoch in range(math.ceil(batches / math.ceil(len(lengths) / batch_size))):
        rng = np.random.default_rng([seed, epoch])
        rows = rng.permutation(len(lengths))
        if by_length:
            chunk = batch_size * max(1, min(50, len(lengths) // (batch_size * 4)))
            chunks = [rows[i : i + chunk] for i in range(0, len(rows), chunk)]
            rows = np.concatenate([c[np.argsort(-lengths[c], kind="stable")] for c in chunks])
        of_epoch = [rows[i : i + batch_size].tolist() for i in range(0, len(rows), batch_size)]
        plan += [of_epoch[i] for i in rng.permutation(len(of_epoch))] if by_length else of_epoch
    return plan[:batches]


@dataclass(frozen=True)
class Loaders:
    """The three parts of a task as batches."""

    train_rows: Encoded | EncodedText | Packed
    collate: Any
    validation: DataLoader[Any]
    test: DataLoader[Any]
    data: Data  # what the batches are of
    largest_validation: Shape  # of the first batch, which no other exceeds
    cut: int  # rows that lost their end to task.max_length
    note: str  # that these are many, if they are

    @classmethod
    def of(cls, config: Config, data: Data, tokenizer: Any) -> "Loaders":
        """Tokenize all parts once."""
        if config.task.blocks:
            data = in_blocks(data, tokenizer, config.task.max_length)
        train = encoded(data.train, config, tokenizer, "train")
        validation = encoded(data.validation, config, tokenizer, "validation")
        test = encoded(data.test, config, tokenizer, "test")
        collate, size = collate_for(config, tokenizer, data), config.trainer.eval_batch_size
        loaders = eval_loader(validation, collate, size), eval_loader(test, collate, size)
        largest = validation.shape(next(_largest_first(validation.order, size)))
        lost = _lost((train, validation, test), config, tokenizer.model_max_length)
        rows: Encoded | EncodedText | Packed = train
        if isinstance(train, EncodedText) and config.task.packing:
            rows = Packed(train, config.task.max_length, config.seed)
        return cls(rows, collate, *loaders, data, largest, *lost)

    def train(self, plan: Sequence[list[int]]) -> DataLoader[Any]:
        """Training batches in exactly the planned order."""
        return _loader(self.train_rows, plan, self.collate)


def _lost(parts: Sequence[Encoded | EncodedText], config: Config, most: int) -> tuple[int, str]:
    """How many rows lost their end, and what is to be said of that where they are many."""
    cut, rows = sum(part.cut for part in parts), sum(map(len, parts))
    if cut < max(1, _NOTED * rows):
        return cut, ""
    enough = math.ceil(np.quantile([length for part in parts for length in part.uncut], 0.95))
    remedy = f"{enough} would hold nearly all" if enough <= most else f"{config.model.name} has positions for {most}"
    return cut, f"{cut} of {rows} rows lose their end to task.max_length={config.task.max_length}; {remedy}"


def encoded(split: Split, config: Config, tokenizer: Any, part: str) -> Encoded | EncodedText:
    """The tokens of one part of a task."""
    if config.task.writes:
        return EncodedText(split, tokenizer, config.task.max_length, part, config.task.replies == "last")
    return Encoded(split.texts, split.labels, tokenizer, config.task.max_length, split.pairs)


def collate_for(config: Config, tokenizer: Any, data: Data) -> Collate | CollateText:
    """What makes tensors of rows."""
    if config.task.writes:
        return CollateText(tokenizer.pad_token_id)
    return Collate(tokenizer, ClassScorer.labels if data.classes else ValueScorer.labels)


def eval_loader(data: Encoded | EncodedText, collate: Any, batch_size: int) -> DataLoader[Any]:
    """Every row once, the largest batch first; ``row`` says where each prediction belongs."""
    return _loader(data, list(_largest_first(data.order, batch_size)), collate)


def _loader(rows: Any, plan: Sequence[list[int]], collate: Any) -> DataLoader[Any]:
    """Batches in this order. The loader draws a number it has no use for, which must not be one of dropout's."""
    return DataLoader(rows, batch_sampler=plan, collate_fn=collate, generator=torch.Generator())


def _largest_first(sizes: np.ndarray, batch_size: int) -> Iterator[list[int]]:
    order = np.argsort(-sizes, kind="stable")
    for i in range(0, len(order), batch_size):
        yield order[i : i + batch_size].tolist()
