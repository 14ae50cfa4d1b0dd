"""Streams and keys where something goes wrong at an unlucky moment, or was written by an unlucky hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hand_clock import Clock
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from control import directory, keys
from control.credentials import make_token
from control.models import Nonce
from control.operations import Operations
from control.secret_files import ADMIN_TOKEN, SERVER_SECRET, WORKER_TOKEN, admin_token, server_secret, worker_token
from control.services import Services
from control.settings import Settings
from control.snapshot import Change, ChangeKind
from media.errors import HeadraceError, Refused


async def publishes(services: Services, key: str) -> bool:
    try:
        await services.keys.verify(key, protocol="rtmp", address="192.0.2.1")
    except Refused:
        return False
    return True


@pytest.mark.parametrize("file", ["a-folder", ".", "/", "..", "a\0b", "a-folder/"])
async def test_a_rotate_file_that_is_none_ends_neither_the_old_key_nor_the_watch_over_all_others(
    services: Services, tmp_path: Path, clock: Clock, file: str
) -> None:
    (tmp_path / "a-folder").mkdir()
    settings = {"rotate_every_s": 60, "rotate_grace_s": 0, "rotate_file": "x"}
    stream = await services.streams.add("main", settings=settings)
    old = await services.keys.add(stream.id)
    other = await services.streams.add("other")
    news: list[Change] = []
    services.directory.on_change(news.append)
    short = await services.keys.add(other.id, expires_s=120)
    async with services.directory.changing() as session:
        row = await session.get_one(directory.Stream, stream.id)
        row.settings = {**row.settings, "rotate_file": file}
    for _ in range(3):
        clock.now += 60
        await services.tick()
    assert await publishes(services, old.key)
    assert ChangeKind.KEY_ENDED in {change.kind for change in news if change.key_id == short.record.id}


async def test_the_watch_over_keys_outlives_a_fault_of_ours(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = asyncio.Queue[int]()

    async def fails() -> None:
        rounds.put_nowait(1)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(services.directory, "refresh", fails)
    monkeypatch.setattr("control.services.POLL_S", 0.001)
    running = asyncio.create_task(services.run())
    async with asyncio.timeout(10):
        for _ in range(3):
            await rounds.get()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()


async def test_keys_that_ended_make_room_for_new_ones(
    services: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS_PER_STREAM", 5)
    stream = await services.streams.add("main")
    for _ in range(12):  # a rotation by the minute has a thousand ended keys within a day
        clock.now += 60
        newest = await services.keys.rotate(stream.id, grace_s=0)
    assert await publishes(services, newest.key)
    assert len(services.keys.list(stream.id)) == 5
    for _ in range(4):
        await services.keys.add(stream.id)
    with pytest.raises(Refused) as caught:
        await services.keys.add(stream.id)
    assert caught.value.slug == "too_many_keys"


async def test_single_use_keys_that_were_used_long_ago_are_forgotten(services: Services, clock: Clock) -> None:
    stream = await services.streams.add("main")
    guest = await services.keys.add(stream.id, once=True)
    unused = await services.keys.add(stream.id, once=True)
    assert await publishes(services, guest.key)
    clock.now += 31 * 86_400
    await services.keys.add(stream.id)
    listed = {key.id for key in services.keys.list(stream.id)}
    assert guest.record.id not in listed
    assert unused.record.id in listed


@pytest.mark.parametrize("kind", ["once", "token"])
async def test_a_key_that_is_revoked_while_its_single_use_is_settled_lets_nobody_in(
    services: Services, monkeypatch: pytest.MonkeyPatch, clock: Clock, kind: str
) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id, once=kind == "once", signing=kind == "token")
    shown = made.key if kind == "once" else make_token(made.record.id, made.key, expires_s=int(clock.now) + 60)
    name = "_spend_key" if kind == "once" else "_spend_nonce"
    spend: Callable[..., Any] = getattr(services.keys, name)

    async def slowly(*given: object) -> object:
        spent = await spend(*given)
        await services.keys.revoke(made.record.id)
        return spent

    monkeypatch.setattr(services.keys, name, slowly)
    assert not await publishes(services, shown)


async def test_of_two_looks_at_the_database_the_older_one_does_not_win(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    news: list[Change] = []
    services.directory.on_change(news.append)
    load = directory._load
    read, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(session: AsyncSession, revision: int) -> object:
        found = await load(session, revision)
        if not read.is_set():
            read.set()
            await go_on.wait()
        return found

    await services.streams.add("first")
    monkeypatch.setattr(directory, "_load", slowly)
    async with services.database.session() as session:
        await session.execute(directory.update(directory.Revision).values(number=directory.Revision.number + 1))
    looking = asyncio.create_task(services.directory.refresh())
    await read.wait()
    adding = asyncio.create_task(services.streams.add("second"))
    await asyncio.wait({adding}, timeout=0.3)  # a refresh that waits for the other one cannot be seen to wait
    go_on.set()
    await asyncio.gather(looking, adding)
    assert services.streams.find("second")
    assert ChangeKind.STREAM_REMOVED not in {change.kind for change in news}


async def test_a_token_is_spent_together_with_the_sweeping_of_old_ones(
    services: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told to try again must be able to."""
    stream = await services.streams.add("main")
    signer = await services.keys.add(stream.id, signing=True)
    token = make_token(signer.record.id, signer.key, expires_s=int(clock.now) + 60)

    def broken(*_: object) -> object:
        raise directory_error

    directory_error = keys.SQLAlchemyError("the disk is full")
    monkeypatch.setattr(keys, "delete", broken)
    with pytest.raises(HeadraceError) as caught:
        await services.keys.verify(token, protocol="rtmp", address="192.0.2.1")
    assert caught.value.slug == "database_unavailable"
    monkeypatch.setattr(keys, "delete", delete)
    assert await publishes(services, token)
    clock.now += 61
    assert await publishes(services, make_token(signer.record.id, signer.key, expires_s=int(clock.now) + 60))
    async with services.database.session() as session:
        assert len((await session.scalars(directory.select(Nonce))).all()) == 1, "old ones are swept"


async def test_a_token_that_would_be_refused_is_not_made(services: Services, clock: Clock) -> None:
    operations = Operations(services, Settings())
    stream = await services.streams.add("main")
    signer = await services.keys.add(stream.id, signing=True)
    with pytest.raises(Refused, match="seven days"):
        await operations.make_token(signer.record.id, expires_s=8 * 86_400)
    for expires_s in (0.4, 7 * 86_400):
        made = await operations.make_token(signer.record.id, expires_s=expires_s)
        assert await publishes(services, made["token"])


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
@pytest.mark.parametrize(
    ("name", "secret"), [(SERVER_SECRET, server_secret), (ADMIN_TOKEN, admin_token), (WORKER_TOKEN, worker_token)]
)
def test_an_empty_or_broken_secret_is_no_secret(
    tmp_path: Path, name: str, secret: Callable[[Path], object], content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HeadraceError) as caught:
        secret(tmp_path)
    assert caught.value.slug == "secret_unreadable"
    assert str(tmp_path / name) in caught.value.text


@pytest.mark.parametrize("content", ["not hexadecimal", "abcd"])
def test_a_server_secret_that_is_cut_off_is_no_secret(tmp_path: Path, content: str) -> None:
    (tmp_path / SERVER_SECRET).write_text(content)
    with pytest.raises(HeadraceError, match="restore"):
        server_secret(tmp_path)
