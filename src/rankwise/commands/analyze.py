"""``rankwise analyze``: what finished runs learned, read from their weights."""

import json
from pathlib import Path

from rankwise.analysis import WHAT
from rankwise.commands._shared import parse, parser, print_json, show, writable, write

_LISTED = "\n".join(f"  {name:<13}  {question[:1].lower()}{question[1:]}" for name, question in WHAT.items())
DESCRIPTION = f"""What finished runs learned, read from their weights. NAME is one of

{_LISTED}

Full fine-tuning takes part where it was run with trainer.save_full=true. See docs/analyses.md.
"""


def main(arguments: list[str]) -> int:
    """Exit code 0."""
    spec = parser("analyze", DESCRIPTION, as_json=True)
    spec.add_argument("name", choices=WHAT, metavar="NAME", help="the analysis")
    spec.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, outputs/STUDY/RUN")
    spec.add_argument("--layer", type=int, metavar="N", help="only this block, counted from 0")
    layers = "only these layers: q, k, v, qkv, o, of a decoder decoder.q, of an MLP its name, such as up_proj"
    spec.add_argument("--module", metavar="NAME", help=layers)
    sides = "singular vectors of the inputs (right) or outputs (left); default: right, of intruders: left"
    spec.add_argument("--side", choices=("right", "left"), help=sides)
    spec.add_argument("--of", choices=("delta", "A"), help="subspaces of ΔW = s·B·A (default) or of A alone")
    where = "where NAME-IDS.json and .svg go (default: outputs/STUDY/analysis, where rankwise report finds them)"
    spec.add_argument("--out", type=Path, metavar="FOLDER", help=where)
    options = parse(spec, arguments)
    from rich.text import Text

    from rankwise.analysis import analyze
    from rankwise.report import analyses, svg
    from rankwise.report.table import rendered

    folder = options.out or options.runs[0].expanduser().resolve().parent / analyses.FOLDER
    flag, remedy = ("--out ", "") if options.out else ("", "; give --out FOLDER")
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    writable(above / f"{options.name}.json", flag, remedy)
    document = analyze(options.name, options.runs, options.layer, options.module, options.side, options.of)
    stem = analyses.stem(document)
    part = analyses.section(document, stem)
    files = {
        folder / f"{stem}.json": json.dumps(document, ensure_ascii=False) + "\n",
        folder / f"{stem}.svg": svg.alone(part.plot.image),
    }
    for file, text in files.items():
        write(file, text, flag)
    if options.json:
        print_json(document)
    else:
        for shown in [Text(part.lead), *rendered(part)]:
            show(shown)
        print("\n".join(map(str, files)))
    return 0
