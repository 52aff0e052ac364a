"""What a study shows while it runs."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from rankwise.metrics import duration
from rankwise.study import progress


@pytest.mark.parametrize("width", [80, 120, 200])
def test_moving_progress_fits_the_terminal_without_colours_where_none_are_wanted(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    name = "lora-r16-attention-lr0.002-s0-0123456789"
    with progress.Display(2, 1, "tuning", console=console) as shown:
        shown.started(name)
        shown.moved(name, 0.5, "loss [0.5], val/accuracy 75.0 %")
        shown.tick()
        shown.ended(name, "finished", 31.0, "val/accuracy 50.0 %")
        shown.ended("two", "failed", 1.0, "", "[bad] news")
    assert not re.search(r"\x1b\[[0-9;]*[39][0-7]m", screen.getvalue())
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
    assert any(line.startswith(f"[1/2] {name} finished val/accuracy 50.0 % in 31 s, ETA ") for line in lines)
    assert "[2/2] two failed in 1 s: [bad] news" in lines
    bars = [line.rstrip() for line in lines if "━" in line]
    assert any(line.startswith("tuning ") for line in bars) and max(map(cell_len, bars)) <= width
    (halfway, *_) = [line for line in bars if "50%" in line]
    assert halfway.startswith("lora-r16-attention-lr0.002") and "loss [0.5]" in halfway
    assert width == 80 or halfway.endswith("val/accuracy 75.0 %")


def test_remaining_time() -> None:
    share = 1 / 0.9  # of the steps, where 0.9 of a run's time is its steps
    assert progress.remaining_s([], [(5.0, 0.0)], waiting=3, jobs=1) is None
    assert progress.remaining_s([10.0, 20.0], [], waiting=4, jobs=2) == pytest.approx(30)
    last = progress.remaining_s([], [(10.0, 0.5 * share)], waiting=0, jobs=4)
    assert last == pytest.approx(10), "not faster than its last"
    assert progress.remaining_s([10.0], [(5.0, 0.5 * share)], waiting=1, jobs=1) == pytest.approx(15)
    tested = progress.remaining_s([], [(90.0, 1.0)], waiting=0, jobs=1)
    assert tested == pytest.approx(10), "a test follows the last step"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.04 s"), (31.2, "31 s"), (99.6, "2 min"), (3599, "1 h 00 min"), (3900, "1 h 05 min")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
