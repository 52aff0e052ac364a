"""Parameters, bytes, seconds and tokens."""

import time

import pytest
import torch

from rankwise import machine
from rankwise.measure.clock import Clock, Throughput
from rankwise.measure.ledger import reset_peak, system_peak


@pytest.mark.skipif(not machine.reset_peak_rss(), reason="the system cannot reset its peak")
def test_the_process_peak_is_that_of_training_not_of_loading() -> None:
    megabytes, device = 1024 * 1024, torch.device("cpu")
    loading = torch.ones(300 * megabytes // 4)
    del loading
    reset_peak(device)
    before = system_peak(device)["process_peak_bytes"]
    training = torch.ones(200 * megabytes // 4)
    del training
    grown = system_peak(device)["process_peak_bytes"] - before
    assert 150 * megabytes < grown < 260 * megabytes


def test_a_clock_adds_up_phases_also_those_that_fail() -> None:
    clock = Clock()
    for _ in range(2):
        with clock("load"):
            time.sleep(0.02)
    with pytest.raises(ValueError), clock("train"):
        raise ValueError
    clock.add("load", 1.0)
    seconds = clock.rounded()
    assert set(seconds) == {"load_s", "train_s"}
    assert 1.04 <= seconds["load_s"] < 1.5 and seconds["train_s"] < 0.5


def test_throughput_leaves_the_first_steps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    throughput = Throughput()
    for step in range(8):
        throughput.begin()
        now[0] += 100.0 if step < Throughput.SKIPPED else 0.5
        throughput.end(tokens=50)
        now[0] += 7.0  # between steps: validation, logging
        assert (throughput.tokens_per_s is None) == (step < Throughput.SKIPPED)
    assert throughput.tokens == 400 and throughput.seen == 8
    assert throughput.tokens_per_s == pytest.approx(100)
    for begun in (0, 6):  # anew, or from another process's six; the step that is probed is left out as well
        again = Throughput()
        again.go_on(begun, 300)
        again.probed = {begun + 6}
        for step in range(8):
            again.begin()
            now[0] += 100.0 if step < Throughput.SKIPPED or step == 6 else 0.5
            again.end(tokens=50)
        assert again.timed == [begun + 5, begun + 7] and again.tokens_per_s == pytest.approx(100)
        assert (again.seen, again.tokens) == (begun + 8, 700)
