"""A file or folder of a Debian package: the installed one, else out of an archive that apt fetches."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from rankwise.assets._cache import all_files, file_digest, folder_digest, no_room
from rankwise.assets._process import REMEDY, Unavailable, run_tool
from rankwise.config import Package
from rankwise.errors import Refused


def unpacked(package: Package, into: Path, progress: bool) -> Path:
    """Where the package's member is: below ``/`` if installed so, else unpacked below the existing folder ``into``.

    Nothing is installed. apt checks the archive against its release's signature.
    Raises Refused: no such member, disk full, apt failed; Unavailable: no apt, no such package, no network.
    """
    installed = Path("/") / package.member
    if installed.exists() and digest(installed) == package.sha256:
        return installed
    title = f"package {package.name} {package.version}"
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if not (apt and dpkg):
        raise Unavailable(f"{title}: there is no apt-get to fetch it with", REMEDY)
    out, tree = into / "out", into / "tree"
    out.mkdir()
    code, output = run_tool([apt, "download", package.name], into, f"fetching {title}", progress, {"LC_ALL": "C"}, out)
    if code:
        raise _diagnosis(title, output)
    code, output = run_tool([dpkg, "-x", str(next(out.glob("*.deb"))), str(tree)], into, title, False, {"LC_ALL": "C"})
    if code:
        raise _diagnosis(title, output)
    member = tree / package.member
    if not member.exists() or tree.resolve() not in member.resolve().parents:
        raise Refused(f"{title}: no {package.member} in the archive; correct member")
    return member


def digest(member: Path) -> str:
    """SHA-256 of a file, or of the names and digests of a folder's files: what ``Package.sha256`` is of Debian's."""
    return folder_digest(member, all_files(member)) if member.is_dir() else file_digest(member)


def _diagnosis(title: str, output: str) -> Refused:
    if full := re.search(r"No space left on device|Disk quota exceeded", output):
        return no_room(full[0])
    errors = re.findall(r"^(?:E|dpkg-deb: error): (.+)", output, re.MULTILINE)
    reason = (errors or ["no reason given"])[0].strip()
    return Unavailable(f"{title}: apt-get cannot fetch it ({reason})", f"run apt-get update, or {REMEDY}")
