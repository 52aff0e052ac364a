"""What the commands share: override syntax, Hydra's flags, argument errors in one line, the environment."""

import argparse
import functools
import itertools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from rankwise.errors import Refused, did_you_mean
from rankwise.paths import options
from rankwise.synonyms import ALIASES, GROUPS, OPEN, meaning, near_flag, no_such_key

SHELL_ASKS = "_ARGCOMPLETE"  # in the environment of a command line that is to be completed
_FOLDERS = re.compile(r"hydra\.(run|sweep|runtime|output_subdir|job\.(name|chdir|num|id))(\..*)?")
_WHOLE = re.compile(r"(?<=\d)\.0+(?![\w.])")  # 2 for 2.0
_CLASS = re.compile(  # in quotes, or what would be read as no text; and what follows it
    r"""(?<=[\[{,:])\s*(?:'([^']*)'|"([^"]*)"|(null|true|false|nan|[-+]?inf|[-+]?[\d.]+e[-+]?\d+))\s*(?=([:,\]}]))""",
    re.IGNORECASE,
)
_HOME = re.compile(r"(?<![^,])~[^,'\"\[\]{}()]*")
_NAMED = ("hydra", "hydra.launcher", "hydra.sweeper", "hydra.launcher._target_", "hydra.sweeper._target_")


def overrides(words: list[str]) -> list[str]:
    """The words as overrides that Hydra takes, by their names here. Raises Refused for what it would take in silence.

    That is: the last of two values for one key, what is taken away, several options of one group where one is
    meant, and its own folders and names, which nothing of a run has.
    """
    from rankwise.config import known_keys

    by_key: dict[str, str] = {}
    for number, word in enumerate(words):
        typed, equals, value = word.partition("=")
        name = typed.lstrip("+~")
        key = ALIASES.get(name, name)
        is_open, of_hydra = key.partition(".")[0] in OPEN, key.startswith("hydra")
        if not name or (not equals and not typed.startswith("~")):
            group = next((group for group in GROUPS if word in options(group)), None)
            near = f" (did you mean {group}={word}?)" if group else meaning(Path(word).suffix)
            if not near and Path(word).is_file():
                near = f" (here it is task=local task.path={word} task.text=COLUMN task.label=COLUMN)"
            if number and str in _kinds(words[number - 1]):  # it may be the rest of a name
                rest = itertools.takewhile(lambda other: "=" not in other, words[number:])
                near = f" (with a blank, quote it: '{' '.join([words[number - 1], *rest])}')"
            raise Refused(f"{word}: not KEY=VALUE without blanks, such as method.rank=8{near}")
        named = key + "{}" * (is_open and value.startswith("{"))  # which stands beside options
        if named in by_key:
            both = f"{key}=[a,b] for both" if is_open else f"{key}=a,b with -m to run both"
            raise Refused(f"{key}: given twice; write {both}")
        if typed.startswith("~") and not of_hydra:
            kept = f"{key.partition('.')[0]}=[a,b], those to keep"
            other = kept if is_open else f"{key}=VALUE, such as tracking=none"
            raise Refused(f"{word}: nothing can be taken away; write {other}")
        if not (of_hydra or _exists(key)):
            raise Refused(no_such_key(key, known_keys()))
        if key in _NAMED:
            raise Refused(f"{word}: an option is chosen by its name: hydra/launcher=NAME, hydra/sweeper=NAME")
        if _FOLDERS.fullmatch(key):
            raise Refused(f"{word}: runs go to outputs=FOLDER and study=NAME in there")
        group = key.removesuffix(".name")
        chosen = (f"{group}=", f"{group}.path=", "experiment=")
        if key in ("model.name", "task.name") and not any(other.lstrip("+").startswith(chosen) for other in words):
            place = "FOLDER_OR_HUB_ID" if group == "model" else "FILE"
            raise Refused(f"{word}: chooses no {group}; that is {group}=NAME, or {group}=local {group}.path={place}")
        if key in GROUPS:
            _check_option(key, value)
        elif key == "hydra.launcher.jobs" and value != "null":
            positive(key, value)
        if known_keys().get(key, ("",))[0] in (int, int | None):  # as W&B and numpy write a draw
            value = _WHOLE.sub("", value)
        value = _quoted(value)
        if key == "task.labels":
            value = _CLASS.sub(_as_text, value)
        if value.startswith("~"):  # of a home, which shells leave as it is behind a sign
            value = _HOME.sub(r"'\g<0>'", value)
        adds = "++" * (is_open and ("." in key or value.startswith("{")))  # keys there are the user's
        by_key[named] = f"{typed if of_hydra else adds + key}{equals}{value}"
    return list(by_key.values())


def with_jobs(words: list[str], jobs: int | None) -> list[str]:
    """The overrides with ``--jobs`` as one of them. Raises Refused beside what says it too, or cannot take it."""
    others = [word for word in words if re.match(r"\+*hydra\.launcher\.jobs=|hydra/launcher=(?!local|slurm)", word)]
    if jobs is not None and others:
        raise Refused(f"--jobs {jobs}: not with {others[0]}; leave one out")
    return words + [f"hydra.launcher.jobs={jobs}"] * (jobs is not None)


def _kinds(word: str) -> tuple[Any, ...]:
    """What the value of KEY=VALUE may be: types."""
    from rankwise.config import known_keys

    hint = known_keys().get(word.partition("=")[0], (None,))[0]
    return hint, *get_args(hint)


def _quoted(value: str) -> str:
    """With each text that has letters beyond ASCII, which Hydra takes in quotes alone, in quotes; keys cannot have any.
    A value with signs of Hydra's beside commas and brackets is left as it is.
    """
    if value.isascii() or {*"'\"\\$()"} & {*value}:
        return value
    of_dict = ":" * value.startswith("{")
    text = rf"(?<![^,\[{of_dict}])\s*([^,\[\]{{}}{of_dict}]+?)\s*(?![^,\]}}])"
    return re.sub(text, lambda match: match[0] if match[1].isascii() else f"'{match[1]}'", value)


def _as_text(match: re.Match[str]) -> str:
    """The name of a class as Hydra reads it as a text: in quotes, which a key cannot have; there behind a blank, which
    is none of the name. Null for a class, which leaves rows out, stays null, as do true and false.
    """
    if match[4] == ":":
        name = next(name for name in match.groups() if name is not None)
        return "\\ " + re.sub(r"[\\()\[\]{}:=,\s]", r"\\\g<0>", name)
    word, is_class = (match[3] or "").casefold(), match.string[match.start() - 1] == ":"
    kept = word in ("", "true", "false") or (word == "null" and is_class)
    return match[0] if kept else f"'{match[3]}'"


def _exists(key: str) -> bool:
    """Whether it is a group, a key of the schema, or inside one that holds no other key of it: a mapping."""
    from rankwise.config import known_keys

    known = known_keys()
    above = [own for own in known if key.startswith(f"{own}.")]
    return key in known or key in GROUPS or (any(above) and not any(own.startswith(f"{above[-1]}.") for own in known))


def _check_option(group: str, value: str) -> None:
    """Raises Refused for what is no option's name. Several with commas, functions and dicts are Hydra's to read."""
    none = r"null|true|false|[-+]?[0-9.]+(e[-+]?[0-9]+)?|''|\"\"|"
    if group in OPEN:
        names = [name.strip() for name in value[1:-1].split(",")] if value.startswith("[") else [value]
        odd = [name for name in names if re.fullmatch(rf"{none}|[\[{{].*", name, re.IGNORECASE)]
        if odd and value != "[]" and not value.startswith("{"):
            raise Refused(f"{group}={value}: names of options, as {group}=NAME or {group}=[a,b]; none is {group}=[]")
        return
    none += r"|\[.*\]|\{.*" if group in ("experiment", "debug") else r"|\[.*\]"
    if re.fullmatch(none, value, re.IGNORECASE):
        several = f"; several of them with -m: {group}={value.strip('[]')}" if value.startswith("[") else ""
        if several and group == "targets" and not {*re.findall(r"[\w.]+", value)} & {*options(group)}:
            several = f"; layers by their names are targets=custom targets.modules={value}"
        raise Refused(f"{group}={value}: the name of one option{several}; rankwise train --help lists them")
    experiments = value.startswith("glob(") or "," in value or value.startswith("choice(")
    if group == "experiment" and experiments:
        raise Refused(f"experiment={value}: each is a study of its own; give them one after the other")


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how its line may go on, then exit; of Path arguments are files."""
    import argcomplete

    for action in parser._actions:
        if offered := {"overrides": _offered, "gpu": _gpus}.get(action.dest):
            action.completer = offered  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False, exit_method=sys.exit)


def _gpus(**_: Any) -> list[str]:
    from rankwise.measure.gpus import GPUS

    return list(GPUS)


def _offered(prefix: str, **_: Any) -> list[str]:
    """Config groups and keys that begin so, or the values that a group or a key takes by name; files of a path."""
    from argcomplete.completers import FilesCompleter

    from rankwise.config import known_keys

    known, groups = known_keys(), (*GROUPS, "hydra/launcher", "hydra/sweeper")
    key, equals, value = prefix.partition("=")
    if not equals:
        inner = {name.rpartition(".")[0] for name in known}  # which hold others
        leaves = [f"{name}=" for name in known if name not in inner and ("." in prefix or "." not in name)]
        names = leaves + [f"{group}=" for group in groups] + [f"{name}." for name in inner if name]
        return sorted({name for name in names if name.startswith(prefix) and name != prefix})
    before = f"{key}={value[: value.rfind(',') + 1]}"
    kind, own = known.get(key, (None, None))
    if key == "outputs" or key.endswith(".path"):
        names = list(FilesCompleter()(value))
    elif key in groups:
        names = options(key)
    else:
        names = ["true", "false"] if kind is bool else list(own.metadata.get("names", ())) if own else []
    return [before + name for name in names if (before + name).startswith(prefix)]


def positive(name: str, text: str, least: int = 1) -> int:
    """A whole number of at least 1, or of ``least``. Raises Refused for any other text."""
    if not re.fullmatch("0*[0-9]{1,9}", text, re.ASCII) or int(text) < least:
        raise Refused(f"{name}{' ' if name.startswith('-') else '='}{text}: a number of at least {least}")
    return int(text)


def groups() -> str:
    """Every config group with its options, one line each."""
    return "\n".join(f"  {group + '=':<11}  {' '.join(options(group))}" for group in GROUPS)


def wrapped(text: str, width: int | None = None) -> str:
    """A text for the terminal's width: paragraphs, and lines of lists, which begin with a blank.

    What stands behind two blanks in a line of a list is a column of its own.
    """
    width = width or shutil.get_terminal_size().columns - 2
    lines = []
    for line in re.sub(r"(?<=\S)\n(?=\S)", " ", text).splitlines():
        columns = re.match(r" +(\S.*?  +)?", line)
        indent = min(columns.end(), width // 2) + 2 * (columns[1] is None) if columns else 0
        lines.append(textwrap.fill(line, width, subsequent_indent=" " * indent, break_on_hyphens=False))
    return "\n".join(lines)


class _Help(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return wrapped(text, width)


def parser(
    name: str, description: str, epilog: str | None = None, *, jobs: bool = False, as_json: bool = False
) -> argparse.ArgumentParser:
    """An argument parser of ``rankwise NAME``, with ``--jobs`` where a command runs something, and ``--json``."""
    spec = argparse.ArgumentParser(
        f"rankwise {name}", description=description, epilog=epilog, allow_abbrev=False, formatter_class=_Help
    )
    if jobs:
        about = "runs at once (default: as many as cores, memory and GPUs allow)"
        spec.add_argument("--jobs", type=functools.partial(positive, "--jobs"), metavar="N", help=about)
    if as_json:
        spec.add_argument("--json", action="store_true", help="print one JSON document")
    return spec


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse with one-line errors; positional arguments may stand between the flags."""

    def error(message: str) -> None:
        from rankwise.config import known_keys  # which takes its time

        takes_keys = any(action.dest == "overrides" for action in parser._actions)
        keys = (*known_keys(), *GROUPS) if takes_keys else ()
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        if one := re.fullmatch(r"argument -m/.*: ignored explicit argument '([a-z].*)'", message):
            unknown = f"-m{one[1]}"  # of -method.rank=4
        elif one := re.fullmatch(r"argument (?:.*/)?(--.*): ignored explicit argument '(.*)'", message):
            message = f"{one[1]}={one[2]}: takes no value"
        choices = {argparse._get_action_name(action): list(action.choices or ()) for action in parser._actions}
        if one := re.match(r"argument (\S+): invalid choice: '(.*)' \(choose", message):
            flag = f"{one[1].rpartition('/')[2]}=" * one[1].startswith("-")
            message = f"{flag}{one[2]}: one of {', '.join(choices[one[1]])}{did_you_mean(one[2], choices[one[1]])}"
        elif needed := message.partition("arguments are required: ")[2]:
            named = (
                name + f" (one of {', '.join(choices[name])})" * bool(choices[name]) for name in needed.split(", ")
            )
            message = f"give {', '.join(named)}"
        elif one := re.fullmatch("one of the arguments (.*) is required", message):
            message = f"give one of {', '.join(one[1].split())}"
        near = near_flag(unknown.split("=")[0], parser._option_string_actions, keys)
        surplus = f"{unknown}: one word too many" if unknown else message
        what = f"{unknown}: no such flag{near}" if unknown.startswith("-") else surplus
        raise Refused(f"{parser.prog.removeprefix('rankwise ')}: {what}; see {parser.prog} --help")

    parser.error = error  # type: ignore[method-assign,assignment]
    if SHELL_ASKS in os.environ:
        complete(parser)
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # -1h is a value, to be refused as one
    return parser.parse_intermixed_args(arguments)


def print_json(document: Any) -> None:
    """Print one JSON document; a number that is not finite is null there."""
    from rankwise.tracking.record import finite

    print(json.dumps(finite(document), indent=1))


def write(file: Path, text: str, flag: str = "") -> None:
    """Write a file whole. Raises Refused, which names the flag that asked for it, where it cannot be."""
    from rankwise.tracking.record import write_atomically

    try:
        write_atomically(file, text)
    except OSError as error:
        raise Refused(f"{flag}{file}: cannot be written ({error.strerror or error})") from None


def writable(file: Path, flag: str, remedy: str = "") -> None:
    """Raise Refused, before anything is computed, where ``write`` will not be able to."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=file.absolute().parent):
            why = "a folder" if file.is_dir() else None
    except OSError as error:
        why = error.strerror
    if why:
        raise Refused(f"{flag}{file}: cannot be written ({why}){remedy}")


def show_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], left: int | None = None) -> None:
    """Print rows under bold headers: the first ``left`` columns, or all, are words, the others figures, never cut."""
    from rankwise.report.table import Wide, grid

    table = grid([*headers], [[str(cell) for cell in row] for row in rows], left or len(headers))
    show(Wide(table) if left else table)


def show(renderable: Any) -> None:
    """Print a rich renderable, as wide as the terminal; into a pipe or a file at least 120 columns wide."""
    from rich.console import Console

    terminal = Console()
    width = terminal.width if terminal.is_terminal else max(120, terminal.width)
    Console(width=width, highlight=False).print(renderable)
