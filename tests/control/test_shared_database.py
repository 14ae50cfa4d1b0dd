"""Two servers on one database: SQLite in a file that both open, and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hand_clock import Clock
from postgres import postgres, programs

from control.database import default_url
from control.services import Services, open_services
from control.snapshot import ChangeKind
from media.errors import Refused


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield default_url(tmp_path_factory.mktemp("database"))
    elif (found := programs()) is None:
        pytest.skip("PostgreSQL is not installed")
    else:
        with postgres(found) as url:
            yield url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def two(url: str, clock: Clock, tmp_path: Path) -> AsyncIterator[tuple[Services, Services]]:
    async with (
        open_services(tmp_path / "one", database_url=url, wall=clock, clock=clock) as one,
        open_services(tmp_path / "two", database_url=url, wall=clock, clock=clock) as other,
    ):
        for stream in one.streams.list():
            await one.streams.remove(stream.name)
        await other.tick()
        yield one, other


async def states(services: Services, stream_id: str) -> list[str]:
    await services.tick()
    return sorted(key.state(services.directory.now_ms()) for key in services.keys.list(stream_id))


def written(folder: Path) -> list[str]:
    """The keys that were delivered since the last look."""
    found = []
    for path in folder.glob("*/main.key"):
        found.append(path.read_text().strip())
        path.unlink()
    return found


async def test_the_schedule_makes_one_key(two: tuple[Services, Services], clock: Clock, tmp_path: Path) -> None:
    one, other = two
    settings = {"rotate_every_s": 60, "rotate_grace_s": 5, "rotate_file": "main.key"}
    stream = await one.streams.add("main", settings=settings)
    await one.keys.add(stream.id)
    await other.tick()
    for round_ in range(1, 6):
        clock.now += 60
        await asyncio.gather(one.tick(), other.tick())
        assert (
            await states(one, stream.id)
            == await states(other, stream.id)
            == ["ending", "live"] + (round_ - 1) * ["rotated"]
        )
        (key,) = written(tmp_path)
        await one.keys.verify(key, protocol="rtmp", address="")


async def test_rotations_at_once_leave_one_live_key(two: tuple[Services, Services]) -> None:
    one, other = two
    stream = await one.streams.add("main")
    await one.keys.add(stream.id)
    await other.tick()
    late = await one.keys.add(stream.id)  # the other one has not heard of it yet
    await other.keys.rotate(stream.id, grace_s=0)
    assert late.record.id in {key.id for key in other.keys.list(stream.id) if key.rotated}
    await asyncio.gather(*(each.keys.rotate(stream.id, grace_s=0) for each in (one, other) * 4))
    assert (await states(one, stream.id)).count("live") == 1
    assert await states(one, stream.id) == await states(other, stream.id)


async def test_a_key_for_one_publication_is_good_once(two: tuple[Services, Services]) -> None:
    one, other = two
    stream = await one.streams.add("main")
    key = await one.keys.add(stream.id, once=True)
    await other.tick()
    attempts = (each.keys.verify(key.key, protocol="rtmp", address="") for each in (one, other))
    found = await asyncio.gather(*attempts, return_exceptions=True)
    assert [error.slug for error in found if isinstance(error, Refused)] == ["key_used"]


async def test_a_revocation_reaches_the_other(two: tuple[Services, Services]) -> None:
    one, other = two
    stream = await one.streams.add("main")
    key = await one.keys.add(stream.id)
    await other.tick()
    heard = []
    other.directory.on_change(lambda change: heard.append((change.kind, change.key_id, change.reason)))
    await one.keys.revoke(key.record.id)
    await other.tick()
    assert heard == [(ChangeKind.KEY_ENDED, key.record.id, "key_revoked")]
    await one.streams.remove("main")
    await other.tick()
    assert other.streams.list() == ()
