"""Zip and tar archives: one member, a file or a folder, which may lie in an archive inside, or all of them."""

import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rankwise.assets._cache import cache_dir, file_digest, fill_once
from rankwise.errors import Refused, did_you_mean

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:[/\\]|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)

_ENDINGS = tuple(ending for _, endings, _ in shutil.get_unpack_formats() for ending in endings)  # .zip, .tar.gz, …


def unpacked(path: Path) -> Path:
    """The folder of an archive's files, in the cache, or the only file in it; any other path as it is.

    Raises Refused for an archive that is broken or unsafe.
    """
    if path.is_dir() or not path.name.lower().endswith(_ENDINGS):
        return path

    def fill(whole: Path, _: Path) -> None:
        _unpack(path, "", whole, f"task.path={path}")
        shutil.rmtree(whole / "__MACOSX", ignore_errors=True)

    inside = fill_once(cache_dir() / "archives" / file_digest(path)[:32], f"unpacks {path.name}", fill)
    while inside.is_dir() and len(entries := [entry for entry in inside.iterdir() if entry.name[0] != "."]) == 1:
        inside = entries[0]
    return inside


def extract(archive: Path, member: str, into: Path, title: str) -> Path:
    """Write ``member`` into the existing folder ``into`` under its own last name, and return that path.

    ``inner.tar.gz!path`` looks into a nested archive. Only contents are written: no link or device of the archive can
    reach the disk. Raises Refused (member missing, archive unreadable, unsafe names or links), and OSError from the
    disk.
    """
    outer, _, inner = member.partition("!")
    outer = outer.strip("/")
    with tempfile.TemporaryDirectory(dir=into) as folder:
        names = _unpack(archive, outer, Path(folder), title)
        unpacked = Path(folder) / outer
        if not unpacked.exists() or (unpacked.is_dir() and not any(path.is_file() for path in unpacked.rglob("*"))):
            paths = {str(path) for name in names for path in (PurePosixPath(name), *PurePosixPath(name).parents)}
            raise Refused(f"{title}: no {outer} in the archive{did_you_mean(outer, paths)}; correct member")
        if not inner:
            return unpacked.rename(into / unpacked.name)
        if unpacked.is_dir():
            raise Refused(f"{title}: {outer} is a folder, so nothing can be taken out of it with '!'; correct member")
        return extract(unpacked, inner, into, f"{title}: {outer}")


def _unpack(archive: Path, member: str, folder: Path, title: str) -> list[str]:
    """Write the member's entries, of "" all, below ``folder``; the names of all. Raises Refused as ``extract``."""
    remedy = "fetch again, or correct member" if member else "get it again, or give what is in it"
    try:
        # tar first: a tar whose last file is a zip also looks like a zip
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                infos = {info.name: info for info in tar}
                plain = {name: info.isreg() or info.isdir() for name, info in infos.items()}
                wanted = _wanted(plain, member, title)
                tar.extractall(folder, [infos[name] for name in wanted], filter="data")
                return list(infos)
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                modes = {info.filename: stat.S_IFMT(info.external_attr >> 16) for info in bundle.infolist()}
                plain = {name: mode in (0, stat.S_IFREG, stat.S_IFDIR) for name, mode in modes.items()}
                bundle.extractall(folder, _wanted(plain, member, title))
                return list(modes)
    except (*_BROKEN, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk; a damaged gzip stream raises OSError without one
            raise
        raise Refused(f"{title}: the archive cannot be read ({error}); {remedy}") from error
    raise Refused(f"{title}: neither a zip nor a tar archive; {remedy}")


def _wanted(plain: dict[str, bool], member: str, title: str) -> list[str]:
    """The names that belong to a member. Raises Refused when any cannot be trusted; ``plain`` is a file or folder."""
    start = f"{member}/" if member else ""
    wanted = [name for name in plain if f"{name.removeprefix('./').rstrip('/')}/".startswith(start)]
    unsafe = [name for name in plain if _OUTSIDE.match(name)] + [name for name in wanted if not plain[name]]
    if unsafe:
        reason = f"the archive holds a path that leads outside, a link or a device ({unsafe[0]})"
        raise Refused(f"{title}: {reason}; do not use it")
    return wanted
