"""What ``rankwise find`` has answered from these runs: the sentences that it left beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rankwise.tracking.record import Record


def sentences(records: Iterable[Record]) -> list[str]:
    """One sentence for each question that was asked of the records' studies, the latest first."""
    folders = {record.folder.parent for record in records if record.folder is not None}
    files = [file for folder in folders for file in folder.glob("answer-*.json")]
    found = [_sentence(file) for file in sorted(files, key=lambda file: (-file.stat().st_mtime, file.name))]
    return [sentence for sentence in found if sentence]


def _sentence(file: Path) -> str:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    sentence = values.get("sentence") if isinstance(values, dict) else None
    return sentence if isinstance(sentence, str) else ""
