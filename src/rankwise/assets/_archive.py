"""One member, a file or a folder, out of a zip or tar archive, which may lie inside another archive."""

from __future__ import annotations

import difflib
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from rankwise.errors import Refused

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


class _Entry(NamedTuple):
    name: str
    kind: str  # file | folder | other (links, devices)
    open: Callable[[], IO[bytes] | None]


def extract(archive: Path, member: str, into: Path, title: str) -> Path:
    """Write ``member`` into the existing folder ``into`` under its own last name, and return that path.

    ``inner.tar.gz!path`` looks into a nested archive. Only contents are written: no link, device, owner or mode of
    the archive can reach the disk. Raises Refused (member missing, archive unreadable, unsafe names or links), and
    OSError from the disk.
    """
    outer, _, inner = member.partition("!")
    if not inner:
        return _extract_one(archive, outer.strip("/"), into, title)
    nest = into / ".nested"
    nest.mkdir()
    nested = _extract_one(archive, outer.strip("/"), nest, title)
    if not nested.is_file():
        raise Refused(f"{title}: {outer} is a folder, so nothing can be taken out of it with '!'; correct member")
    found = extract(nested, inner, nest, f"{title}: {outer}")
    target = found.rename(into / found.name)
    shutil.rmtree(nest)
    return target


def _extract_one(archive: Path, member: str, into: Path, title: str) -> Path:
    target = into / PurePosixPath(member).name
    with _entries(archive, title) as entries:
        for entry in _select(entries, member, title):
            path = target / entry.name[len(member) + 1 :] if entry.name != member else target
            (path if entry.kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
            if entry.kind == "file" and (source := entry.open()):
                with source, path.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    return target


def _select(entries: list[_Entry], member: str, title: str) -> list[_Entry]:
    """The entries of a member; raises Refused when there are none, or when any cannot be trusted."""
    wanted = [entry for entry in entries if entry.name == member or entry.name.startswith(f"{member}/")]
    unsafe = [entry.name for entry in entries if _escapes(entry.name)]
    if unsafe := unsafe + [entry.name for entry in wanted if entry.kind == "other"]:
        raise Refused(
            f"{title}: the archive holds a path that leads outside, a link or a device ({unsafe[0]}); do not use it"
        )
    if not any(entry.kind == "file" for entry in wanted):
        files = [PurePosixPath(entry.name) for entry in entries]
        paths = {path.as_posix() for file in files for path in (file, *file.parents) if path.name}
        near = difflib.get_close_matches(member, sorted(paths), n=3, cutoff=0.3) or sorted(paths, key=len)[:3]
        raise Refused(f"{title}: no {member} in the archive (it holds {', '.join(near)}); correct member")
    return wanted


def _escapes(name: str) -> bool:
    return bool(re.match(r"[/\\]|[A-Za-z]:[/\\]", name)) or ".." in re.split(r"[/\\]", name)


@contextmanager
def _entries(archive: Path, title: str) -> Iterator[list[_Entry]]:
    """What an open archive holds. Raises Refused when it is neither zip nor tar, or damaged."""
    try:
        # tar first: a tar whose last file is a zip also looks like a zip
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                yield [_tar_entry(tar, info) for info in tar.getmembers()]
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                yield [_zip_entry(bundle, info) for info in bundle.infolist()]
        else:
            raise Refused(f"{title}: neither a zip nor a tar archive; correct member")
    except (*_BROKEN, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk; a damaged gzip stream raises OSError without one
            raise
        raise Refused(f"{title}: the archive cannot be read ({error}); fetch again, or correct member") from error


def _tar_entry(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Entry:
    kind = "file" if info.isreg() else "folder" if info.isdir() else "other"
    return _Entry(_plain(info.name), kind, lambda: tar.extractfile(info))


def _zip_entry(bundle: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry:
    mode = stat.S_IFMT(info.external_attr >> 16)
    kind = "folder" if info.is_dir() else "file" if mode in (0, stat.S_IFREG) else "other"
    return _Entry(_plain(info.filename), kind, lambda: bundle.open(info))


def _plain(name: str) -> str:
    return name.removeprefix("./").rstrip("/")
