"""What the commands share: override syntax, Hydra's flags, argument errors in one line, the environment."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path
from typing import Any

from rankwise.errors import Refused, did_you_mean
from rankwise.paths import conf_dir

# Hydra's flags that pass through, and the values that may follow: none, one of some, or any.
CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
HYDRA_FLAGS: dict[str, tuple[str, ...] | None] = {
    "-m": (), "--multirun": (), "--cfg": CFG, "-c": CFG, "--resolve": (), "--package": None, "-p": None,
    "--info": INFO, "-i": INFO, "--hydra-help": (), "--config-dir": None, "-cd": None,
}  # fmt: skip


def refuse_twice(overrides: list[str]) -> None:
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


def prepare_environment() -> None:
    """Set what must stand before torch is loaded, unless the user did."""
    # Threads that spin while they wait slow every process on shared cores by an order of magnitude.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


_GROUPS = (
    "model", "task", "method", "targets", "quant", "optim", "trainer", "forgetting", "tracking", "experiment", "debug",
)  # fmt: skip


def groups() -> str:
    """Every config group with its options, one line each."""
    tree = conf_dir()
    rows = []
    for group in _GROUPS:
        files = [path for path in (tree / group).rglob("*.yaml") if not path.stem.startswith("_")]  # _base is no choice
        options = sorted(path.relative_to(tree / group).with_suffix("").as_posix() for path in files)
        lines = textwrap.wrap(" ".join(options), 100, break_on_hyphens=False)
        rows.append(f"  {group + '=':<12}" + ("\n" + " " * 14).join(lines))
    return "\n".join(rows)


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse with one-line errors; positional arguments may stand between the flags."""

    def error(message: str) -> None:
        raise Refused(f"{parser.prog.removeprefix('rankwise ')}: {message}; see {parser.prog} --help")

    parser.error = error  # type: ignore[method-assign,assignment]
    return parser.parse_intermixed_args(arguments)


def show(renderable: Any, *, narrow: bool = False) -> None:
    """Print a rich renderable, never narrower than 120 columns but for one that fits a ``narrow`` terminal."""
    from rich.console import Console

    terminal = Console()
    width = terminal.width if narrow and terminal.is_terminal else max(120, terminal.width)
    Console(width=width, highlight=False).print(renderable)


def split(arguments: list[str]) -> tuple[list[str], list[str], Path | None]:
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
        elif word == "--dry-run":
            flags.append(word)
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
            known = [*HYDRA_FLAGS, "--config", "--jobs", "--rerun", "--dry-run", "--help"]
            raise Refused(f"{word}: no such flag{did_you_mean(word, known)}; see rankwise train --help")
        else:
            overrides.append(word)
    return flags, overrides, snapshot


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise Refused(f"--jobs {text}: a number of at least 1")
    return int(text)
