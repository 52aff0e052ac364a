"""How a server goes wrong, and when."""

import threading
from dataclasses import dataclass, field


@dataclass
class Fault:
    """From the start, or once it has answered ``after`` (an operation or ``file_stream``), requests meet ``kind``.

    An HTTP status, ``hang`` (no answer until the server closes), or ``die`` (connections are refused).
    """

    kind: int | str
    after: str | None = None
    active: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if self.after is None:
            self.active.set()

    def answered(self, what: str) -> None:
        """Tell it what has just been answered."""
        if what == self.after:
            self.active.set()
