"""Alpha policies: how the multiplier of BA follows from the rank."""

import math
import re
from typing import Any

from rankwise.errors import Refused

_ALPHA = re.compile(r"([0-9]+(?:\.[0-9]+)?)(r|sqrt)?")


def parse_alpha(alpha: Any) -> tuple[float, str]:
    """Split an alpha policy into its number and kind: ``16`` → (16, ""), ``2r`` → (2, "r"), ``16sqrt`` → (16, "sqrt").

    Raises ValueError for anything else and for numbers that are not positive.
    """
    match = _ALPHA.fullmatch(str(alpha))
    if not match or float(match[1]) <= 0:
        raise ValueError(f"not an alpha policy: {alpha}")
    return float(match[1]), match[2] or ""


def scale_of(alpha: Any, rank: int) -> float:
    """The effective multiplier of BA.

    A number α gives α/r (Hu et al. 2021, §4.1); ``Kr`` means α = K·r, so K; ``Ksqrt`` gives K/√r
    (rank-stabilized LoRA, Kalajdzievski 2023).
    """
    number, kind = parse_alpha(alpha)
    return {"": number / rank, "r": number, "sqrt": number / math.sqrt(rank)}[kind]


def check_alpha(key: str, alpha: Any, roots: bool = True) -> None:
    """Refuse what is no alpha policy, and with ``roots=False`` one that divides by √r."""
    try:
        _, kind = parse_alpha(alpha)
    except ValueError:
        kind = None
    if kind is None or (kind == "sqrt" and not roots):
        also = ", or 16sqrt (16/sqrt(r))" if roots else ""
        join = "," if roots else " or"
        allowed = f"a positive number (scale alpha/r){join} a multiple of the rank such as 2r (scale 2){also}"
        raise Refused.value(key, alpha, allowed)
