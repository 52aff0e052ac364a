"""An adapter of lower rank: each module's ΔW truncated to its leading singular values, scored before and after."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rankwise.adapters import card, factors, files, joined, loading, score
from rankwise.adapters.runs import Run, base_asset
from rankwise.compare import on_rows
from rankwise.errors import Refused
from rankwise.metrics import named
from rankwise.model.methods.warm import ADAPTER_FILE


def shrink(run: Run, rank: int | None, energy: float | None, out: Path | None = None) -> dict[str, Any]:
    """Truncate to ``rank``, or per module to the least rank that keeps a share ``energy`` of Σσ²; save with ``out``.

    Raises Refused for an adapter that is no plain LoRA, and a rank or energy out of range.
    """
    lora = factors.read(run.adapter, "shrink")
    _refuse_options(lora, rank, energy)
    if out is not None:
        files.refuse_taken(out)
    loading.check(run, run.adapter)
    values = {name: factors.singular_values(delta) for name, delta in lora.deltas.items()}
    ranks = {name: _rank(each, rank, energy) for name, each in values.items()}
    smaller = {name: factors.truncate(delta, ranks[name]) for name, delta in lora.deltas.items()}
    squares = {name: float((each**2).sum()) for name, each in values.items()}
    kept = {name: float((each[: ranks[name]] ** 2).sum()) for name, each in values.items()}
    with _place(out) as folder:
        tensors, config = factors.to_files(smaller, lora.config)
        save_file(tensors | lora.others, folder / ADAPTER_FILE, metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        found = _scored(run, folder)
        if out is not None:
            notes = joined.rewrite(folder)
            note = (
                f"LoRA's factors were truncated after training, to ranks {min(ranks.values())} to {max(ranks.values())}"
            )
            card.write(folder, run, base_asset(run), "adapter", [note, *notes, _said(found)], None)
        size = files.weight_bytes(folder)
    total = sum(squares.values())
    return found | {
        "run": run.name, "out": str(out) if out else None, "rank": rank, "energy": energy,
        "ranks": {"before": factors.summary(lora.ranks.values()), "after": factors.summary(ranks.values())},
        "kept_energy": sum(kept.values()) / total if total else 1.0,
        "adapter_bytes": {"before": files.weight_bytes(run.adapter), "after": size},
        "modules": {name: {"before": lora.ranks[name], "after": ranks[name],
                           "kept_energy": kept[name] / squares[name] if squares[name] else 1.0}
                    for name in ranks},
    }  # fmt: skip


def _refuse_options(lora: factors.Lora, rank: int | None, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise Refused("adapter shrink: give one of --rank and --energy")
    most = max(lora.ranks.values())
    if rank is not None and not 1 <= rank <= most:
        raise Refused(f"--rank {rank}: 1 to {most}, the rank that the adapter has")
    if energy is not None and not 0 < energy <= 1:
        raise Refused(f"--energy {energy:g}: above 0 and at most 1, a share of the squared singular values")


def _rank(values: Any, rank: int | None, energy: float | None) -> int:
    return min(rank, len(values)) if rank is not None else factors.rank_for_energy(values, energy or 1.0)


@contextmanager
def _place(out: Path | None) -> Iterator[Path]:
    if out is not None:
        with files.whole(out) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _scored(run: Run, folder: Path) -> dict[str, Any]:
    """Both adapters on the run's test rows, each read from its folder."""
    settings, found = loading.numerics(run), []
    for place in (run.adapter, folder):
        model, tokenizer = loading.as_run(run, settings, place)
        rows = score.Rows.of(run, tokenizer)
        found.append(score.evaluate(model, rows, run, settings))
    (before, one), (after, other) = found
    gap = on_rows(named(rows.metric), one, other)
    return {"metric": rows.metric, "before": before, "after": after, "difference": gap,
            "own_test": rows.own_test}  # fmt: skip


def _said(found: dict[str, Any]) -> str:
    gap = found["difference"]
    return (
        f"the scores below are of the adapter as it was trained; {found['metric']} of this one is "
        f"{found['after']['value']:.4f}, a paired difference of {gap['value']:+.4f} ± {gap['se']:.4f} (standard error)"
    )
