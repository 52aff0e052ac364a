"""The bench measures the same work for all: tiny, of random weights, its plumbing and not its figures."""

import pytest

from rankwise.bench import bench

SMALL = (
    "task=synthetic",
    "task.synthetic=400",
    "task.n_train=150",
    "task.n_validation=30",
    "task.n_test=60",
    "model=tiny_bert",
    "trainer.validations=1",
)


def test_peers_do_the_same_work_and_the_costs_of_steps_and_the_rest_are_told_apart(monkeypatch):
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


def test_a_peer_that_fails_is_said_in_one_line():
    with pytest.raises(bench.Refused, match="loop: exit code 1"):
        bench._run(["python", "-c", "raise SystemExit(1)"], "loop", 1)
