"""Timings of measured claims: made on demand, one after the other, and kept in a folder to be read again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rankwise import machine
from rankwise.claims.claim import Claim
from rankwise.claims.estimate import Estimate, NotRun
from rankwise.claims.quantities import QUANTITIES
from rankwise.tracking.record import now, write_atomically


@dataclass(frozen=True)
class Timings:
    """``<id>.json`` in ``folder`` for each claim that was timed; ``measure`` times them all again."""

    folder: Path
    measure: bool = False

    def of(self, claim: Claim) -> Estimate:
        """Raises NotRun where there is no timing, or one of other settings."""
        return self._measured(claim) if self.measure else self._kept(claim)

    def _measured(self, claim: Claim) -> Estimate:
        found = QUANTITIES[claim.quantity]([], **claim.settings)
        kept = {"with": claim.settings, "estimate": asdict(found), "hardware": machine.hardware(), "date": now()}
        write_atomically(self._file(claim), json.dumps(kept, indent=1) + "\n")
        return found

    def _kept(self, claim: Claim) -> Estimate:
        try:
            kept = json.loads(self._file(claim).read_text(encoding="utf-8"))
            estimate = Estimate(**kept["estimate"] | {"runs": tuple(kept["estimate"]["runs"])})
        except (OSError, ValueError, KeyError, TypeError):
            raise NotRun("timed with --measure") from None
        if kept.get("with") != claim.settings:
            raise NotRun("it was timed with other settings; time it again with --measure")
        if kept.get("hardware") != machine.hardware():
            raise NotRun("it was timed on another machine; time it again with --measure")
        return estimate

    def _file(self, claim: Claim) -> Path:
        return self.folder / f"{claim.id}.json"
