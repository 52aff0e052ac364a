"""An adapter of lower rank: each layer's ΔW truncated to its leading singular values, scored before and after."""

from pathlib import Path
from typing import Any

from rankwise.adapters import card, factors, files, loading, score
from rankwise.adapters.runs import Run, base_asset
from rankwise.alpha import scale_of
from rankwise.errors import Refused


def shrink(run: Run, rank: int | None, energy: float | None, out: Path | None = None) -> dict[str, Any]:
    """Truncate to ``rank``, or per layer to the least rank that keeps a share ``energy`` of Σσ²; save with ``out``.

    A ``rank`` at which nested LoRA was trained is cut to its leading columns, which were trained for that.
    Raises Refused for an adapter that is no plain LoRA, and a rank or energy out of range.
    """
    lora = factors.read(run.adapter, "shrink")
    _refuse_options(lora, rank, energy)
    if out is not None:
        files.refuse_taken(out)
    model, tokenizer = loading.as_run(run)
    rows = score.Rows.of(run, tokenizer)
    before, columns = rows.score(model)
    svds = {name: delta.svd() for name, delta in lora.deltas.items()}
    ranks = {name: min(rank or factors.rank_for_energy(svd.s, energy or 1.0), len(svd.s)) for name, svd in svds.items()}
    leading = _nested(run, lora, rank)  # rescaled, so that it is no part of ΔW, of which a share could be kept
    smaller = leading or {name: svd.truncated(ranks[name]) for name, svd in svds.items()}
    loading.put_factors(model, smaller)
    after, shrunk = rows.score(model)
    gap = rows.gap(columns, shrunk)
    sizes: dict[str, int | None] = {"before": files.weight_bytes(run.adapter), "after": None}
    if out is not None:
        with files.whole(out) as folder:
            notes = factors.write(folder, smaller, lora.config, lora.others)
            loading.save_tokenizer(tokenizer, folder, run)
            sizes["after"] = files.weight_bytes(folder)
            least, most = min(ranks.values()), max(ranks.values())
            lines = [
                f"LoRA's factors were truncated after training, to ranks {least} to {most}",
                f"the scores below are of the adapter as it was trained; {rows.metric} of this one is "
                f"{after['value']:.4f}, a paired difference of {gap['value']:+.4f} ± {gap['se']:.4f} (standard error)",
            ]
            card.write(folder, run, base_asset(run), "adapter", lines + notes, rows.scorer)
    squares = {name: (smaller[name].dot(smaller[name]), delta.dot(delta)) for name, delta in lora.deltas.items()}

    def share(part: float, whole: float) -> float | None:
        return None if leading else part / whole if whole else 1.0

    modules = {
        name: {"before": lora.ranks[name], "after": ranks[name], "kept_energy": share(*both)}
        for name, both in squares.items()
    }
    kept = share(*(sum(column) for column in zip(*squares.values(), strict=True)))
    both = {"before": factors.summary(lora.ranks.values()), "after": factors.summary(ranks.values())}
    scores = {"metric": rows.metric, "before": before, "after": after, "difference": gap}
    asked = {"run": run.name, "out": str(out) if out else None, "rank": rank, "energy": energy}
    return scores | asked | {"ranks": both, "kept_energy": kept, "adapter_bytes": sizes, "modules": modules}


def _nested(run: Run, lora: factors.Lora, rank: int | None) -> factors.Deltas:
    """The adapter of a rank at which nested LoRA was trained; nothing of another."""
    method, whole = run.config.method, max(lora.ranks.values())
    if rank is None or rank not in (method.nested or ()):
        return {}
    scale = scale_of(method.alpha, rank) / scale_of(method.alpha, whole)
    return {name: delta.leading(rank, scale) for name, delta in lora.deltas.items()}


def _refuse_options(lora: factors.Lora, rank: int | None, energy: float | None) -> None:
    most = max(lora.ranks.values())
    if rank is not None and not 1 <= rank <= most:
        raise Refused(f"--rank {rank}: 1 to {most}, the rank that the adapter has")
    if energy is not None and not 0 < energy <= 1:
        raise Refused(f"--energy {energy:g}: above 0 and at most 1, a share of the squared singular values")
