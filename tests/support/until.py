"""Waiting for what has no event to wait for: another process, or a state deep inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as the condition holds; `TimeoutError` where it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def settled() -> None:
    """Let all tasks of this loop run as far as they come by themselves."""
    for _ in range(20):
        await asyncio.sleep(0)
