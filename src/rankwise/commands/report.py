"""``rankwise report``: compare finished runs."""

from __future__ import annotations

from pathlib import Path

from rankwise.commands._shared import parse, parser, print_json, show
from rankwise.errors import Refused


def main(arguments: list[str]) -> int:
    """Print the table, write the files."""
    made = parser("report", "Compare finished runs: the table here, the whole report as files beside them.")
    about = "runs or studies (default: the study in outputs); wandb:ENTITY/PROJECT[/GROUP] reads W&B back"
    made.add_argument("paths", nargs="*", type=Path, metavar="PATH", help=about)
    shape = made.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    shape.add_argument("--csv", action="store_true", help="print CSV instead of the table")
    shape.add_argument("--markdown", action="store_true", help="print Markdown instead of the table")
    made.add_argument("--by", choices=["task"], help="the tasks of several studies side by side, as GLUE's")
    out = "folder for report.html, .csv, .md and .json (default: the first PATH on disk)"
    made.add_argument("--out", type=Path, metavar="FOLDER", help=out)
    options = parse(made, arguments)
    from rankwise.report import build

    paths = options.paths or [only_study(Path("outputs"))]
    if options.by:
        if options.csv or options.markdown or options.out:
            raise Refused("--by task: a table, or one document with --json; leave --csv, --markdown and --out away")
        from rankwise.report import by_task

        tasks = by_task.build(paths)
        print_json(tasks.document()) if options.json else show(tasks.table())
        return 0
    report = build(paths)
    if options.json:
        print_json(report.to_json())
    elif options.csv or options.markdown:
        print(report.to_csv() if options.csv else report.to_markdown(), end="")
    else:
        show(report.table(), narrow=True)
    folder = options.out or (None if options.json or options.csv or options.markdown else _beside(paths))
    if folder:
        _list_files(report.write(folder), paths)
    return 0


def _beside(paths: list[Path]) -> Path | None:
    """Where the files go unless the user says: to the first PATH on disk; runs in W&B have no such place."""
    from rankwise.tracking.remote import is_address

    local = [path for path in paths if not is_address(path)]
    return next((path if path.is_dir() else path.parent for path in local), None)


def only_study(outputs: Path) -> Path:
    """The study in the outputs folder, where there is but one."""
    studies = sorted({file.parent.parent for file in outputs.glob("*/*/result.json")})
    if len(studies) > 1:
        raise Refused(f"{outputs} holds several studies; give one or more: {' '.join(map(str, studies))}")
    return studies[0] if studies else outputs


def _list_files(files: dict[str, Path], paths: list[Path]) -> None:
    for kind, file in files.items():
        print(f"{kind:<9} {file}")
    for study in sorted({mirror for path in paths for mirror in path.glob("**/leet") if mirror.is_dir()}):
        print(f"W&B runs  wandb leet {study}")
