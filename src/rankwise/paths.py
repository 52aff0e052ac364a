"""Where rankwise's own files are."""

from pathlib import Path

# What lies in the folder of a run until it is finished, and as large as what it trains or larger.
CHECKPOINTS = ("checkpoint.ckpt", "checkpoint.earlier.ckpt")  # the last, and the one before
UNFINISHED = ("best.safetensors", "best.partial", *CHECKPOINTS, "checkpoint.partial")

# What lies there from the start.
WRITTEN_FIRST = ("config.yaml", "metrics.jsonl", "result.json", ".lock", ".lease")


def conf_dir() -> Path:
    """The Hydra tree: beside the package in a wheel, two levels up in a checkout (never a stale copy by name)."""
    here = Path(__file__).resolve()
    return next(path for path in (here.parent / "conf", here.parents[2] / "conf") if (path / "config.yaml").is_file())
