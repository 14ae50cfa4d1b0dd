"""A clock for tests that is moved by hand."""

from __future__ import annotations


class Clock:
    """Seconds; stands until `now` is set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now
