"""The bench measures the same work for all: tiny, of random weights, its plumbing and not its figures."""

import pytest

from rankwise.bench import bench
from rankwise.commands.bench import _show

ROWS = ("task=synthetic", "task.synthetic=400", "task.n_train=150", "task.n_validation=30", "task.n_test=60")
SMALL = (*ROWS, "model=tiny_bert", "trainer.validations=1")


def test_peers_do_the_same_work_and_the_costs_of_steps_and_the_rest_are_told_apart(monkeypatch, capsys):
    monkeypatch.setattr(bench, "PEERS", ("tuned",))
    monkeypatch.setattr(bench, "COMMANDS", {"--help": ["--help"]})
    monkeypatch.setattr(bench, "workloads", lambda quick: (bench.Workload("tiny", SMALL, 2),))
    found = bench.bench(quick=True, repeats=1)
    runs = found["workloads"]["tiny"]["runs"]
    assert set(runs) == {*bench.PEERS, "rankwise"}
    for run in runs.values():
        assert run["peak_bytes"] > 50e6 and run["cpu_s"] > 0.5 and 0 <= run["score"] <= 1
        assert run["rest_cpu_s"] + 8 * run["step_cpu_s"] == pytest.approx(run["cpu_s"])
    assert 0 < found["commands"]["--help"] < runs["tuned"]["cpu_s"]
    swept = {"rankwise": {"wall_s": 10.0, "cpu_s": 20.0}, "tuned": {"wall_s": 15.0, "cpu_s": 21.0}}
    found["workloads"]["tiny"]["sweeps"] = swept
    for agree, said in ((True, "agree"), (False, "DIFFER"), (None, "")):
        found["workloads"]["tiny"]["scores_agree"] = agree
        _show(found)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[2].strip(":") for line in lines if line.startswith("test scores ")] == [said] * bool(said)
    assert ["tuned", "15", "1.50", "21", "1.05"] in [line.split() for line in lines]
    assert f"{runs['tuned']['score']:.3f}" in next(line for line in lines if line.startswith("tuned "))


def test_a_peer_that_fails_is_said_in_one_line(tmp_path):
    with pytest.raises(bench.Refused, match=r"loop: exit code 2 \(.*No such file"):
        bench.Process("loop", ["json.tool", "nowhere"], tmp_path / "log", 1).measured()


def test_what_runs_beside_a_peer_that_fails_is_ended(tmp_path, monkeypatch):
    started = []

    def start(self, who, rank, steps, threads):
        command = ["json.tool", "nowhere"] if rank == 1 else ["http.server", "0", "--bind", "127.0.0.1"]
        started.append(bench.Process(who, command, tmp_path / f"log{rank}", threads))
        return started[-1]

    monkeypatch.setattr(bench._Bench, "_start", start)
    sweep = bench._Bench.__new__(bench._Bench)
    sweep.workload = bench.Workload("tiny", (), 2, ranks=(1, 2))
    with pytest.raises(bench.Refused, match="tuned: exit code 2"):
        sweep._peers("tuned", 2, 1)
    assert [process.process.returncode for process in started] == [2, -9]
