"""What ``rankwise analyze`` found, as tables and sections of the page; the documents are read, nothing is computed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankwise.metrics import NOTHING, named
from rankwise.report import analysis_plots
from rankwise.report import formats as fmt
from rankwise.report.plots import Plot
from rankwise.report.sections import Cells, Section
from rankwise.tracking.record import Record

FOLDER = "analysis"  # in the folder of a study
Document = dict[str, Any]
Table = tuple[Cells, list[Cells]]


@dataclass(frozen=True)
class Analysis(Section):
    """A section with its figure."""

    plot: Plot = field(kw_only=True)


def of_records(records: Iterable[Record]) -> list[Analysis]:
    """The sections of every study that the records are of."""
    studies = dict.fromkeys(record.folder.resolve().parent for record in records if record.folder)
    return [part for number, study in enumerate(studies) for part in sections(study, f"{number}-" if number else "")]


def sections(folder: Path, mark: str = "") -> list[Analysis]:
    """One section for each document in a study's ``analysis`` folder, by name; a file that is none is left out.

    ``mark`` keeps the ids of several studies on one page apart.
    """
    return [section(document, mark + file.stem) for file, document in _documents(folder)]


def section(document: Document, name: str) -> Analysis:
    """The table, the figure and how to read them."""
    what = document["analysis"]
    header, rows = table(document)
    title, notes = ", ".join([_TITLES[what], *_given(document)]), [*_NOTES[what](document), _scope(document)]
    caption = analysis_plots.CAPTIONS[what]
    plot = Plot(f"analysis-{name}", title, figure(document, f"analysis-{name}"), caption, wide=True)
    return Analysis(f"analysis-{name}", title, header, rows, notes, document["question"], plot=plot)


def table(document: Document) -> Table:
    """Header and rows, compact; the document has every layer."""
    return _TABLES[document["analysis"]](document)


def figure(document: Document, name: str) -> str:
    """The figure as an ``<svg>`` element in the page's colours."""
    return analysis_plots.MAKERS[document["analysis"]](document, name)


def stem(document: Document) -> str:
    """The files' name: the analysis, and the options that were not left to it."""
    return "-".join([document["analysis"], *_given(document)])


def _given(document: Document) -> list[str]:
    side = "left" if document["analysis"] == "intruders" else "right"
    usual = {"layer": None, "module": None, "of": "delta", "side": side}
    given = {key: document.get(key) for key in usual if document.get(key) not in (None, usual[key])}
    return [f"layer{value}" if key == "layer" else str(value) for key, value in given.items()]


def _documents(folder: Path) -> list[tuple[Path, Document]]:
    found = []
    for file in sorted((folder / FOLDER).glob("*.json")):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            table(document)
            found.append((file, document))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            print(f"rankwise: left out: {file}: not an analysis of this version", file=sys.stderr)
    return found


def _subspaces(document: Document) -> Table:
    header = ["pair", "i", "j", "φ(i, j)", "chance", "excess", "before training"]
    rows = []
    for pair in document["pairs"]:
        last = pair["points"][-1]
        for point in [p for p in pair["points"] if p is last or (p["i"] == p["j"] and p["i"] in (1, 8))]:
            start = NOTHING if point["start"] is None else f"{point['start']:.3f}"
            rows.append([" · ".join(pair["pair"]), str(point["i"]), str(point["j"]), f"{point['phi']:.3f}",
                         f"{point['expected']:.3f}", named("").difference(point["excess"]), start])  # fmt: skip
    return header, rows


def _amplification(document: Document) -> Table:
    header = ["run", "layers", "rank", "‖ΔW‖", "‖UᵀWV‖ of ΔW", "of W", "of chance", "factor", "factor by chance"]
    keys = ("update", "by_update", "by_base", "by_chance", "factor", "factor_by_chance")
    rows = [
        [row["run"], row["module"], str(row["rank"]), *(_three(row[key]) for key in keys)] for row in document["rows"]
    ]
    return header, rows


def _spectrum(document: Document) -> Table:
    header = ["run", "effective rank", "stable rank", "r90", "r90 / min(in, out), %"]
    rows = [
        [row["run"], _three(row["effective_rank"]), _three(row["stable_rank"]), _three(row["r90"]),
         fmt.percent(row["r90_share"])]
        for row in document["rows"]
    ]  # fmt: skip
    return header, rows


def _intruders(document: Document) -> Table:
    header = ["run", *(f"ε = {epsilon:g}" for epsilon in document["epsilons"]), "matrices with one at 0.5"]
    rows = []
    for row in document["rows"]:
        half = next(each["matrices"] for each in row["counts"] if each["epsilon"] == 0.5)
        means = [f"{each['mean']:.2f}" for each in row["counts"]]
        rows.append([row["run"], *means, f"{half} of {len(row['cosines'])}"])
    return header, rows


def _truncation(document: Document) -> Table:
    metric = document["metric"]
    header = ["rank", "Σσ² kept, %", f"cut: {named(metric).header}", f"from r={document['rank']}", "trained at it",
              metric, "trained − cut"]  # fmt: skip
    rows: list[Cells] = []
    for cut in document["cut"]:
        rank = cut["rank"]
        gap = NOTHING if rank == document["rank"] else _gap(cut["difference"], metric)
        mine = [str(rank), fmt.percent(cut["energy"]), named(metric).score(cut["score"]["value"]), gap]
        beside = [row for row in document["trained"] if row["rank"] == rank]
        rows += [[*mine, *_trained(row, metric)] for row in beside] or [[*mine, *[NOTHING] * 3]]
    above = [row for row in document["trained"] if row["from_cut"] is None]
    return header, rows + [[str(row["rank"]), *[NOTHING] * 3, *_trained(row, metric)] for row in above]


def _trained(row: Document, metric: str) -> Cells:
    return [row["run"], named(metric).score(row["score"]["value"]), _gap(row["from_cut"], metric)]


def _gap(gap: Document | None, metric: str) -> str:
    """A paired difference with its standard error."""
    if gap is None:
        return NOTHING
    return f"{named(metric).difference(gap['value'])} ± {named(metric).score(gap['se'])}"


def _layers(document: Document) -> Table:
    header = ["run", "layers", "‖ΔW‖/‖W‖, %", "most in block", "that is, %", "effective rank"]
    rows = []
    for row in document["rows"]:
        for kind in dict.fromkeys(cell["module"] for cell in row["cells"]):
            cells = [cell for cell in row["cells"] if cell["module"] == kind]
            most = max(cells, key=lambda cell: float(cell["relative"]))
            mean = {key: sum(cell[key] for cell in cells) / len(cells) for key in ("relative", "effective_rank")}
            rows.append([row["run"], kind, fmt.percent(mean["relative"]), str(most["layer"]),
                         fmt.percent(most["relative"]), _three(mean["effective_rank"])])  # fmt: skip
    return header, rows


def _scope(document: Document) -> str:
    if document["analysis"] == "truncation":
        return f"Runs: {', '.join(run['name'] for run in document['runs'])}."
    asked = [f"block {document['layer']}"] if document["layer"] is not None else []
    asked += [f"layers {document['module']}"] if document["module"] else []
    which = f", {', '.join(asked)} as asked" if asked else ""
    layers = len(document["modules"])
    return f"{layers} weight matri{'x' if layers == 1 else 'ces'} that all runs changed{which}; runs: " + ", ".join(
        f"{run['label']} ({run['name']})" for run in document["runs"]
    )


def _of_subspaces(document: Document) -> list[str]:
    side = "right singular vectors, the input side" if document["side"] == "right" else "left ones, the output side"
    of = "ΔW" if document["of"] == "delta" else "A alone"
    start = "A" if document["side"] == "right" else "B"
    said = [
        "φ(i, j) = ‖U₁ᵀU₂‖²_F / min(i, j) of the top i and top j directions, 1 where one subspace lies in the other "
        f"(Hu et al. 2021, equation 4); of {of}, {side}; the mean over layers. Chance is max(i, j)/d, what random "
        f"subspaces have; excess is φ − chance. Before training: the same of {start} as it was drawn. W: the base's "
        "own top directions."
    ]
    for run, why in document["start_unknown"].items():
        said.append(f"{run}: before training is not known, as {why}.")
    return said


def _of_amplification(document: Document) -> list[str]:
    return [
        "Frobenius norms, U and V the top r singular vectors; medians over layers of a kind. The factor is "
        "‖ΔW‖ / ‖UᵀWV‖ with U and V of ΔW (Hu et al. 2021, Table 7); by chance: with random ones, r·‖W‖/√(m·n). Below "
        "that of chance, ΔW lies where W has more than on average. A full ΔW is cut to rank r."
    ]


def _of_spectrum(document: Document) -> list[str]:
    return [
        "Means over layers. Effective rank: exp of the entropy of σ/Σσ (Roy and Vetterli 2007); stable rank: "
        "‖ΔW‖²_F/‖ΔW‖²₂; r90: directions that hold 90 % of Σσ² (Biderman et al. 2024). LoRA has at most r of each."
    ]


def _of_intruders(document: Document) -> list[str]:
    return [
        f"Of the top {document['top']} {document['side']} singular vectors of W + ΔW, how many have |cos| < ε to all "
        "of W's: the mean per matrix (Shuttleworth et al. 2024)."
    ]


def _of_truncation(document: Document) -> list[str]:
    return [
        f"{document['run']} with each ΔW cut to its leading directions by SVD, the head as it was trained. Differences "
        "are paired by test row, ± one standard error over rows; one seed each, so they say nothing of other seeds."
    ]


def _of_layers(document: Document) -> list[str]:
    return ["‖ΔW‖/‖W‖ in Frobenius norms, means over blocks, and the block where it is largest; blocks count from 0."]


_TITLES = {
    "subspaces": "Shared directions", "amplification": "Amplification", "spectrum": "Rank of the update",
    "intruders": "Intruder dimensions", "truncation": "One adapter cut to lower ranks", "layers": "Where the update is",
}  # fmt: skip
_TABLES: dict[str, Callable[[Document], Table]] = {
    "subspaces": _subspaces, "amplification": _amplification, "spectrum": _spectrum, "intruders": _intruders,
    "truncation": _truncation, "layers": _layers,
}  # fmt: skip
_NOTES: dict[str, Callable[[Document], list[str]]] = {
    "subspaces": _of_subspaces, "amplification": _of_amplification, "spectrum": _of_spectrum,
    "intruders": _of_intruders, "truncation": _of_truncation, "layers": _of_layers,
}  # fmt: skip


def _three(value: float | None) -> str:
    return fmt.seconds(value)
