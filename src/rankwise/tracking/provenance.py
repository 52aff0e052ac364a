"""Where a result comes from: code, packages, machine."""

import functools
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rankwise import machine
from rankwise.tracking.groups import Provenance

COMMAND = "RANKWISE_COMMAND"  # in the environment of a study's processes: what the user typed
PACKAGES = (
    *("rankwise", "torch", "lightning", "transformers", "peft", "datasets", "hydra-core", "wandb", "numpy"),
    "scikit-learn",
)


def provenance(*others: str | None) -> Provenance:
    """Versions, of ``others`` too, hardware, a fingerprint of rankwise's own source, the git state of the folder."""
    return {
        "command": os.environ.get(COMMAND) or command(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in (*PACKAGES, *others) if name},
        "hardware": machine.hardware(),
        "code": code_fingerprint(),
        "git": _git(Path.cwd()),
    }


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 (16 hex digits) of the installed package's Python files, by path."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def command() -> str:
    """This process's command line, as a shell takes it."""
    words = [Path(word).name for word in sys.orig_argv]
    if "rankwise" in words:  # Hydra changes sys.argv
        return shlex.join(["rankwise", *sys.orig_argv[words.index("rankwise") + 1 :]])
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _git(folder: Path) -> dict[str, str] | None:
    """Commit and a hash of what differs from it (null when clean); None outside a repository."""
    try:
        commit = _run_git(folder, "rev-parse", "HEAD").decode().strip()
        keys = _run_git(folder, "config", "--name-only", "--list").decode().splitlines()
        filters = [key for key in keys if re.fullmatch(r"filter\..*\.(clean|smudge|process|required)", key)]
        options = ("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")
        difference = _run_git(folder, *options, off=filters)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit} | ({"diff": hashlib.sha256(difference).hexdigest()[:16]} if difference else {})


def _run_git(folder: Path, *arguments: str, off: Sequence[str] = ()) -> bytes:
    """What git says, without a program that the repository's own settings name: it may be somebody else's."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    start = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    for number, key in enumerate(("core.fsmonitor", *off), start):  # -c cannot say a key with "=" in it
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": ""}
    environment["GIT_CONFIG_COUNT"] = str(start + 1 + len(off))
    command = ["git", "--no-pager", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True, timeout=10).stdout


def installed(name: str) -> str | None:
    """The version of a package, if it is there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
