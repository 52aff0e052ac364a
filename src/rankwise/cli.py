"""The command: parse, call, print. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rankwise.errors import Refused, did_you_mean
from rankwise.paths import conf_dir

COMMANDS = {
    "train": "run one config, or a whole study with -m",
    "report": "compare finished runs: table, CSV, Markdown, JSON, HTML",
    "fetch": "download the model and data that a config names",
}
USAGE = """usage: rankwise COMMAND …

How small a LoRA rank is enough for this model and task, and what does it save?

{commands}

rankwise COMMAND --help tells more; rankwise --version prints the version.
"""
TRAIN_HELP = """usage: rankwise train [-m] [--jobs N] [--rerun] [--config FILE] [--cfg job] [--info] [KEY=VALUE …]

Run one config, or with -m every combination of the comma-separated values. What follows is Hydra override syntax.

  rankwise train method.rank=4 seed=1
  rankwise train -m method=lora,full method.rank=1,2,4,8,16,32,64 seed=0,1,2
  rankwise train experiment=rank_sweep
  rankwise train debug=fast                     a few steps on a tiny random model, nothing to fetch

  -m, --multirun   a study: duplicates collapse, finished runs are skipped
  --jobs N         runs at once (default: one per GPU, or as cores and memory allow)
  --rerun          run again what has finished
  --config FILE    start from an earlier run's config.yaml instead of conf/
  --cfg job        print the composed config and stop; --info [what] tells how Hydra made it

groups:
{groups}

Runs land in outputs/<study>/; a ./conf folder of yours adds options to these groups. Hydra's own help: --hydra-help
Exit codes: 0 done, 1 some runs failed, 2 input refused, 130 interrupted."""
# Hydra's flags that pass through, and the values that may follow: none, one of some, or any.
CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
HYDRA_FLAGS: dict[str, tuple[str, ...] | None] = {
    "-m": (), "--multirun": (), "--cfg": CFG, "-c": CFG, "--resolve": (), "--package": None, "-p": None,
    "--info": INFO, "-i": INFO, "--hydra-help": (), "--config-dir": None, "-cd": None,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 1 some runs failed, 2 refused, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except Refused as refused:
        print(f"rankwise: {refused}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rankwise: interrupted; finished runs are kept, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())), end="")
        return 0
    command, *rest = arguments
    if command == "--version":
        print(f"rankwise {version('rankwise')}")
        return 0
    if command == "-sc":
        return _complete(rest)
    handlers: dict[str, Callable[[list[str]], int]] = {"train": _train, "report": _report, "fetch": _fetch}
    if command not in handlers:
        raise Refused(f"{command}: no such command; one of {', '.join(COMMANDS)}{did_you_mean(command, COMMANDS)}")
    return handlers[command](rest)


def _train(arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(TRAIN_HELP.format(groups=_groups()))
        return 0
    flags, overrides, snapshot = _split(arguments)
    _refuse_twice(overrides)
    _prepare_environment()
    from rankwise.study.app import call_hydra
    from rankwise.study.compose import from_snapshot
    from rankwise.study.single import single

    if snapshot is None:
        return call_hydra([*flags, *overrides], single)
    if flags:
        raise Refused(f"{flags[0]}: not with --config, which is one run as it was")
    return single(from_snapshot(snapshot, [o for o in overrides if not o.startswith("hydra")]))


def _split(arguments: list[str]) -> tuple[list[str], list[str], Path | None]:
    """Hydra's flags to the front, wherever they stood; ours become overrides. Returns (flags, overrides, --config)."""
    flags: list[str] = []
    overrides: list[str] = []
    snapshot: Path | None = None
    queue = list(arguments)

    def value(flag: str) -> str:
        if not queue:
            raise Refused(f"{flag}: a value must follow")
        return queue.pop(0)

    while queue:
        word = queue.pop(0)
        if word.startswith("--") and "=" in word:
            word, inline = word.split("=", 1)
            queue.insert(0, inline)
        if word == "--config":
            snapshot = Path(value(word))
        elif word == "--jobs":
            overrides.append(f"hydra.launcher.jobs={_jobs(value(word))}")
        elif word == "--rerun":
            overrides.append("rerun=true")
        elif word in HYDRA_FLAGS:
            flags.append(word)
            allowed = HYDRA_FLAGS[word]
            bare = allowed is INFO and not (queue and "=" not in queue[0] and not queue[0].startswith("-"))
            if allowed == () or bare:
                continue
            flags.append(value(word))
            if allowed and flags[-1] not in allowed:
                raise Refused(f"{word} {flags[-1]}: one of {', '.join(allowed)}{did_you_mean(flags[-1], allowed)}")
        elif word.startswith("-"):
            known = [*HYDRA_FLAGS, "--config", "--jobs", "--rerun", "--help"]
            raise Refused(f"{word}: no such flag{did_you_mean(word, known)}; see rankwise train --help")
        else:
            overrides.append(word)
    return flags, overrides, snapshot


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise Refused(f"--jobs {text}: a number of at least 1")
    return int(text)


def _refuse_twice(overrides: list[str]) -> None:
    """Hydra would keep the last of two values for one key, in silence."""
    seen: set[str] = set()
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise Refused(f"{override}: not KEY=VALUE; see rankwise train --help")
        key = override.split("=", 1)[0].lstrip("+~")
        if override.startswith("+") and not key.startswith("hydra"):
            raise Refused(
                f"{override}: keys cannot be added with +; write {override.lstrip('+')} for a key that exists"
            )
        if key in seen:
            raise Refused(f"{key}: given twice; write {key}=a,b with -m to run both")
        seen.add(key)


def _prepare_environment() -> None:
    """Set what must stand before torch is loaded, unless the user did."""
    # Threads that spin while they wait slow every process on shared cores by an order of magnitude.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _groups() -> str:
    tree = conf_dir()
    rows = []
    for group in ("model", "task", "method", "targets", "quant", "optim", "trainer", "tracking", "experiment", "debug"):
        options = sorted(p.relative_to(tree / group).with_suffix("").as_posix() for p in (tree / group).rglob("*.yaml"))
        rows.append(f"  {group + '=':<12}{'|'.join(options)}")
    return "\n".join(rows)


def _complete(rest: list[str]) -> int:
    """Shell completion: command names here, everything after ``train`` by Hydra, which knows no subcommands."""
    if not any(word.startswith("query=") for word in rest):
        from rankwise.study.app import call_hydra

        return call_hydra(["-sc", *rest], lambda config: 0)
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    if len(words) < 3:
        print("\n".join(name for name in COMMANDS if name.startswith(words[-1] if len(words) > 1 else "")))
        return 0
    if words[1] != "train":
        return 0
    os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    from rankwise.study.app import call_hydra

    return call_hydra(["-sc", *rest], lambda config: 0)


def _report(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "rankwise report", description="Compare finished runs: the table here, the whole report as files beside them."
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="runs or studies (default: the study in outputs)"
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    shape.add_argument("--csv", action="store_true", help="print CSV instead of the table")
    shape.add_argument("--markdown", action="store_true", help="print Markdown instead of the table")
    parser.add_argument(
        "--out", type=Path, help="folder for report.html, .csv, .md and .json (default: the first PATH)"
    )
    options = _parse(parser, arguments)
    from rankwise.report import build

    paths = options.paths or [_only_study(Path("outputs"))]

    report = build(paths)
    if options.json:
        print(json.dumps(report.to_json(), indent=1))
    elif options.csv or options.markdown:
        print(report.to_csv() if options.csv else report.to_markdown(), end="")
    else:
        _show(report.table())
    if options.out or not (options.json or options.csv or options.markdown):
        _list_files(report.write(options.out or (paths[0] if paths[0].is_dir() else paths[0].parent)), paths)
    return 0


def _only_study(outputs: Path) -> Path:
    studies = sorted({file.parent.parent for file in outputs.glob("*/*/result.json")})
    if len(studies) > 1:
        raise Refused(f"{outputs} holds several studies; give one or more: {' '.join(map(str, studies))}")
    return studies[0] if studies else outputs


def _show(renderable: Any) -> None:
    from rich.console import Console

    Console(width=max(120, Console().width), highlight=False).print(renderable)


def _list_files(files: dict[str, Path], paths: list[Path]) -> None:
    for kind, file in files.items():
        print(f"{kind:<9} {file}")
    for study in sorted({mirror for path in paths for mirror in path.glob("**/wandb") if mirror.is_dir()}):
        print(f"W&B runs  {study}  (wandb leet {study})")


def _fetch(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "rankwise fetch", description="Download the model and data that a config names, once."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for train, e.g. model=minilm task=movie_rating"
    )
    options = _parse(parser, arguments)
    _refuse_twice(options.overrides)
    from rankwise import assets
    from rankwise.config import Config
    from rankwise.study.app import call_hydra

    def fetch(config: Config) -> int:
        for source in (config.model, config.task):
            asset = assets.resolve(source)
            print(f"{source.name}: {asset.path or asset.source}")
        return 0

    return call_hydra([*options.overrides, "hydra.mode=RUN"], fetch)


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse with one-line errors."""

    def error(message: str) -> None:
        raise Refused(f"{parser.prog.removeprefix('rankwise ')}: {message}; see {parser.prog} --help")

    parser.error = error  # type: ignore[method-assign,assignment]
    return parser.parse_args(arguments)
