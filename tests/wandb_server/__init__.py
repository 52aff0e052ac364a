"""A W&B server on the loopback, so that tests can run the real client against something that answers.

It knows what the client of the pinned version asks of a server, keeps what it is sent, and lists in ``unknown``
whatever else it was asked: a test that ends with ``assert server.unknown == []`` fails when a new client asks for more.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from wandb_server.faults import Fault
from wandb_server.http import Loopback
from wandb_server.store import ENTITY, Store, Sweep

__all__ = ["ENTITY", "KEY", "ContractServer", "Fault", "of_nobody"]
KEY = "k" * 40


def of_nobody(home: Path) -> dict[str, str]:
    """An environment without credentials and settings of the developer's."""
    names = ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR")
    return {name: str(home) for name in names} | {"NETRC": str(home / "netrc")}


class ContractServer:
    """``with ContractServer() as server:`` start the client with ``{**os.environ, **server.env()}``."""

    def __init__(self, fault: Fault | None = None):
        self.store = Store()
        self._loopback = Loopback(self.store, fault)

    def __enter__(self) -> "ContractServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loopback.close()

    def env(self) -> dict[str, str]:
        """What sends a client here, and nowhere else."""
        return {
            "WANDB_BASE_URL": self.store.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ENTITY": ENTITY,
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def run(self, name: str) -> dict[str, Any]:
        """A run by its id: history, summary, config, state, metrics (as defined), exit_code, …"""
        return self.store.runs[name].seen()

    @property
    def runs(self) -> list[str]:
        """Ids, in order of their first start."""
        return list(self.store.runs)

    @property
    def sweeps(self) -> dict[str, Sweep]:
        return self.store.sweeps

    @property
    def views(self) -> dict[str, dict[str, Any]]:
        return self.store.views

    @property
    def unknown(self) -> list[str]:
        """What it was asked and could not answer."""
        return self._loopback.unknown

    def operations(self) -> Iterator[str]:
        """Every GraphQL operation it was asked, in order."""
        return iter(self._loopback.asked)
