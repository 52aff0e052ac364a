"""Claims can fail: each comes out all three ways, and a file that is not whole is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rankwise.claims import registry
from rankwise.claims.bounds import VERDICTS
from rankwise.claims.claim import TIERS
from rankwise.claims.judge import answer
from rankwise.claims.quantities import QUANTITIES
from rankwise.claims.synthetic import interval_of, prove
from rankwise.errors import Refused

CLAIMS = registry.read()
# Plans of a large model's step, 5 to 12 s each: tests/plan has others.
SLOW = {"qlora_33b_24gb", "folklore_qlora_33b_24gb", "qlora_checkpointing", "peft_rank_hardly_costs"}
EXACT = [claim for claim in CLAIMS if claim.kind == "exact" and claim.id not in SLOW]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_comes_out_reproduced_contradicted_and_inconclusive(claim):
    for verdict in VERDICTS:
        interval = interval_of(claim, verdict)
        assert [claim.bound_in(tier).verdict(*interval) for tier in TIERS] == [verdict] * 2


@pytest.mark.parametrize("claim", EXACT, ids=lambda claim: claim.id)
def test_an_exact_claim_comes_out_as_its_file_expects(claim):
    assert answer(claim, [], "full").verdict == (claim.expected or "reproduced")


def test_there_are_claims_of_every_kind_and_every_quantity_is_asked_for():
    assert len(CLAIMS) > 40
    assert {claim.kind for claim in CLAIMS} == {"exact", "measured", "trained", "spectral"}
    assert {claim.quantity for claim in CLAIMS} == set(QUANTITIES)


def test_what_is_trained_here_stands_for_another_setting():
    assert all(claim.proxy for claim in CLAIMS if claim.kind != "exact")


def write(folder: Path, **changes: object) -> Path:
    """A claim of rank 1 against rank 64, with other keys; None leaves one out."""
    values = yaml.safe_load((Path(registry.__file__).parent / "lora_t6_rank1.yaml").read_text())
    values |= changes
    (folder / "mine.yaml").write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"claim": None}, "claim is missing"),
        ({"synthetic": None}, "synthetic is missing"),
        ({"synthetic": {"reproduced": {"value": 1}}}, "synthetic: one case for each of"),
        ({"bond": 1}, "bond: no such key (did you mean bound?)"),
        ({"kind": "guessed"}, "kind: guessed: one of exact"),
        ({"quantity": "differences"}, "quantity: differences: one of"),
        ({"unit": "points"}, "unit: points: one of"),
        ({"bound": {"above": "much"}}, "bound: {'above': 'much'}: one of"),
        ({"bound": {"between": [1, 0]}}, "bound: {'between': [1, 0]}"),
        ({"study": None}, "study: name the study"),
        ({"with": {"metric": "accuracy"}}, "with.of is missing"),
        ({"with": {"metrik": "accuracy"}}, "with.metrik: no argument of difference"),
        ({"expected": "contradicted"}, "note: say why"),
        ({"source": "a blog"}, "source: {work"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_by_its_key(tmp_path, changes, named):
    with pytest.raises(Refused) as refused:
        registry.read(write(tmp_path, **changes))
    assert "mine.yaml" in str(refused.value) and named in str(refused.value)


def test_a_claim_that_cannot_come_out_as_it_says_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"synthetic\.contradicted: comes out reproduced"):
        registry.load(write(tmp_path, bound={"above": -0.5}))


def test_an_unknown_id_is_refused_with_the_nearest():
    with pytest.raises(Refused, match="lora_t6_rank1"):
        registry.only(CLAIMS, ["lora_t6_rank"])
    assert registry.only(CLAIMS, ["lora_t6_rank1"])[0].id == "lora_t6_rank1"


def test_a_whole_file_is_loaded(tmp_path):
    (claim,) = registry.load(write(tmp_path))
    prove(claim)
    assert claim.settings["metric"] == "accuracy" and claim.bound_in("full").low == -0.01
