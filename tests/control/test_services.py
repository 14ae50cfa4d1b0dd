"""Streams and keys on a real SQLite file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hand_clock import Clock
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from control.credentials import REDACTED, hash_key, make_token, new_key, parse_token
from control.database import Database, DatabaseError
from control.migrations import HEAD
from control.models import Base
from control.secret_files import admin_token, server_secret
from control.services import Services, open_services
from control.snapshot import NOT_ACCEPTED, Change, ChangeKind
from control.throttle import Throttle
from media.errors import Overloaded, ProtocolError, Refused


async def verify(services: Services, key: str, **more: object) -> str:
    """The slug of the refusal, or the key id of the grant."""
    try:
        grant = await services.keys.verify(key, protocol="rtmp", address="192.0.2.1", **more)  # type: ignore[arg-type]
    except Refused as refusal:
        return refusal.slug if refusal.text == NOT_ACCEPTED else f"{refusal.slug}, told"
    return grant.key_id


async def test_a_key_is_random_and_stored_as_a_hash_only(services: Services, tmp_path: Path) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id)
    assert len({new_key() for _ in range(200)}) == 200
    assert made.record.hash == hash_key(made.key)
    await verify(services, made.key)
    await verify(services, "hr_" + "x" * 32)
    await services.audit.flush()
    stored = b"".join(map(Path.read_bytes, await asyncio.to_thread(lambda: list(tmp_path.iterdir()))))
    assert made.key.encode() not in stored
    assert made.key.removeprefix("hr_").encode() not in stored
    assert b"x" * 32 not in stored


async def test_verify_grants_with_the_settings_of_the_stream(services: Services, clock: Clock) -> None:
    stream = await services.streams.add("main", playback_id="show", settings={"on_second_publisher": "reject"})
    made = await services.keys.add(stream.id, expires_s=60)
    grant = await services.keys.verify(made.key, protocol="srt", address="192.0.2.1")
    assert (grant.stream_name, grant.playback_id, grant.key_id) == ("main", "show", made.record.id)
    assert grant.settings.on_second_publisher == "reject"
    assert grant.expires_at == clock.now + 60


@pytest.mark.parametrize("bad", ["main", "hr_", "hr_" + "a" * 32, "x" * 100_000, "\ud800", "hrt_x", "%00"])
async def test_anything_else_is_refused_alike(services: Services, bad: str) -> None:
    await services.streams.add("main")
    assert await verify(services, bad) in ("unknown_key", "malformed_token")
    assert services.keys.srt_lookup(bad)[0] == 1401


async def test_no_key_at_all_gets_its_own_words_and_costs_nobody_anything(services: Services) -> None:
    made = await services.keys.add((await services.streams.add("main")).id)
    assert {await verify(services, "") for _ in range(100)} == {"no_key, told"}
    assert services.keys.refusals == {"no_key": 100}
    assert not [entry for entry in await services.audit.entries() if entry["action"] == "refused"]
    assert await verify(services, made.key) == made.record.id


async def test_nobody_waits_for_a_database_that_somebody_holds(services: Services, tmp_path: Path) -> None:
    made = await services.keys.add((await services.streams.add("main")).id)
    holder = sqlite3.connect(tmp_path / "headrace.db")
    try:
        holder.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(4.5):  # SQLite itself would wait for five
            assert await verify(services, made.key) == made.record.id
    finally:
        holder.close()
    assert services.keys.find(made.record.id).last_used_ms is None
    await services.tick()
    found = services.keys.find(made.record.id)
    assert found.last_used_ms == found.used_ms == services.directory.now_ms()


async def test_a_single_use_that_cannot_be_settled_is_our_fault_and_says_so(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await services.keys.add((await services.streams.add("main")).id, once=True)

    async def locked(*_: object) -> bool:
        raise OperationalError("UPDATE", {}, Exception("database is locked"))

    monkeypatch.setattr(services.keys, "_spend_key", locked)
    with pytest.raises(Overloaded) as caught:
        await services.keys.verify(made.key, protocol="rtmp", address="192.0.2.1")
    assert caught.value.slug == "database_unavailable"
    monkeypatch.undo()
    assert await verify(services, made.key) == made.record.id


async def test_expiry(services: Services, clock: Clock) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id, expires_s=10)
    clock.now += 9.9
    assert await verify(services, made.key) == made.record.id
    clock.now += 0.1
    assert await verify(services, made.key) == "key_expired"
    assert services.keys.srt_lookup(made.key) == (1401, "")


async def test_revocation_tells_the_node(services: Services) -> None:
    news: list[Change] = []
    services.directory.on_change(news.append)
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id)
    await services.keys.revoke(made.record.id)
    assert await verify(services, made.key) == "key_revoked"
    assert [(change.kind, change.reason) for change in news] == [
        (ChangeKind.STREAM_ADDED, ""),
        (ChangeKind.KEY_ADDED, ""),
        (ChangeKind.KEY_ENDED, "key_revoked"),
    ]
    assert news[-1].key_id == made.record.id


async def test_rotation_lets_the_old_key_live_for_the_grace(services: Services, clock: Clock) -> None:
    news: list[Change] = []
    stream = await services.streams.add("main")
    old = await services.keys.add(stream.id)
    soon = await services.keys.add(stream.id, expires_s=5)
    signing = await services.keys.add(stream.id, signing=True)
    services.directory.on_change(news.append)
    new = await services.keys.rotate(stream.id, grace_s=60)
    assert services.keys.find(old.record.id).state(services.directory.now_ms()) == "ending"
    assert await verify(services, old.key) == old.record.id
    clock.now += 60
    await services.tick()
    ended = {change.key_id: change.reason for change in news if change.kind is ChangeKind.KEY_ENDED}
    assert ended == {old.record.id: "key_rotated", soon.record.id: "key_expired"}
    assert await verify(services, old.key) == "key_expired"
    assert await verify(services, new.key) == new.record.id
    assert services.keys.find(signing.record.id).end_slug(services.directory.now_ms()) == ""


async def test_a_single_use_key_is_used_once_even_by_two_at_once(services: Services) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id, once=True)
    results = await asyncio.gather(*(verify(services, made.key) for _ in range(5)))
    assert sorted(results) == sorted([made.record.id] + ["key_used"] * 4)
    assert await verify(services, made.key, resumable={made.record.id}) == made.record.id
    assert await verify(services, made.key) == "key_used"


async def test_a_removed_stream_takes_its_keys_along(services: Services) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id)
    news: list[Change] = []
    services.directory.on_change(news.append)
    await services.streams.remove("main")
    assert await verify(services, made.key) == "unknown_key"
    assert [change.kind for change in news] == [ChangeKind.STREAM_REMOVED]
    with pytest.raises(Refused, match="no stream called 'main'"):
        services.streams.find("main")


async def test_another_process_is_noticed(services: Services, tmp_path: Path, clock: Clock) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id)
    news: list[Change] = []
    services.directory.on_change(news.append)
    async with open_services(tmp_path, wall=clock) as other:
        await other.keys.revoke(made.record.id)
        await other.streams.add("second")
    await services.tick()
    assert {change.kind for change in news} == {ChangeKind.KEY_ENDED, ChangeKind.STREAM_ADDED}
    assert services.streams.find("second").playback_id == "second"


async def test_throttling_turns_away_before_looking(services: Services, clock: Clock) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id)
    results = [await verify(services, f"hr_guess{number:024}") for number in range(1000)]
    assert results.count("unknown_key") == 20
    assert results.count("throttled, told") == 980
    assert await verify(services, made.key) == "throttled, told"
    assert services.keys.srt_lookup(made.key, "192.0.2.1") == (1402, "")
    assert services.keys.srt_lookup(made.key, "192.0.2.2") == (0, "")
    assert len(await services.audit.entries(limit=2000)) < 30
    clock.now += 61
    assert await verify(services, made.key) == made.record.id


def test_throttle_memory_is_bounded_and_counts_ipv6_by_network() -> None:
    throttle = Throttle(burst=1, max_addresses=10)
    for number in range(100):
        throttle.refused(f"192.0.2.{number}", 0)
    assert len(throttle) == 10
    throttle.refused("2001:db8::1", 0)
    assert throttle.blocked("2001:db8::ffff", 0)
    assert not throttle.blocked("2001:db8:0:1::1", 0)


async def test_the_trail_tells_all_but_the_key(services: Services, clock: Clock) -> None:
    stream = await services.streams.add("main")
    made = await services.keys.add(stream.id)
    await verify(services, made.key)
    new = await services.keys.rotate(stream.id, grace_s=1)
    clock.now += 2
    await services.tick()
    await verify(services, made.key)
    await services.keys.revoke(new.record.id)
    entries = await services.audit.entries(stream_id=stream.id)
    assert [entry["action"] for entry in reversed(entries)] == [
        "stream_added",
        "created",
        "used",
        "created",
        "rotated",
        "expired",
        "refused",
        "revoked",
    ]
    refused = next(entry for entry in entries if entry["action"] == "refused")
    assert (refused["reason"], refused["key_id"], refused["address"]) == (
        "key_expired",
        made.record.id,
        "192.0.2.1",
    )
    assert made.key not in str(entries)
    assert new.key not in str(entries)


async def test_srt_passphrase_belongs_to_the_key(services: Services) -> None:
    stream = await services.streams.add("main", settings={"srt_passphrase": "required"})
    first, second = await services.keys.add(stream.id), await services.keys.add(stream.id)
    found: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: found.append(services.keys.srt_lookup(first.key, "192.0.2.1")))
    thread.start()
    thread.join()
    assert found == [(0, first.srt_passphrase)]
    assert 10 <= len(first.srt_passphrase) <= 64
    assert first.srt_passphrase != second.srt_passphrase


async def test_tokens_are_accepted_once_and_until_they_expire(services: Services, clock: Clock) -> None:
    stream = await services.streams.add("main")
    signer = await services.keys.add(stream.id, signing=True)
    key_id = signer.record.id
    expires_s = int(clock.now) + 60

    token = make_token(key_id, signer.key, expires_s=expires_s)
    assert services.keys.srt_lookup(token) == (0, "")
    assert await verify(services, token) == key_id
    assert await verify(services, token) == "token_replayed"
    assert await verify(services, signer.key) == "unknown_key"  # it signs, and never publishes itself
    for forged in (
        make_token(key_id, "hrs_other", expires_s=expires_s),
        token.replace(str(expires_s), str(expires_s + 1)),
        make_token("k0123456789a", signer.key, expires_s=expires_s),
    ):
        assert await verify(services, forged) == "unknown_key"
    assert await verify(services, make_token(key_id, signer.key, expires_s=expires_s - 61)) == "token_expired"
    eternal = make_token(key_id, signer.key, expires_s=expires_s + 10**8)
    assert await verify(services, eternal) == "token_lives_too_long"
    again = make_token(key_id, signer.key, expires_s=expires_s)
    clock.now += 60
    assert await verify(services, again) == "token_expired"
    await services.keys.revoke(key_id)
    fresh = make_token(key_id, signer.key, expires_s=int(clock.now) + 60)
    assert await verify(services, fresh) == "key_revoked"


async def test_scheduled_rotation_delivers_the_key(services: Services, tmp_path: Path, clock: Clock) -> None:
    settings = {"rotate_every_s": 60, "rotate_grace_s": 5, "rotate_file": "rotated/main.key"}
    stream = await services.streams.add("main", settings=settings)
    old = await services.keys.add(stream.id)
    await services.tick()
    clock.now += 60
    await services.tick()
    await services.tick()
    file = tmp_path / "rotated" / "main.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    new = file.read_text().strip()
    assert await verify(services, new) != "unknown_key"
    assert len(services.keys.list(stream.id)) == 2
    clock.now += 5
    assert await verify(services, old.key) == "key_expired"
    with pytest.raises(Refused, match="rotate_file"):
        await services.streams.add("second", settings={"rotate_every_s": 60})


async def test_a_key_that_cannot_be_delivered_replaces_none(services: Services, tmp_path: Path, clock: Clock) -> None:
    settings = {"rotate_every_s": 60, "rotate_grace_s": 5, "rotate_file": "rotated/main.key"}
    stream = await services.streams.add("main", settings=settings)
    old = await services.keys.add(stream.id)
    (tmp_path / "rotated").write_text("a file, where the folder should be")
    clock.now += 60
    await services.tick()
    clock.now += 6
    await services.tick()
    assert await verify(services, old.key) == old.record.id
    (tmp_path / "rotated").unlink()
    clock.now += 60
    await services.tick()
    assert await verify(services, (tmp_path / "rotated" / "main.key").read_text().strip()) != old.record.id


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "ü", "-a", "a" * 65, "a\n"])
async def test_names_that_break_urls_are_refused(services: Services, name: str) -> None:
    with pytest.raises(Refused, match="cannot be used"):
        await services.streams.add(name)


async def test_names_and_playback_ids_are_unique(services: Services) -> None:
    await services.streams.add("main", playback_id="show")
    for name, playback_id in (("main", "other"), ("other", "show")):
        with pytest.raises(Refused) as caught:
            await services.streams.add(name, playback_id=playback_id)
        assert caught.value.slug == "stream_exists"
    assert services.streams.by_playback_id("show") == services.streams.find("main")


async def test_stream_settings_change_and_go_back(services: Services) -> None:
    await services.streams.add("main")
    changed = await services.streams.change("main", {"reconnect_window_s": 60, "ladder": ["720p"]})
    assert (changed.settings.reconnect_window_s, changed.settings.ladder) == (60, ("720p",))
    changed = await services.streams.change("main", {"reconnect_window_s": None})
    assert (changed.settings.reconnect_window_s, changed.settings.ladder) == (30, ("720p",))
    with pytest.raises(Refused, match=r"no stream setting 'reconnect'.*reconnect_window_s"):
        await services.streams.change("main", {"reconnect": 1})


async def test_migrations_lead_from_empty_to_the_models(tmp_path: Path) -> None:
    database, other = Database.in_folder(tmp_path), Database.in_folder(tmp_path)
    await asyncio.gather(database.open(), other.open())  # two starts at once
    await other.close()
    assert database._engine is not None
    async with database._engine.connect() as connection:
        context_diff = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), Base.metadata)
        )
        mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar()
    await database.close()
    assert context_diff == []
    assert mode == "wal"
    import control.migrations

    assert ScriptDirectory(os.path.dirname(control.migrations.__file__)).get_current_head() == HEAD


@pytest.mark.parametrize(
    "url", ["nonsense", "nosuch+driver://x", "sqlite:///sync.db", "sqlite+aiosqlite:////nowhere/at/all.db"]
)
async def test_a_database_that_cannot_be_used_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        await Database.in_folder(tmp_path, url).open()
    assert caught.value.slug == "database_unavailable"
    for thread in threading.enumerate():  # the driver's thread answers to this loop: it must be done before the loop is
        if "_connection_worker" in thread.name:
            await asyncio.to_thread(thread.join, 10)


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    await database.open()
    async with database.session() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    with pytest.raises(DatabaseError, match=r"newer Headrace \(schema 9999, this one knows \d+\)") as caught:
        await database.open()
    assert caught.value.slug == "database_newer"


async def test_a_password_in_the_url_is_not_shown(tmp_path: Path) -> None:
    assert "geheim" not in Database.in_folder(tmp_path, "postgresql+asyncpg://me:geheim@host/db").shown_url


def test_secret_files_are_private_and_stay(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert server_secret(data) == server_secret(data)
    assert admin_token(data) == admin_token(data)
    assert len(server_secret(data)) == 32
    for file in data.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(list(data.iterdir())) == 2


@given(st.text(max_size=200) | st.from_regex(r"hrt_[k0-9a-z.]{0,80}", fullmatch=True))
def test_parsing_a_token_never_fails_otherwise(credential: str) -> None:
    try:
        token = parse_token(credential)
    except ProtocolError:
        return
    assert token is None or credential.startswith("hrt_")


def test_what_the_log_masks_covers_every_credential() -> None:
    for secret in (new_key(), make_token("k0123456789a", "hrs_x", expires_s=1), "hra_" + "a" * 32):
        assert REDACTED.sub("", f"<{secret}>") == "<>"
