"""Records → table, statistics, plots, page. ``build(paths)`` reads a study; the Report writes it in every form."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankwise.report.report import Report, build

__all__ = ["Report", "build"]


def __getattr__(name: str) -> Any:  # on first use: a plan's table needs none of what these import
    if name in __all__:
        from rankwise.report import report

        return getattr(report, name)
    raise AttributeError(f"module 'rankwise.report' has no attribute {name!r}")
