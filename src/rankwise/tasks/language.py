"""Causal language modelling: which tokens are learned, their batches, packed or not, and their loss."""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from rankwise.check import check_length
from rankwise.errors import Refused, reason
from rankwise.measure.shape import Shape
from rankwise.tasks.data import Data, Split
from rankwise.tasks.examples import CALLS, Messages

Segment = tuple[str, bool]  # text, and whether it is learned
Row = dict[str, Any]


def segments(split: Split, row: int, tokenizer: Any, last: bool = False) -> list[Segment]:
    """What a row says, in order. Of a prompt and its completion, the completion is learned, set off by a blank where
    neither brings white space; of a conversation, every reply (or the ``last``) whose weight is not 0, as the
    tokenizer's chat template writes it.
    """
    if split.messages is not None:
        return _conversation(split.messages[row], tokenizer, last)
    assert split.completions is not None
    prompt, end = split.texts[row], tokenizer.eos_token or ""
    learned = (behind(prompt, split.completions[row]) + end, True)
    return [(prompt, False), learned] if prompt else [learned]


def behind(prompt: str, completion: str) -> str:
    """The completion as it stands behind its prompt: after a blank where neither brings white space."""
    joint = "" if not prompt or prompt[-1].isspace() or completion[:1].isspace() else " "
    return joint + completion


def question(split: Split, row: int, tokenizer: Any) -> str:
    """What a row asks: the text behind which its last learned segment begins."""
    if split.messages is not None:
        return _rendered(tokenizer, split.messages[row][:-1], add_generation_prompt=True)
    return split.texts[row]


def reply(split: Split, row: int) -> str:
    """The right answer to ``question``."""
    if split.messages is not None:
        last = split.messages[row][-1]
        return last["content"] or json.dumps(next(last[key] for key in CALLS if last.get(key)))
    assert split.completions is not None
    return split.completions[row]


def _conversation(messages: Messages, tokenizer: Any, last: bool) -> list[Segment]:
    parts: list[Segment] = []
    rendered = ""
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or (last and number < len(messages) - 1):
            continue
        prompt = _rendered(tokenizer, messages[:number], add_generation_prompt=True)
        answered = _rendered(tokenizer, messages[: number + 1], add_generation_prompt=False)
        if not (prompt.startswith(rendered) and answered.startswith(prompt)):
            why = "rewrites earlier turns, so replies cannot be told apart; task.replies=last learns the last one alone"
            why = "does not write a reply behind what asks for it; give another model" if last else why
            raise Refused(f"task.messages: this model's chat template {why}")
        learned = message.get("weight") != 0
        if learned and any(message.get(key) for key in CALLS):
            silent = {key: value for key, value in message.items() if key not in CALLS}
            if answered == _rendered(tokenizer, [*messages[:number], silent], add_generation_prompt=False):
                why = "does not write calls of tools, which are part of a reply; give another model, or other rows"
                raise Refused(f"task.messages: this model's chat template {why}")
        parts += [(prompt[len(rendered) :], False), (answered[len(prompt) :], learned)]
        rendered = answered
    return parts


def _rendered(tokenizer: Any, messages: Messages, add_generation_prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise Refused("task.messages: this model's tokenizer has no chat template; use an instruction-tuned model")
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tools=messages[0].get("tools"), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # a template is a program of a stranger's
        raise Refused(f"task.messages: this model's chat template refuses a conversation ({reason(error)})") from None
    return text


class EncodedText(Dataset[Row]):
    """Tokens of one split, and which of them are learned.

    A row that is longer than ``max_length`` loses its end; one whose prompt leaves no room for anything to learn is
    refused. The first token of a row is never learned, as nothing comes before it.
    """

    def __init__(self, split: Split, tokenizer: Any, max_length: int, part: str, last: bool = False):
        limit = tokenizer.model_max_length
        check_length(max_length, limit)
        self.ids: list[list[int]] = []
        self.learned: list[np.ndarray] = []
        sizes: list[int] = []
        short: list[tuple[float, int]] = []  # tokens before what is learned, and the item
        self.uncut: list[int] = []  # lengths of the rows that lost their end
        begins = beginning(tokenizer)
        for number, (row_ids, learned) in enumerate(_tokens(split, tokenizer, last)):
            ids = started(row_ids, begins)
            learned = [False] * (len(ids) - len(learned)) + learned
            learned[0] = False
            if not any(learned[:max_length]):
                short.append((learned.index(True) if True in learned else math.inf, int(split.items[number])))
            self.uncut += [len(ids)] * (len(ids) > max_length)
            self.ids.append(ids[:max_length])
            self.learned.append(np.array(learned[:max_length]))
            said = list(itertools.compress(ids[:max_length], learned))
            text = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            sizes.append(max(1, len(text.encode())))
        if short:
            raise _too_long(*max(short, key=lambda row: row[0]), max_length, limit, part)
        self.cut = len(self.uncut)
        self.lengths = np.array([len(ids) for ids in self.ids])
        self.labelled = np.array([int(mask.sum()) for mask in self.learned])
        self.bytes = np.array(sizes)  # of the learned text in UTF-8, the end token left out

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Row:
        return {"ids": self.ids[row], "learned": self.learned[row], "row": row, "bytes": self.bytes[row]}

    @property
    def order(self) -> np.ndarray:
        """What makes a batch large: the logits, of which there is one vector per learned token; then the tokens."""
        return np.asarray(self.labelled + self.lengths / (self.lengths.max() + 1))

    def shape(self, rows: Sequence[int]) -> Shape:
        """Of a batch of these rows."""
        lengths = self.lengths[list(rows)]
        padded = bool(lengths.min() < lengths.max())
        return Shape(len(rows), int(lengths.max()), padded, int(self.labelled[list(rows)].sum()))


def _tokens(split: Split, tokenizer: Any, last: bool) -> Iterator[tuple[list[int], list[bool]]]:
    """The tokens of each row, and which of them are learned."""
    if split.blocks is not None:
        yield from ((ids, [True] * len(ids)) for ids in split.blocks)
        return
    texts = [segments(split, row, tokenizer, last) for row in range(len(split))]
    if _sets_off(tokenizer):  # tokens of the whole row; one that ends in a learned segment is learned
        rows = ["".join(text for text, _ in row) for row in texts]
        whole = tokenizer(rows, add_special_tokens=False, return_offsets_mapping=True)
        for row, ids, places in zip(texts, whole["input_ids"], whole["offset_mapping"], strict=True):
            marks = [wanted for text, wanted in row for _ in text]
            yield ids, [marks[max(start, end - 1)] for start, end in places]
        return
    flat = [text for row in texts for text, _ in row]
    encoded = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else ())
    for row in texts:
        parts = [(next(encoded), wanted) for _, wanted in row]
        yield [token for ids, _ in parts for token in ids], [wanted for ids, wanted in parts for _ in ids]


def _sets_off(tokenizer: Any) -> bool:
    """Whether every text that it is given gets a blank in front, as by Llama 2's, so that a text in pieces has more."""
    return tokenizer.is_fast and tokenizer.tokenize("a") != ["a"]


def in_blocks(data: Data, tokenizer: Any, max_length: int) -> Data:
    """Each part as one text, cut into rows of ``max_length`` tokens, of which all but the first are learned.

    As perplexity on WikiText is computed without a sliding window. An end token stands behind a text that does not end
    its line.
    """
    end, begins = tokenizer.eos_token or "", beginning(tokenizer)
    room = max_length - len(begins)

    def cut(split: Split) -> Split:
        texts = [text if text.endswith("\n") else text + end for text in split.completions or ()]
        texts = ["".join(texts)] if _sets_off(tokenizer) else texts
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens = [token for ids in rows for token in ids]
        blocks = [tokens[start : start + room] for start in range(0, len(tokens), room)]
        blocks = [ids for ids in blocks if len(started(ids, begins)) > 1]
        n = np.arange(len(blocks))
        return Split([""] * len(blocks), n * 0, n, completions=[""] * len(blocks), blocks=blocks, clusters=n)

    return replace(data, train=cut(data.train), validation=cut(data.validation), test=cut(data.test))


def beginning(tokenizer: Any) -> list[int]:
    """The token that this tokenizer begins every text with, if it does."""
    return [int(token) for token in tokenizer("").get("input_ids", [])[:1] if token == tokenizer.bos_token_id]


def started(ids: list[int], begins: list[int]) -> list[int]:
    """The tokens of a text behind those that begin every text; a chat template may have written them."""
    return ids if ids[: len(begins)] == begins else begins + ids


def end_ids(tokenizer: Any, generation_config: Any, conversations: bool) -> list[int]:
    """The tokens that end an answer: the tokenizer's, those of the model's ``generation_config``, and of
    ``conversations`` the special token that the chat template writes behind a reply.
    """
    of_model: Any = getattr(generation_config, "eos_token_id", None)  # none, one or several
    ends = [tokenizer.eos_token_id, *np.atleast_1d(of_model)]
    if conversations:
        asked = [{"role": "user", "content": "a"}]
        rendered = _rendered(tokenizer, [*asked, {"role": "assistant", "content": "b"}], add_generation_prompt=False)
        behind_reply = tokenizer(rendered.rpartition("b")[2], add_special_tokens=False)["input_ids"][:1]
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        ends += [token for token in behind_reply if token in special]
    return sorted({int(token) for token in ends if token is not None})


def _too_long(prompt: float, item: int, max_length: int, limit: int, part: str) -> Refused:
    if math.isinf(prompt):
        why = "its completion is empty, or no reply has a weight"
        return Refused(f"task: example {item + 1} of the data ({part}) has nothing to learn: {why}")
    remedy = "raise it" if prompt < limit else "shorten the prompt: that is all this model has positions for"
    allowed = f"must be above {prompt}, the tokens of the longest prompt, example {item + 1} ({part})"
    return Refused.value("task.max_length", max_length, allowed, remedy)


class Packed(Dataset[list[Row]]):
    """Several training rows in one sequence, next to each other; none of them sees another.

    Rows are taken in an order drawn from ``seed``, and a new sequence begins where the next does not fit.
    """

    def __init__(self, rows: EncodedText, max_length: int, seed: int):
        self.rows, self.bins, room = rows, list[list[int]](), 0
        for row in np.random.default_rng([seed, len(rows)]).permutation(len(rows)).tolist():
            if rows.lengths[row] > room:
                self.bins.append([])
                room = max_length
            self.bins[-1].append(row)
            room -= int(rows.lengths[row])
        self.lengths = np.array([int(rows.lengths[members].sum()) for members in self.bins])
        self.labelled = np.array([int(rows.labelled[members].sum()) for members in self.bins])

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, number: int) -> list[Row]:
        return [self.rows[row] for row in self.bins[number]]

    def shape(self, rows: Sequence[int]) -> Shape:
        """Of a batch of these sequences."""
        chosen = list(rows)
        return Shape(len(chosen), int(self.lengths[chosen].max()), True, int(self.labelled[chosen].sum()), packed=True)


@dataclass(frozen=True)
class CollateText:
    """Rows → ``input_ids`` and ``attention_mask`` (rows, longest); for each learned token, its ``labels``, its
    ``owner`` (the place of its row in the batch) and ``keep``, the flat position whose logits predict it; per row,
    ``row`` (its place in the split) and ``bytes``.

    Packed rows have ``position_ids`` that start anew with each example and a mask (rows, 1, longest, longest) that is
    added to the scores.
    """

    pad: int

    def __call__(self, rows: Sequence[Any]) -> dict[str, torch.Tensor]:
        packed = isinstance(rows[0], list)
        groups: list[list[Row]] = list(rows) if packed else [[row] for row in rows]
        longest = max(sum(len(row["ids"]) for row in group) for group in groups)
        ids = torch.full((len(groups), longest), self.pad)
        learned = torch.zeros(len(groups), longest, dtype=torch.bool)
        example = torch.full((len(groups), longest), -1)  # which of its group's a token belongs to
        position = torch.zeros(len(groups), longest, dtype=torch.long)
        for number, group in enumerate(groups):
            start = 0
            for index, row in enumerate(group):
                here = slice(start, start + len(row["ids"]))
                ids[number, here] = torch.tensor(row["ids"])
                learned[number, here] = torch.from_numpy(row["learned"])
                example[number, here] = index
                position[number, here] = torch.arange(len(row["ids"]))
                start = here.stop
        targets = learned.flatten().nonzero()[:, 0]
        batch = {"input_ids": ids, "attention_mask": (example >= 0).long()}
        if packed:
            batch |= {"attention_mask": _apart(example), "position_ids": position}
        return batch | {
            "labels": ids.flatten()[targets],
            "keep": targets - 1,
            "owner": targets // longest,
            "row": torch.tensor([group[0]["row"] for group in groups]),
            "bytes": torch.tensor([sum(int(row["bytes"]) for row in group) for group in groups]),
        }


def _apart(example_BT: torch.Tensor) -> torch.Tensor:
    """0 where a token may look (itself and before it, in its own example), the least number elsewhere: (B, 1, T, T)."""
    same = example_BT[:, :, None] == example_BT[:, None, :]
    allowed = (same & torch.ones_like(same).tril())[:, None]
    return torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)
