"""The claims, one YAML file each: the fields of ``Claim`` but for the id, which is the file's name."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from rankwise.claims.claim import Bound, Claim, Source
from rankwise.errors import Refused, did_you_mean


def read() -> list[Claim]:
    """The claims that come with rankwise, by source and id."""
    claims = [_read(file) for file in sorted(Path(__file__).parent.glob("*.yaml"))]
    return sorted(claims, key=lambda claim: (claim.source.work == "folklore", claim.source.work, claim.id))


def only(claims: Sequence[Claim], ids: Sequence[str]) -> list[Claim]:
    """Those with these ids, or all where none is given. Raises Refused for an id that is none."""
    known = {claim.id: claim for claim in claims}
    for name in ids:
        if name not in known:
            raise Refused(f"--only {name}: no such claim{did_you_mean(name, known)}; rankwise claims lists all")
    return [claim for claim in claims if not ids or claim.id in ids]


def _read(file: Path) -> Claim:
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values |= {key: Bound.of(values[key]) for key in ("bound", "full_bound") if key in values}
    return Claim(id=file.stem, source=Source(**values.pop("source")), settings=values.pop("with"), **values)
