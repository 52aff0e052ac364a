"""What the figures of a study show: every arm apart from the others, nothing cut off, the margin."""

import pytest
from synthetic_study import write_run, write_study

from rankwise.report import plots, svg
from rankwise.report.report import build, save_figures

OTHERS = ("bitfit", "ia3", "oft", "vera", "bottleneck", "head", "loha", "randlora", "lokr")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figures of a study for a paper, by name, in one column and in two."""
    figures, render = {}, svg.render

    def keep(figure, name, alt):
        figures.setdefault(name, []).append(figure)
        return render(figure, name, alt)

    def of_study():
        save_figures(build([tmp_path / "study"]), tmp_path / "figures")
        return figures

    monkeypatch.setattr(svg, "render", keep)
    return of_study


def test_every_arm_looks_another_and_nothing_of_a_figure_is_cut_off(tmp_path, drawn):
    write_study(tmp_path / "study", {1: 0.78, 8: 0.8}, range(1))
    for method in OTHERS:
        write_run(tmp_path / "study", method, None)
        for lr in (1e-3, 2e-3):
            write_run(tmp_path / "study", method, None, lr=lr, seed=100, stage="tune")
    figures = drawn()
    for name, (single, double) in figures.items():
        for figure in (single, double):
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, name
    everyone = {*OTHERS, "lora r=1", "lora r=8", "full"}
    for name, arms in (("curves", everyone), ("parameters", {*everyone, "Pareto front"}), ("rates", {*OTHERS})):
        lines = [line for line in figures[name][0].axes[0].lines if line.get_label()[0] != "_"]
        assert {line.get_label() for line in lines} == arms, name
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(arms), name


@pytest.mark.parametrize(
    ("method", "rank", "said"), [("lora", 8, " Lighter shades are of a larger rank."), ("head", None, "")]
)
def test_shades_are_told_where_an_arm_has_a_size(tmp_path, method, rank, said):
    for name, size in (("full", None), (method, rank)):
        write_run(tmp_path, name, size, losses=(0.9, 0.5))
    assert f"no interval.{said} A loss that" in plots.learning_curves(build([tmp_path])).caption


def test_the_margin_lies_within_the_axis_though_a_rank_scores_far_better(tmp_path, drawn):
    write_study(tmp_path / "study", {8: 0.9}, full=0.8, task__margin=0.05)
    (ax,) = drawn()["rank"][0].axes
    (limit,) = (line.get_ydata()[0] for line in ax.lines if line.get_label() == "full − margin")
    full = build([tmp_path / "study"]).reference.scores["accuracy"].point
    assert ax.get_ylim()[0] < limit == pytest.approx(100 * full - 5)


def test_scores_that_are_all_one_have_an_axis(tmp_path, drawn):
    for rank in (4, 8):
        record = write_run(tmp_path / "study", rank=rank, task__margin=0.0)
        record.metrics["test"] = {"accuracy": {"value": 0.0, "se": 0.0, "n": 10}}
        record.write()
    (ax,) = drawn()["rank"][0].axes
    assert ax.get_ylim()[0] <= 0 < ax.get_ylim()[1] < 5
