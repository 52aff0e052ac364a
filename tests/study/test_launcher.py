"""The local launcher, with real processes and runs that cost nothing."""

import contextlib
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
from fake_task import config, until

from rankwise import machine
from rankwise.cli import main
from rankwise.config import Config, Task
from rankwise.errors import Refused
from rankwise.forks import fork_server
from rankwise.forks.preload import HEAVY
from rankwise.identity import folder
from rankwise.study import launcher, multirun, progress
from rankwise.study.launcher import launch
from rankwise.study.outcome import Outcome, correct, finished_by
from rankwise.study.worker import End, ending
from rankwise.tasks.data import check_files
from rankwise.tracking import record
from rankwise.tracking.lease import owned

TASK = "fake_task:run"
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")


@pytest.fixture(autouse=True)
def no_process_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """Every test ends without a process that it started; gives the function that lists them."""
    mark = f"RANKWISE_TEST={uuid.uuid4()}".encode()
    monkeypatch.setenv(*mark.decode().split("="))

    def left() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (
                    mark in (entry / "environ").read_bytes()
                    and b"resource_tracker" not in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
        return found

    yield left
    until(lambda: not left())


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Config]:
    return lambda name, seed=0, **keys: config(tmp_path, name, seed, **keys)


def go(configs: list[Config], jobs: int | None = 1) -> list[Outcome]:
    return launch(configs, jobs, task=TASK, preload=())


def status(config: Config) -> str:
    return str(json.loads((folder(config) / "result.json").read_text())["run"]["status"])


def info(config: Config) -> dict[str, object]:
    return dict(json.loads((folder(config) / "info.json").read_text()))


def test_stages_share_one_server(make):
    servers = []
    with fork_server.kept():
        for seed in (0, 1):
            with fork_server.kept():  # as of a command, of which one process may give several
                assert go([make("print", seed)])[0].status == "finished"
            servers.append(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
    assert servers[0] == servers[1] is not None


def test_libraries_load_while_data_are_read_and_a_refusal_of_these_ends_that(tmp_path, monkeypatch, capsys):
    servers = []

    def check(configs: Iterable[Config], hub: bool) -> None:
        servers.append(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
        check_files(configs, hub)

    monkeypatch.setattr(multirun, "check_files", check)
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("text,label\na,0\n")
    own = "debug=fast task=local task.path=d.csv task.text=text task.label=label seed=0,1"
    assert main(["train", "-m", *own.split()]) == 2
    assert len(servers) == 1 and servers[0] and "one class only" in capsys.readouterr().err


def test_nothing_to_do():
    assert launch([]) == []


def test_runs_overlap_and_outcomes_keep_the_order(make):
    configs = [make("meet", seed) for seed in range(3)]
    outcomes = go(configs, jobs=3)
    assert [o.status for o in outcomes] == ["finished"] * 3
    assert [o.folder for o in outcomes] == [folder(c) for c in configs]


def test_child_is_set_up_as_promised(make, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 6)
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    before = dict(os.environ)
    configs = [make("report"), make("report", 1, threads=5)]
    assert {o.status for o in go(configs, jobs=2)} == {"finished"}
    first, second = map(info, configs)
    assert (first["threads"], second["threads"]) == (3, 5)
    assert first["session"]
    assert first["gpu"] == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert first["environment"] == {
        "OMP_WAIT_POLICY": "active",  # the user's own
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
    }
    assert dict(os.environ) == before


def test_a_run_is_given_what_its_study_has_read_unless_the_file_has_changed(make, tmp_path):
    file, runs = tmp_path / "d.csv", [make("load", seed) for seed in (0, 1)]
    file.write_text("text,label\n" + "".join(f"word {i},{i % 2}\n" for i in range(40)))
    for run in runs:
        run.task = Task(name="t", path=str(file))
    check_files(runs)
    assert go(runs[:1])[0].status == "finished"
    assert len(json.loads((folder(runs[0]) / "info.json").read_text())) > 10
    file.write_text(file.read_text().replace("word", "other"))
    assert go(runs[1:])[0].status == "failed"  # it would have to read


def test_preloaded_torch_computes_with_the_promised_threads(make, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    one = make("report")
    [outcome] = launch([one], 1, task=TASK, preload=("torch", "no.such.module", "colorsys"))
    assert outcome.status == "finished"
    found = info(one)
    assert found["threads"] == 2 and found["product"] == 500.0**3
    assert isinstance(found["environment"], dict) and found["environment"]["OMP_WAIT_POLICY"] == "passive"
    assert isinstance(found["modules"], list) and "colorsys" in found["modules"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("error", "ValueError: two lines"),
        ("refuse", "trainer.precision=fp16: not on a CPU"),
        ("quit", "exit code 3"),
        ("die", "killed by signal 9"),
        ("crash", "killed by signal 11"),
        ("orphan", "killed by signal 9"),
        ("server", "the process that it was forked from was killed (out of memory?)"),
    ],
)
def test_a_bad_run_is_reported_and_stops_no_other(make, name, error):
    configs = [make(name, 0), make("print", 1)]
    bad, good = go(configs)
    assert (bad.status, bad.error) == ("failed", error)
    assert (good.status, good.error) == ("finished", None)
    found = record.read(bad.folder)
    assert found.status == "failed" and found.run["ended"]
    kind = "Error" if name in ("error", "refuse") else "Died"
    assert found.error == {"type": kind, "message": error}


def test_a_run_that_is_killed_as_it_is_forked_failed_and_one_killed_before_all_is_one_line(make, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for number in (1, 2):
        code = f"import os\nleft = [1] * {number}\nkill = lambda: left.pop() and (left or os.kill(os.getpid(), 9))\n"
        (tmp_path / f"dies_at_{number}.py").write_text(f"{code}os.register_at_fork(before=kill)\n")
    with pytest.raises(Refused, match=r"^the process that loads the libraries was killed"):
        launch([make("print")], 1, TASK, ["dies_at_1"])
    ends = launch([make("print"), make("report", 1)], 1, TASK, ["dies_at_2"])
    assert [(end.status, end.error) for end in ends] == [("failed", "killed as it began"), ("finished", None)]


def test_a_run_that_is_refused_leaves_nothing_and_all_for_one_reason_are_one_refusal(make, tmp_path):
    good, bad = make("report"), make("unfit")
    assert [outcome.status for outcome in go([bad, good])] == ["refused", "finished"]
    assert not folder(bad).exists() and folder(good).exists()
    alone = config(tmp_path / "new", "unfit")
    assert [(outcome.status, outcome.error) for outcome in go([alone])] == [("refused", "task.text=nope: no such")]
    assert not (tmp_path / "new").exists()


def test_a_run_that_stands_still_is_ended(make, monkeypatch):
    monkeypatch.setattr(launcher, "_IDLE_S", 1.0)
    (outcome,) = go([make("wait")])
    assert outcome.status == "failed" and outcome.error and "used no processor time for 1 s" in outcome.error


def test_a_temporary_folder_with_a_long_name_serves(make, monkeypatch, tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)  # type: ignore[attr-defined]
    assert [outcome.status for outcome in go([make("report")])] == ["finished"]


def test_what_an_earlier_attempt_said_last_is_no_news_of_this_one(make):
    one = make("quit")
    folder(one).mkdir(parents=True)
    (folder(one) / "log").write_text("=== pid 1 finished\n")
    [outcome] = go([one])
    assert (outcome.status, outcome.error) == ("failed", "exit code 3")


def test_the_last_word_of_a_process_is_not_that_of_an_earlier_one_with_its_number(tmp_path):
    log, begins = tmp_path / "log", "=== 2026-11-29T12:00:00+00:00 host pid 57, 2 threads\n"
    log.write_text(f"{begins}step\n=== pid 57 failed: no room\n")
    assert ending(log, 57) == End("failed", "no room")
    log.write_text(f"{log.read_text()}{begins}step\n")
    assert ending(log, 57) is None


def test_a_run_without_a_last_word_has_finished_where_its_own_record_says_so(make):
    [outcome] = go([make("moved")])
    assert (outcome.status, outcome.error) == ("finished", None)
    assert finished_by(outcome.folder, 0) is None, "the record of another attempt"


def test_a_task_that_is_not_there(make, tmp_path):
    [outcome] = launch([make("print")], task="tests.study.no_task:run", preload=())
    assert outcome.status == "failed" and "ModuleNotFoundError" in str(outcome.error)
    assert not (outcome.folder / "result.json").exists()


def test_a_run_that_another_process_has_is_skipped(make):
    one = make("print")
    with owned(folder(one)):
        [outcome] = go([one])
    assert outcome.status == "skipped"


def test_log_has_all_output_and_every_attempt(make):
    one = make("print")
    go([one])
    go([one])
    lines = (folder(one) / "log").read_text().splitlines()
    assert [line[:3] for line in lines].count("===") == 4
    for line in ("by print", "to stderr", "by write", "by echo"):
        assert lines.count(line) == 2


def test_crash_leaves_a_trace_in_the_log(make):
    one = make("crash")
    go([one])
    assert "do_crash" in (folder(one) / "log").read_text()


def test_peak_memory_is_each_runs_own(make):
    big, small = (make("memory", seed) for seed in (0, 1))
    go([big, small])
    peaks = [int((folder(c) / "peak").read_text().split()[0]) for c in (big, small)]
    assert peaks[0] - peaks[1] > 150 * 1024**2


def test_gpus_are_handed_out_one_per_job(make, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["2", "5"])
    outcomes = go([make("gpu", seed) for seed in range(4)], jobs=None)
    assert [(o.status, o.error) for o in outcomes] == [("finished", None)] * 4
    logs = "".join((o.folder / "log").read_text() for o in outcomes)
    assert "GPU 2" in logs and "GPU 5" in logs


class Study:
    """A launcher in a process group of its own, two runs at a time."""

    def __init__(self, outputs: Path, names: list[str], **variables: str):
        self.configs = [config(outputs, name, seed) for seed, name in enumerate(names)]
        command = [sys.executable, "-m", "fake_task", str(outputs), *names]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, process_group=0)

    def wait(self) -> "Study":
        until(lambda: all((folder(c) / "ready").exists() for c in self.configs[:2]))
        return self

    def end(self) -> tuple[int, str]:
        _, noise = self.process.communicate(timeout=60)
        return self.process.returncode, noise


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_stops_runs_and_leaves_waiting_ones_alone(tmp_path, number):
    study = Study(tmp_path, ["wait", "wait", "print"]).wait()
    os.killpg(study.process.pid, number)  # as a terminal and `timeout` do: the fork server gets it too
    code, noise = study.end()
    assert code == 130
    assert "Traceback" not in noise and "killed" not in noise
    assert [status(c) for c in study.configs[:2]] == ["stopped"] * 2
    assert "Traceback" not in (folder(study.configs[0]) / "log").read_text()
    assert not folder(study.configs[2]).exists()


def test_second_interrupt_kills(tmp_path):
    study = Study(tmp_path, ["wait", "deaf"]).wait()
    study.process.send_signal(signal.SIGINT)
    until(lambda: status(study.configs[0]) == "stopped")
    assert study.process.poll() is None and status(study.configs[1]) == "running"
    study.process.send_signal(signal.SIGINT)
    assert study.end()[0] == 130
    ended = [record.read(folder(c)) for c in study.configs]
    assert [one.status for one in ended] == ["stopped"] * 2 and not record.deaths(ended[1]), "it was asked to"


def test_runs_stop_when_the_launcher_is_killed(tmp_path, no_process_is_left):
    study = Study(tmp_path, ["wait", "wait"]).wait()
    study.process.kill()
    study.end()
    until(lambda: not no_process_is_left())
    assert [status(c) for c in study.configs] == ["stopped"] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_libraries_load(tmp_path, number):
    began = tmp_path / "began"
    (tmp_path / "endless.py").write_text(
        f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(600)\n"
    )
    search = os.pathsep.join([*sys.path, str(tmp_path)])
    study = Study(tmp_path, ["print"], FAKE_PRELOAD="endless", PYTHONPATH=search)
    until(began.exists)
    os.killpg(study.process.pid, number)
    code, noise = study.end()
    assert code == 130 and "Traceback" not in noise
    assert not folder(study.configs[0]).exists()


def test_nothing_is_said_about_what_killed_runs_leave(tmp_path):
    code, noise = Study(tmp_path, ["semaphore"]).end()
    assert code == 1 and "resource_tracker" not in noise and "exit code 3" in noise


def test_own_modules_to_preload_exist():
    for name in HEAVY:
        assert not name.startswith("rankwise.") or importlib.util.find_spec(name)


def test_one_run_can_be_stopped_by_itself(tmp_path):
    study = Study(tmp_path, ["wait", "wait", "print"]).wait()
    pids = [json.loads((folder(c) / "result.json").read_text())["run"]["pid"] for c in study.configs[:2]]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    code, _ = study.end()
    assert code == 1
    assert [status(c) for c in study.configs] == ["stopped", "stopped", "finished"]


def test_progress_is_what_the_run_has_logged(make, monkeypatch):
    seen: list[tuple[float, str]] = []
    monkeypatch.setattr(progress.Display, "moved", lambda self, name, *news: seen.append(news))
    go([make("log")])
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and 1 < len(shares) < 300 and shares[0] < 1
    assert seen[-1] == (1.0, "loss 0.300, val/accuracy 75.0 %")
    go([make("log")])  # what an earlier attempt has logged is no progress of this one
    assert seen[len(shares)][0] < 1


def test_plain_progress_is_a_line_per_start_and_end(make, capsys):
    good, bad = go([make("print"), make("error", 1)])
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 4
    assert lines[0] == f"[0/2] {good.folder.name} started"
    assert lines[1].startswith(f"[1/2] {good.folder.name} finished val/accuracy 82.1 % in ") and ", ETA " in lines[1]
    assert lines[3].startswith(f"[2/2] {bad.folder.name} failed in ") and lines[3].endswith(": ValueError: two lines")


def test_correct_touches_only_what_is_untrue(make):
    correct(folder(make("none")), "failed", {})
    assert not folder(make("none")).exists()
    done = record.begin(make("done"), None)
    done.run["status"] = "finished"
    done.write()
    correct(folder(make("done")), "failed", {})
    assert status(make("done")) == "finished"
    torn = folder(make("done")) / "result.json"
    torn.write_text("{")
    correct(torn.parent, "failed", {})
    assert torn.read_text() == "{"
