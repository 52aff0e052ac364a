"""``rankwise report``: compare finished runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rankwise.commands._shared import parse, parser, print_json, show
from rankwise.errors import Refused, plural, tell

if TYPE_CHECKING:
    from rankwise.report.report import Report

_FORMS = {
    "json": "one JSON document",
    "csv": "CSV",
    "markdown": "Markdown",
    "latex": "LaTeX, the table (booktabs) and the methods paragraph",
    "methods": "a paper's methods paragraph, made from the records",
}


def main(arguments: list[str]) -> int:
    """Print the table, write the files."""
    spec = parser("report", "Compare finished runs: the table here, the whole report as files beside them.")
    about = "runs, studies or packets (default: the study in outputs); wandb:ENTITY/PROJECT[/GROUP] reads W&B back"
    spec.add_argument("paths", nargs="*", type=Path, metavar="PATH", help=about)
    shape = spec.add_mutually_exclusive_group()
    for name, what in _FORMS.items():
        shape.add_argument(f"--{name}", action="store_true", help=f"instead of the table, print {what}")
    spec.add_argument("--columns", metavar="A,B", help="these columns of Markdown, CSV and LaTeX, by key or header")
    about = "compare by this test score instead of the task's: f1, or TASK:METRIC of adapter eval"
    spec.add_argument("--score", metavar="NAME", help=about)
    spec.add_argument("--by", choices=["task"], help="the tasks of several studies side by side, as GLUE's")
    out = "folder for report.html, .csv, .md and .json (default: the first PATH on disk; with --score none)"
    spec.add_argument("--out", type=Path, metavar="FOLDER", help=out)
    spec.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="also write the figures as PDF and SVG for a paper"
    )
    spec.add_argument("--pack", type=Path, metavar="FILE.zip", help="write the study as one file that report can read")
    options = parse(spec, arguments)
    from rankwise.report import pack
    from rankwise.report.report import build
    from rankwise.tracking.remote import is_address

    paths = options.paths or [only_study(Path("outputs"))]
    if options.pack:
        _refuse_others(options, "--pack: writes a packet and nothing else")
        if other := next((path for path in paths if pack.is_packet(path) or is_address(path)), None):
            raise Refused(f"--pack {options.pack}: {other} is no folder of runs; give the study's")
        packed = plural(pack.pack(paths, options.pack), "run")
        tell(f"{options.pack}: {packed}; rankwise report {shlex.quote(str(options.pack))} shows them")
        return 0
    with pack.unpacked(paths) as folders:
        if options.by:
            return _by_task(options, folders)
        report = build(folders, options.score)
        form = next((form for form in _FORMS if getattr(options, form)), None)
        columns = [name.strip() for name in (options.columns or "").split(",") if name.strip()]
        if columns and form not in ("csv", "markdown", "latex"):
            raise Refused("--columns: of --markdown, --csv or --latex")
        text = getattr(report, f"to_{form}")(columns) if form else ""
        files = report.write(options.out) if options.out else {}  # what is asked for by name is refused before a word
        figures = _save_figures(report, options.figures) if options.figures else ""
        if form:
            sys.stdout.writelines(text if form == "json" else [text])
        else:
            show(report.table())
        stream = sys.stderr if form else sys.stdout  # a document stands alone
        print(figures, end="", file=stream)
        usual = None if form or options.score or any(map(pack.is_packet, paths)) else beside(paths)
        if usual and not files:
            if len(paths) > 1 and (usual / "report.html").exists():
                all_of = f"its report is replaced by one of all {len(paths)} paths"
                print(f"rankwise: {usual}: {all_of}; --out FOLDER leaves it", file=sys.stderr)
            files = report.write(usual)
        if files:
            _list_files(files, paths, stream)
    return 0


def _refuse_others(options: argparse.Namespace, alone: str, *allowed: str) -> None:
    others = [name for name in (*_FORMS, "columns", "figures", "out", "score", "by") if getattr(options, name)]
    if others := [name for name in others if name not in allowed]:
        raise Refused(f"{alone}; leave --{' and --'.join(others)} away")


def _by_task(options: argparse.Namespace, paths: list[Path]) -> int:
    _refuse_others(options, "--by task: a table, or --json, --markdown or --latex", "by", "json", "markdown", "latex")
    from rankwise.report import by_task

    tasks = by_task.build(paths)
    if options.json:
        print_json(tasks.document())
    elif options.markdown or options.latex:
        print(tasks.to_markdown() if options.markdown else tasks.to_latex(), end="")
    else:
        show(tasks.table())
    return 0


def _save_figures(report: Report, folder: Path) -> str:
    from rankwise.report.report import save_figures

    try:
        files = save_figures(report, folder)
    except OSError as error:
        raise Refused(f"--figures {folder}: cannot be written ({error.strerror or error})") from None
    return f"figures   {folder}: {len(files)} as PDF and SVG\n"


def beside(paths: list[Path]) -> Path | None:
    """Where the files go unless the user says: to the first PATH on disk; runs in W&B have no such place."""
    from rankwise.tracking.remote import is_address

    local = [path for path in paths if not is_address(path)]
    return next((path if path.is_dir() else path.parent for path in local), None)


def only_study(outputs: Path) -> Path:
    """The study in the outputs folder, where there is but one."""
    studies = sorted({file.parent.parent for file in outputs.glob("*/*/result.json")})
    if len(studies) > 1:
        raise Refused(f"{outputs} holds several studies; give one or more: {shlex.join(map(str, studies))}")
    return studies[0] if studies else outputs


def _list_files(files: dict[str, Path], paths: list[Path], stream: TextIO) -> None:
    for kind, file in files.items():
        print(f"{kind:<9} {file}", file=stream)
    for study in sorted({mirror for path in paths for mirror in path.glob("**/leet") if mirror.is_dir()}):
        print(f"W&B runs  wandb leet {shlex.quote(str(study))}", file=stream)
