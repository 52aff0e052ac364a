"""On matrices whose directions are known, every measure is what it is on paper."""

import math
from statistics import mean, median

import pytest
import torch

from rankwise.adapters.factors import Delta
from rankwise.adapters.runs import Run
from rankwise.analysis import analyze, measures, subspaces, updates
from rankwise.analysis.measures import nearest_cosines
from rankwise.analysis.weights import Changed, Weights


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(d: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(random(d, k, seed=seed))[0]


def turned(d: int, first: int, second: int, angle: float) -> torch.Tensor:
    """The rotation of one plane."""
    rotation = torch.eye(d, dtype=torch.float64)
    rotation[first, first] = rotation[second, second] = math.cos(angle)
    rotation[second, first], rotation[first, second] = math.sin(angle), -math.sin(angle)
    return rotation


def test_similarity_of_one_turned_direction_is_its_squared_cosine():
    basis = orthonormal(12, 12)
    one, angle = basis[:, :3], math.radians(40)
    other = basis @ turned(12, 0, 7, angle)[:, :3]
    first = math.cos(angle) ** 2
    two, three = (first + 1) / 2, (first + 2) / 3
    wanted = torch.tensor([[first, first, first], [first, two, two], [first, two, three]], dtype=torch.float64)
    torch.testing.assert_close(measures.similarity(one, other), wanted)


def test_similarity_is_of_subspaces_and_not_of_their_bases():
    basis = orthonormal(12, 12)
    one, inside = basis[:, :4], basis[:, :4] @ orthonormal(4, 4, seed=1)
    phi = measures.similarity(one, inside)
    assert float(phi[3, 3]) == pytest.approx(1) and float(phi[0, 0]) < 0.99
    torch.testing.assert_close(phi[:, 3], torch.ones(4, dtype=torch.float64))  # any part lies in the whole
    assert float(measures.similarity(one, basis[:, 4:]).abs().max()) < 1e-12


@pytest.mark.parametrize(("i", "j"), [(1, 1), (2, 5), (8, 3)])
def test_random_subspaces_overlap_as_expected(i, j):
    d, draws = 24, 1500
    one, other = (torch.linalg.qr(random(draws, d, k, seed=seed))[0] for seed, k in ((1, i), (2, j)))
    phi = ((one.transpose(1, 2) @ other) ** 2).sum((1, 2)) / min(i, j)
    error = float(phi.std()) / math.sqrt(draws)
    assert abs(float(phi.mean()) - max(i, j) / d) < 4 * error < 0.01


def test_directions_of_factors_are_those_of_their_product():
    delta = Delta(random(9, 3), random(3, 14, seed=1))
    found = measures.decomposed(delta)
    torch.testing.assert_close(found.u * found.s @ found.v.T, delta.b @ delta.a)
    torch.testing.assert_close(found.s, torch.linalg.svdvals(delta.b @ delta.a)[:3])
    for side in (found.u, found.v):
        torch.testing.assert_close(side.T @ side, torch.eye(3, dtype=torch.float64))


def test_directions_without_a_singular_value_are_left_out():
    a = random(2, 14)
    assert measures.decomposed(Delta(random(9, 4), torch.cat([a, -2 * a]))).s.shape == (2,)
    assert measures.decomposed(torch.zeros(4, 5)).v.shape == (5, 0)
    rounded = torch.diag(torch.tensor([1.0, 1e-3, 1e-6], dtype=torch.float64))
    assert [len(measures.decomposed(Delta(rounded, None, noise)).s) for noise in (0.0, 1e-5, 2.0)] == [3, 2, 1]


def test_ranks_of_known_spectra():
    even, one, steps = torch.ones(5), torch.tensor([3.0, 0.0]), torch.tensor([2.0, 1.0, 1.0])
    assert measures.effective_rank(even) == pytest.approx(5)
    assert measures.effective_rank(one) == pytest.approx(1)
    assert measures.effective_rank(steps) == pytest.approx(2**1.5)  # p = ½, ¼, ¼
    assert [measures.stable_rank(s) for s in (even, one, steps)] == pytest.approx([5, 1, 1.5])
    assert [measures.energy_rank(s) for s in (even, one, steps)] == [5, 1, 3]
    assert measures.energy_rank(steps, 4 / 6) == 1
    zeros = torch.zeros(3)
    assert measures.effective_rank(zeros) == measures.stable_rank(zeros) == measures.energy_rank(zeros) == 0


def test_amplification_of_a_direction_that_the_base_has_little_of():
    u, v, values = orthonormal(8, 8), orthonormal(8, 8, seed=1), torch.tensor([9.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    base = u * values @ v.T
    delta = Delta(6 * u[:, 2:3], v[:, 2:3].T.contiguous())
    found = measures.amplification(base, delta)
    norm = math.sqrt(float((values**2).sum()))
    wanted = {"rank": 1, "base": norm, "update": 6, "by_update": 2, "by_base": 9, "by_chance": norm / 8}
    wanted |= {"factor": 3, "factor_by_base": 6 / 9, "factor_by_chance": 6 / (norm / 8)}
    assert found == pytest.approx(wanted)
    two = measures.amplification(base, 6 * u[:, 2:3] @ v[:, 2:3].T + 5 * u[:, 1:2] @ v[:, 1:2].T, rank=2)
    assert [two[key] ** 2 for key in ("update", "by_update", "by_base")] == pytest.approx([61, 20, 97])


def test_chance_is_the_root_mean_square_of_random_directions():
    base, rank = random(10, 14, seed=3), 3
    u, v = (torch.linalg.qr(random(2000, d, rank, seed=d))[0] for d in base.shape)
    squares = ((u.transpose(1, 2) @ base @ v) ** 2).sum((1, 2))
    chance = measures.amplification(base, Delta(random(10, rank), random(rank, 14)))["by_chance"]
    assert abs(float(squares.mean()) - chance**2) < 4 * float(squares.std()) / math.sqrt(2000)


def test_turned_directions_intrude_on_the_side_where_they_turned():
    base = torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    tuned = turned(5, 0, 4, math.radians(30)) @ base  # cos 30° = 0.866
    none = dict.fromkeys(measures.EPSILONS, 0)
    assert measures.intruders(nearest_cosines(tuned, base)) == none | {0.9: 2}
    assert measures.intruders(nearest_cosines(tuned, base, side="right")) == none
    assert not any(measures.intruders(nearest_cosines(base, base)).values())


def test_a_strong_direction_between_all_of_the_base_intrudes():
    base = torch.diag(torch.arange(5.0, 0, -1, dtype=torch.float64))
    even = torch.full((5, 1), 5**-0.5, dtype=torch.float64)  # its cosine to each direction of the base
    tuned = base + 1e6 * even @ even.T
    first = nearest_cosines(tuned, base)[:1]
    assert first.tolist() == pytest.approx([5**-0.5], abs=1e-4)
    assert measures.intruders(first) == {epsilon: int(epsilon > 5**-0.5) for epsilon in measures.EPSILONS}


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


def test_spectra_are_means_over_layers_and_a_shorter_one_has_all_of_its_energy(three):
    (row,) = updates.spectrum([three])["rows"]
    assert row["decay"] == pytest.approx([1, (0 + 0.5 + 0.5) / 3, (0 + 0 + 0.5) / 3])
    assert row["energy"] == pytest.approx([(1 + 4 / 5 + 4 / 6) / 3, (1 + 1 + 5 / 6) / 3, 1])
    assert [layer["r90"] for layer in row["by_module"].values()] == [1, 2, 3]
    assert row["r90_share"] == pytest.approx(mean([1, 2, 3]) / 6) and row["side"] == 6
    assert row["stable_rank"] == pytest.approx(mean([1, 5 / 4, 6 / 4]))


def test_amplification_is_the_median_over_layers_of_a_kind(three):
    (row,) = updates.amplification([three])["rows"]
    assert row["module"] == "q" and row["update"] == pytest.approx(median(map(math.sqrt, (4, 5, 6))))
    factors = [measures.amplification(w.base, w.delta)["factor"] for w in three.modules.values()]
    assert row["factor"] == pytest.approx(median(factors)) != pytest.approx(mean(factors))


def test_a_full_update_is_taken_at_the_ranks_of_the_paper_or_of_the_runs_beside_it(low, full, ran):
    alone = analyze("amplification", [full.folder])["rows"]
    assert {row["rank"] for row in alone} == {4, 32}, "matrices of 32 × 32 have no 64 directions"
    for run in (low, ran(method="pissa", method__rank=2)):  # the latter has factors of twice its rank
        beside = analyze("amplification", [run.folder, full.folder])["rows"]
        assert {(row["run"], row["rank"]) for row in beside} == {(f"{run.config.method.name} r=2", 2), ("full", 2)}


def test_layers_of_another_rank_are_shown_at_their_own(ran):
    run = ran(method__rank=4, targets__ranks={"query": 2})
    rows = analyze("amplification", [run.folder])["rows"]
    assert {row["module"]: row["rank"] for row in rows} == {"q": 2, "v": 4}
    for row in rows:
        for layer in row["by_module"].values():
            assert layer["by_chance"] == pytest.approx(row["rank"] * layer["base"] / 32)


def test_intruders_are_counted_by_vectors_and_by_matrices(three):
    found = updates.intruders([three])
    assert found["side"] == "left"
    tuned = [(w.base.double() + w.delta.dense(), w.base) for w in three.modules.values()]
    wanted = [measures.intruders(measures.nearest_cosines(*pair, "left")) for pair in tuned]
    for count in found["rows"][0]["counts"]:
        each = [by[count["epsilon"]] for by in wanted]
        assert count["mean"] == pytest.approx(mean(each)) and count["matrices"] == sum(n > 0 for n in each)
    assert max(by[0.9] for by in wanted) > 1  # so that the two counts differ


def test_sides_are_those_of_the_papers(low):
    sides = {name: analyze(name, [low.folder])["side"] for name in ("subspaces", "intruders")}
    assert sides == {"subspaces": "right", "intruders": "left"}


def test_chance_of_layers_of_several_widths_is_its_mean_over_them():
    one, other = ({"a": orthonormal(8, 2, seed), "b": orthonormal(24, 2, seed)} for seed in (0, 1))
    pair = subspaces._pair(("one", one, "unknown"), ("other", other, "unknown"))
    for point in pair["points"]:
        wanted = mean(max(point["i"], point["j"]) / d for d in (8, 24))
        assert point["expected"] == pytest.approx(wanted)
