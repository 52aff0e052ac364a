"""Rows of an analysis, on layers whose singular values are known."""

import math
from statistics import mean, median

import pytest
import torch

from rankwise import analysis
from rankwise.adapters.factors import Delta
from rankwise.adapters.runs import Run
from rankwise.analysis import measures, subspaces, updates
from rankwise.analysis.weights import Changed, Weights


def orthonormal(d: int, k: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


@pytest.fixture
def three(low: Run) -> Changed:
    """Three query layers (6 × 8) with ΔW of σ = 2, of 2, 1 and of 2, 1, 1."""
    modules = {}
    for block, values in enumerate(([2.0], [2.0, 1.0], [2.0, 1.0, 1.0])):
        u, v = orthonormal(6, len(values), block), orthonormal(8, len(values), block + 3)
        base = torch.randn(6, 8, generator=torch.Generator().manual_seed(block))
        name = f"bert.encoder.layer.{block}.attention.self.query"
        modules[name] = Weights(base, Delta(u * torch.tensor(values, dtype=torch.float64), v.T))
    return Changed(low, modules)


def test_spectra_are_means_over_layers_and_a_shorter_one_has_all_of_its_energy(three: Changed) -> None:
    (row,) = updates.spectrum([three])["rows"]
    assert row["decay"] == pytest.approx([1, (0 + 0.5 + 0.5) / 3, (0 + 0 + 0.5) / 3])
    assert row["energy"] == pytest.approx([(1 + 4 / 5 + 4 / 6) / 3, (1 + 1 + 5 / 6) / 3, 1])
    assert [layer["r90"] for layer in row["by_module"].values()] == [1, 2, 3]
    assert row["r90_share"] == pytest.approx(mean([1, 2, 3]) / 6) and row["side"] == 6
    assert row["stable_rank"] == pytest.approx(mean([1, 5 / 4, 6 / 4]))


def test_amplification_is_the_median_over_layers_of_a_kind(three: Changed) -> None:
    (row,) = updates.amplification([three])["rows"]
    assert row["module"] == "q" and row["update"] == pytest.approx(median(map(math.sqrt, (4, 5, 6))))
    factors = [measures.amplification(w.base, w.delta)["factor"] for w in three.modules.values()]
    assert row["factor"] == pytest.approx(median(factors)) != pytest.approx(mean(factors))


def test_a_full_update_is_taken_at_the_ranks_of_the_paper_or_of_the_runs_beside_it(low: Run, full: Run) -> None:
    alone = analysis.analyze("amplification", [full.folder])["rows"]
    assert {row["rank"] for row in alone} == {4, 64} and all(row["dense"] for row in alone)
    beside = analysis.analyze("amplification", [low.folder, full.folder])["rows"]
    assert {(row["run"], row["rank"]) for row in beside} == {("lora r=2", 2), ("full", 2)}


def test_intruders_are_counted_by_vectors_and_by_matrices(three: Changed) -> None:
    found = updates.intruders([three])
    assert found["side"] == "left"
    tuned = [(w.base.double() + w.delta.dense(), w.base) for w in three.modules.values()]
    wanted = [measures.intruders(measures.nearest_cosines(*pair, "left")) for pair in tuned]
    for count in found["rows"][0]["counts"]:
        each = [by[count["epsilon"]] for by in wanted]
        assert count["mean"] == pytest.approx(mean(each)) and count["matrices"] == sum(n > 0 for n in each)
    assert max(by[0.9] for by in wanted) > 1  # so that the two counts differ


def test_sides_are_those_of_the_papers(low: Run) -> None:
    sides = {name: analysis.analyze(name, [low.folder])["side"] for name in ("subspaces", "intruders")}
    assert sides == {"subspaces": "right", "intruders": "left"}


def test_chance_of_layers_of_several_widths_is_its_mean_over_them() -> None:
    one, other = ({"a": orthonormal(8, 2, seed), "b": orthonormal(24, 2, seed)} for seed in (0, 1))
    pair = subspaces._pair(("one", "other"), one, other, "unknown", "unknown")
    for point in pair["points"]:
        wanted = mean(measures.expected_similarity(point["i"], point["j"], d) for d in (8, 24))
        assert point["expected"] == pytest.approx(wanted)
