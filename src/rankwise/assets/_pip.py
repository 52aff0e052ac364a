"""One archive from the user's package registry, by pip and with pip's own hash checking."""

from __future__ import annotations

import importlib.util
import re
import sys
from contextlib import suppress
from pathlib import Path

from rankwise.assets._cache import no_room
from rankwise.assets._process import REMEDY, Unavailable, run_tool, wrong_hash
from rankwise.config import Package
from rankwise.errors import Refused

_FULL = r"No space left on device|Disk quota exceeded|File too large|not enough space on the disk"
_OFFLINE = r"Could not fetch URL \S+ (?!404 ).* - skipping|incomplete-download|ReadTimeoutError|ConnectionResetError"
_CAUSE = r"\[Errno -?\d+\] [\w ]+|timed out|certificate verify failed|[45]\d\d \w+ Error: [\w ]+|ReadTimeoutError"


def download(package: Package, into: Path, progress: bool) -> Path:
    """Fetch the archive of ``package`` below the existing folder ``into`` and return its path.

    No dependency is fetched, nothing is installed or imported. For a source distribution pip itself runs the metadata
    hook in an isolated environment once the hash is right; it has no option to leave that out (pypa/pip#1884).
    Raises Refused: no pip, wrong hash, no such version, no network, disk full, pip failed.
    """
    title = f"package {package.name} {package.version}"
    if importlib.util.find_spec("pip") is None:
        raise Unavailable(
            f"{title}: {sys.executable} has no pip to fetch it with", f"run python -m ensurepip, or {REMEDY}"
        )
    for name in ("out", "tmp"):
        (into / name).mkdir()
    # pip keeps the user's own index, proxy and certificate settings; it asks nothing and installs nothing
    settings = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_REQUIRE_VIRTUALENV": "0"}
    env = {**settings, "TMPDIR": str(into / "tmp"), "PIP_QUIET": "0", "PIP_VERBOSE": "0"}
    code, output = run_tool(_command(package, into), into, f"fetching {title}", progress, env)
    if code:
        raise _diagnosis(package, title, output, _log(into))
    archive = next((into / "out").iterdir())
    return archive


def _command(package: Package, into: Path) -> list[str]:
    requirements = into / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    # -P: a file called pip.py or logging.py in the working directory is not what we mean.
    # Only this package may come as source: what its build hook needs comes as wheels, not built from source in turn.
    return [
        sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", "--ignore-requires-python",
        "--only-binary", ":all:", *(["--no-binary", package.name] if package.sdist else []),
        "--progress-bar", "off", "--log", str(into / "log"), "--dest", str(into / "out"), "-r", str(requirements),
    ]  # fmt: skip


def _log(into: Path) -> str:
    with suppress(OSError):
        return (into / "log").read_text(errors="replace")
    return ""


def _diagnosis(package: Package, title: str, output: str, log: str) -> Refused:
    """What went wrong, in one line, out of pip's output and its more talkative log."""
    both = f"{output}\n{log}"
    if "DO NOT MATCH THE HASHES" in output:
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return wrong_hash(title, package.sha256, got[1] if got else "another one")
    if full := re.search(_FULL, both):
        return no_room(full[0])
    if offline := re.search(_OFFLINE, both):
        cause = re.findall(_CAUSE, offline[0])
        shown = f" ({cause[-1].strip()})" if cause else ""
        return Unavailable(
            f"{title}: the package index cannot be reached{shown}", f"connect, check pip's index, or {REMEDY}"
        )
    asked = rf"satisfies the requirement {re.escape(package.name)}==.*\(from versions: (.*)\)"
    if versions := re.search(asked, output):
        form = "source distribution" if package.sdist else "wheel for this machine"
        newest = ", ".join(versions[1].split(", ")[-5:])
        return Refused(
            f"{title}: the index has no such {form} (newest: {newest}); correct name or version, or {REMEDY}"
        )
    if re.search(r"BadZipFile|ReadError|is invalid\.|not a gzip file", both):
        return Refused(f"{title}: the registry's archive cannot be read; {REMEDY}")
    errors = [line for line in output.splitlines() if re.match(r"\s*(error|ERROR)\b", line)]
    return Refused(f"{title}: pip failed ({(errors or ['no reason given'])[-1].strip()}); {REMEDY}")
