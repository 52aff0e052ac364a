"""What ``rankwise analyze`` found, as tables and sections of the page; the documents are read, nothing is computed."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from rankwise.metrics import NOTHING, named
from rankwise.report import analysis_plots, svg
from rankwise.report import formats as fmt
from rankwise.report.columns import Section
from rankwise.report.plots import Plot, plot
from rankwise.tracking.record import Record

_MOST = 8  # of pairs or runs with maps of their own
FOLDER = "analysis"  # in the folder of a study
Document = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Analysis(Section):
    """A section with its figure."""

    plot: Plot = field(kw_only=True)


def of_records(records: Iterable[Record]) -> list[Analysis]:
    """One section for each document in the ``analysis`` folders of the records' studies; a file that is none is left
    out. Ids are numbers: the name of a file is a stranger's.
    """
    parts: list[Analysis] = []
    studies = dict.fromkeys(record.folder.resolve().parent for record in records)
    for file in (file for study in studies for file in sorted((study / FOLDER).glob("*.json"))):
        try:
            parts.append(section(json.loads(file.read_text(encoding="utf-8")), str(len(parts))))
        except Exception:  # whatever is not as this version wrote it
            print(f"rankwise: left out: {file}: not an analysis of this version", file=sys.stderr)
    return parts


@svg.styled
def section(document: Document, mark: str) -> Analysis:
    """The table, the figure and how to read them."""
    name, shown = f"analysis-{mark}", _SHOWN[document["analysis"]]
    header, rows = shown.table(document)
    title = ", ".join([shown.title, *_options(document)])
    each = document.get(shown.panels, [])
    caption = shown.caption + f" Of {len(each)} the first {_MOST} are drawn." * (len(each) > _MOST)
    figure = getattr(analysis_plots, document["analysis"])(document | {shown.panels: each[:_MOST]})
    drawn = plot(figure, name, title, caption, wide=True)
    of = {"delta": "ΔW", "A": "A alone"}.get(document.get("of", ""))
    unknown = document.get("start_unknown", {}).items()
    starts = (f"{run}: nothing before training to compare with: {why}." for run, why in unknown)
    notes = [shown.note.format_map(document | {"of": of}), *starts, _scope(document)]
    return Analysis(name, title, header, rows, notes, document["question"], plot=drawn)


def stem(document: Document) -> str:
    """The files' name: the analysis, the runs by their ids, and the options that were not left to it."""
    first = document["analysis"] == "truncation"  # which cuts the first
    given = [run["id"] for run in document["runs"]]
    ids = "-".join([*given[:first], *sorted(given[first:])])
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", ids):  # many runs, or a stranger's
        ids = hashlib.sha256(ids.encode()).hexdigest()[:10]
    return "-".join([document["analysis"], ids, *_options(document, "layer")])


def _options(document: Document, block: str = "block ") -> list[str]:
    side = "left" if document["analysis"] == "intruders" else "right"
    usual = {"layer": None, "module": None, "of": "delta", "side": side}
    unusual = {key: document.get(key) for key in usual if document.get(key) not in (None, usual[key])}
    return [f"{block}{value}" if key == "layer" else str(value) for key, value in unusual.items()]


def _subspaces(document: Document) -> Table:
    rows = []
    for pair in document["pairs"]:
        last = pair["points"][-1]
        for point in [p for p in pair["points"] if p is last or (p["i"] == p["j"] and p["i"] in (1, 8))]:
            start = NOTHING if point["start"] is None else f"{point['start']:.3f}"
            values = [f"{point['phi']:.3f}", f"{point['expected']:.3f}", named("").difference(point["excess"]), start]
            rows.append([" · ".join(pair["pair"]), str(point["i"]), str(point["j"]), *values])
    return ["pair", "i", "j", "φ(i, j)", "chance", "excess", "before training"], rows


def _amplification(document: Document) -> Table:
    header = ["run", "layers", "rank", "‖ΔW‖", "‖UᵀWV‖ of ΔW", "of W", "of chance", "factor", "factor by chance"]
    keys = ("update", "by_update", "by_base", "by_chance", "factor", "factor_by_chance")
    rows = document["rows"]
    return header, [[row["run"], row["module"], str(row["rank"]), *_three(row, *keys)] for row in rows]


def _spectrum(document: Document) -> Table:
    keys = ("effective_rank", "stable_rank", "r90")
    rows = [[row["run"], *_three(row, *keys), fmt.percent(row["r90_share"])] for row in document["rows"]]
    return ["run", "effective rank", "stable rank", "r90", "r90 / min(in, out), %"], rows


def _intruders(document: Document) -> Table:
    rows = []
    for row in document["rows"]:
        half = next(count["matrices"] for count in row["counts"] if count["epsilon"] == 0.5)
        means = [f"{count['mean']:.2f}" for count in row["counts"]]
        rows.append([row["run"], *means, f"{half} of {len(row['cosines'])}"])
    return ["run", *(f"ε = {epsilon:g}" for epsilon in document["epsilons"]), "matrices with one at 0.5"], rows


def _truncation(document: Document) -> Table:
    metric, whole = named(document["metric"]), document["rank"]

    def gap(change: Document | None) -> str:
        """A paired difference with its standard error."""
        return metric.gap(change["value"], change["se"]) if change else NOTHING

    def trained(row: Document) -> list[str]:
        return [row["run"], metric.score(row["score"]["value"]), gap(row["from_cut"])]

    rows: list[list[str]] = []
    for cut in document["cut"]:
        rank, away = cut["rank"], cut["difference"] if cut["rank"] != whole else None
        mine = [str(rank), fmt.percent(cut["energy"]), metric.score(cut["score"]["value"]), gap(away)]
        beside = [row for row in document["trained"] if row["rank"] == rank]
        rows += [[*mine, *trained(row)] for row in beside] or [[*mine, *[NOTHING] * 3]]
    above = [row for row in document["trained"] if row["from_cut"] is None]
    rows += [[str(row["rank"]), *[NOTHING] * 3, *trained(row)] for row in above]
    cut_header = ["rank", "Σσ² kept, %", f"cut: {metric.header}", f"from r={whole}"]
    return [*cut_header, "trained at it", metric.name, "trained − cut"], rows


def _layers(document: Document) -> Table:
    rows = []
    for row in document["rows"]:
        for kind in dict.fromkeys(cell["module"] for cell in row["cells"]):
            cells = [cell for cell in row["cells"] if cell["module"] == kind]
            most = max(cells, key=lambda cell: float(cell["relative"]))
            share = fmt.percent(mean(cell["relative"] for cell in cells))
            rank = {"rank": mean(cell["effective_rank"] for cell in cells)}
            largest = f"{fmt.percent(most['relative'])} (block {most['layer']})"
            rows.append([row["run"], kind, share, largest, *_three(rank, "rank")])
    return ["run", "layers", "‖ΔW‖/‖W‖, %", "largest, %", "effective rank"], rows


def _three(row: Document, *keys: str) -> list[str]:
    return [fmt.three(row[key]) for key in keys]


def _scope(document: Document) -> str:
    if document["analysis"] == "truncation":
        return f"Runs: {', '.join(run['name'] for run in document['runs'])}."
    asked = [f"block {document['layer']}"] if document["layer"] is not None else []
    asked += [f"layers {document['module']}"] if document["module"] else []
    which = f", {', '.join(asked)} as asked" if asked else ""
    layers, runs = len(document["modules"]), ", ".join(f"{run['label']} ({run['name']})" for run in document["runs"])
    return f"{layers} weight matri{'x' if layers == 1 else 'ces'} that all runs changed{which}; runs: {runs}"


@dataclass(frozen=True)
class _Shown:
    """How an analysis is shown; ``note`` takes values of the document, ``caption`` is of the figure."""

    title: str
    table: Callable[[Document], Table]
    note: str
    caption: str
    panels: str = ""  # the key of what has maps of its own each


_SHOWN = {
    "subspaces": _Shown(
        "Shared directions",
        _subspaces,
        "φ(i, j) = ‖U₁ᵀU₂‖²_F / min(i, j) of the top i and top j directions, 1 where one subspace lies in the other "
        "(Hu et al. 2021, equation 4); of {of}, {side} singular vectors; the mean over layers. Chance is max(i, j)/d, "
        "what random subspaces have; excess is φ − chance. Before training: the same of the factor of that side (A on "
        "the right, B on the left) as it was drawn. W: the base's own top directions.",
        "Upper maps: φ(i, j) after training, i of the first run downwards, j of the second to the right. Lower maps: "
        "the same before training, or by chance where there is none. What is brighter above was learned.",
        "pairs",
    ),
    "amplification": _Shown(
        "Amplification",
        _amplification,
        "Frobenius norms, U and V the top r singular vectors; medians over layers of a kind. The factor is "
        "‖ΔW‖ / ‖UᵀWV‖ with U and V of ΔW (Hu et al. 2021, Table 7); by chance: with random ones, r·‖W‖/√(m·n). Below "
        "that of chance, ΔW lies where W has more than on average. A ΔW of more directions, full or "
        "PiSSA's of up to 2r, is cut to r.",
        "The factor by rank, in directions of ΔW (solid, a dot per layer), of chance (dashed) and of W (dotted). Below "
        "the dashed line, ΔW lies where W has more than on average.",
    ),
    "spectrum": _Shown(
        "Rank of the update",
        _spectrum,
        "Means over layers. Effective rank: exp of the entropy of σ/Σσ (Roy and Vetterli 2007); stable rank: "
        "‖ΔW‖²_F/‖ΔW‖²₂; r90: directions that hold 90 % of Σσ² (Biderman et al. 2024). LoRA has at most r of each, and "
        "2r where its start was taken out of W (PiSSA, OLoRA). DoRA and IA³ rescale W's rows or columns: of any rank.",
        "Left: singular values of ΔW over the first. Right: the share of Σσ² in the leading directions; the line is "
        "at 90 %. Means over layers.",
    ),
    "intruders": _Shown(
        "Intruder dimensions",
        _intruders,
        "Of the top {top} {side} singular vectors of W + ΔW, how many have |cos| < ε to all of W's: the mean per "
        "matrix (Shuttleworth et al. 2024).",
        "Mean number per matrix of leading directions of the tuned model that are like none of the base's.",
    ),
    "truncation": _Shown(
        "One adapter cut to lower ranks",
        _truncation,
        "{run} with each ΔW cut to its leading directions by SVD, the head as it was trained. Differences are paired "
        "by test row, ± one standard error over rows; one seed each, so they say nothing of other seeds.",
        "The line is one adapter cut to lower ranks, ± one standard error over test rows; the points were trained at "
        "their rank.",
    ),
    "layers": _Shown(
        "Where the update is",
        _layers,
        "‖ΔW‖/‖W‖ in Frobenius norms, means over blocks, and the block where it is largest; blocks count from 0.",
        "Blocks from the first down, kinds of layers to the right. Runs share the scale of ‖ΔW‖/‖W‖.",
        "rows",
    ),
}
