"""An adapter for people without rankwise: what the run left, the tokenizer, and a card that says what it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rankwise.adapters import card, factors, files, loading
from rankwise.adapters.runs import Run, base_asset, on_this_machine
from rankwise.model.methods.warm_start import ADAPTER_FILE
from rankwise.tasks import data, scores


def export(run: Run, out: Path) -> dict[str, Any]:
    """Write adapter, config, tokenizer and card to ``out``; returns what was written."""
    files.refuse_taken(out)
    loading.check(run)
    asset, tokenizer, notes = base_asset(run), loading.load_tokenizer(run), list[str]()
    with files.whole(out) as folder:
        for name in (ADAPTER_FILE, "adapter_config.json"):
            shutil.copyfile(run.adapter / name, folder / name)
        if any(map(factors.of_part, loading.shapes(folder))):
            lora = factors.read(folder, "an adapter on a part of a fused layer, for PEFT,")
            notes = factors.write(folder, lora.deltas, lora.config, lora.others)
        tokenizer.save_pretrained(str(folder))
        card.write(folder, run, asset, "adapter", notes, _scorer(run))
        size, names = files.weight_bytes(folder), sorted(file.name for file in folder.iterdir())
        kind = loading.kind(loading.adapter_config(folder))
    base = {"source": asset.source, "fingerprint": asset.fingerprint}
    summary = {"run": run.name, "out": str(out), "base": base, "peft_type": kind, "weight_bytes": size, "files": names}
    return summary | {"scores": card.intervals(run)}


def _scorer(run: Run) -> Any:
    """How a regression's logit becomes a value: it needs the mean and spread of the training labels."""
    if run.config.task.kind != "regression":
        return None
    rows = data.load(run.config.task, on_this_machine(run.config.task), run.config.data_seed)
    return scores.scorer_for(run.config.task.kind, None, rows.train.labels)
