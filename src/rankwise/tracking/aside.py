"""What a finished run left, kept while it is run again: its rerun may fail, or be killed."""

import shutil
from pathlib import Path

from rankwise.paths import UNFINISHED
from rankwise.tracking.record import Record, read

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


def put_back(run_folder: Path, rerun: Record | None = None) -> bool:
    """Put what was set aside, the record last, in the place of what a rerun left; whether there was anything.

    The record notes how the rerun ended, where it has told.
    """
    aside = run_folder / FOLDER
    if not holds_result(run_folder):
        return False
    for path in aside.iterdir():
        if path.name != _RECORD:
            if (there := run_folder / path.name).is_dir():
                shutil.rmtree(there)
            path.replace(there)
    (aside / _RECORD).replace(run_folder / "result.json")
    aside.rmdir()
    if rerun:
        record = read(run_folder)
        message = str((rerun.error or {}).get("message", ""))
        record.run |= {"attempts": rerun.run["attempts"], "rerun": {"status": rerun.status, "message": message}}
        record.write()
    return True


def holds_result(run_folder: Path) -> bool:
    """Whether a result is set aside."""
    return (run_folder / FOLDER / _RECORD).exists()


def drop(run_folder: Path) -> None:
    """Remove what was set aside: the rerun has finished."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
