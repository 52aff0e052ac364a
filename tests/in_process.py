"""A command in the test's own process: what another spends on imports is many times the rest."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from rankwise.cli import main
from rankwise.forks import fork_server


@pytest.fixture(scope="module", autouse=True)
def one_server() -> Iterator[None]:
    """Studies of one file of tests fork their runs from one server."""
    with fork_server.kept():
        yield


def rankwise(folder: Path, *arguments: object) -> CompletedProcess[str]:
    """The command in this folder, with no terminal."""
    said, told = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        code = main([str(argument) for argument in arguments])
    return CompletedProcess(arguments, code, said.getvalue(), told.getvalue())
