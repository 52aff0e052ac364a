"""Records → table, statistics, plots, page. ``build(paths)`` reads a study; the Report writes it in every form."""

from rankwise.report.report import Report, build

__all__ = ["Report", "build"]
