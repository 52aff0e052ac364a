"""What can be asked of models and runs, by the name that a claim's file has for it.

Each takes the arguments in ``with`` and gives an ``Estimate``, or raises ``NotRun``. Those of finished runs take the
records of the claim's study first.
"""

from collections.abc import Callable

from rankwise.claims.claim import Estimate
from rankwise.claims.quantities import learning_rates, planned, spectral, starts, timing, trained

_ALL = (
    planned.planned,
    planned.layer_parameters,
    planned.bits_saved,
    starts.start_gap,
    starts.zeros_at_start,
    starts.frozen_gradients,
    starts.product_rank,
    timing.step_speed,
    timing.forward_latency,
    trained.difference,
    trained.trend,
    learning_rates.best_lr_ratio,
    learning_rates.spread_ratio,
    spectral.shared_directions,
    spectral.amplification_factor,
    spectral.projection_over_chance,
    spectral.variance_directions,
    spectral.stable_rank_exponent,
    spectral.intruder_difference,
)

QUANTITIES: dict[str, Callable[..., Estimate]] = {quantity.__name__: quantity for quantity in _ALL}
