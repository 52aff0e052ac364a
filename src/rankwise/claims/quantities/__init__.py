"""What can be asked of models and runs, by the name that a claim's file has for it.

Each takes the records of the claim's study and the arguments in ``with``, and gives an ``Estimate`` or raises
``NotRun``. Exact and measured ones need no records.
"""

from __future__ import annotations

from collections.abc import Callable

from rankwise.claims.estimate import Estimate
from rankwise.claims.quantities import costs, counts, learning_rates, spectral, starts, timing, trained

_ALL = (
    counts.layer_parameters, counts.parameters, counts.largest_share, counts.fewer_times, counts.stored_bytes,
    counts.checkpoint_ratio, counts.state_bytes, counts.state_ratio, counts.weight_bytes, counts.bits_saved,
    costs.flops_share, costs.flops_ratio, costs.peak_bytes, costs.part_ratio, costs.gradient_bytes_each,
    starts.start_gap, starts.zeros_at_start, starts.frozen_gradients, starts.product_rank,
    timing.step_speed, timing.forward_latency,
    trained.difference, trained.gain_difference, trained.trend,
    learning_rates.best_lr_ratio, learning_rates.spread_ratio,
    spectral.shared_directions, spectral.amplification_factor, spectral.projection_over_chance,
    spectral.variance_directions, spectral.intruder_difference,
)  # fmt: skip

QUANTITIES: dict[str, Callable[..., Estimate]] = {quantity.__name__: quantity for quantity in _ALL}
