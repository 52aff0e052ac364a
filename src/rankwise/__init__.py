"""rankwise: which LoRA rank is enough for this model and task, and what does it cost against full fine-tuning?"""

from __future__ import annotations

import importlib
from typing import Any

# Flat public names, loaded when first used: importing rankwise imports nothing heavy.
_PUBLIC = {
    "Config": "rankwise.config",
    "Refused": "rankwise.errors",
    "Record": "rankwise.tracking.record",
    "find": "rankwise.tracking.record",
    "build": "rankwise.report",
    "run": "rankwise.run",
}
__all__ = ["Config", "Record", "Refused", "build", "find", "run"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'rankwise' has no attribute {name!r}")
