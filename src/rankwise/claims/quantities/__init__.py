"""What can be asked of models and runs, by the name that a claim's file has for it: the public functions of this room.

Each takes the arguments in ``with`` and gives an ``Estimate``, or raises ``NotRun``. Those of finished runs take the
records of the claim's study first.
"""

import inspect
from collections.abc import Callable

from rankwise.claims.claim import Estimate
from rankwise.claims.quantities import learning_rates, planned, spectral, starts, timing, trained

QUANTITIES: dict[str, Callable[..., Estimate]] = {
    name: function
    for module in (planned, starts, timing, trained, learning_rates, spectral)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}
