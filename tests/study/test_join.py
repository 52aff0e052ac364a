"""Several machines at one study: no run is lost, none is done twice."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_task import config, until

from rankwise.cli import main
from rankwise.identity import folder
from rankwise.study.outcome import elsewhere, refuse
from rankwise.tracking.lease import owned
from rankwise.tracking.record import begin, read


def machine(outputs: Path, names: list[str], **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fake_task", str(outputs), *names]
    environment = os.environ | {"FAKE_JOIN": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)


def test_machines_share_a_study_and_finish_what_one_of_them_left(tmp_path):
    names = ["count"] * 4
    machines = [machine(tmp_path, names) for _ in range(2)]
    study = [folder(config(tmp_path, name, seed)) for seed, name in enumerate(names)]
    until(lambda: sum((run / "result.json").exists() for run in study) >= 1)
    machines[0].kill()
    machines.append(machine(tmp_path, names))
    for process in machines:
        assert process.communicate(timeout=60)[1] is not None
    assert [process.returncode for process in machines] == [-9, 0, 0]
    assert [read(run).status for run in study] == ["finished"] * 4
    assert [(run / "did").read_text() for run in study] == ["once\n"] * 4


def test_a_run_that_fails_is_tried_by_one_machine_and_told_by_all(tmp_path):
    failing = folder(config(tmp_path, "error"))
    first = machine(tmp_path, ["error", "count"])
    until(lambda: (failing / "result.json").exists() and read(failing).status == "failed")
    for process in (first, machine(tmp_path, ["error", "count"])):
        assert "ValueError: two lines" in process.communicate(timeout=60)[1]
        assert process.returncode == 1
    assert (failing / "log").read_text().count("\nValueError: two\nlines\n") == 1


@pytest.mark.parametrize(
    ("ends", "before", "stands"),
    [
        (["running"] * 2, 0, None),  # its process is gone
        (["running"] * 3, 0, "failed"),
        (["running"] * 3, 1, None),
        (["running", "stopped", "running", "running"], 0, "failed"),
        (["stopped"] * 9, 0, None),  # in good order, as by a time limit
        ([*["stopped"] * 8, "running"], 0, None),
        (["failed"], 0, "failed"),
        (["failed"], 1, None),  # in an earlier study
        (["finished"], 0, "finished"),
    ],
)
def test_what_is_left_to_take(ends, before, stands, tmp_path):
    one, attempts, record = config(tmp_path, "print"), len(ends), None
    assert elsewhere(one, {}) is None
    for status in ends:
        record = begin(one, record)
        record.run["status"] = status
        if status in ("failed", "stopped"):
            record.error = {"type": "Error", "message": "why"}
        record.write()
    found = elsewhere(one, {folder(one).name: before})
    assert (found and found.status) == stands
    again = elsewhere(replace(one, rerun=True), {folder(one).name: attempts})
    assert again is None, "asked for again, and not run since"
    for ended, told in (("failed", "failed"), ("stopped", None)):  # its rerun, where the first result has stayed
        record.run |= {"status": "finished", "attempts": attempts + 1, "rerun": {"status": ended, "message": "rerun"}}
        record.write()
        found = elsewhere(replace(one, rerun=True), {folder(one).name: attempts})
        assert (found and (found.status, found.error)) == (told and (told, "rerun"))
    with owned(folder(one)):
        skipped = elsewhere(one, {})
        assert skipped and skipped.status == "skipped"


@pytest.mark.parametrize(("before", "attempts"), [(0, 1), (1, 2)])
def test_a_run_that_two_machines_refuse_is_told_once_in_a_study(before, attempts, tmp_path):
    one = config(tmp_path, "print")
    refuse(one, "too large", 0)
    refuse(one, "too large", before)
    assert read(folder(one)).run["attempts"] == attempts


def test_join_goes_with_a_study_that_runs_nothing_again(capsys):
    assert main(["train", "-m", "seed=0,1", "--join", "--rerun"]) == 2
    assert capsys.readouterr().err.startswith("rankwise: --rerun: not with --join")
