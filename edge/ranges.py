"""Byte ranges (RFC 9110 14): what a viewer asks of an object, and what that means for one of known length."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*\Z", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Range:
    """One range. `first` None: the last `last` bytes. `last` None: up to the end. Both inclusive."""

    first: int | None
    last: int | None

    def resolve(self, total: int) -> tuple[int, int] | None:
        """`(start, end)` within `total` bytes, end exclusive; None where it cannot be satisfied (416)."""
        if self.first is None:
            assert self.last is not None
            return (max(0, total - self.last), total) if self.last and total else None
        if self.first >= total:
            return None
        return self.first, total if self.last is None else min(self.last + 1, total)


def parse(value: str) -> Range | None:
    """The single range of a `Range` field. None for anything else, which is then answered as if without one:
    several ranges, other units and broken ones may all be ignored (RFC 9110 14.2)."""
    match = _SINGLE.match(value)
    if match is None or not (match[1] or match[2]):
        return None
    first = int(match[1]) if match[1] else None
    last = int(match[2]) if match[2] else None
    if first is not None and last is not None and last < first:
        return None
    return Range(first, last)
