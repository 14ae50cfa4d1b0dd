"""The delivery directives `_HLS_msn`, `_HLS_part` and `_HLS_skip` (RFC 8216bis 6.2.5): may, must or need not wait."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from media.errors import ProtocolError
from packager.model import Window

MAX_MSN_AHEAD = 2
_MAX_DIGITS = 18


class Answer(Enum):
    NOW = "now"
    WAIT = "wait"
    BAD = "bad"
    """Too far ahead: 400."""


@dataclass(frozen=True, slots=True)
class Directives:
    """What the client asks of a media playlist."""

    msn: int | None = None
    part: int | None = None
    skip: bool = False
    skip_ranges: bool = False
    """`v2`: date ranges, too."""

    @property
    def blocking(self) -> bool:
        return self.msn is not None


def parse(pairs: list[tuple[str, str]]) -> Directives:
    """Read decoded query parameters; others than ours are left alone. Raises `ProtocolError` (400)."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in ("_HLS_msn", "_HLS_part", "_HLS_skip"):
            if name in values:
                raise ProtocolError(f"{name} is given twice.", slug="bad_directive")
            values[name] = value
    msn, part = _number(values, "_HLS_msn"), _number(values, "_HLS_part")
    if part is not None and msn is None:
        raise ProtocolError("_HLS_part needs _HLS_msn.", slug="bad_directive")
    skip = values.get("_HLS_skip")
    if skip not in (None, "YES", "v2"):
        raise ProtocolError("_HLS_skip is YES or v2.", slug="bad_directive")
    return Directives(msn, part, skip is not None, skip == "v2")


def _number(values: dict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ProtocolError(f"{name} is a whole number, not {text[:20]!r}.", slug="bad_directive")
    return int(text)


def judge(directives: Directives, window: Window) -> Answer:
    """Whether `window` already holds what was asked."""
    msn, part = directives.msn, directives.part
    if msn is None or window.ended:
        return Answer.NOW
    last = window.last_complete
    if msn > last + MAX_MSN_AHEAD:
        return Answer.BAD
    if part is None:
        return Answer.NOW if last >= msn else Answer.WAIT
    listed = {segment.msn: segment for segment in window.segments[-2:]}
    finished = listed.get(msn)
    if finished is not None and not finished.gap and part >= len(finished.parts):
        msn, part = msn + 1, 0  # beyond the end of a finished segment means the start of the next
    if msn <= last:
        return Answer.NOW
    current = window.current
    have = len(current.parts) if current is not None and current.msn == msn else 0
    if part < have:
        return Answer.NOW
    if part - (have - 1) > advance_part_limit(window.part_target):
        return Answer.BAD
    return Answer.WAIT


def advance_part_limit(part_target: Fraction) -> int:
    """Parts that a client may ask ahead (6.2.5.2)."""
    return int(3 / part_target) if part_target < 1 else 3
