"""The claims, one YAML file each: the fields of ``Claim`` but for the id, which is the file's name.

A file with ``each``, keys and their names, is a claim of each: its id ends in the key, which stands for ``KEY``, the
name for ``NAME``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from rankwise.claims.claim import Bound, Claim, Source
from rankwise.errors import Refused, did_you_mean


def read() -> list[Claim]:
    """The claims that come with rankwise, by source and id."""
    claims = [claim for file in sorted(Path(__file__).parent.glob("*.yaml")) for claim in _read(file)]
    return sorted(claims, key=lambda claim: (claim.source.work == "Folklore", claim.source.work, claim.id))


def only(claims: Sequence[Claim], ids: Sequence[str]) -> list[Claim]:
    """Those with these ids, or whose ids begin so; all where none is given. Raises Refused for one that is neither."""
    known = {claim.id: claim for claim in claims}
    meant = set[str]()
    for name in ids:  # lora_t6_rank1 is that claim alone, though lora_t6_rank1_all begins so
        if not (found := {name} & known.keys() or {claim for claim in known if claim.startswith(name)}):
            raise Refused(f"--only {name}: no such claim{did_you_mean(name, known)}; rankwise claims lists all")
        meant |= found
    return [claim for claim in claims if not ids or claim.id in meant]


def _read(file: Path) -> Iterator[Claim]:
    text = file.read_text(encoding="utf-8")
    each = yaml.safe_load(text).get("each", {"": ""})
    for key, name in each.items():
        values = yaml.safe_load(text.replace("KEY", key).replace("NAME", name) if key else text)
        values |= {of: Bound.of(values[of]) for of in ("bound", "full_bound") if of in values}
        source, settings = Source(**values.pop("source")), values.pop("with")
        values.pop("each", None)
        yield Claim(id=f"{file.stem}_{key}".rstrip("_"), source=source, settings=settings, **values)
