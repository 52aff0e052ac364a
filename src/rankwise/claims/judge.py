"""Verdicts: each claim's quantity, from the runs that there are, against its bound."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rankwise.claims.claim import FROM_RUNS, NOT_RUN, VERDICTS, Bound, Claim, Estimate, NotRun
from rankwise.claims.quantities import QUANTITIES
from rankwise.errors import Refused, plural
from rankwise.tracking.provenance import provenance
from rankwise.tracking.record import Record, finite, now

NO_RUNS = "no runs of study"
_GROUPS = (("identity", "that cannot fail"), ("own", "in their own setting"), ("proxy", "by proxy"))


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome: the estimate, or the ``reason`` why there is none."""

    claim: Claim
    verdict: str
    bound: Bound
    estimate: Estimate | None = None
    reason: str = ""

    @property
    def group(self) -> str:
        """identity, own (the source's own setting) or proxy: each is counted apart."""
        return "identity" if self.claim.kind == "identity" else "proxy" if self.claim.proxy else "own"

    @property
    def shown(self) -> str:
        """The verdict as it is shown: one from a stand-in is never plain, nor is one that could not fail."""
        plain = self.verdict == NOT_RUN or self.group == "own"
        return self.verdict if plain else f"{self.verdict} ({self.group})"

    @property
    def note(self) -> str:
        """What else there is to say."""
        notes = [self.reason, self.estimate.note if self.estimate else "", self.claim.note]
        return "; ".join(filter(None, notes))


def judge(claim: Claim, records: Sequence[Record], tier: str, measure: bool = False) -> Verdict:
    """A claim's verdict; what cannot be computed is not run, with the reason.

    ``measure`` times the measured ones.
    """
    bound = claim.bound_in(tier)
    try:
        estimate = _estimate(claim, records, measure)
    except (NotRun, Refused) as reason:
        return Verdict(claim, NOT_RUN, bound, reason=str(reason))
    return Verdict(claim, bound.verdict(estimate.low, estimate.high), bound, estimate)


def tally(verdicts: Sequence[Verdict]) -> str:
    """``41 claims. 5 that cannot fail: 5 reproduced. 15 in their own setting: 15 reproduced. 21 by proxy: …``."""
    parts = [plural(len(verdicts), "claim")]
    for group, words in _GROUPS:
        if counts := Counter(verdict.verdict for verdict in verdicts if verdict.group == group):
            shown = ", ".join(f"{counts[name]} {name}" for name in (*VERDICTS, NOT_RUN) if counts[name])
            parts.append(f"{counts.total()} {words}: {shown}")
    return ". ".join(parts)


def to_json(verdicts: Sequence[Verdict], tier: str) -> dict[str, Any]:
    """One document with where and when it was made; what is not finite is null."""
    made, rows = provenance(), [_row(verdict) for verdict in verdicts]
    commit = (made["git"] or {}).get("commit")
    return finite({"claims": rows, "tier": tier, "hardware": made["hardware"], "commit": commit, "date": now()})


def _row(verdict: Verdict) -> dict[str, Any]:
    claim, estimate = verdict.claim, verdict.estimate
    ours = {key: getattr(estimate, key) for key in ("value", "low", "high", "n")} if estimate else None
    shown = ("id", "claim", "published", "proxy", "kind", "study")
    return {key: getattr(claim, key) for key in shown} | {
        "source": asdict(claim.source),
        "ours": ours and ours | {"unit": claim.unit},
        "bound": verdict.bound.to_dict(),
        "verdict": verdict.verdict,
        "runs": list(estimate.runs) if estimate else [],
        "note": verdict.note,
    }


def _estimate(claim: Claim, records: Sequence[Record], measure: bool) -> Estimate:
    if claim.kind == "measured" and not measure:
        raise NotRun("not measured: --measure times it")
    if claim.kind not in FROM_RUNS:
        return QUANTITIES[claim.quantity](**claim.settings)
    records = [record for record in records if record.run.get("study") == claim.study]
    if not records:
        raise NotRun(f"{NO_RUNS} {claim.study}")
    return QUANTITIES[claim.quantity](records, **claim.settings)
