"""What several tests of the control plane stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hand_clock import Clock

from control.services import Services, open_services


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def services(tmp_path: Path, clock: Clock) -> AsyncIterator[Services]:
    async with open_services(tmp_path, wall=clock, clock=clock) as opened:
        yield opened
