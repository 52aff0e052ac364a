"""One archive from the user's npm registry, by the npm command."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from rankwise.assets._cache import no_room
from rankwise.assets._process import REMEDY, Unavailable, run_tool
from rankwise.config import Package
from rankwise.errors import Refused

_OFFLINE = r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|CERT_\w+|E50\d"


def download(package: Package, into: Path, progress: bool) -> Path:
    """Fetch the archive of ``package`` below the existing folder ``into`` and return its path.

    Nothing is installed and no script of the package is run. npm keeps the user's own registry and proxy settings.
    Raises Refused: no such version, disk full, npm failed; Unavailable: no npm, no network.
    """
    title = f"package {package.name} {package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable(f"{title}: there is no npm to fetch it with", f"install npm, or {REMEDY}")
    out = into / "out"
    out.mkdir()
    command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--no-update-notifier"]
    # away from the working directory, whose own .npmrc and package.json are not meant
    code, output = run_tool(command, into, f"fetching {title}", progress, {"TMPDIR": str(into)}, cwd=out)
    if code:
        raise _diagnosis(title, output)
    return next(out.glob("*.tgz"))


def _diagnosis(title: str, output: str) -> Refused:
    if "ENOSPC" in output:
        return no_room("ENOSPC")
    if offline := re.search(_OFFLINE, output):
        return Unavailable(
            f"{title}: npm's registry cannot be reached ({offline[0]})", f"connect, check npm's registry, or {REMEDY}"
        )
    if re.search(r"\b(E404|ETARGET)\b", output):
        return Refused(f"{title}: npm's registry has no such version; correct name or version, or {REMEDY}")
    errors = re.findall(r"^npm (?:error|ERR!) (?!code )(.+)", output, re.MULTILINE)
    return Refused(f"{title}: npm failed ({(errors or ['no reason given'])[0].strip()}); {REMEDY}")
