"""Where rankwise's own files are."""

import contextlib
import os
import stat
from pathlib import Path

# What lies in the folder of a run until it is finished, and as large as what it trains or larger.
CHECKPOINTS = ("checkpoint.ckpt", "checkpoint.earlier.ckpt")  # the last, and the one before
UNFINISHED = ("best.safetensors", "best.partial", *CHECKPOINTS, "checkpoint.partial")

# What lies there from the start.
WRITTEN_FIRST = ("config.yaml", "metrics.jsonl", "result.json", ".lock", ".lease")


def conf_dir() -> Path:
    """The Hydra tree: beside the package in a wheel, two levels up in a checkout (never a stale copy by name)."""
    here = Path(__file__).resolve()
    return next(path for path in (here.parent / "conf", here.parents[2] / "conf") if (path / "config.yaml").is_file())


def options(group: str) -> list[str]:
    """The options of a config group, those in ``./conf`` too."""
    trees = [tree / group for tree in (conf_dir(), Path("conf"))]
    files = [(tree, path) for tree in trees for path in tree.rglob("*.yaml") if not path.stem.startswith("_")]
    return sorted({path.relative_to(tree).with_suffix("").as_posix() for tree, path in files})  # _base is no choice


def readable(folder: Path) -> None:
    """Open a folder to others as far as the umask allows: safetensors writes files for their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(OSError):  # not every disk knows permissions
            path.chmod(stat.S_IMODE(path.stat().st_mode) | ((0o777 if path.is_dir() else 0o666) & ~mask))
