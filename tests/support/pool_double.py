"""Stands where the transcoder's pool would, and keeps what the broadcast gives it; nothing is transcoded."""

from __future__ import annotations

from typing import Any

from transcode.plan import Plan
from transcode.settings import TranscodeSettings


class JobDouble:
    """One job. `items`: packets, gaps, cuts and changed plans, in the order they came."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.plans: list[Plan] = []
        self.closed = False

    def write(self, item: Any) -> None:
        self.items.append(item)

    def change(self, plan: Plan) -> None:
        self.plans.append(plan)
        self.items.append(plan)

    async def close(self, drain: bool) -> None:
        self.closed = True


class PoolDouble:
    """A pool whose every job is the same one."""

    def __init__(self) -> None:
        self.job = JobDouble()
        self.settings = TranscodeSettings()

    async def open(self, plan: Plan, sink: Any, *, name: str) -> JobDouble:
        self.job.plans.append(plan)
        return self.job
