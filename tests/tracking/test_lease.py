"""Who is at a run, on file systems with locks, without, and with locks that hold on one machine only."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankwise.tracking import lease
from rankwise.tracking.lease import LEASE, STALE_S, is_live, owned
from rankwise.tracking.record import begin, read

FLOCK = """
#include <errno.h>
#include <stdlib.h>
int flock(int fd, int kind) { errno = atoi(getenv("FLOCK_ERRNO")); return errno ? -1 : 0; }
"""
HOLD = """
import sys
from pathlib import Path
from rankwise.tracking import lease
from rankwise.tracking.lease import is_live, owned
lease.RENEW_S = 0.01
folder = Path(sys.argv[1])
print(is_live(folder), flush=True)
with owned(folder) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def no_flock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that answers flock with the error number of the environment; 0: with yes, to everybody."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("flock") / "flock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-xc", "-", "-o", library], input=FLOCK, text=True, check=True)
    return str(library)


@pytest.fixture(params=[None, 38, 37, 0], ids=["locks", "Lustre", "NFS", "one machine's"])
def begun(request: pytest.FixtureRequest) -> Iterator[Begin]:
    """Starts a process that asks for a folder and keeps it until its input ends, as if it were on ``host``."""
    environment, processes = dict(os.environ), []
    if request.param is not None:
        library = request.getfixturevalue("no_flock")
        environment |= {"LD_PRELOAD": library, "FLOCK_ERRNO": str(request.param)}

    def start(folder: Path, host: str = "a") -> subprocess.Popen[str]:
        script = f"import socket; socket.gethostname = lambda: {host!r}\n{HOLD}"
        command = [sys.executable, "-c", script, str(folder)]
        processes.append(
            subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Whether the process saw an owner, and whether it became it."""
    assert process.stdout
    return process.stdout.readline().strip(), process.stdout.readline().strip()


def test_one_process_has_a_run_whatever_locks_there_are(begun, tmp_path):
    first = begun(tmp_path)
    assert said(first) == ("False", "True")
    assert said(begun(tmp_path)) == ("True", "False")
    assert said(begun(tmp_path, "b")) == ("True", "False")
    first.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]
    second = begun(tmp_path, "b")
    assert said(second) == ("False", "True")
    second.kill()
    second.wait()
    third = begun(tmp_path, "b")
    assert said(third) == ("False", "True"), "the same machine sees that the process is gone"
    (tmp_path / "other").write_text("{}")
    (tmp_path / "other").replace(tmp_path / LEASE)
    assert third.wait(60) == -signal.SIGTERM, "another has it now"


def test_of_many_that_take_a_dead_machines_run_one_gets_it(begun, tmp_path):
    dead = begun(tmp_path)
    assert said(dead) == ("False", "True")
    dead.kill()
    dead.wait()
    assert said(begun(tmp_path, "b")) == ("True", "False"), "from another machine it may be alive"
    long_ago = time.time() - STALE_S - 1
    os.utime(tmp_path / LEASE, (long_ago, long_ago))
    answers = [said(process)[1] for process in [begun(tmp_path, host) for host in "bcde"]]
    assert sorted(answers) == ["False", "False", "False", "True"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEASE, ".lock"]


def test_a_run_that_trains_on_another_machine_is_running(tiny):
    record = begin(tiny(), None)
    record.write()
    (record.folder / ".lock").touch()
    held = {"host": socket.gethostname() + "-2", "pid": 1, "token": "x"}
    (record.folder / LEASE).write_text(json.dumps(held))
    assert read(record.folder).status == "running"
    with owned(record.folder) as mine:
        assert not mine
    (record.folder / LEASE).write_text(json.dumps(held | {"host": socket.gethostname()}))
    assert read(record.folder).status == "stopped", "nobody of this machine has the lock"


def test_an_owner_renews_its_lease_and_stops_where_another_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    stopped: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    with owned(tmp_path) as mine:
        assert mine
        os.utime(tmp_path / LEASE, (0, 0))
        deadline = time.monotonic() + 60
        while (tmp_path / LEASE).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_live(tmp_path) and time.time() - (tmp_path / LEASE).stat().st_mtime < 60
        (tmp_path / "other").write_text("{}")
        (tmp_path / "other").replace(tmp_path / LEASE)
        while not stopped and time.monotonic() < deadline:
            time.sleep(0.01)
    signal.signal(signal.SIGTERM, before)
    assert stopped == [signal.SIGTERM] and (tmp_path / LEASE).read_text() == "{}"


def test_no_hard_links_are_needed(tmp_path, monkeypatch):
    def link(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    with owned(tmp_path) as mine, owned(tmp_path) as also:
        assert mine and not also


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"pid": 1e99}', '{"host": "x", "pid": 1, "token": "../../x"}'])
def test_a_strangers_lease_is_read_without_harm_and_taken_over_when_stale(text, tmp_path):
    folder = tmp_path / "study" / "run"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    for written in (text, f'{{"host": "{socket.gethostname()}", "pid": {10**30}, "token": "a"}}'):
        (folder / LEASE).write_text(written)
        assert is_live(folder)
        os.utime(folder / LEASE, (0, time.time() - 2 * STALE_S))
        assert not is_live(folder)
        with owned(folder) as mine:
            assert mine
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]
