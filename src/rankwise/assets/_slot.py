"""A folder of the cache that is filled once: by one process, whole or not at all."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rankwise.assets._cache import cache_dir, writing_to_cache

_MARKER = ".complete"


def is_whole(slot: Path) -> bool:
    """Whether a folder holds all that it was filled with, by the sizes in its marker."""
    try:
        sizes = json.loads((slot / _MARKER).read_text())
        return all((slot / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def fill_once(slot: Path, doing: str, progress: bool, fill: Callable[[Path, Path], None]) -> Path:
    """``slot``, a folder below the cache's; filled first where it is not whole.

    ``fill(whole, work)`` writes what is to stay into ``whole`` and all else into ``work``, both existing and empty.
    Of two processes one fills and the other waits, and says so. Whatever happens, no half folder stays.
    Raises Refused where the cache cannot be written, and what ``fill`` raises.
    """
    if is_whole(slot):
        return slot
    with writing_to_cache(), _lock(slot, doing, progress):
        if is_whole(slot):  # by another process, while this one waited
            return slot
        work = slot.with_name(f".{slot.name}.partial")
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed: we hold the lock
        try:
            whole = work / "whole"
            whole.mkdir(parents=True)
            fill(whole, work)
            _mark(whole)
            if slot.exists():  # damaged since
                shutil.rmtree(slot)
            whole.rename(slot)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return slot


def _mark(whole: Path) -> None:
    files = [path for path in whole.rglob("*") if path.is_file()]
    sizes = {path.relative_to(whole).as_posix(): path.stat().st_size for path in files}
    (whole / _MARKER).write_text(json.dumps(sizes, indent=1))


@contextmanager
def _lock(slot: Path, doing: str, progress: bool) -> Iterator[None]:
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{slot.parent.name}-{slot.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            print(f"waiting for another process that {doing}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
