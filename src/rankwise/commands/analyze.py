"""``rankwise analyze``: what finished runs learned, read from their weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rankwise.commands._shared import parse, prepare_environment, show
from rankwise.errors import Refused

HELP = """usage: rankwise analyze NAME RUN … [--layer N] [--module NAME] [--side right|left] [--of delta|A]
                        [--json] [--out FOLDER]

What finished runs learned, read from their weights. RUN is a run's folder, outputs/STUDY/RUN; NAME is one of

  subspaces      do two ranks or seeds learn the same directions, and are they those of W?
  amplification  does the update amplify what W has, or what it lacks?
  spectrum       what is the intrinsic rank of the update?
  intruders      has the tuned model leading directions that the base had not?
  truncation     how good is one adapter cut to lower ranks, beside those trained at them?
  layers         in which blocks and layers is the update, and of what rank?

  --layer N      only this block, counted from 0
  --module NAME  only these layers: q, k, v, qkv, o, or of an MLP its name, such as up_proj
  --side SIDE    right (of the inputs) or left (of the outputs) singular vectors; subspaces: right, intruders: left
  --of WHAT      subspaces of delta (ΔW = s·B·A, the default) or of A alone
  --json         print the JSON document instead of the table
  --out FOLDER   where NAME.json and NAME.svg go (default: outputs/STUDY/analysis, where rankwise report finds them)

Full fine-tuning takes part where it was run with trainer.save_full=true. See docs/analyses.md."""
# What a reader of the file alone sees: the page brings its own colours.
_COLOURS = (
    "<style>svg{--ink:#1b1d21;--muted:#666b73;--grid:#dfe1e5;--paper:#fdfcfb;background:var(--paper)}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e8eaee;--muted:#9aa1ac;--grid:#353a43;--paper:#14161a}}</style>"
)


def main(arguments: list[str]) -> int:
    """Exit code 0."""
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(HELP)
        return 0
    parser = argparse.ArgumentParser("rankwise analyze", add_help=False)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--module")
    parser.add_argument("--side", choices=("right", "left"))
    parser.add_argument("--of", choices=("delta", "A"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parse(parser, arguments)
    if not options.runs:
        raise Refused(f"analyze {options.name}: give one or more runs, outputs/STUDY/RUN")
    prepare_environment()
    from rankwise.analysis import analyze
    from rankwise.report import analyses

    document = analyze(options.name, options.runs, options.layer, options.module, options.side, options.of)
    part = analyses.section(document, analyses.stem(document))
    if options.json:
        print(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _print(part)
    folder = options.out or options.runs[0].expanduser().resolve().parent / analyses.FOLDER
    files = _write(folder, analyses.stem(document), document, part.plot.image)
    if not options.json:
        print("\n".join(map(str, files)))
    return 0


def _print(part: Any) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, header in enumerate(part.header):
        table.add_column(header, overflow="fold", justify="left" if number == 0 else "right")
    for row in part.rows:
        table.add_row(*row)
    print(part.lead)
    show(table)
    print("\n".join(part.notes))


def _write(folder: Path, stem: str, document: dict[str, Any], image: str) -> list[Path]:
    from rankwise.tracking.record import write_atomically

    end = image.index(">") + 1
    alone = '<?xml version="1.0" encoding="utf-8"?>\n' + image[:end] + _COLOURS + image[end:]
    texts = {folder / f"{stem}.json": json.dumps(document, ensure_ascii=False) + "\n", folder / f"{stem}.svg": alone}
    try:
        for file, text in texts.items():
            write_atomically(file, text)
    except OSError as error:
        raise Refused(f"--out {folder}: cannot be written ({error.strerror})") from None
    return list(texts)
