"""Numbers as a reader meets them: three significant digits and a unit."""

from __future__ import annotations

import math

from rankwise.report.statistics import Interval

NOTHING = "–"
# Metrics shown in percent, with differences in points; so are those of a group of rows, as accuracy_matched.
_PERCENT = (
    "accuracy", "f1", "bleu", "rouge_l", "meteor", "exact_match", "number_match", "json_keys", "reasoning",
)  # fmt: skip


def in_percent(metric: str) -> bool:
    return metric in _PERCENT or metric.startswith(("accuracy_", "f1_"))


def unit(metric: str) -> str:
    """The unit of a score in a header: " %" or nothing."""
    return " %" if in_percent(metric) else ""


def score(value: float | None, metric: str) -> str:
    """``81.2`` (percent), ``0.812``, or four digits of a perplexity, after the metric."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return _fixed(value, value, metric)


def interval(found: Interval | None, metric: str) -> str:
    """``81.2 ± 0.4``: a score and half the width of its interval, to the same decimals."""
    if found is None:
        return NOTHING
    if not (math.isfinite(found.point) and math.isfinite(found.half)):
        return score(found.point, metric)
    return f"{score(found.point, metric)} ± {_fixed(found.half, found.point, metric)}"


def difference(value: float | None, metric: str) -> str:
    """A signed difference in the unit of the score: points for percentages."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if metric == "perplexity":
        return _signed(f"{'-' if value < 0 else '+'}{_three(abs(value))}")
    return _signed(f"{100 * value:+.1f}" if in_percent(metric) else f"{value:+.3f}")


def width(value: float, metric: str) -> str:
    """An unsigned distance with its unit: ``2 points`` or ``0.02``."""
    return f"{100 * value:.3g} points" if in_percent(metric) else f"{value:.3g}"


def si(value: float | None, suffix: str = "") -> str:
    """``2.65 M``: three significant digits with a decimal prefix (k = 10³); ``66`` for a small count."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_three(value / factor)} {prefix}{suffix}"
    whole = float(value).is_integer()  # a count is exact
    return f"{int(value) if whole else _three(value)} {suffix}".strip()


def megabytes(value: float | None) -> str:
    """Bytes in MB (10⁶)."""
    return NOTHING if value is None else _three(value / 1e6)


def seconds(value: float | None) -> str:
    return NOTHING if value is None else _three(value)


def percent(fraction: float | None) -> str:
    """A fraction in percent, without the sign."""
    return NOTHING if fraction is None else _three(100 * fraction)


def signed_percent(fraction: float | None) -> str:
    """A relative error: ``+0.3 %``."""
    if fraction is None or not math.isfinite(fraction):
        return NOTHING
    return f"{_signed(f'{100 * fraction:+.1f}')} %"


def ratio(value: float | None) -> str:
    """A share of something near it: ``0.67``."""
    return NOTHING if value is None else f"{value:.2f}"


def whole(value: float | None) -> str:
    """The integer at or below: of a rank, as there are no others."""
    return NOTHING if value is None else str(math.floor(value))


def listed(values: list[int]) -> str:
    """``3`` or ``3, 4``."""
    return ", ".join(map(str, values))


def rate(lr: float | None) -> str:
    """A learning rate: ``2e-3``."""
    if not lr:
        return NOTHING
    mantissa, exponent = f"{lr:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _fixed(value: float, like: float, metric: str) -> str:
    """A value to the decimals that ``like`` is shown with."""
    if in_percent(metric):
        return f"{100 * value:.1f}"
    if metric != "perplexity":
        return f"{value:.3f}"
    digits = 3 - math.floor(math.log10(abs(like))) if like else 3
    return f"{value:.{min(max(digits, 0), 3)}f}" if digits > -4 else f"{value:.3g}"


def _signed(text: str) -> str:
    """A signed number with a real minus; a rounded zero has no sign."""
    return text.replace("-", "−") if text.strip("+-0.") else text[1:]


def _three(value: float) -> str:
    """Three significant digits, no powers of ten, at most four decimals: ``1234``, ``12.3``, ``0.0034``."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text and abs(value) < 1 else text
