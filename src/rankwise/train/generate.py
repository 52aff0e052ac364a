"""What a language model writes for the test prompts, scored, and what that costs; apart from training."""

import contextlib
import itertools
import json
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, NoRepeatNGramLogitsProcessor

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.measure.ledger import Ledger
from rankwise.model.numerics import Numerics
from rankwise.tasks.data import Split
from rankwise.tasks.language import beginning, end_ids, question, reply, started
from rankwise.tasks.scores import Score
from rankwise.tasks.text.score import check_references, text_scores
from rankwise.tracking.record import Record, write_atomically

FILE = "generations.jsonl"


@dataclass(frozen=True)
class Prompt:
    """One question of the test rows with every reference that the data have for it."""

    item: int  # of its first row
    text: str
    references: list[str]
    cluster: int  # of its first row


def prompts(test: Split, tokenizer: Any, wanted: int | None) -> list[Prompt]:
    """Questions in the order of the test rows, each once, the first ``wanted``."""
    by_text: dict[str, Prompt] = {}
    for row in range(len(test)):
        text = question(test, row, tokenizer)
        asked = by_text.setdefault(text, Prompt(int(test.items[row]), text, [], int(test.clusters[row])))
        asked.references.append(reply(test, row))
    return list(by_text.values())[:wanted]


def generate(model: nn.Module, tokenizer: Any, config: Config, settings: Numerics, test: Split, record: Record) -> None:
    """Write an answer to each prompt, and put scores, speed and memory into the record; the texts are kept in
    ``generations.jsonl``. Raises Refused for a prompt that leaves no room.
    """
    wanted = config.task.generation
    asked, ids = questions(config, tokenizer, test)
    order = sorted(range(len(asked)), key=lambda i: -len(ids[i]))
    written, tokens = [""] * len(asked), 0
    model.to(settings.device).eval()
    began = time.perf_counter()
    for start in range(0, len(order), wanted.batch_size):
        part = order[start : start + wanted.batch_size]
        follow = Ledger(model) if config.tracking.ledger and not start else contextlib.nullcontext()
        with torch.inference_mode(), settings.autocast(), follow:
            answers = _batch(model, [ids[row] for row in part], tokenizer, config)
        if isinstance(follow, Ledger):  # the longest prompts
            record.memory["generate"] = follow.footprint().to_dict()
        for row, answer in zip(part, answers, strict=True):
            tokens += len(answer)
            written[row] = _text(tokenizer, answer, _stop(config))
    seconds = time.perf_counter() - began
    record.compute["generation"] = {
        "prompts": len(asked),
        "tokens": tokens,
        "seconds_s": round(seconds, 3),
        "tokens_per_s": tokens / seconds,
    }
    record.metrics["test"] = record.metrics.get("test", {}) | _scores(config, asked, written, record)
    rows = (
        {"item": prompt.item, "prompt": prompt.text, "text": text, "references": prompt.references}
        for prompt, text in zip(asked, written, strict=True)
    )
    write_atomically(record.folder / FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def questions(config: Config, tokenizer: Any, test: Split) -> tuple[list[Prompt], list[list[int]]]:
    """The prompts that are to be answered, and their tokens. Raises Refused for one that leaves no room or cannot be
    scored.
    """
    new_tokens = config.task.generation.max_new_tokens
    asked = prompts(test, tokenizer, config.task.generation.n)
    check_references(config.task.generation.metrics, [prompt.references for prompt in asked])
    tokens = tokenizer([prompt.text for prompt in asked], add_special_tokens=False)["input_ids"]
    begins = beginning(tokenizer)
    ids = [started(row, begins) for row in tokens]
    room = tokenizer.model_max_length - new_tokens
    for number, row in enumerate(ids):
        if len(row) > room:
            raise Refused.value(
                "task.generation.max_new_tokens",
                new_tokens,
                f"at most {max(0, tokenizer.model_max_length - len(row))}: prompt {number + 1} has {len(row)} tokens, "
                f"and this model has positions for {tokenizer.model_max_length}",
            )
    if not all(prompt.text and row for prompt, row in zip(asked, ids, strict=True)):
        raise Refused("task.generation: a prompt is empty; a text is written behind a prompt")
    return asked, ids


def _batch(model: Any, ids: list[list[int]], tokenizer: Any, config: Config) -> list[list[int]]:
    """Token ids written behind each prompt, without the end token and the padding behind a row that ended earlier.

    Prompts are padded on the left.
    """
    wanted, longest = config.task.generation, max(map(len, ids))
    device = next(model.parameters()).device
    padded = [[tokenizer.pad_token_id] * (longest - len(row)) + row for row in ids]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
    ends, last = _stop(config), end_ids(tokenizer, model.generation_config, bool(config.task.messages))
    stop = {"stop_strings": [ends], "tokenizer": tokenizer} if ends and wanted.beams == 1 else {}
    model.generation_config = GenerationConfig(eos_token_id=last)  # its makers' may have penalties and lengths
    out = model.generate(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=wanted.max_new_tokens,
        num_beams=wanted.beams,
        length_penalty=wanted.length_penalty,
        logits_processor=[_NoRepeat(wanted.no_repeat, longest)] if wanted.no_repeat else None,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=last,
        **stop,
    )
    rows = (itertools.takewhile(lambda token: token not in last, row) for row in out[:, longest:].tolist())
    return [_unfilled(list(row), tokenizer.pad_token_id) for row in rows]


def _unfilled(ids: list[int], pad: int) -> list[int]:
    return list(itertools.dropwhile(lambda token: token == pad, reversed(ids)))[::-1]


class _NoRepeat:
    """No n-gram is written twice; what a prompt says may be written, as with LoRA on E2E (Hu et al. 2021)."""

    def __init__(self, size: int, prompt: int):
        self.process, self.prompt = NoRepeatNGramLogitsProcessor(size), prompt

    def __call__(self, ids_BT: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        return self.process(ids_BT[:, self.prompt :], scores_BV)


def _stop(config: Config) -> str | None:
    """Where an answer ends beside the end token: ``task.generation.stop``, or the blank line behind shown examples."""
    stop = config.task.generation.stop
    if stop is None:
        return "\n\n" if config.method.shots else None
    return stop.replace("\\n", "\n")  # on a command line


def _text(tokenizer: Any, ids: list[int], stop: str | None) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return (text.strip().split(stop)[0] if stop else text).strip()


def _scores(config: Config, asked: list[Prompt], written: list[str], record: Record) -> dict[str, Score]:
    task = config.task
    name, rows = task.reasoning, [prompt.item for prompt in asked]
    reasoning = (name, task.synthetic or 0, rows) if name else None
    scores, absent = text_scores(
        task.generation.metrics,
        written,
        [prompt.references for prompt in asked],
        keys=task.generation.keys,
        reasoning=reasoning,
        clusters=[prompt.cluster for prompt in asked],
    )
    if absent:
        record.metrics["absent"] = absent
    return scores
