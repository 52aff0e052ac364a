"""The faster mask generator draws what torch's own would: Bernoulli numbers from the seed."""

from __future__ import annotations

import pytest
import torch

from rankwise.model.dropout import bernoulli_


@pytest.mark.parametrize("p", [0.9, 0.5, 0.1, 0.001, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_the_share_of_ones_is_p(p, dtype):
    torch.manual_seed(0)
    mask = bernoulli_(torch.empty(500, 401, dtype=dtype), p)
    share, n = mask.double().mean().item(), mask.numel()
    assert set(mask.unique().tolist()) <= {0, 1}
    assert abs(share - p) <= 4.5 * (p * (1 - p) / n) ** 0.5 + 1e-5


def test_neighbours_are_independent_also_those_of_one_draw():
    torch.manual_seed(1)
    mask = bernoulli_(torch.empty(400_000), 0.5)
    for lag in (1, 2, 3, 4):
        together = (mask[:-lag] * mask[lag:]).mean().item()
        assert abs(together - 0.25) < 4.5 * 0.0007


def test_the_seed_alone_decides():
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return bernoulli_(torch.empty(1001), 0.9)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_a_generator_of_its_own_leaves_the_global_one_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    bernoulli_(torch.empty(100), 0.9, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), before)
