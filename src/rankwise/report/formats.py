"""Numbers as a reader meets them: three significant digits and a unit."""

import math
import re
from collections.abc import Sequence

from rankwise.errors import plural
from rankwise.metrics import NOTHING, signed


def si(value: float | None, suffix: str = "") -> str:
    """``2.65 M``: three significant digits with a decimal prefix (k = 10³); ``66`` for a small count."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{three(value / factor)} {prefix}{suffix}"
    whole = float(value).is_integer()  # a count is exact
    return f"{int(value) if whole else three(value)} {suffix}".strip()


def megabytes(value: float | None) -> str:
    """Bytes in MB (10⁶)."""
    return NOTHING if value is None else three(value / 1e6)


def three(value: float | None) -> str:
    """Three significant digits, no powers of ten, at most four decimals: ``1234``, ``12.3``, ``<0.0001``."""
    if not value:
        return NOTHING if value is None else "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 4)}f}" if abs(value) >= 5e-5 else "<0.0001"
    return text.rstrip("0").rstrip(".") if "." in text and abs(value) < 1 else text


def percent(fraction: float | None) -> str:
    """A fraction in percent, without the sign."""
    return NOTHING if fraction is None else three(100 * fraction)


def signed_percent(fraction: float | None) -> str:
    """A relative error: ``+0.3 %``."""
    if fraction is None or not math.isfinite(fraction):
        return NOTHING
    return f"{signed(f'{100 * fraction:+.1f}')} %"


def ratio(value: float | None) -> str:
    """A share of something near it: ``0.67``."""
    return NOTHING if value is None else f"{value:.2f}"


def tight(text: str) -> str:
    """As a terminal has it: ``81.2±0.4``, ``99.9 (97.2–100.0)``."""
    return re.sub(r"\((\d[\d.]*) to (\d[\d.]*)\)", r"(\1–\2)", text.replace(" ± ", "±"))


def items(n: int, units: int | None) -> str:
    """``195 test items in 40 groups``: how many of them are independent, where they are not all."""
    return f"{n:,} test items" + (f" in {plural(units, 'group')}" if units and units < n else "")


def span(values: Sequence[int]) -> str:
    """``77`` or ``77 to 1,100``."""
    return " to ".join(dict.fromkeys(f"{end(values):,}" for end in (min, max)))


def listed(values: list[int]) -> str:
    """``3`` or ``3, 4``."""
    return ", ".join(map(str, values))


def rate(lr: float | None) -> str:
    """A learning rate: ``2e-3``."""
    if not lr:
        return NOTHING
    mantissa, exponent = f"{lr:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def out_of(tried: int, beyond: int) -> str:
    """From how many learning rates one was chosen: ``4 and 1 beyond their edge``."""
    return f"{tried}{f' and {beyond} beyond their edge' if beyond else ''}"
