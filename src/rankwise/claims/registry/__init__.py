"""The claims, one YAML file each, and how they are read: a file that is not whole is refused, with its key."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rankwise.claims.bounds import VERDICTS, Bound
from rankwise.claims.claim import FROM_RUNS, KINDS, UNITS, Claim, Source
from rankwise.claims.quantities import QUANTITIES
from rankwise.errors import Refused, did_you_mean

_REQUIRED = ("claim", "source", "published", "kind", "quantity", "bound", "unit", "synthetic")
_OPTIONAL = ("study", "proxy", "expected", "note", "with", "full_bound")


def load(folder: Path | None = None, ids: Sequence[str] = ()) -> list[Claim]:
    """The claims of a folder (default: those that come with rankwise) or those with these ids, by source and id.

    Raises Refused for a file that misses a key, has one that is unknown or a value that does not fit, and for one whose
    synthetic cases do not come out as they are named: a claim that cannot fail is none.
    """
    from rankwise.claims.synthetic import prove

    claims = only(read(folder), ids)
    for claim in claims:
        prove(claim)
    return claims


def read(folder: Path | None = None) -> list[Claim]:
    """The same without trying the synthetic cases."""
    folder = folder or Path(__file__).parent
    claims = [_read(file) for file in sorted(folder.glob("*.yaml"))]
    if not claims:
        raise Refused(f"{folder}: no claims there; a claim is a file <id>.yaml")
    return sorted(claims, key=lambda claim: (claim.source.work == "folklore", claim.source.work, claim.id))


def only(claims: Sequence[Claim], ids: Sequence[str]) -> list[Claim]:
    """Those with these ids, or all where none is given. Raises Refused for an id that is none."""
    known = {claim.id: claim for claim in claims}
    for name in ids:
        if name not in known:
            raise Refused(f"--only {name}: no such claim{did_you_mean(name, known)}; rankwise claims lists all")
    return [claim for claim in claims if not ids or claim.id in ids]


def _read(file: Path) -> Claim:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Refused(f"{file}: not a claim ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise Refused(f"{file}: not a claim: a mapping of {', '.join(_REQUIRED)}")
    for key in _REQUIRED:
        if values.get(key) in (None, ""):
            raise Refused(f"{file}: {key} is missing")
    for key in values:
        if key not in (*_REQUIRED, *_OPTIONAL):
            raise Refused(f"{file}: {key}: no such key{did_you_mean(key, (*_REQUIRED, *_OPTIONAL))}")
    for key, allowed in (("kind", KINDS), ("quantity", tuple(QUANTITIES)), ("unit", UNITS)):
        if values[key] not in allowed:
            raise Refused(f"{file}: {key}: {values[key]}: one of {', '.join(allowed)}")
    settings = values.get("with") or {}
    _check_settings(file, values["quantity"], settings)
    full = values.get("full_bound")
    return Claim(
        id=file.stem, claim=str(values["claim"]), source=_source(file, values["source"]),
        published=str(values["published"]), kind=values["kind"], quantity=values["quantity"], settings=settings,
        bound=_bound(file, "bound", values["bound"]), unit=values["unit"],
        synthetic=_synthetic(file, values["kind"], values["synthetic"]), study=_study(file, values),
        proxy=values.get("proxy"), expected=_expected(file, values), note=values.get("note", ""),
        full_bound=None if full is None else _bound(file, "full_bound", full), file=file,
    )  # fmt: skip


def _source(file: Path, values: Any) -> Source:
    if not isinstance(values, dict) or set(values) != {"work", "where"}:
        raise Refused(f"{file}: source: {{work: …, where: …}}")
    return Source(str(values["work"]), str(values["where"]))


def _bound(file: Path, key: str, values: Any) -> Bound:
    try:
        return Bound.of(values)
    except ValueError as error:
        raise Refused(f"{file}: {key}: {values}: one of {error}") from None


def _study(file: Path, values: dict[str, Any]) -> str | None:
    study, wanted = values.get("study"), values["kind"] in FROM_RUNS
    if wanted and not study:
        raise Refused(f"{file}: study: name the study whose runs answer a {values['kind']} claim")
    if study and not wanted:
        raise Refused(f"{file}: study: a {values['kind']} claim needs no runs")
    return study


def _expected(file: Path, values: dict[str, Any]) -> str | None:
    expected = values.get("expected")
    if expected not in (None, *VERDICTS):
        raise Refused(f"{file}: expected: {expected}: one of {', '.join(VERDICTS)}")
    if expected == "contradicted" and not values.get("note"):
        raise Refused(f"{file}: note: say why the claim is expected to be contradicted")
    return expected


def _synthetic(file: Path, kind: str, values: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(values, dict) or set(values) != set(VERDICTS):
        raise Refused(f"{file}: synthetic: one case for each of {', '.join(VERDICTS)}")
    allowed = [{"arms"}] if kind == "trained" else [{"value"}, {"low", "high"}]
    for verdict, case in values.items():
        if not isinstance(case, dict) or set(case) not in allowed:
            shapes = " or ".join("{" + ", ".join(f"{key}: …" for key in sorted(keys)) + "}" for keys in allowed)
            raise Refused(f"{file}: synthetic.{verdict}: {shapes} of a {kind} claim")
    return values


def _check_settings(file: Path, quantity: str, settings: Any) -> None:
    """The keys of ``with`` are the quantity's arguments."""
    known = list(inspect.signature(QUANTITIES[quantity]).parameters.values())[1:]
    names = [parameter.name for parameter in known]
    for key in settings:
        if key not in names:
            raise Refused(f"{file}: with.{key}: no argument of {quantity}, which has {', '.join(names) or 'none'}")
    for parameter in known:
        if parameter.default is inspect.Parameter.empty and parameter.name not in settings:
            raise Refused(f"{file}: with.{parameter.name} is missing: an argument of {quantity}")
