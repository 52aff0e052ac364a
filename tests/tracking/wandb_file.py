"""What a ``.wandb`` file holds, read back by nothing but its published record format.

The file is a LevelDB log: blocks of 32 KiB, in them fragments of a 7-byte head (checksum, size, kind) and their bytes,
after 7 bytes of file head. A record is one whole fragment (kind 1) or a first, middle and last one (2, 3, 4).
"""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEAD = 32 * 1024, 7


@dataclass
class Seen:
    """One W&B run as its file tells it."""

    id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def seen(path: Path) -> Seen:
    """Read one file."""
    run = Seen()
    for record in _records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                sent = record.run
                run.id, run.name, run.project, run.group = sent.run_id, sent.display_name, sent.project, sent.run_group
                run.tags, run.notes = list(sent.tags), sent.notes
                _store(run.config, sent.config.update)
            case "config":
                _store(run.config, record.config.update)
            case "summary":
                _store(run.summary, record.summary.update)
            case "history":
                run.history.append({})
                _store(run.history[-1], record.history.item)
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _records(content: bytes) -> Iterator[Any]:
    position, whole = _HEAD, b""
    while position + _HEAD <= len(content):
        if _BLOCK - position % _BLOCK < _HEAD:
            position += _BLOCK - position % _BLOCK  # too little of the block is left for a head
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        position += _HEAD
        whole += content[position : position + size]
        position += size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def _store(into: dict[str, Any], items: Iterable[Any]) -> None:
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        inner = into
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = json.loads(item.value_json)
