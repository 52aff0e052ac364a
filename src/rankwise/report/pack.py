"""A study in one file: what a stranger needs to see the same page, and to run any of its runs again."""

import functools
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

from rankwise.errors import Refused
from rankwise.tracking.fields import at
from rankwise.tracking.record import Record, find, whole

_OF_RUN = ("result.json", "config.yaml", "metrics.jsonl", "predictions.parquet", "harness/*.parquet")
_OURS = (*_OF_RUN, "answer-*.json", "analysis/*.json")  # the last two of a study
_PLACES = (
    *("config.task.path", "config.model.path", "config.forgetting.path", "config.method.init_from"),
    *("provenance.data.source", "provenance.model.source"),
)
_LARGEST_BYTES = 2**33  # unpacked: what no study of records and predictions reaches
_READ_ME = """# {names}

`rankwise report {file}` shows this study, as `rankwise report` of its folder did where it was made.

One run again, in an environment with the versions of `requirements.txt` and rankwise itself (source {codes}),
with RUN and THREADS from the table:

```
unzip {file} -d packet
rankwise train --config packet/RUN/config.yaml outputs=again trainer.threads=THREADS
```

On the same kind of machine its numbers are the same; the record's `provenance` says which machine that was. Data of
your own, which are not in here, are looked for by their name (`task.path`), and weights are not in here either.

| run | threads | command of the study |
| --- | --- | --- |
{rows}
"""


def pack(paths: list[Path], file: Path) -> int:
    """Write records, configs, curves and predictions of studies, versions and commands into a zip; returns how many.

    Raises Refused for a file that is no .zip, exists or cannot be written, and for paths without runs.
    """
    if file.suffix != ".zip":
        raise Refused(f"--pack {file}: give a file that ends in .zip, by which report knows a packet")
    records = find(paths)
    if file.exists():
        raise Refused(f"--pack {file}: exists; give another file")
    runs = [record.folder.resolve() for record in records]
    studies = sorted({run.parent for run in runs})
    homes = {study: study.name if len(studies) == 1 else f"{i}-{study.name}" for i, study in enumerate(studies)}
    places = {run: f"{homes[run.parent]}/{run.name}" for run in runs}
    elsewhere = _elsewhere(records)
    try:
        # Of a file before 1980, which a zip has no date for, it says 1980.
        with whole(file) as part, zipfile.ZipFile(part, "x", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for folder, place in (places | homes).items():
                for path in sorted(path for pattern in _OURS for path in folder.glob(pattern)):
                    name = f"{place}/{path.relative_to(folder)}"
                    if path.name in ("result.json", "config.yaml"):
                        archive.writestr(name, elsewhere(path.read_text(encoding="utf-8")))
                    else:
                        archive.write(path, name)
            archive.writestr("README.md", elsewhere(_read_me(records, places, file)))
            archive.writestr("requirements.txt", "\n".join(_versions(records)) + "\n")
    except OSError as error:
        raise Refused(f"--pack {file}: cannot be written ({error.strerror or error})") from None
    return len(records)


def _elsewhere(records: list[Record]) -> Callable[[str], str]:
    """Puts, in a text, for paths of this machine their names, or as much of their ends as tells them apart."""
    known = {str(at(record, key)) for record in records for key in _PLACES}
    paths = sorted((path for path in known if Path(path).expanduser().is_absolute()), key=len, reverse=True)
    ends = (["/".join(Path(path).parts[-n:]) for path in paths] for n in itertools.count(1))
    named = zip(paths, next(end for end in ends if len({*end}) == len(paths)), strict=True)
    names = {written: name for path, name in named for written in (path, json.dumps(path)[1:-1])}
    return lambda text: functools.reduce(lambda so_far, path: so_far.replace(path, names[path]), names, text)


@contextmanager
def unpacked(paths: list[Path]) -> Iterator[list[Path]]:
    """The paths, those that are packets as folders that last as long as this.

    Raises Refused for a zip that is none of ours.
    """
    with tempfile.TemporaryDirectory(prefix="rankwise-packet-") as folder:
        yield [_unpack(path, Path(folder) / str(i)) if is_packet(path) else path for i, path in enumerate(paths)]


def is_packet(path: Path) -> bool:
    return path.suffix == ".zip" and path.is_file()


def _unpack(file: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if _is_ours(info.filename)]
            if not members:
                raise Refused(f"{file}: holds no runs; give a file of rankwise report --pack")
            if sum(info.file_size for info in members) > _LARGEST_BYTES:
                raise Refused(f"{file}: unpacks to more than {_LARGEST_BYTES >> 30} GiB; no packet does")
            for info in members:
                archive.extract(info, folder)
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, OverflowError) as error:
        raise Refused(f"{file}: cannot be read as a zip ({error})") from None
    return folder


def _is_ours(name: str) -> bool:
    """Whether a member is a file of a run or study, inside its own folder."""
    parts = PurePosixPath(name).parts
    inside = ".." not in parts and not name.startswith("/") and "\\" not in name and 1 < len(parts) < 5
    return inside and any(fnmatch(parts[-1], pattern.rpartition("/")[2]) for pattern in _OURS)


def _read_me(records: list[Record], places: dict[Path, str], file: Path) -> str:
    names = sorted({str(record.run["study"]) for record in records})
    codes = sorted({str(record.provenance.get("code")) for record in records})
    rows = []
    for record, place in zip(records, places.values(), strict=True):
        command = str(record.provenance.get("command", "")).replace("\n", " ")
        rows.append(f"| {place} | {record.compute.get('threads') or 'null'} | `{command}` |")
    return _READ_ME.format(names=", ".join(names), file=file.name, codes=", ".join(codes), rows="\n".join(rows))


def _versions(records: list[Record]) -> list[str]:
    """What the runs had and, of what they do not name, this environment, as pip would install it: without rankwise,
    which no index may have, and marks of a build."""
    installed = {one.metadata["Name"]: one.version for one in distributions()}
    for record in records:
        installed |= {name: has for name, has in record.provenance.get("packages", {}).items() if has}
    return sorted(
        (f"{name}=={has.partition('+')[0]}" for name, has in installed.items() if name != "rankwise"), key=str.lower
    )
