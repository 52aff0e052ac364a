"""Where does fine-tuning change the model? ‖ΔW‖/‖W‖ and the effective rank by block and kind of layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rankwise.analysis.measures import decomposed, effective_rank
from rankwise.analysis.weights import Changed, labels, place


def analyse(changed: Sequence[Changed]) -> dict[str, Any]:
    """Cells by run: layer (a block's number), module (a kind of layer), ‖ΔW‖_F, ‖ΔW‖_F/‖W‖_F and effective rank."""
    rows = []
    for label, each in zip(labels([c.run for c in changed]), changed, strict=True):
        cells = []
        for name, weights in each.modules.items():
            values, (layer, module) = decomposed(weights.delta).s, place(name)
            norm = float(torch.linalg.vector_norm(values))
            base = float(torch.linalg.vector_norm(weights.base.double()))
            cells.append({"name": name, "layer": layer, "module": module, "norm": norm, "relative": norm / base,
                          "effective_rank": effective_rank(values)})  # fmt: skip
        rows.append({"run": label, "rank": each.rank, "cells": cells})
    return {"modules": list(changed[0].modules), "rows": rows}
