"""A study as a W&B report and workspace, or how to look at the same without a server."""
