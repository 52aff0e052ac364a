"""What finished runs learned, read from their weights: directions, ranks, amplification, intruders, truncation."""

import importlib
from typing import Any

WHAT = {
    "subspaces": "Do two ranks or seeds learn the same directions, and are they those of W?",
    "amplification": "Does the update amplify what W has, or what it lacks?",
    "spectrum": "What is the intrinsic rank of the update?",
    "intruders": "Has the tuned model leading directions that the base had not?",
    "truncation": "How good is one adapter cut to lower ranks, beside those trained at them?",
    "layers": "In which blocks and layers is the update, and of what rank?",
}

# Loaded when first used: the command's help wants the questions alone.
_PUBLIC = {
    "analyze": "analyses",
    **dict.fromkeys(("amplification", "decomposed", "effective_rank", "energy_rank", "stable_rank"), "measures"),
    **dict.fromkeys(("load", "together"), "weights"),
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
