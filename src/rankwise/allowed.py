"""What a key takes, whatever the others say: a number in a range, one of a few names, what is not empty."""

import functools
import json
import re
from collections.abc import Iterable
from typing import Any

from rankwise import metrics
from rankwise.config import Config, flat, plain
from rankwise.errors import Refused, did_you_mean

FORMATS = (
    *("csv", "tsv", "jsonl", "parquet", "lines", "class_files", "text"),
    *("glue", "wordnet", "e2e", "webnlg", "dart", "squad", "oasst"),
)


_UNWRITABLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # others stand for bytes of a file's name
_DEFAULTS = flat(plain(Config()))
_NESTED = ("tracking.latency", "task.labels")
_RANGES = {  # of what is counted. More is a slip of the hand that would be tried for hours, or kill the process.
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
    "method.rank": (1, 10**6),
    "task.synthetic": (10, 10**7),
    "task.max_length": (4, 10**6),
    "task.n_train": (2, 10**10),
    "task.n_validation": (2, 10**10),
    "task.n_test": (2, 10**10),
    "task.generation.max_new_tokens": (1, 10**5),
    "task.generation.batch_size": (1, 10**5),
    "task.generation.beams": (1, 1000),
    "task.generation.n": (1, 10**10),
    "task.generation.no_repeat": (0, 1000),
    "trainer.threads": (1, 1024),
    "trainer.devices": (1, 4096),
    "trainer.batch_size": (1, 10**5),
    "trainer.eval_batch_size": (1, 10**5),
    "trainer.accumulate": (1, 10**5),
    "trainer.validations": (1, 10**5),
    "trainer.max_steps": (1, 10**9),
    "trainer.early_stopping": (1, 10**5),
    "forgetting.n": (1, 10**7),
}


_NAMES = {  # of what has one of a few
    "task.kind": metrics.KINDS,
    "task.format": FORMATS,
    "task.decimal": (".", ","),
    "task.protocol": ("clean", "paper"),
    "task.replies": ("all", "last"),
    "optim.name": ("adamw", "sgd", "adafactor"),
    "optim.kernel": ("fused", "foreach", "loop"),
    "optim.schedule": ("linear", "cosine", "constant"),
    "trainer.precision": ("auto", "fp32", "bf16", "fp16", "bf16_true"),
    "trainer.attention": ("auto", "eager", "sdpa"),
    "trainer.matmul_precision": ("highest", "high", "medium"),
    "trainer.device": ("auto", "cpu", "cuda", "mps"),
    "trainer.strategy": ("ddp", "fsdp2"),
    "trainer.profiler": ("simple", "advanced", "pytorch"),
    "stage": ("tune", "pilot", "search", "debug"),
    "tracking.name": ("wandb", "trackio", "tensorboard", "none"),
    "tracking.mode": ("auto", "offline", "online", "disabled"),
}


def check_values(config: Config) -> None:
    """Refuse a value that is wrong whatever the others are. Null, where a key may have it, never is."""
    for key, default in _DEFAULTS.items():
        value: Any = functools.reduce(getattr, key.split("."), config)
        if value is None:
            continue
        if isinstance(value, dict | list):
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise Refused.value(key, value, "finite numbers") from None
        if isinstance(value, str) and _UNWRITABLE.search(value):
            raise Refused.value(key, repr(value), "a text without NUL and lone surrogates")
        if key in _RANGES and not _RANGES[key][0] <= value <= _RANGES[key][1]:
            raise Refused.value(key, value, "an integer from {} to {}".format(*_RANGES[key]))
        if key in _NAMES:
            one_of(key, value, _NAMES[key])
        if default is None and value in ("", []):
            raise Refused.value(key, repr(value), "null, or what is not empty")
        if isinstance(value, list) and key not in _NESTED and any(isinstance(item, list | dict) for item in value):
            raise Refused.value(key, value, "a list of plain values")


def one_of(key: str, value: object, allowed: Iterable[str], note: str = "") -> None:
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(allowed) + (f" {note}" if note else "")
        raise Refused.value(key, value, f"one of {listed}{did_you_mean(str(value), allowed)}")
