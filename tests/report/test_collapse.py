"""Runs that learned, and then fell back to one answer."""

import pytest
from synthetic_study import FLAT, curve, write_run

from rankwise.report.flags import collapse
from rankwise.report.report import build


def write(root, method, rank, seed, correlations, se=0.03):
    """A run whose Matthews' correlation at the five validations is given; the best of them is scored."""
    record = write_run(root, method, rank, seed=seed, test=0.82 if method == "full" else 0.8)
    best = max(correlations)
    rows = zip(curve(FLAT), correlations, strict=True)
    record.metrics |= {
        "validation": {"matthews": {"value": best, "se": se, "n": 1000}},
        "best_step": 20 * (1 + correlations.index(best)),
        "curve": [row | {"val/matthews": value, "val/matthews_se": se * (value != 0)} for row, value in rows],
    }
    record.write()
    return record


STEADY, FELL = (0.3, 0.4, 0.5, 0.6, 0.6), (0.3, 0.5, 0.1, 0.0, 0.0)


@pytest.mark.parametrize(
    ("correlations", "se", "fell"),
    [
        (FELL, 0.03, True),
        ((0.3, 0.5, 0.1, -0.02, 0.04), 0.03, True),  # chance
        ((0.3, 0.5, 0.1, 0.0, 0.06), 0.03, False),  # above it
        ((0.1, 0.19, 0.0, 0.0, 0.0), 0.03, False),  # there was little to lose
        ((0.0, 0.0, 0.0, 0.0, -0.4), 0.03, False),
        ((0.3, 0.5, 0.3, 0.25, 0.2), 0.2, False),  # so few rows that both may be the same
    ],
)
def test_a_run_that_ends_at_chance_after_it_was_clearly_better_has_collapsed(tmp_path, correlations, se, fell):
    assert len(collapse([write(tmp_path, "lora", 4, 0, correlations, se)])) == fell


def test_a_collapse_is_flagged_with_its_step_and_named_under_the_headline(tmp_path):
    for seed in range(3):
        write(tmp_path, "full", None, seed, STEADY)
        write(tmp_path, "lora", 4, seed, STEADY)
        write(tmp_path, "lora", 1, seed, FELL if seed == 1 else STEADY)
    report = build([tmp_path])
    one, four, full = report.arms
    best = "the best was at step 40 of 100; a lower method.lr may help"
    assert one.flags == [f"1/3 collapsed: the last validation is no better than one answer to every text, {best}"]
    assert four.flags == full.flags == [] and one.may_pass and one.may_fail
    assert "Training collapsed in runs of rank 1 (see the flag): a lower method.lr may help." in str(report.headline)


def test_a_reference_that_collapsed_would_make_every_rank_look_better_and_is_none(tmp_path):
    for seed in range(3):
        write(tmp_path, "full", None, seed, FELL if seed == 1 else STEADY)
        write(tmp_path, "lora", 4, seed, STEADY)
    report = build([tmp_path])
    assert report.headline.title.startswith(
        "No conclusion: full fine-tuning's runs are no reference (1/3 collapsed: the last validation is "
    )
    assert not report.arms[-1].may_pass and report.arms[0].may_pass
    caption = next(line for line in report.to_latex().splitlines() if line.startswith("\\caption"))
    assert "at step 40 of 100; a lower method.lr may help). $" in caption, "what is in parentheses is whole"
