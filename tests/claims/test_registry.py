"""The claims that come with rankwise: whole, able to fail, and exact ones as their files expect."""

import inspect

import pytest
from made_up import records, study_of

from rankwise.claims import registry
from rankwise.claims.claim import FROM_RUNS, KINDS, TIERS, UNITS, VERDICTS
from rankwise.claims.judge import answer
from rankwise.claims.quantities import QUANTITIES
from rankwise.errors import Refused

CLAIMS = registry.read()
# Plans of a large model's step, 5 to 12 s each: tests/plan has others.
SLOW = {"qlora_33b_24gb", "folklore_qlora_33b_24gb", "qlora_checkpointing", "peft_rank_hardly_costs"}
EXACT = [claim for claim in CLAIMS if claim.kind in ("identity", "exact") and claim.id not in SLOW]
TRAINED = [claim for claim in CLAIMS if claim.kind == "trained"]


@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.id)
def test_a_claim_comes_out_reproduced_contradicted_and_inconclusive(claim, tmp_path):
    for verdict in VERDICTS:
        runs = records(claim, study_of(claim, verdict), tmp_path / verdict)
        assert [answer(claim, runs, tier).verdict for tier in TIERS] == [verdict] * 2


@pytest.mark.parametrize("claim", EXACT, ids=lambda claim: claim.id)
def test_an_exact_claim_comes_out_as_its_file_expects(claim):
    assert answer(claim, [], "full").verdict == (claim.expected or "reproduced")


def test_every_claim_is_whole():
    for claim in CLAIMS:
        assert claim.kind in KINDS and claim.unit in UNITS and claim.claim and claim.published, claim.id
        assert bool(claim.study) == (claim.kind in FROM_RUNS), claim.id
        assert claim.proxy or claim.kind in ("identity", "exact"), f"{claim.id}: trained here, for another setting"
        assert claim.expected in (None, "reproduced", "contradicted"), claim.id
        assert claim.note or not claim.expected, f"{claim.id}: say why it is expected"
        given = ([],) if claim.kind in FROM_RUNS else ()
        inspect.signature(QUANTITIES[claim.quantity]).bind(*given, **claim.settings)


def test_there_are_claims_of_every_kind_and_every_quantity_is_asked_for():
    assert len(CLAIMS) > 90
    assert {claim.kind for claim in CLAIMS} == set(KINDS)
    assert {claim.quantity for claim in CLAIMS} == set(QUANTITIES)


def test_an_identity_is_expected_to_hold():
    assert all(claim.expected is None and not claim.proxy for claim in CLAIMS if claim.kind == "identity")


def test_an_unknown_id_is_refused_with_the_nearest():
    with pytest.raises(Refused, match="lora_t6_rank1"):
        registry.only(CLAIMS, ["lora_t6_rank"])
    assert registry.only(CLAIMS, ["lora_t6_rank1"])[0].id == "lora_t6_rank1"
