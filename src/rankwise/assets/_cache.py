"""The cache folder, folders in it that are filled once, and digests of files remembered in it."""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout
from platformdirs import user_cache_dir

from rankwise.errors import Refused

_MARKER = ".sha256"
_FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
_SMALL_BYTES = 1 << 20  # hashing less than this costs no more than remembering it
_SETTLED_S = 2.0  # a file younger than this may change again within one tick of its clock


def cache_dir() -> Path:
    """``$RANKWISE_CACHE``, else the user's cache folder of this platform. It need not exist yet.

    Raises Refused for a user without a home.
    """
    chosen = os.environ.get("RANKWISE_CACHE")
    try:
        return (Path(chosen).expanduser() if chosen else Path(user_cache_dir("rankwise"))).absolute()
    except RuntimeError:
        raise Refused("cache: this user has no home folder; set RANKWISE_CACHE, or HOME, to a folder") from None


def is_whole(slot: Path) -> bool:
    """Whether a folder holds what it was filled with, to the byte."""
    try:
        digests = json.loads((slot / _MARKER).read_text())
        return all(file_digest(slot / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def fill_once(slot: Path, doing: str, fill: Callable[[Path, Path], None]) -> Path:
    """``slot``, a folder below the cache's; filled first where it is not whole.

    ``fill(whole, work)`` writes what is to stay into ``whole`` and all else into ``work``, both existing and empty.
    Of two processes one fills and the other waits, and says so. Whatever happens, no half folder stays.
    Raises Refused where the cache cannot be written, and what ``fill`` raises.
    """
    if is_whole(slot):
        return slot
    with _writing(), _lock(slot, doing):
        if is_whole(slot):  # by another process, while this one waited
            return slot
        work = slot.with_name(f".{slot.name}.partial")
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed: we hold the lock
        try:
            whole = work / "whole"
            whole.mkdir(parents=True)
            fill(whole, work)
            files = [path for path in whole.rglob("*") if path.is_file()]
            digests = {path.relative_to(whole).as_posix(): sha256(path) for path in files}
            (whole / _MARKER).write_text(json.dumps(digests, indent=1))
            if slot.exists():  # damaged since
                shutil.rmtree(slot)
            whole.rename(slot)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return slot


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read now. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hex; for large files remembered until the file changes. Raises OSError.

    A change is seen by the time of the inode's change, which no program can set back.
    """
    status = path.stat()
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    key = f"{path.resolve()}|{status.st_ino}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
    if status.st_size < _SMALL_BYTES:
        return sha256(path)
    try:
        note = cache_dir() / "digests" / hashlib.sha256(key.encode()).hexdigest()[:32]
    except Refused:
        return sha256(path)
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{64}", known := note.read_text()):
            return known
    digest = sha256(path)
    if time.time() - changed_ns / 1e9 > _SETTLED_S:
        with suppress(OSError):  # only saves time: a read-only cache must not stop a local model
            note.parent.mkdir(parents=True, exist_ok=True)
            half = note.with_name(f"{note.name}.{os.getpid()}")
            half.write_text(digest)
            half.replace(note)
    return digest


@contextmanager
def _writing() -> Iterator[None]:
    """Turn what a disk can refuse (full, read-only, not a folder) into one line. Raises Refused."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # filelock: NotImplementedError where locks do not exist
        reason, folder = getattr(error, "strerror", None) or str(error), f"cache folder {cache_dir()}"
        if getattr(error, "errno", None) in _FULL:
            remedy = "nothing was kept: free some space, or set RANKWISE_CACHE to a folder on another disk"
            raise Refused(f"{folder}: no room ({reason}); {remedy}") from error
        raise Refused(f"{folder}: cannot be written ({reason}); set RANKWISE_CACHE to a folder that can") from error


def _lock(slot: Path, doing: str) -> AcquireReturnProxy:
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{slot.parent.name}-{slot.name}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that {doing}", file=sys.stderr)
        return lock.acquire()
