"""``rankwise dashboard``: a study in W&B, or how to look at it without a server."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_dir

from rankwise.commands._shared import parse, parser, print_json
from rankwise.commands.report import beside, only_study
from rankwise.errors import Refused

if TYPE_CHECKING:
    from rankwise.report.report import Report
    from rankwise.tracking.record import Record
    from rankwise.tracking.remote import Address

_PUSH = "--push sends those that have ended, from the runs' own files"

DESCRIPTION = """Make a W&B report and workspace of a study, or bring those that an earlier call made up to date.
Offline, or where the runs are not in W&B: write the HTML report and say how to see the rest.

  rankwise dashboard outputs/rank_sweep
  rankwise dashboard outputs/rank_sweep --push         first send the runs that are not in W&B, from their files
  rankwise dashboard outputs/rank_sweep --open         in the browser
  rankwise dashboard wandb:me/rankwise/rank_sweep      runs of another machine
"""


def main(arguments: list[str]) -> int:
    """Print where to look."""
    spec = parser("dashboard", DESCRIPTION, as_json=True)
    about = "runs or studies (default: the study in outputs), or wandb:ENTITY/PROJECT[/GROUP]"
    spec.add_argument("paths", nargs="*", type=Path, metavar="PATH", help=about)
    spec.add_argument("--entity", help="W&B user or team (default: where the runs are)")
    spec.add_argument("--project", help="W&B project (default: where the runs are)")
    spec.add_argument("--push", action="store_true", help="first send what is not in W&B, from the runs' own files")
    spec.add_argument("--open", action="store_true", help="open it in the browser")
    options = parse(spec, arguments)
    from rankwise.report.report import build, find_all

    paths = options.paths or [only_study(Path("outputs"))]
    report = build(paths)
    links = _online(report, find_all(paths), options)
    if isinstance(links, str):
        print(f"rankwise: no W&B dashboard: {links}", file=sys.stderr)
        links = _offline(report, paths)
    print_json(links) if options.json else _say(links)
    if options.open and not webbrowser.open(links.get("report") or Path(links["html"]).resolve().as_uri()):
        print("rankwise: no browser can be opened here", file=sys.stderr)
    return 0


def _online(report: Report, every_run: list[Record], options: argparse.Namespace) -> dict[str, Any] | str:
    """The dashboard's URLs; or, where W&B or the runs in it are out of reach, why."""
    from rankwise.dashboards import place as places
    from rankwise.tracking import remote
    from rankwise.tracking.wandb_run import mark

    if why := remote.why_offline():
        return f"offline: {why}"
    for record in every_run if options.push else ():
        if _is_local(record):
            mark(record.folder.parent)  # its key says which group the runs are sent to
    place = places.of(report, options.entity, options.project)
    if find_spec("wandb_workspaces") is None:
        raise Refused("dashboard: needs wandb-workspaces: pip install 'rankwise[dashboards]'")
    from rankwise.dashboards import publish

    place = replace(place, entity=place.entity or publish.default_entity())
    address = remote.Address(str(place.entity), place.project)
    absent = _send(every_run, address, options.push)
    where, there = f"{place.entity}/{place.project}", len(every_run) - len(absent)
    say = f"{there} of {len(every_run)} runs are in W&B ({where})" + ("" if there == len(every_run) else f"; {_PUSH}")
    if not there:
        return say
    print(f"rankwise: {say}", file=sys.stderr)
    about = {
        "mode": "online",
        "entity": place.entity,
        "project": place.project,
        "groups": list(place.groups),
        "runs": len(every_run),
        "in_wandb": there,
        "absent": [record.run["name"] for record in absent],
    }
    return about | publish.publish(place, report)


def _send(every_run: list[Record], address: Address, push: bool) -> list[Record]:
    """What is not in W&B, or not all of it yet, once it has been sent where that is asked for."""
    from rankwise.tracking import record as records
    from rankwise.tracking import remote

    own = [record for record in every_run if _is_local(record)]
    running = [record for record in own if record.status == records.RUNNING]
    absent = remote.missing(address, [record for record in own if record.status != records.RUNNING])
    if push and absent:
        for problem in remote.push(absent, address, lambda line: print(f"rankwise: sending {line}", file=sys.stderr)):
            print(f"rankwise: {problem}", file=sys.stderr)
        absent = remote.missing(address, absent)
    return absent + running


def _is_local(record: Record) -> bool:
    return not record.folder.is_relative_to(user_cache_dir("rankwise"))


def _offline(report: Report, paths: list[Path]) -> dict[str, Any]:
    """The HTML report, written, and the commands that show or send what W&B wrote."""
    studies = dict.fromkeys(record.folder.parent for record in report.records)
    leets = [study / "leet" for study in studies if (study / "leet").is_dir()]
    links = [link for leet in leets for link in leet.iterdir() if link.is_symlink()]
    linked = [Path(os.path.normpath(link.parent / link.readlink())).parent for link in links]  # WANDB_DIR is anywhere
    folders = dict.fromkeys([*(study / "wandb" for study in studies), *linked])
    return {
        "mode": "offline",
        "html": str(report.write(beside(paths) or Path())["html"]),
        "view": [f"wandb leet {quote(str(leet))}" for leet in leets],
        "sync": [f"wandb sync {quote(str(one))}/offline-run-*" for one in folders if any(one.glob("offline-run-*"))],
    }


def _say(links: dict[str, Any]) -> None:
    meaning = {"view": "in a terminal", "sync": "to W&B, then again rankwise dashboard"}
    for kind in ("report", "workspace", "html"):
        if kind in links:
            print(f"{kind:<9} {links[kind]}")
    for kind, about in meaning.items():
        for command in links.get(kind, []):
            print(f"{kind:<9} {command}  ({about})")
