"""``wandb agent SWEEP``, as it is but for asking the server more often than every 5 s."""

import sys

from wandb import wandb_agent
from wandb.cli.cli import cli

wandb_agent.Agent.POLL_INTERVAL = 0.5  # type: ignore[assignment]
cli(["agent", sys.argv[1]])
