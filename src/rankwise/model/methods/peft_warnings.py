"""PEFT without the warnings that say nothing to a user of rankwise, and its ways of saying no."""

import contextlib
import warnings
from collections.abc import Iterator

# What PEFT raises for a method, a layer or a combination that it cannot do: each tuner has its own idea.
CANNOT = (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError, KeyError)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks transformers by a name that is on its way out, doubts that a seed gives random matrices again, warns
    of keys that only a newer PEFT knows, and for BOFT looks for a compiler in every layer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Specified to not (load|save)")
        warnings.filterwarnings("ignore", "Unexpected keyword arguments")
        warnings.filterwarnings("ignore", "Failed to load the CUDA extension|Setting boft_n_butterfly_factor")
        yield
