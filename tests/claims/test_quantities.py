"""Quantities give what is known beforehand, of made-up studies, of small models and of real tiny runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import grid, records

from rankwise.analysis import analyze
from rankwise.claims import registry
from rankwise.claims.claim import NotRun
from rankwise.claims.quantities import learning_rates, planned, spectral, starts, trained
from rankwise.claims.selection import scalar
from rankwise.run import run
from rankwise.tracking.record import Record

CLAIMS = {claim.id: claim for claim in registry.read()}
GRID = CLAIMS["regret_2_lr_ten_times"]
LORA, FULL = {"method": "lora", "rank": 8}, {"method": "full"}


def rates_of(folder: Path, lora: Sequence[float], full: Sequence[float] = (-3.3, -3.3)) -> list[Record]:
    """Two seeds, whose validation objective is a parabola of log10 of the learning rate with these tops."""
    return records(GRID, [*grid(LORA, *lora), *grid(FULL, *full)], folder)


def test_the_best_learning_rate_is_the_vertex_between_the_points_of_a_grid(tmp_path):
    found = learning_rates.best_lr_ratio(rates_of(tmp_path, (-2.8, -2.8)), LORA, FULL)
    assert found.value == pytest.approx(10**0.5) and found.low == pytest.approx(found.high)


def test_seeds_that_disagree_on_the_best_learning_rate_widen_its_interval(tmp_path):
    found = learning_rates.best_lr_ratio(rates_of(tmp_path, (-2.8, -2.7)), LORA, FULL)
    assert found.low < 10**0.5 < found.value < 10**0.6 < found.high, "two seeds know little"


@pytest.mark.parametrize(
    ("tops", "reason"),
    [((-0.2, -0.2), r"is the end of its grid$"), ((-0.2, -3.2), r"is the end of its grid in \d+% of resamples")],
)
def test_a_best_learning_rate_at_the_end_of_its_grid_says_nothing(tmp_path, tops, reason):
    with pytest.raises(NotRun, match=reason):
        learning_rates.best_lr_ratio(rates_of(tmp_path, tops), LORA, FULL)


def test_a_best_rate_beside_one_that_diverged_is_not_called_an_end(tmp_path):
    runs = rates_of(tmp_path, (-2.8, -2.8))
    for record in runs:
        if record.config["method"]["name"] == "lora" and record.config["optim"]["lr"] > 1.1e-3:
            record.objective = None
    with pytest.raises(NotRun, match=r"0\.001, is next to one that diverged$"):
        learning_rates.best_lr_ratio(runs, LORA, FULL)


def test_a_grid_that_is_missing_or_of_two_rates_says_nothing(tmp_path):
    runs = rates_of(tmp_path, (-2.8, -2.8))
    with pytest.raises(NotRun, match="no finished run of lora rank=4"):
        learning_rates.best_lr_ratio(runs, LORA | {"rank": 4}, FULL)
    two = [run for run in runs if run.config["method"]["name"] == "full" or 2e-4 < run.config["optim"]["lr"] < 2e-3]
    with pytest.raises(NotRun, match="a parabola needs three"):
        learning_rates.best_lr_ratio(two, LORA, FULL)


def test_two_seeds_that_share_one_at_all_rates_give_no_interval(tmp_path):
    def kept(config: dict) -> bool:
        return config["method"]["name"] == "full" or config["seed"] != (0 if config["optim"]["lr"] < 2e-5 else 2)

    runs = [run for run in rates_of(tmp_path, [-2.8] * 3, [-3.3] * 3) if kept(run.config)]
    with pytest.raises(NotRun, match=r"^1 seed with the whole grid in both arms; an interval needs two$"):
        learning_rates.best_lr_ratio(runs, LORA, FULL)


def test_grids_that_were_not_trained_alike_are_not_compared(tmp_path):
    runs = rates_of(tmp_path, (-2.8, -2.8))
    for record in runs:
        if record.config["method"]["name"] == "full":
            record.config["trainer"]["epochs"] = 30.0
    with pytest.raises(NotRun, match=r"not trained alike: trainer\.epochs"):
        learning_rates.best_lr_ratio(runs, LORA, FULL)


def test_a_trend_is_no_surer_than_orders_at_random_allow(tmp_path):
    claim = CLAIMS["biderman_forgetting_rank"]
    ranks = claim.settings["ranks"]
    amounts = [[0.1, 0.1, 0.2], [0.2, 0.2, 0.1], [0.3, 0.3, 0.3]]  # a correlation of 1, 1 and .5 over three seeds
    arms = [{"method": "lora", "rank": rank, "forgetting": amount} for rank, amount in zip(ranks, amounts, strict=True)]
    found = trained.trend(records(claim, arms, tmp_path), **claim.settings)
    assert found.value - found.low >= 1.96 / np.sqrt((len(ranks) - 1) * 3) - 1e-3


def test_of_several_arms_the_sum_of_some_less_the_sum_of_others_counts(tmp_path):
    claim = CLAIMS["lora_t6_q_needs_rank"]
    rates = (0.70, 0.80, 0.75, 0.77)  # q at ranks 1 and 4, q and v at ranks 1 and 4
    arms = [
        {"method": "lora", "targets": targets, "rank": rank, "scores": [rate] * 3}
        for (targets, rank), rate in zip([("q", 1), ("q", 4), ("qv", 1), ("qv", 4)], rates, strict=True)
    ]
    found = trained.difference(records(claim, arms, tmp_path), **claim.settings)
    assert found.value == pytest.approx(0.10 - 0.02)
    assert found.low < found.value < found.high and found.n == 3, "the test items are few"


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    claim = CLAIMS["lora_t6_rank1"]

    def width(scores: list[float], folder: str) -> float:
        arms = [LORA | {"targets": "qv", "rank": 1, "scores": scores}]
        arms += [LORA | {"targets": "qv", "rank": 64, "scores": [0.8, 0.8, 0.8]}]
        found = trained.difference(records(claim, arms, tmp_path / folder), **claim.settings)
        return found.high - found.low

    assert width([0.80, 0.70, 0.90], "apart") > 3 * width([0.79, 0.80, 0.81], "near")


def test_a_probe_that_got_worse_is_forgetting_as_is_a_loss_that_rose(tmp_path):
    claim = CLAIMS["biderman_forgets_less"]
    record = records(claim, [{"method": "full", "forgetting": [0.1]}], tmp_path)[0]
    assert scalar(record, "forgetting") == 0.1
    record.metrics["forgetting"]["measure"] = "probe"
    assert scalar(record, "forgetting") == -0.1


def test_states_are_weights_and_of_the_trained_a_gradient_and_two_moments():
    full = {"model": "tiny_bert", "task": "synthetic", "method": "full"}
    states, total = (planned.planned(what, full).value for what in ("state_bytes", "trainable"))
    buffers = states - 16 * total  # positions and token types, which are no weights
    assert 0 <= buffers < 0.05 * states


@pytest.mark.parametrize("method", ["lora", "full", "dora", "vera", "head"])
def test_what_grows_by_the_block_is_told_of_any_depth(method):
    spec = {"model": "minilm", "targets": "qv", "method": method, "quant": "bf16" if method == "lora" else "none"}
    deep = spec | {"blocks": 5, "trainer.batch_size": 2, "task.max_length": 16}
    for what in ("adapter", "trainable", "base", "weight_bytes", "state_bytes", "flops", "full_flops"):
        assert planned._figure(what, deep) == planned.FIGURES[what](deep), what


def test_a_ratio_is_to_another_figure_or_to_the_same_of_another_config():
    model = {"model": "tiny_bert", "task": "synthetic", "targets": "qv"}
    four, eight = (planned.planned("adapter", model | {"rank": rank}).value for rank in (4, 8))
    ratio = planned.planned("adapter", model | {"rank": 4}, to=model | {"rank": 8}, times=3)
    assert (ratio.value, ratio.note) == (1.5, f"{3 * four:,.0f} and {eight:,.0f} parameters")
    assert planned.planned("adapter", model | {"rank": 4}, over="adapter").value == 1


def test_of_several_settings_the_furthest_decides():
    model = {"model": "tiny_bert", "task": "synthetic", "targets": "qv"}
    four, eight = (planned.planned("adapter", model | {"rank": rank}).value for rank in (4, 8))
    assert four < eight == planned.planned("adapter", model | {"rank": [4, 8]}, near=four).value
    furthest = planned.planned("adapter", [model | {"rank": rank} for rank in (4, 8)], near=eight)
    assert furthest.value == four and furthest.note == "of 2 settings: model=tiny_bert task=synthetic targets=qv rank=4"


def test_an_adapter_that_does_not_start_at_zero_is_noticed(monkeypatch):
    assert starts.start_gap(["tiny_bert"]).value == 0
    assert starts.zeros_at_start("tiny_bert").value == pytest.approx(1, abs=1e-3)
    fresh = starts._fresh

    def unfrozen(model: str):
        adapted = fresh(model)
        adapted.requires_grad_(True)
        return adapted

    assert starts.frozen_gradients(["tiny_gpt2"]).value == 0
    monkeypatch.setattr(starts, "_fresh", unfrozen)
    assert starts.frozen_gradients(["tiny_gpt2"]).value > 0

    def filled(model: str, value: float):
        adapted = fresh(model)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.constant_(parameter, value)
        return adapted

    for value in (0.0, 1.0):  # both factors alike
        monkeypatch.setattr(starts, "_fresh", lambda model, value=value: filled(model, value))
        assert starts.zeros_at_start("tiny_bert").value == 0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list:
    """Real runs of ranks 2 and 4 and of full fine-tuning, two seeds each, long enough to learn something."""
    from tiny_configs import tiny

    outputs = str(tmp_path_factory.mktemp("outputs"))
    common = {"targets": "qv", "outputs": outputs, "study": "claims_core", "tracking__ledger": False}
    common["trainer__max_steps"] = 60
    arms = [{"method": "lora", "method__rank": rank, "optim__lr": 0.02} for rank in (2, 4)]
    arms += [{"method": "full", "trainer__save_full": True, "optim__lr": 0.01}]
    return [run(tiny("bert", seed=seed, **arm, **common)) for arm in arms for seed in (0, 1)]


def test_spectral_quantities_read_finished_runs(study):
    low, high = {"method": "lora", "rank": 2}, {"method": "lora", "rank": 4}
    shared = spectral.shared_directions(study, low, high, 2, 4, "q")
    pairs = [[a.folder, b.folder] for a, b in zip(study[:2], study[2:4], strict=True)]
    found = [analyze("subspaces", pair, module="q", of="A")["pairs"][0]["points"] for pair in pairs]
    points = [next(point for point in all_ if (point["i"], point["j"]) == (2, 4)) for all_ in found]
    assert shared.value == pytest.approx(np.mean([p["phi"] - max(p["expected"], p["start"] or 0) for p in points]))
    assert shared.n == 2 and len(shared.runs) == 4
    factor, projected = (
        spectral.amplification(study, high, "q", *figures) for figures in (["factor"], ["by_update", "by_chance"])
    )
    rows = [analyze("amplification", [run.folder], module="q")["rows"][0] for run in study[2:4]]
    assert factor.value == pytest.approx(np.mean([row["factor"] for row in rows]))
    assert projected.value == pytest.approx(np.mean([row["by_update"] / row["by_chance"] for row in rows]))
    full, lora = spectral.variance_directions(study, FULL), spectral.variance_directions(study, low)
    assert lora.value <= 2 / 32 < full.value <= 1
    stable = [
        [analyze("spectrum", [run.folder])["rows"][0]["stable_rank"] for run in runs]
        for runs in (study[:2], study[2:4])
    ]
    power = spectral.stable_rank_exponent(study, {"method": "lora"}, [2, 4])
    assert power.value == pytest.approx(np.mean(np.log2(np.divide(stable[1], stable[0])))) and power.n == 2
    found = [spectral.intruder_difference(study, *pair).value for pair in ((low, high), (high, low))]
    assert found[0] == -found[1]


def test_runs_of_the_study_are_found_by_the_words_of_a_claim(study):
    claim = dataclasses.replace(
        CLAIMS["lora_t6_rank1"], settings={"metric": "accuracy", "of": {"method": "lora", "rank": 2}, "minus": FULL}
    )
    found = trained.difference(study, **claim.settings)
    assert found.n == 2 and set(found.runs) == {each.run["name"] for each in (*study[:2], *study[4:])}
