"""The record: always whole, honest about who is at it, and readable by others."""

import json
import math
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rankwise.compare import unlike
from rankwise.config import Config, plain
from rankwise.errors import Refused
from rankwise.identity import folder, run_id
from rankwise.metrics import named
from rankwise.report.report import find_all
from rankwise.tracking import predictions, provenance
from rankwise.tracking.lease import is_live, owned
from rankwise.tracking.record import Record, begin, find, read, revise, write_atomically


def finished(config: Config, **groups: Any) -> Record:
    record = begin(config, None)
    record.run["status"] = "finished"
    for name, value in groups.items():
        setattr(record, name, value)
    record.write()
    return record


def change(record: Record, **values: Any) -> Path:
    """Set keys of a written record's file."""
    path = record.folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return record.folder


def test_a_record_comes_back_as_it_was_written(tiny):
    config = tiny()
    record = finished(config, params={"total": 3}, objective=0.5, error={"type": "E", "message": "é"})
    assert record.folder == folder(config)
    again = read(folder(config))
    assert again == record and again.folder == record.folder
    assert again.run["id"] == run_id(config) and again.config == plain(config)
    assert "folder" not in json.loads((folder(config) / "result.json").read_text())


def test_numbers_that_are_not_finite_are_null_at_any_depth(tiny):
    record = finished(
        tiny(), objective=math.nan, metrics={"curve": [{"loss": math.inf}, {"loss": np.float64("nan")}], "n": (1, 2.5)}
    )
    stored = json.loads((record.folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert stored["objective"] is None
    assert stored["metrics"] == {"curve": [{"loss": None}, {"loss": None}], "n": [1, 2.5]}


def test_the_time_of_attempts_that_did_not_end_is_added_up(tiny):
    first = begin(tiny(), None)
    assert first.compute == {}
    second = begin(tiny(), first)  # that was killed
    assert second.compute == {"seconds": {"total_s": 0}}
    second.compute["seconds"] = {"load_s": 2.0, "total_s": 130.0}  # it could still say so, when it was stopped
    second.run["status"] = "stopped"
    third = begin(tiny(), second)
    assert third.compute == {"seconds": {"total_s": 130.0}}
    third.run["status"] = "finished"
    assert begin(tiny(), third).compute == {}
    assert first.status == "running" and first.run["pid"] == os.getpid() and first.run["ended"] is None


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "result.json"
    write_atomically(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(target, "new \ud800")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "text")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "result.json"]
    assert list((tmp_path / "folder").iterdir()) == []
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_reader_never_sees_a_part(tmp_path):
    target, seen = tmp_path / "a" / "file.json", set()
    texts = [json.dumps([number] * 20_000) for number in range(40)]
    write_atomically(target, texts[0])
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(target.read_text())

    reader = threading.Thread(target=watch)
    reader.start()
    for text in texts:
        write_atomically(target, text)
    done.set()
    reader.join()
    assert seen and seen <= set(texts)


def test_a_running_record_without_a_process_reads_as_stopped(tiny):
    record = begin(tiny(), None)
    record.write()
    assert read(record.folder).status == "stopped"
    with owned(record.folder):
        assert read(record.folder).status == "running"
    assert read(record.folder).status == "stopped"
    assert '"status": "running"' in (record.folder / "result.json").read_text()  # reading writes nothing


def test_of_many_that_revise_a_record_at_once_no_change_is_lost(tiny):
    record, names = finished(tiny()), [f"task{number}" for number in range(8)]

    def add(name: str) -> None:
        assert revise(record.folder, lambda now: now.metrics.setdefault("test", {}).update({name: {"value": 0.5}}))

    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read(record.folder).metrics["test"]) == names
    with owned(record.folder):
        assert not revise(record.folder, lambda now: now.run.update(name="other"), wait_s=0.0)
    assert read(record.folder).run["name"] == record.run["name"]


def test_an_owner_that_raises_lets_go(tmp_path):
    with pytest.raises(ValueError), owned(tmp_path):
        raise ValueError
    assert not is_live(tmp_path)


def test_readers_neither_keep_a_run_from_starting_nor_take_each_other_for_it(tiny):
    record = begin(tiny(), None)
    record.write()
    place, done, statuses = record.folder, threading.Event(), set()
    (place / ".lock").touch()

    def watch() -> None:
        while not done.is_set():
            statuses.add(read(place).status)

    readers = [threading.Thread(target=watch) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(50):
            statuses.add(read(place).status)
        assert statuses == {"stopped"}
        for _ in range(100):
            with owned(place) as mine:
                assert mine
    finally:
        done.set()
        for reader in readers:
            reader.join()


NO_JSON = ("", "{", "[" * 9999, "9" * 9999)
NO_RECORDS = ("\udcff", "[]", "null", "3", '"text"', "{}", '{"schema": 1}', '{"schema": 1, "run": "x", "config": {}}')
NO_RUNS = [f'{{"schema": {n}, "run": {{"status": "finished"}}, "config": {{}}}}' for n in (1, "null")]


@pytest.mark.parametrize("content", [*NO_JSON, *NO_RECORDS, *NO_RUNS, None])
def test_what_is_no_record_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "result.json").write_text(content, errors="surrogateescape")
    remedy = "; remove it, and the run is made anew" * (content in NO_JSON)
    with pytest.raises(Refused, match=rf"^.*result.json: not a run's record \(.*\){remedy}$"):
        read(tmp_path)


def test_a_newer_schema_is_refused_and_says_so(tiny):
    with pytest.raises(Refused, match=r"record schema 99, this rankwise reads up to 1; upgrade it$"):
        read(change(finished(tiny()), schema=99))


def test_keys_that_later_versions_add_are_passed_over(tiny):
    assert read(change(finished(tiny()), invented={"a": 1})).status == "finished"


def test_all_records_below_a_folder_are_found_once(tiny, capsys):
    configs = [tiny(seed=seed, study=study) for seed in (0, 1) for study in ("a", "b")]
    for config in configs:
        finished(config)
    outputs = Path(configs[0].outputs)
    ids = sorted(run_id(config) + config.study for config in configs)

    def found(*paths: Path) -> list[str]:
        return sorted(record.run["id"] + record.run["study"] for record in find(list(paths)))

    assert found(outputs) == found(outputs, outputs / "a", folder(configs[0])) == ids
    assert found(outputs / "a") == sorted(run_id(config) + "a" for config in configs if config.study == "a")
    assert found(folder(configs[0]) / "result.json") == [run_id(configs[0]) + "a"]
    assert capsys.readouterr().err == ""
    (folder(configs[0]) / "result.json").write_text("{")
    assert len(found(outputs)) == 3
    line = capsys.readouterr().err
    assert line.startswith("rankwise: left out: ") and line.count("\n") == 1 and folder(configs[0]).name in line


def test_nothing_to_find_is_refused(tmp_path, monkeypatch):
    with pytest.raises(Refused, match=r"^no runs in .*: nothing there has a result.json$"):
        find([tmp_path])
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(Refused, match=r"^no runs in .*: nothing there has a result.json that can be read$"):
        find([tmp_path])
    with pytest.raises(Refused, match=r"absent: no such folder; give a run, a study or an outputs folder$"):
        find([tmp_path / "absent"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "ranks").mkdir(parents=True)
    with pytest.raises(Refused, match=r"^ranks: no such folder \(did you mean outputs/ranks\?\); give a run"):
        find([Path("ranks")])


def test_predictions_keep_their_kinds(tmp_path):
    labels, scores = np.array([0, 1, 1]), np.array([0.1, 0.9, 0.4])
    columns = {"label": labels, "prediction": np.array([0, 1, 0]), "score": scores, "loss": scores}
    predictions.write(tmp_path, np.array([4, 2, 9]), columns)
    table = pq.read_table(tmp_path / predictions.FILE)
    assert {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)} == {
        "item": "int64",
        "label": "int64",
        "prediction": "int64",
        "score": "float",
    }
    assert table["item"].to_pylist() == [4, 2, 9] and table["score"].to_pylist() == pytest.approx(scores.tolist())
    assert [path.name for path in tmp_path.iterdir()] == [predictions.FILE]
    dates = np.array([1.7e9, 1.7e9 + 100, 1.7e9 + 200])
    predictions.write(tmp_path, np.arange(3), {"label": dates, "prediction": dates + 21.1, "score": dates + 21.1})
    mae = named("mae")
    assert unlike(mae, predictions.read(tmp_path, "a", mae.columns).columns, 21.1) is None


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.provenance()["git"] is None
    commit = "git -c user.name=n -c user.email=e -c commit.gpgsign=false commit -q --allow-empty -m m"
    assert os.system(f"git init -q && {commit}") == 0
    return tmp_path


def test_provenance_says_which_code_ran_where(repository):
    here = provenance.provenance()
    assert here["packages"]["torch"] and here["packages"]["rankwise"] and here["hardware"]["cores"] >= 1
    assert here["code"] == provenance.code_fingerprint()
    (repository / "file").write_text("1")
    assert os.system("git add file") == 0
    changed = provenance.provenance()["git"]
    assert len(changed["commit"]) == 40 and len(changed["diff"]) == 16
    (repository / "file").write_text("2")
    assert provenance.provenance()["git"]["diff"] != changed["diff"]
    assert os.system("git rm -q -f file") == 0
    assert provenance.provenance()["git"] == {"commit": changed["commit"]}


@pytest.mark.parametrize(
    ("key", "attributes"),
    [
        ("core.fsmonitor", ""),
        ("diff.external", ""),
        ("diff.mine.command", "* diff=mine"),
        ("diff.mine.textconv", "* diff=mine"),
        ("filter.mine.clean", "* filter=mine"),
        ("filter.a=b.process", "* filter=a=b"),
    ],
)
def test_no_program_of_the_repository_is_run_and_a_change_is_seen(repository, key, attributes):
    (repository / "file").write_text("1")
    assert os.system("git add file") == 0
    program = repository / "program"
    program.write_text(f"#!/bin/sh\ntouch {repository}/ran\n")
    program.chmod(0o755)
    assert subprocess.run(["git", "config", key, str(program)], check=True)
    (repository / ".gitattributes").write_text(attributes)
    (repository / "file").write_text("2")
    found = provenance.provenance()["git"]
    assert not (repository / "ran").exists() and len(found["diff"]) == 16


def test_of_one_run_in_several_places_the_latest_result_is_read(tiny, tmp_path):
    for place, attempts, status in (("a", 1, "finished"), ("b", 2, "finished"), ("c", 3, "failed")):
        record = begin(tiny(outputs=str(tmp_path / place)), None)
        record.run |= {"attempts": attempts, "status": status}
        record.write()
    assert [record.run["attempts"] for record in find_all([tmp_path])] == [2]
