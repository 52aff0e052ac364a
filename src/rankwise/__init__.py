"""rankwise: which LoRA rank is enough for this model and task, and what does it cost against full fine-tuning?"""

import importlib
import logging
from typing import Any

# What quantization libraries log when PEFT imports them, in every process and whether or not they are used: kernels
# for other hardware that did not load. It is said before anything of ours could keep it off the user's terminal.
for _name in ("bitsandbytes", "torchao", "torch.utils._pytree", "matplotlib"):  # which may have no home for its cache
    logging.getLogger(_name).setLevel(logging.ERROR)
logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries; what comes of them is one line of ours

# Flat public names, loaded when first used: importing rankwise imports nothing heavy.
_PUBLIC = {
    "Config": "rankwise.config",
    "Refused": "rankwise.errors",
    "Record": "rankwise.tracking.record",
    "find": "rankwise.tracking.record",
    "build": "rankwise.report.report",
    "run": "rankwise.run",
}
__all__ = ["Config", "Record", "Refused", "build", "find", "run"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'rankwise' has no attribute {name!r}")
