"""A run that costs nothing and scores its learning rate, for tests of the search."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from rankwise.config import Config
from rankwise.identity import folder
from rankwise.tracking import record as records

VALIDATIONS = 12


def run(config: Config, on_progress: Callable[[int, int, str], None]) -> records.Record:
    """Validates a dozen times. Below a rate of 0.01 it is slow, so that there is time to stop it."""
    home = folder(config)
    with records.owned(home):
        record = records.begin(config, None)
        record.write()
        try:
            for step in range(1, VALIDATIONS + 1):
                with (home / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"attempt": 1, "step": step, "val/accuracy": config.optim.lr}) + "\n")
                on_progress(step, VALIDATIONS, "loss 1.0")
                time.sleep(0.3 if config.optim.lr < 0.01 else 0.0)
            record.run["status"], record.objective = records.FINISHED, config.optim.lr
        except KeyboardInterrupt:
            record.run["status"] = records.STOPPED
        record.write()
    return record
