"""What a finished run left, kept while it is run again: its rerun may fail, or be killed."""

import shutil
from pathlib import Path

from rankwise.paths import UNFINISHED

FOLDER, _RECORD = "earlier", "record.json"  # by this name no reader takes it for a run
_NOT_RESULTS = ("log", ".lock", ".lease", *UNFINISHED)  # from the last, a rerun that was stopped goes on


def set_aside(run_folder: Path) -> None:
    """Move the files of the run, its record first, and its adapter; other folders are what others made of them."""
    aside = run_folder / FOLDER
    aside.mkdir(exist_ok=True)
    (run_folder / "result.json").replace(aside / _RECORD)
    for path in run_folder.iterdir():
        if path.name == "adapter" or (path.is_file() and path.name not in _NOT_RESULTS):
            path.replace(aside / path.name)


def put_back(run_folder: Path) -> bool:
    """Put what was set aside, the record last, in the place of what a rerun left; whether there was anything."""
    aside = run_folder / FOLDER
    if not (aside / _RECORD).exists():
        return False
    for path in aside.iterdir():
        if path.name != _RECORD:
            if (there := run_folder / path.name).is_dir():
                shutil.rmtree(there)
            path.replace(there)
    (aside / _RECORD).replace(run_folder / "result.json")
    aside.rmdir()
    return True


def drop(run_folder: Path) -> None:
    """Remove what was set aside: the rerun has finished."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
