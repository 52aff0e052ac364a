"""Verdicts: each claim's quantity, from the runs that there are, against its bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rankwise.claims.bounds import CONTRADICTED, INCONCLUSIVE, NOT_RUN, REPRODUCED, Bound
from rankwise.claims.claim import FROM_RUNS, Claim
from rankwise.claims.estimate import Estimate, NotRun
from rankwise.claims.measured import Timings
from rankwise.claims.quantities import QUANTITIES
from rankwise.errors import Refused
from rankwise.tracking.provenance import provenance
from rankwise.tracking.record import Record, finite, now

ORDER = (REPRODUCED, CONTRADICTED, INCONCLUSIVE, NOT_RUN)


@dataclass(frozen=True)
class Verdict:
    """A claim's outcome: the estimate, or the ``reason`` why there is none."""

    claim: Claim
    verdict: str
    bound: Bound
    estimate: Estimate | None = None
    reason: str = ""

    @property
    def shown(self) -> str:
        """The verdict as it is shown: one from a stand-in is never plain."""
        decided = self.verdict in (REPRODUCED, CONTRADICTED, INCONCLUSIVE)
        return f"{self.verdict} (proxy)" if decided and self.claim.proxy else self.verdict

    @property
    def note(self) -> str:
        """What else there is to say."""
        said = [self.reason, self.estimate.note if self.estimate else "", self.claim.note]
        return "; ".join(text for text in said if text)


def judge(
    claims: Iterable[Claim], records: Sequence[Record], tier: str, timings: Timings | None = None,
    on_claim: Callable[[Claim], None] = lambda claim: None,
) -> list[Verdict]:  # fmt: skip
    """A verdict for every claim. ``timings`` are where those of measured claims are kept, or made."""
    found = []
    for claim in claims:
        on_claim(claim)
        found.append(answer(claim, records, tier, timings))
    return found


def answer(claim: Claim, records: Sequence[Record], tier: str, timings: Timings | None = None) -> Verdict:
    """One claim's verdict; what cannot be computed is not run, with the reason."""
    bound = claim.bound_in(tier)
    try:
        estimate = _estimate(claim, records, timings)
    except (NotRun, Refused) as reason:
        return Verdict(claim, NOT_RUN, bound, reason=str(reason))
    return Verdict(claim, bound.verdict(estimate.low, estimate.high), bound, estimate)


def tally(verdicts: Sequence[Verdict]) -> str:
    """``41 claims. 20 in their own setting: 20 reproduced. 21 by proxy: 6 contradicted, 15 not run``."""
    own, proxies = ([v for v in verdicts if bool(v.claim.proxy) is proxy] for proxy in (False, True))
    parts = [
        f"{len(some)} {where}: {_counted(some)}"
        for some, where in ((own, "in their own setting"), (proxies, "by proxy")) if some
    ]  # fmt: skip
    return ". ".join([f"{len(verdicts)} claim{'' if len(verdicts) == 1 else 's'}", *parts])


def _counted(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.verdict for verdict in verdicts)
    return ", ".join(f"{counts[each]} {each}" for each in ORDER if counts[each])


def to_json(verdicts: Sequence[Verdict], tier: str) -> dict[str, Any]:
    """One document with where and when it was made; what is not finite is null."""
    made = provenance()
    return finite({
        "claims": [_row(verdict) for verdict in verdicts], "tier": tier, "hardware": made["hardware"],
        "commit": (made["git"] or {}).get("commit"), "date": now(),
    })  # fmt: skip


def _row(verdict: Verdict) -> dict[str, Any]:
    claim, found = verdict.claim, verdict.estimate
    ours = None
    if found:
        ours = {key: getattr(found, key) for key in ("value", "low", "high", "n")} | {"unit": claim.unit}
    return {
        "id": claim.id, "claim": claim.claim, "source": asdict(claim.source), "published": claim.published,
        "ours": ours, "bound": verdict.bound.to_dict(), "verdict": verdict.verdict,
        "proxy": claim.proxy, "kind": claim.kind, "study": claim.study, "expected": claim.expected,
        "runs": list(found.runs) if found else [], "note": verdict.note,
    }  # fmt: skip


def _estimate(claim: Claim, records: Sequence[Record], timings: Timings | None) -> Estimate:
    if claim.kind == "measured":
        if timings is None:
            raise NotRun("timed with --measure")
        return timings.of(claim)
    if claim.kind in FROM_RUNS:
        records = [record for record in records if record.run.get("study") == claim.study]
        if not records:
            raise NotRun(f"no runs of study {claim.study}")
    return QUANTITIES[claim.quantity](records, **claim.settings)
