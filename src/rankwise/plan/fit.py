"""The largest batch that fits in a given memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

LARGEST = 4096  # rows; beyond it nobody asks


def largest_batch(phases_of: Callable[[int], Mapping[str, int]], limit_bytes: int) -> int:
    """The most rows whose peak is within ``limit_bytes``; 0 where one row is too many, at most ``LARGEST``.

    ``phases_of(rows)`` gives the peak of each phase in bytes. Each grows along a line with the rows, as long as it
    falls at the same place, so two points say where to look; what they say is confirmed at that batch and the next.
    """
    seen = {rows: dict(phases_of(rows)) for rows in (1, 2)}

    def fits(rows: int) -> bool:
        if rows not in seen:
            seen[rows] = dict(phases_of(rows))
        return max(seen[rows].values()) <= limit_bytes

    if not fits(1):
        return 0
    low, high = 1, LARGEST + 1  # the most known to fit, the fewest known not to
    while high - low > 1:
        guess = min(max(_crossing(seen, limit_bytes), low + 1), high - 1)
        for rows in (guess, guess + 1):
            if low < rows < high:
                low, high = (rows, high) if fits(rows) else (low, rows)
    return low


def _crossing(seen: Mapping[int, Mapping[str, int]], limit_bytes: int) -> int:
    """The rows at which the first phase reaches the limit, by the line through the two largest batches seen."""
    a, b = sorted(seen)[-2:]
    rooms = [LARGEST]
    for phase, at_b in seen[b].items():
        slope = (at_b - seen[a].get(phase, 0)) / (b - a)
        if slope > 0:
            rooms.append(int(b + (limit_bytes - at_b) // slope))
    return min(rooms)
