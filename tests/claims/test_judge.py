"""Verdicts from intervals and runs, and how they are shown."""

import dataclasses
import inspect
import io
import json
import math
import re
from pathlib import Path

import pytest
from made_up import records, study_of
from rich.console import Console

from rankwise.claims import registry
from rankwise.claims.claim import FROM_RUNS, VERDICTS, Bound, Estimate
from rankwise.claims.judge import Verdict, judge, tally, to_json
from rankwise.claims.quantities import QUANTITIES
from rankwise.claims.show import bound, markdown, number, table
from rankwise.cli import main
from rankwise.errors import Refused
from rankwise.paths import options

CLAIMS = {claim.id: claim for claim in registry.read()}
RANK1 = CLAIMS["lora_t6_rank1"]
ARMS = study_of(RANK1, "reproduced")


@pytest.mark.parametrize(
    ("values", "low", "high", "verdict"),
    [
        ({"above": 0}, 0.1, 0.2, "reproduced"),
        ({"above": 0}, 0.0, 0.2, "inconclusive"),
        ({"above": 0}, -0.2, 0.0, "contradicted"),
        ({"below": 1}, 0.5, 0.9, "reproduced"),
        ({"below": 1}, 1.0, 1.0, "contradicted"),
        ({"between": [5, 5]}, 5, 5, "reproduced"),
        ({"between": [0, 1]}, -1, 2, "inconclusive"),
        ({"between": [0, 1]}, 1.1, 2, "contradicted"),
        ({"above": 0}, math.nan, math.nan, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval(values, low, high, verdict):
    assert Bound.of(values).verdict(low, high) == verdict
    assert Bound.of(Bound.of(values).to_dict()) == Bound.of(values)


def test_the_page_says_how_often_chance_makes_a_verdict_and_not_how_many_seeds_would_decide():
    claim = dataclasses.replace(RANK1, bound=Bound.of({"above": -0.02}))
    found = Verdict(claim, "inconclusive", claim.bound, Estimate(-0.01, -0.03, 0.01, n=5))
    shown = markdown([found], to_json([found], "full"))
    assert "by chance in 2.5 % of cases at most, each claim by itself" in shown
    assert "would decide" not in shown, "no number of seeds lessens what the test items leave open"


def test_without_runs_nothing_is_said_and_the_reason_is(tmp_path):
    assert judge(RANK1, [], "quick").reason == "no runs of study claims_core"
    found = judge(RANK1, records(RANK1, ARMS[:1], tmp_path), "quick")
    assert (found.verdict, found.reason) == ("not run", "no finished run of lora qv rank=64")
    found = judge(RANK1, records(RANK1, [arm | {"scores": [0.8]} for arm in ARMS], tmp_path / "one"), "quick")
    assert found.verdict == "not run" and "1 seed shared by all arms" in found.reason


def test_the_command_that_trains_a_study_without_runs_is_told(tmp_path):
    def last_lines(*verdicts: Verdict) -> str:
        screen = Console(width=200, file=io.StringIO(), color_system=None)
        screen.print(table(verdicts))
        return " ".join(screen.file.getvalue().split())

    found = [judge(claim, [], "quick") for claim in CLAIMS.values() if claim.study]
    studies = {claim.study: claim.study.removeprefix("claims_") for claim in CLAIMS.values() if claim.study}
    experiments = {option: f"claims_{option.removeprefix('full/')}" for option in options("experiment/claims")}
    told = re.findall(r"experiment=claims/([\w/]+)", last_lines(*found))
    assert {experiments[option] for option in told} == {*studies} and len(told) == len(studies)
    assert {"core", "full/variants"} < {*told}, "the smaller one of two"
    assert "rankwise train experiment=claims/core Ours with" in last_lines(judge(RANK1, [], "quick"))
    one_arm = judge(RANK1, records(RANK1, ARMS[:1], tmp_path), "quick")
    assert "rankwise train" not in last_lines(one_arm)


def test_runs_that_tuned_or_failed_are_not_compared(tmp_path):
    runs = records(RANK1, ARMS, tmp_path)
    for run in runs[:3]:
        run.config["stage"] = "tune"
    assert judge(RANK1, runs, "quick").verdict == "not run"
    for run in runs[:3]:
        run.config["stage"], run.run["status"] = None, "failed"
    assert judge(RANK1, runs, "quick").verdict == "not run"


def test_arms_that_were_not_trained_alike_are_not_compared(tmp_path):
    runs = records(RANK1, ARMS, tmp_path)
    for run in runs[:3]:
        run.config["trainer"]["epochs"] = 9.0
    assert "trainer.epochs (9.0 and 3.0)" in judge(RANK1, runs, "quick").reason


def test_each_arm_is_judged_at_its_best_learning_rate_by_validation_and_told_out_of_how_many(tmp_path):
    worse = [ARMS[0] | {"lr": lr, "scores": [0.5, 0.5, 0.5]} for lr in (1e-4, 1e-2)]
    found = judge(RANK1, records(RANK1, [*worse, *ARMS], tmp_path), "quick")
    assert found.verdict == "reproduced"
    assert "learning rate 0.001, the best of 3" in found.note and "learning rate 0.001, the only one" in found.note


def test_a_study_of_forgetting_does_not_miss_scores_that_it_has(tmp_path):
    claim = CLAIMS["biderman_forgets_less"]
    runs = records(claim, study_of(claim, "reproduced"), tmp_path)
    for run in runs:
        run.metrics["test"] = {"accuracy": {"value": 0.8}}
    assert "without a finite score" not in judge(claim, runs, "quick").note


def test_the_full_tier_has_its_own_bound(tmp_path):
    claim = dataclasses.replace(RANK1, bound=Bound.of({"above": -0.2}), full_bound=Bound.of({"above": 0.01}))
    alike = [arm | {"scores": [0.8, 0.81, 0.79]} for arm in ARMS]
    runs = records(claim, alike, tmp_path)
    assert [judge(claim, runs, tier).verdict for tier in ("quick", "full")] == ["reproduced", "contradicted"]


@pytest.mark.parametrize(("best", "reason"), [(1e-2, "0.01, is the end of its grid"), (1e-3, "")])
def test_a_claim_at_tuned_rates_needs_a_best_rate_inside_its_grid(tmp_path, best, reason):
    claim = CLAIMS["lr_matters_dora"]
    arms = [
        claim.settings[key] | {"lr": lr, "scores": [0.8 - (lr != best) / 10] * 3}
        for key in ("of", "minus")
        for lr in (1e-4, 1e-3, 1e-2)
    ]
    found = judge(claim, records(claim, arms, tmp_path), "quick")
    assert reason in found.reason and found.verdict == ("not run" if reason else "reproduced")


def test_a_stand_in_is_always_named(tmp_path):
    found = judge(RANK1, records(RANK1, ARMS, tmp_path), "quick")
    assert found.shown == "reproduced (proxy)"
    page = markdown([found], to_json([found], "quick"))
    assert "| reproduced (proxy) | 3 |" in page, "with the number of seeds"
    assert RANK1.published in page and "1 claim. 1 by proxy: 1 reproduced" in page


def test_a_claim_has_its_id_in_one_piece_at_80_columns():
    screen = Console(width=80, file=io.StringIO(), color_system=None)
    verdicts = [Verdict(claim, "not run", claim.bound, reason="no runs") for claim in CLAIMS.values()]
    screen.print(table(verdicts))
    assert set(CLAIMS) <= set(screen.file.getvalue().split())
    titles = {line for line in markdown(verdicts, to_json(verdicts, "quick")).splitlines() if line.startswith("## ")}
    assert {"## rsLoRA (Kalajdzievski 2023)", "## μA (Chen et al. 2026)", "## Folklore"} < titles


def test_a_measured_claim_is_timed_where_that_is_asked():
    claim = CLAIMS["folklore_faster_inference"]
    tiny = {"model": "tiny_bert", "targets": "qv", "rank": 2}
    settings = {"of": tiny, "to": {"model": "tiny_bert", "method": "full"}, "rows": 1, "length": 4, "blocks": 3}
    claim = dataclasses.replace(claim, settings=settings)
    found = judge(claim, [], "quick")
    assert (found.verdict, found.reason) == ("not run", "not measured: --measure times it")
    made = judge(claim, [], "quick", measure=True).estimate
    assert 0 < made.low <= made.value <= made.high and made.n == 3


def test_the_command_prints_a_document_and_writes_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["claims", str(tmp_path)]) == 2
    assert "no runs in" in capsys.readouterr().err
    assert main(["claims", "wandb:me/project"]) == 2
    assert "runs of W&B are read by rankwise report and dashboard alone" in capsys.readouterr().err
    ids = ["peft_lora_r32_parameters", "lora_t3_gpt2_medium", "lora_t6_rank1"]
    assert main(["claims", "--only", *ids, "--json", "--markdown", "claims.md"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == "rankwise: 3 claims, read from 0 runs or computed here; that may take minutes\n"
    found = {claim["id"]: claim for claim in document["claims"]}
    assert found["peft_lora_r32_parameters"]["ours"]["value"] == 9_175_040
    assert {key: claim["verdict"] for key, claim in found.items()} == {
        "peft_lora_r32_parameters": "reproduced",
        "lora_t3_gpt2_medium": "contradicted",
        "lora_t6_rank1": "not run",
    }
    kinds = ("1 that cannot fail: 1 reproduced", "1 in their own setting: 1 contradicted", "1 by proxy: 1 not run")
    assert f"3 claims. {'. '.join(kinds)}" in (tmp_path / "claims.md").read_text()
    assert main(["claims", "--only", *ids]) == 0
    assert "1 contradicted" in capsys.readouterr().out


def test_numbers_are_shown_in_their_unit():
    assert number(-0.02, "accuracy") == "−2.0 points"
    differences = {claim.unit for claim in CLAIMS.values() if claim.quantity == "difference"}
    assert "share" not in differences, "a difference of shares is of points"
    assert number(32_000, "count") == "32,000"
    assert [number(-value, unit) for value, unit in ((0.968, "share"), (32_000, "count"), (0.5, "correlation"))] == [
        *("−96.8 %", "−32,000", "−0.5")
    ]
    alike = Estimate(3.0, math.nan, math.nan, n=3)
    for unit, shown in (("count", "3"), ("ratio", "3"), ("share", "300 %")):
        found = Verdict(dataclasses.replace(RANK1, unit=unit), "inconclusive", RANK1.bound, alike)
        assert f"| {shown} |" in markdown([found], to_json([found], "full")), "the value of seeds that all agree, alone"
    assert bound(judge(CLAIMS["peft_lora_r32_parameters"], [], "quick")) == "9,175,040"
    assert tally([]) == "0 claims"


def test_an_interrupted_study_is_judged_by_the_learning_rates_that_are_whole(tmp_path):
    begun = [arm | {"lr": 0.01, "scores": [0.99]} for arm in ARMS]
    found = judge(RANK1, records(RANK1, [*ARMS, *begun], tmp_path), "quick")
    assert found.verdict == "reproduced" and found.estimate.n == 3 and "learning rate 0.001" in found.note


def test_nothing_is_concluded_from_an_arm_that_learned_nothing(tmp_path):
    runs = records(RANK1, ARMS, tmp_path / "one")
    runs[0].metrics["test"]["matthews"] = {"value": 0.0, "se": 0.0}
    found = judge(RANK1, runs, "quick")
    assert (found.verdict, found.reason) == ("not run", "lora qv rank=1: 1/3 give one answer to every text")
    chance = judge(RANK1, records(RANK1, [arm | {"scores": [0.5] * 3} for arm in ARMS], tmp_path / "chance"), "quick")
    assert chance.verdict == "not run" and chance.reason.count("not shown to be better than always answering one") == 2


def test_that_an_arm_learns_nothing_at_one_rate_can_be_what_is_claimed(tmp_path):
    claim = CLAIMS["dora_t15_rank4"]
    runs = records(claim, study_of(claim, "reproduced"), tmp_path)
    for run in runs[3:]:
        run.compute["diverged"] = True
    found = judge(claim, runs, "quick")
    assert found.verdict == "reproduced" and "lora rank=4 lr=0.002 (diverged 3/3)" in found.note
    for run in runs[:3]:
        run.compute["diverged"] = True
    assert (
        judge(claim, runs, "quick").reason == "dora rank=4 lr=0.002: diverged 3/3; lora rank=4 lr=0.002: diverged 3/3"
    )


# Plans of a large model's step, 5 to 12 s each: tests/plan has others.
SLOW = {"qlora_33b_24gb", "folklore_qlora_33b_24gb", "qlora_checkpointing", "peft_rank_hardly_costs"}
EXACT = [claim for claim in CLAIMS.values() if claim.kind in ("identity", "exact") and claim.id not in SLOW]
CONTRADICTED = {
    *("folklore_100_times_less", "folklore_always_cheaper", "folklore_megabytes_small", "folklore_one_percent"),
    *("lora_s4_full_1200gb", "lora_s4_two_thirds", "lora_t3_gpt2_large", "lora_t3_gpt2_medium"),
    *("qlora_7b_weights", "regret_6_flops_small"),
}
UNITS = ("accuracy", "ratio", "share", "count", "bytes", "bits", "nats", "correlation")
PAGE = (Path(__file__).parents[2] / "docs/claims.md").read_text(encoding="utf-8").splitlines()
TRAINED = [claim for claim in CLAIMS.values() if claim.kind == "trained"]


@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.id)
def test_a_claim_comes_out_reproduced_contradicted_and_inconclusive(claim, tmp_path, monkeypatch):
    monkeypatch.setattr("rankwise.compare.REPLICATES", 1000)
    monkeypatch.setattr("rankwise.claims.quantities.learning_rates.REPLICATES", 500)
    for verdict in VERDICTS:
        found = judge(claim, records(claim, study_of(claim, verdict), tmp_path / verdict), "full")
        low, high = found.estimate.low, found.estimate.high
        assert [found.verdict, claim.bound_in("quick").verdict(low, high)] == [verdict] * 2


@pytest.fixture(scope="module")
def made():
    """With when and where it was made."""
    return to_json([], "full")


@pytest.mark.parametrize("claim", EXACT, ids=lambda claim: claim.id)
def test_an_exact_claim_comes_out_as_its_note_and_the_page_say(claim, made):
    found = judge(claim, [], "full")
    assert found.verdict == ("contradicted" if claim.id in CONTRADICTED else "reproduced")
    assert markdown([found], made).splitlines()[-1] in PAGE


def test_every_claim_is_whole():
    for claim in CLAIMS.values():
        assert claim.unit in UNITS and claim.claim and claim.published, claim.id
        assert {math.isfinite(claim.bound.low), math.isfinite(claim.bound.high)} != {False}, claim.id
        assert bool(claim.study) == (claim.kind in FROM_RUNS), claim.id
        assert claim.proxy or claim.kind in ("identity", "exact"), f"{claim.id}: trained here, for another setting"
        assert claim.note or claim.id not in CONTRADICTED, f"{claim.id}: say why"
        assert claim.kind != "identity" or not (claim.id in CONTRADICTED or claim.proxy), f"{claim.id}: cannot fail"
        given = ([],) if claim.kind in FROM_RUNS else ()
        inspect.signature(QUANTITIES[claim.quantity]).bind(*given, **claim.settings)


def test_there_are_claims_of_every_kind_and_every_quantity_is_asked_for():
    assert len(CLAIMS) > 100, "the README says so"
    assert {claim.kind for claim in CLAIMS.values()} == {"identity", "exact", "measured", *FROM_RUNS}
    assert {claim.quantity for claim in CLAIMS.values()} == set(QUANTITIES)


def test_claims_are_chosen_by_id_or_its_beginning_and_an_unknown_one_is_refused_with_the_nearest():
    def chosen(*ids: str) -> list[str]:
        return [claim.id for claim in registry.only([*CLAIMS.values()], ids)]

    with pytest.raises(Refused, match="lora_t6_rank1"):
        chosen("lora_t6_rnk1")
    assert chosen("lora_t6_rank1") == ["lora_t6_rank1"], "though the id of another begins so"
    assert chosen("lora_t6", "qlora_t4") == [id_ for id_ in CLAIMS if id_.startswith(("lora_t6", "qlora_t4"))]
    assert len(chosen("lora_t6")) == 3
