"""A program that runs to its end."""

from __future__ import annotations

import asyncio
import contextlib


async def run(*command: str, timeout_s: float = 120) -> tuple[int, bytes, str]:
    """(exit status, output, messages). Killed where it takes longer (`TimeoutError`), or where the test ends first."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, messages = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return process.returncode or 0, out, messages.decode(errors="replace")
