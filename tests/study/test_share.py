"""How a machine is shared out among the runs of a study."""

import functools

from fake_task import config

from rankwise import machine
from rankwise.plan.estimate import Question, plan
from rankwise.plan.hardware import Hardware
from rankwise.study.launcher import Slots, share


def test_cores_memory_and_gpus_are_shared_out(tmp_path, monkeypatch):
    make = functools.partial(config, tmp_path)
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 7 * 1024**3)
    monkeypatch.setattr(machine, "gpus", list)
    many = [make("wait", seed) for seed in range(20)]
    assert share(many) == Slots(3, None, [None] * 3)  # memory is what is short
    assert share(many, jobs=40) == Slots(20, 40, [None] * 20)
    for jobs, threads in ((None, 1), (2, 4), (8, 1)):  # a run's bits hang on its threads: not on what is left to run
        assert {share(many[:left], jobs).threads(many[0]) for left in (1, 2, 20)} == {threads}
    assert share([make("wait", seed, threads=4) for seed in range(20)]).jobs == 2
    pairs = [make("wait", seed) for seed in range(3)]
    for pair in pairs:
        pair.trainer.devices = 2
    for left in ([*many, *pairs], many[:1], pairs):
        assert [share(left).threads(run) for run in (many[0], pairs[0])] == [1, 2]
    monkeypatch.setattr(machine, "memory_bytes", lambda: 0)
    assert share(many).jobs == 1
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "1"])
    assert share(many) == Slots(2, 2, ["0", "1"]) and share(many).threads(many[0]) == 4
    assert share(many, jobs=3).gpus == ["0", "1", "0"]
    assert share([make("wait", device="cpu")]).gpus == [None]
    assert share(pairs) == Slots(1, 1, ["0,1"]) and share(pairs).threads(pairs[0]) == 8


def test_a_gpu_takes_as_many_runs_as_the_plan_says_that_it_has_room_for(tiny, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "1"])
    monkeypatch.setattr(machine, "hardware", lambda: {"gpus": ["NVIDIA H200"] * 2})
    monkeypatch.setattr(machine, "cores", lambda: 16)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**40)
    study = [tiny("bert", seed=seed, method__rank=rank) for rank in (1, 32) for seed in range(9)]
    planned = plan(study[-1:], Question(Hardware.named("h200"), 0))["runs"][0]["memory"]
    each = 1.25 * max(planned["train"]["peak_bytes"], planned["eval"]["peak_bytes"]) + 500_000_000
    for room, jobs, threads in ((3.5, 6, 2), (0.5, 2, 8), (1000, 16, 1)):  # a core for each, and one run in any case
        monkeypatch.setattr(machine, "gpu_free_bytes", lambda ids, room=room: int(room * each))
        assert share(study) == Slots(jobs, jobs, ["0", "1"] * (jobs // 2))
        assert share(study).threads(study[0]) == threads
    assert share(study, jobs=3).gpus == ["0", "1", "0"]
    assert share([tiny("bert", seed=seed, tracking__latency=[[1, 8]]) for seed in range(9)]).jobs == 2, "timed: alone"
