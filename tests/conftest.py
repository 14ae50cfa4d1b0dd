"""Fixtures of the end-to-end and fault tests: one server for the tests of a file, or a fresh one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from live_server import Server, running

settings.register_profile("headrace", deadline=None)  # a busy machine is no failure
settings.load_profile("headrace")


@pytest.fixture(autouse=True)
def _ordinary_priority() -> Iterator[None]:
    """SVT-AV1, opened by root in this process, gives it real-time priority, which children inherit."""
    _take_back()
    yield
    _take_back()


def _take_back() -> None:
    if sys.platform == "linux" and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A fresh server for one test; the test may have ended it already."""
    with running(tmp_path / "data") as it:
        yield it


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a file that do not harm it."""
    with running(tmp_path_factory.mktemp("headrace") / "data") as it:
        yield it
