"""How HLS writes numbers, times and attributes (RFC 8216bis 4.2): no spaces, no exponents, UTC with milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds(ticks: int, timescale: int) -> str:
    """Decimal seconds with five digits, rounded down, so that no part ever seems longer than PART-TARGET."""
    units = ticks * 100_000 // timescale
    return f"{units // 100_000}.{units % 100_000:05d}"


def decimal(value: Fraction) -> str:
    """A number of seconds that has at most five digits anyway."""
    return seconds(value.numerator, value.denominator)


def instant(wall_us: int) -> str:
    """ISO 8601 date and time in UTC, for EXT-X-PROGRAM-DATE-TIME and DASH alike."""
    moment = _EPOCH + timedelta(microseconds=wall_us // 1000 * 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def quoted(value: str) -> str:
    """A quoted string; what may not stand in one (RFC 8216bis 4.2) is left out."""
    return '"' + "".join(c for c in value if c not in '"\r\n') + '"'
