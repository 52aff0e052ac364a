"""Quantities give what is known beforehand, of made-up studies, of small models and of real tiny runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rankwise.analysis import analyze
from rankwise.claims import registry
from rankwise.claims.estimate import NotRun
from rankwise.claims.quantities import counts, learning_rates, spectral, starts, trained
from rankwise.claims.synthetic import records
from rankwise.run import run

CLAIMS = {claim.id: claim for claim in registry.read()}
GRID = CLAIMS["regret_2_lr_ten_times"]
LORA, FULL = {"method": "lora", "rank": 8}, {"method": "full"}


def grid(arm: dict, best: float, rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)) -> list[dict]:
    """Two seeds, whose validation objective is a parabola of log10 of the learning rate."""
    height = {lr: 0.8 - 0.02 * (np.log10(lr) - best) ** 2 for lr in rates}
    return [arm | {"lr": lr, "scores": [value, value]} for lr, value in height.items()]


def test_the_best_learning_rate_is_the_vertex_between_the_points_of_a_grid(tmp_path):
    runs = records(GRID, [*grid(LORA, -2.8), *grid(FULL, -3.3)], tmp_path)
    for record in runs:
        lr = record.config["optim"]["lr"]
        best = -2.8 if record.config["method"]["name"] == "lora" else -3.3
        record.objective = 0.8 - 0.02 * (np.log10(lr) - best) ** 2
    found = learning_rates.best_lr_ratio(runs, LORA, FULL)
    assert found.value == pytest.approx(10**0.5) and found.low == pytest.approx(found.high)


def test_seeds_that_disagree_on_the_best_learning_rate_widen_its_interval(tmp_path):
    runs = records(GRID, [*grid(LORA, -2.8), *grid(FULL, -3.3)], tmp_path)
    for record in runs:
        lr, lora = record.config["optim"]["lr"], record.config["method"]["name"] == "lora"
        best = (-2.8 if lora else -3.3) + (0.1 if lora and record.config["seed"] else 0.0)
        record.objective = 0.8 - 0.02 * (np.log10(lr) - best) ** 2
    found = learning_rates.best_lr_ratio(runs, LORA, FULL)
    assert found.low < 10**0.5 < found.value < 10**0.6 < found.high, "two seeds know little"


def test_a_best_learning_rate_at_the_end_of_its_grid_says_nothing(tmp_path):
    (tmp_path / "two").mkdir()
    runs = records(GRID, [*grid(LORA, -1.5), *grid(FULL, -3.3)], tmp_path)
    with pytest.raises(NotRun, match=r"0\.01, is the end of its grid"):
        learning_rates.best_lr_ratio(runs, LORA, FULL)
    with pytest.raises(NotRun, match="a parabola needs three"):
        learning_rates.best_lr_ratio(records(GRID, grid(LORA, -3.0, (1e-3, 1e-2)), tmp_path / "two"), LORA, FULL)
    with pytest.raises(NotRun, match="no finished run of lora rank=4"):
        learning_rates.best_lr_ratio(runs, LORA | {"rank": 4}, FULL)


def test_a_grid_whose_end_wins_in_some_resamples_says_nothing(tmp_path):
    runs = records(GRID, [*grid(LORA, -2.8), *grid(FULL, -3.3)], tmp_path)
    for record in runs:  # the seeds pull apart: one to the end, one to the other side
        if record.config["method"]["name"] == "lora":
            side = -1.5 if record.config["seed"] else -3.2
            record.objective = 0.8 - 0.02 * (np.log10(record.config["optim"]["lr"]) - side) ** 2
    with pytest.raises(NotRun, match=r"is the end of its grid in \d+% of resamples"):
        learning_rates.best_lr_ratio(runs, LORA, FULL)


def test_grids_that_were_not_trained_alike_are_not_compared(tmp_path):
    runs = records(GRID, [*grid(LORA, -2.8), *grid(FULL, -3.3)], tmp_path)
    for record in runs:
        if record.config["method"]["name"] == "full":
            record.config["trainer"]["epochs"] = 30.0
    with pytest.raises(NotRun, match=r"not trained alike: trainer\.epochs"):
        learning_rates.best_lr_ratio(runs, LORA, FULL)


def test_a_spread_at_two_rates_is_over_the_seeds_that_both_have(tmp_path):
    claim = CLAIMS["tinker_low_lr_hides_rank"]
    arms = [arm | {"scores": arm["scores"][:2] if arm["lr"] == 0.0002 else arm["scores"]}
            for arm in claim.synthetic["inconclusive"]["arms"]]  # fmt: skip
    assert learning_rates.spread_ratio(records(claim, arms, tmp_path), **claim.settings).n == 2


def test_a_trend_is_no_surer_than_orders_at_random_allow(tmp_path):
    claim = CLAIMS["biderman_forgetting_rank"]
    ranks = claim.settings["ranks"]
    amounts = [[0.1, 0.1, 0.2], [0.2, 0.2, 0.1], [0.3, 0.3, 0.3]]  # a correlation of 1, 1 and .5 over three seeds
    arms = [{"method": "lora", "rank": rank, "forgetting": amount} for rank, amount in zip(ranks, amounts, strict=True)]
    found = trained.trend(records(claim, arms, tmp_path), **claim.settings)
    assert found.value - found.low >= 1.96 / np.sqrt((len(ranks) - 1) * 3) - 1e-3


def test_a_gain_is_counted_from_the_first_setting_to_the_second(tmp_path):
    claim = CLAIMS["lora_t6_q_needs_rank"]
    rates = (0.70, 0.80, 0.75, 0.77)  # q at ranks 1 and 4, q and v at ranks 1 and 4
    arms = [
        {"method": "lora", "targets": targets, "rank": rank, "scores": [rate] * 3}
        for (targets, rank), rate in zip([("q", 1), ("q", 4), ("qv", 1), ("qv", 4)], rates, strict=True)
    ]
    found = trained.gain_difference(records(claim, arms, tmp_path), **claim.settings)
    assert found.value == pytest.approx(0.10 - 0.02)
    assert found.low < found.value < found.high and found.n == 3, "the test items are few"


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    claim = CLAIMS["lora_t6_rank1"]

    def width(scores: list[float], folder: str) -> float:
        (tmp_path / folder).mkdir()
        arms = [{"method": "lora", "targets": "qv", "rank": 1, "scores": scores},
                {"method": "lora", "targets": "qv", "rank": 64, "scores": [0.8, 0.8, 0.8]}]  # fmt: skip
        found = trained.difference(records(claim, arms, tmp_path / folder), **claim.settings)
        return found.high - found.low

    assert width([0.80, 0.70, 0.90], "apart") > 3 * width([0.79, 0.80, 0.81], "near")


def test_a_probe_that_got_worse_is_forgetting_as_is_a_loss_that_rose(tmp_path):
    claim = CLAIMS["biderman_forgets_less"]
    record = records(claim, [{"method": "full", "forgetting": [0.1]}], tmp_path)[0]
    assert trained.scalar(record, "forgetting") == 0.1
    record.metrics["forgetting"]["measure"] = "probe"
    assert trained.scalar(record, "forgetting") == -0.1


def test_an_adapter_on_one_layer_has_the_parameters_of_its_factors():
    assert counts.layer_parameters([], 30, 20, 4, "count").value == 4 * (30 + 20)
    assert counts.layer_parameters([], 30, 20, 4, "saving").value == pytest.approx(1 - 200 / 600)


def test_states_are_weights_and_of_the_trained_a_gradient_and_two_moments():
    model = {"model": "tiny_bert", "task": "synthetic"}
    full = counts.state_bytes([], model | {"method": "full"}).value
    total = counts.parameters([], model | {"method": "full"}, "total").value
    buffers = full - 16 * total  # positions and token types, which are no weights
    assert 0 <= buffers < 0.05 * full


def test_an_adapter_that_does_not_start_at_zero_is_noticed(monkeypatch):
    assert starts.start_gap([], ["tiny_bert"]).value == 0
    assert starts.zeros_at_start([], "tiny_bert").value == pytest.approx(1, abs=1e-3)
    fresh = starts._fresh

    def unfrozen(model: str):
        adapted = fresh(model)
        adapted.requires_grad_(True)
        return adapted

    assert starts.frozen_gradients([], ["tiny_gpt2"]).value == 0
    monkeypatch.setattr(starts, "_fresh", unfrozen)
    assert starts.frozen_gradients([], ["tiny_gpt2"]).value > 0

    def filled(model: str, value: float):
        adapted = fresh(model)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.constant_(parameter, value)
        return adapted

    for value in (0.0, 1.0):  # both factors alike
        monkeypatch.setattr(starts, "_fresh", lambda model, value=value: filled(model, value))
        assert starts.zeros_at_start([], "tiny_bert").value == 0


def test_of_several_settings_the_furthest_decides():
    specs = [{"model": "gpt2", "targets": "custom", "targets.modules": ["c_attn"], "rank": rank} for rank in (4, 8)]
    four, eight = (counts.parameters([], spec).value for spec in specs)
    assert counts.parameters([], specs, near=four).value == eight
    assert counts.parameters([], specs, near=eight).value == four


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list:
    """Real runs of ranks 2 and 4 and of full fine-tuning, two seeds each."""
    from tiny_configs import tiny

    outputs = str(tmp_path_factory.mktemp("outputs"))
    common = {"targets": "qv", "outputs": outputs, "study": "claims_core", "tracking__ledger": False}
    arms = [{"method": "lora", "method__rank": 2}, {"method": "lora", "method__rank": 4},
            {"method": "full", "trainer__save_full": True}]  # fmt: skip
    return [run(tiny("bert", seed=seed, **arm, **common)) for arm in arms for seed in (0, 1)]


def test_spectral_quantities_read_finished_runs(study: list):
    low, high = {"method": "lora", "rank": 2}, {"method": "lora", "rank": 4}
    shared = spectral.shared_directions(study, low, high, 2, 4, "q")
    points = [
        next(p for p in analyze("subspaces", [a.folder, b.folder], module="q", of="A")["pairs"][0]["points"]
             if (p["i"], p["j"]) == (2, 4))
        for a, b in zip(study[:2], study[2:4], strict=True)
    ]  # fmt: skip
    assert shared.value == pytest.approx(np.mean([p["phi"] - max(p["expected"], p["start"] or 0) for p in points]))
    assert shared.n == 2 and len(shared.runs) == 4
    factor, projected = (each(study, high, "q") for each in (spectral.amplification_factor,
                                                             spectral.projection_over_chance))  # fmt: skip
    rows = [analyze("amplification", [run.folder], module="q")["rows"][0] for run in study[2:4]]
    assert factor.value == pytest.approx(np.mean([row["factor"] for row in rows]))
    assert projected.value == pytest.approx(np.mean([row["by_update"] / row["by_chance"] for row in rows]))
    full, lora = spectral.variance_directions(study, FULL), spectral.variance_directions(study, low)
    assert lora.value <= 2 / 32 < full.value <= 1
    adapted = spectral.variance_directions(study, FULL, low).value  # of the layers that both have changed
    assert 0 < adapted < 1
    found = [spectral.intruder_difference(study, *pair).value for pair in ((low, high), (high, low))]
    assert found[0] == -found[1]


def test_runs_of_the_study_are_found_by_the_words_of_a_claim(study: list):
    claim = dataclasses.replace(
        CLAIMS["lora_t6_rank1"], settings={"metric": "accuracy", "of": {"method": "lora", "rank": 2}, "minus": FULL}
    )
    found = trained.difference(study, **claim.settings)
    assert found.n == 2 and set(found.runs) == {each.run["name"] for each in (*study[:2], *study[4:])}
