"""An upgrade of aiortc or aioice is a decision: these tests fail with it, and say what to do."""

from __future__ import annotations

import asyncio

import pytest

from ingest.whip import aiortc_hooks
from ingest.whip.aiortc_hooks import DropQueue


def test_the_versions_that_the_hooks_were_read_against() -> None:
    assert aiortc_hooks.versions() == aiortc_hooks.TESTED, (
        "aiortc or aioice has changed. Read the new sources of everything that ingest/whip/aiortc_hooks.py names, run "
        "the tests in tests/ingest/whip with real peers, and only then write the new versions into TESTED."
    )


def test_everything_relied_upon_is_there() -> None:
    assert aiortc_hooks.verify() == []


def test_a_missing_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(aiortc_hooks.RTCRtpReceiver, "_send_rtcp_pli")
    assert aiortc_hooks.verify() == ["RTCRtpReceiver._send_rtcp_pli"]


async def test_a_flood_on_the_port_is_dropped_and_counted() -> None:
    queue = DropQueue(3)
    for number in range(10):
        queue.put_nowait(number)
    queue.put_nowait(None)
    assert queue.dropped == 7
    assert [queue.get_nowait() for _ in range(4)] == [0, 1, 2, None]
    assert isinstance(queue, asyncio.Queue)
