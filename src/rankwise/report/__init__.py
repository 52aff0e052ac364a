"""Records → table, statistics, plots, page."""
