"""What the tests here share beside fixtures."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wandb_server import ContractServer

from rankwise.config import Config
from rankwise.identity import folder
from rankwise.tracking.record import Record, read

Command = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Study:
    """Two arms on two seeds: the files, and the server that was told of them."""

    server: ContractServer
    folder: Path
    configs: list[Config]

    def record(self, number: int) -> Record:
        """As it is on disk."""
        return read(folder(self.configs[number]))
