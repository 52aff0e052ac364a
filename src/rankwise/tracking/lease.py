"""Who is at a run: a lock of the kernel and, beside it, a lease that other machines can read.

The kernel drops a lock when its owner dies, but some shared file systems have no locks, and on others a lock holds on
one machine only. A lease is a file that names its owner's host and process, and that the owner touches while it lives.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil

RENEW_S = 30.0
STALE_S = 300.0  # an owner that has not renewed its lease for so long is gone; NFS shows a file's time up to 60 s late
LOCK, LEASE = ".lock", ".lease"


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[bool]:
    """Hold the run's folder for writing; yields False when another process has it, here or on another machine.

    A process that is gone holds nothing: at once where it was of this host, after ``STALE_S`` elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:  # closing it lets go
        deadline = time.monotonic() + 0.5  # a reader that looks for an owner is soon gone
        while (lock := _locked(file, fcntl.LOCK_EX)) is False and time.monotonic() < deadline:
            time.sleep(0.01)
        mine = None if lock is False else _take(folder / LEASE, lock is not None)
        if mine is None:
            file.close()
            yield False
            return
        ended = threading.Event()
        threading.Thread(target=_renew, args=(folder / LEASE, mine, ended), name="lease", daemon=True).start()
        try:
            yield True
        finally:
            ended.set()
            if _read(folder / LEASE) == mine:
                (folder / LEASE).unlink(missing_ok=True)


def is_live(folder: Path) -> bool:
    """Whether some process holds the run's folder now."""
    try:
        with (folder / LOCK).open() as file:
            free = _locked(file, fcntl.LOCK_SH)  # shared: readers do not take each other for the owner
    except FileNotFoundError:
        return False
    except OSError:  # not ours to read
        free = None
    return free is False or _holds(folder / LEASE, free is not None)


def _locked(file: IO[str], kind: int) -> bool | None:
    """Lock the file; False where another has it, None where the file system has no locks, or none that exclude."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    try:
        with open(file.name) as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which must not be had
    except OSError:
        return True
    return None


def _take(lease: Path, locked: bool) -> str | None:
    """Write a lease of this process, unless another's holds; returns its text. ``locked``: the kernel's is ours."""
    token = secrets.token_hex(8)
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": token})
    own = lease.with_name(f"{LEASE}.{token}")
    try:
        own.write_text(text)
        _link(own, lease)
        if (theirs := _read(lease)) != text and not _holds(lease, locked):
            _take_over(own, lease, theirs)
        return text if _read(lease) == text else None
    finally:
        own.unlink(missing_ok=True)


def _take_over(own: Path, lease: Path, theirs: str | None) -> None:
    """Put ``own`` in the place of a lease that does not hold. Only one of those that try gets the claim on it."""
    claim = lease.with_name(f"{LEASE}.after.{_owner(theirs).get('token')}")
    if _age_s(claim) > STALE_S:  # of one that died between two lines of this function
        claim.unlink(missing_ok=True)
    _link(own, claim)
    if _read(claim) == own.read_text():
        if theirs is None:  # it has just gone
            _link(own, lease)
        elif _read(lease) == theirs:
            own.replace(lease)
        claim.unlink(missing_ok=True)


def _link(own: Path, name: Path) -> None:
    """Give a file another name, unless that is taken: in one step, on NFS, too. Read it to see whose it is."""
    try:
        os.link(own, name)
    except FileExistsError:
        pass
    except OSError:  # no hard links, as on exFAT
        with contextlib.suppress(FileExistsError), name.open("x") as file:
            file.write(own.read_text())


def _holds(lease: Path, locks: bool) -> bool:
    """Whether the lease's owner lives. ``locks``: the kernel's lock was free, so that nobody of this host has it."""
    owner = _owner(_read(lease))
    if owner.get("host") == socket.gethostname() and (locks or not psutil.pid_exists(int(owner["pid"]))):
        return False
    return _age_s(lease) < STALE_S


def _age_s(path: Path) -> float:
    """Seconds since the file was renewed, by the clock of the file system's server; without end where there is none."""
    try:
        renewed = path.stat().st_mtime
    except OSError:
        return float("inf")
    try:
        with tempfile.TemporaryFile(dir=path.parent) as new:
            return os.fstat(new.fileno()).st_mtime - renewed
    except OSError:  # a folder that may only be read
        return time.time() - renewed


def _renew(lease: Path, mine: str, ended: threading.Event) -> None:
    """Touch the lease until the run has ended. Where another has it now (this machine slept), stop this run."""
    while not ended.wait(RENEW_S):
        with contextlib.suppress(OSError):
            if _read(lease) == mine:
                os.utime(lease)
            elif lease.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _read(lease: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return lease.read_text()
    return None


def _owner(text: str | None) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        owner = json.loads(text or "")
        if isinstance(owner, dict) and isinstance(pid := owner.get("pid"), int) and str(owner.get("token")).isalnum():
            return owner if 0 < pid < 2**31 else {}
    return {}
