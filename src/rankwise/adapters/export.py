"""An adapter for people without rankwise: plain PEFT, the tokenizer, and a card that says what it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rankwise import assets
from rankwise.adapters import card, files, joined, loading
from rankwise.adapters.runs import Run, base_asset
from rankwise.model.methods.warm import ADAPTER_FILE
from rankwise.tasks import data, scores


def export(run: Run, out: Path) -> dict[str, Any]:
    """Write adapter, config, tokenizer and card to ``out``; returns what was written."""
    files.refuse_taken(out)
    loading.check(run, run.adapter)
    asset = base_asset(run)
    tokenizer = loading.load_tokenizer(run)
    with files.whole(out) as folder:
        for name in (ADAPTER_FILE, "adapter_config.json"):
            shutil.copyfile(run.adapter / name, folder / name)
        notes = joined.rewrite(folder)
        tokenizer.save_pretrained(str(folder))
        card.write(folder, run, asset, "adapter", notes, _scorer(run))
        kind = loading.kind(loading.adapter_config(folder))
        size, names = files.weight_bytes(folder), sorted(file.name for file in folder.iterdir())
    return {
        "run": run.name, "out": str(out), "base": {"source": asset.source, "fingerprint": asset.fingerprint},
        "peft_type": kind, "weight_bytes": size,
        "files": names, "scores": {name: {"value": value, "low": low, "high": high, "n": n}
                                   for name, value, low, high, n in card.intervals(run)},
    }  # fmt: skip


def _scorer(run: Run) -> scores.Scorer | scores.TokenScorer | None:
    """How a regression's logit becomes a value: it needs the mean and spread of the training labels."""
    if run.classes:
        return None
    rows = data.load(run.config.task, assets.resolve(run.config.task, progress=False), run.config.data_seed)
    return scores.scorer_for(run.config.task.kind, None, rows.train.labels)
