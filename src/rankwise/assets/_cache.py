"""The cache folder, and digests of local files remembered in it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir

from rankwise.errors import Refused

_FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
_SMALL_BYTES = 1 << 20  # hashing less than this costs no more than remembering it
_SETTLED_S = 2.0  # a file younger than this may change again within one tick of its clock


def cache_dir() -> Path:
    """``$RANKWISE_CACHE``, else the user's cache folder of this platform. It need not exist yet."""
    chosen = os.environ.get("RANKWISE_CACHE")
    return (Path(chosen).expanduser() if chosen else Path(user_cache_dir("rankwise"))).absolute()


@contextmanager
def writing_to_cache() -> Iterator[None]:
    """Turn what a disk can refuse (full, read-only, not a folder) into one line. Raises Refused."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # filelock: NotImplementedError where locks do not exist
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) in _FULL:
            raise no_room(reason) from error
        raise Refused(
            f"cache folder {cache_dir()}: cannot be written ({reason}); set RANKWISE_CACHE to a folder that can"
        ) from error


def no_room(reason: str) -> Refused:
    """The error of a full disk or an exceeded quota."""
    return Refused(
        f"cache folder {cache_dir()}: no room ({reason}); nothing was kept: "
        "free some space, or set RANKWISE_CACHE to a folder on another disk"
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hex; for large files remembered by path, size and time of change. Raises OSError."""
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    note = cache_dir() / "digests" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if status.st_size >= _SMALL_BYTES and (known := _read_note(note)):
        return known
    digest = sha256(path)
    if status.st_size >= _SMALL_BYTES and time.time() - status.st_mtime > _SETTLED_S:
        with suppress(OSError):  # only saves time: a read-only cache must not stop a local model
            _write_note(note, digest)
    return digest


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read now. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names and digests of files in a folder, in hex. Raises OSError."""
    lines = [f"{file.relative_to(folder).as_posix()} {file_digest(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def all_files(folder: Path) -> list[Path]:
    """Every file below a folder but hidden ones."""
    return [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]


def _read_note(note: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        text = note.read_text()
        return text if re.fullmatch(r"[0-9a-f]{64}", text) else None
    return None


def _write_note(note: Path, digest: str) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    half = note.with_name(f"{note.name}.{os.getpid()}")
    half.write_text(digest)
    half.replace(note)
