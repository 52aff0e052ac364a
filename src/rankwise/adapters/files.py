"""Folders that are whole or not there: written beside their place, then renamed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rankwise.errors import Refused
from rankwise.paths import readable


def refuse_taken(out: Path) -> None:
    """Refuse a target that holds anything, and one that cannot be made; called before the work starts."""
    out = out.expanduser()
    if out.is_dir() and not out.is_symlink():
        if any(out.iterdir()):
            raise Refused(f"--out {out}: is not empty; give a new folder")
    elif out.exists() or out.is_symlink():
        raise Refused(f"--out {out}: is there already and is no folder")
    above = next((parent for parent in out.absolute().parents if parent.exists()), Path("/"))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise Refused(f"--out {out}: cannot be made in {above}")


@contextlib.contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``out`` when the block ends well, and vanishes otherwise."""
    out = out.expanduser().absolute()
    refuse_taken(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:  # a file system that takes no folders
        raise Refused(f"--out {out}: cannot be made ({error.strerror})") from None
    try:
        yield partial
        readable(partial)
        refuse_taken(out)  # others may have been as slow
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder, its subfolders included."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
