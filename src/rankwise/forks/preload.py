"""Imports what runs need into the fork server, before it forks any.

multiprocessing imports this module there, by name. It imports and does nothing else: one multi-threaded operation of
torch in the server would start OpenMP's threads, which no child inherits, and every child would hang at its first.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence

from rankwise import machine

VARIABLE = "RANKWISE_PRELOAD"
# What a run imports sooner or later, by its own modules, and what theirs only import when first used (measured: 3 s).
HEAVY = (
    *("torch", "lightning.pytorch", "peft", "transformers", "pandas", "pyarrow.parquet", "sklearn.linear_model"),
    *("sklearn.feature_extraction.text", "scipy.stats", "torch.profiler", "torch.utils.flop_counter", "requests"),
    *("peft.utils.transformers_weight_conversion", "pyarrow.pandas_compat", "rankwise.run", "rankwise.fine_tune"),
    *("transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert"),
)


def environment(modules: Sequence[str]) -> dict[str, str]:
    """What must be in the environment for the fork server to import ``modules``.

    It looks for modules where this process does: Python before 3.13 does not tell the server where that is.
    """
    search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    wish = {"modules": list(modules), "search": os.environ.get("PYTHONPATH")}
    return {VARIABLE: json.dumps(wish), "PYTHONPATH": search}


def _load() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # of a terminal or `timeout`, to all; the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # as is Slurm's word that time ends, which all processes of a job get
    wish = json.loads(os.environ.pop(VARIABLE))
    os.environ.pop("PYTHONPATH", None)
    if wish["search"] is not None:
        os.environ["PYTHONPATH"] = wish["search"]
    with machine.importing(), _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in wish["modules"]:
            with contextlib.suppress(Exception):  # not installed, or broken: the run that needs it will say so
                importlib.import_module(module)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Send both standard streams nowhere, also what compiled code writes."""
    sys.stdout.flush()
    sys.stderr.flush()
    streams = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in enumerate(streams, start=1):
            os.dup2(copy, stream)
        for handle in (*streams, nowhere):
            os.close(handle)


if VARIABLE in os.environ:
    _load()
