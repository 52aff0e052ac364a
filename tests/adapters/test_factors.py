"""What is computed from the factors is what the dense ΔW would give."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from rankwise.adapters.factors import Delta, rank_for_energy, why_not_plain


def delta(rank: int = 5, d_in: int = 12, d_out: int = 9, seed: int = 0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta(
        torch.randn(d_out, rank, generator=generator, dtype=torch.float64),
        torch.randn(rank, d_in, generator=generator, dtype=torch.float64),
    )


def test_inner_products_without_the_product() -> None:
    pairs = [delta(5), delta(3, seed=1), Delta(delta(4, seed=2).dense(), None)]
    for one in pairs:
        for other in pairs:
            wanted = float((one.dense() * other.dense()).sum())
            assert abs(one.dot(other) - wanted) < 1e-9 * max(1, abs(wanted))


def test_singular_values_and_the_best_approximation_are_those_of_the_product() -> None:
    one = delta()
    u, s, v = torch.linalg.svd(one.dense(), full_matrices=False)
    torch.testing.assert_close(one.svd().s, s[:5])
    for rank in (1, 3, 5):
        torch.testing.assert_close(one.svd().truncated(rank).dense(), u[:, :rank] * s[:rank] @ v[:rank])


def test_truncation_is_exact_from_the_true_rank_on() -> None:
    low = delta(2)
    twice = Delta(torch.cat([low.b, -0.5 * low.b], 1), torch.cat([low.a, low.a], 0))  # type: ignore[list-item]
    torch.testing.assert_close(twice.svd().truncated(2).dense(), 0.5 * low.dense())
    assert float((twice.svd().truncated(1).dense() - twice.dense()).norm()) > 0.1


def test_more_rank_than_a_side_has() -> None:
    wide = delta(rank=12, d_in=8, d_out=6)
    assert len(wide.svd().s) == 6
    torch.testing.assert_close(wide.svd().truncated(6).dense(), wide.dense())


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "OLoRA", "mica", "lora_ga"])
def test_a_start_that_changes_the_base_is_not_plain(init: str) -> None:
    config = LoraConfig()
    config.init_lora_weights = init  # type: ignore[assignment]
    assert why_not_plain(config) == f"init_lora_weights={init}"


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_a_start_beside_the_base_is_plain(init: bool | str) -> None:
    config = LoraConfig()
    config.init_lora_weights = init  # type: ignore[assignment]
    assert why_not_plain(config) is None


def test_the_rank_that_keeps_a_share_of_the_energy() -> None:
    values = torch.tensor([3.0, 2.0, 1.0])  # 9, 4, 1 of 14
    assert [rank_for_energy(values, share) for share in (0.1, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_for_energy(torch.zeros(4), 0.9) == 1
