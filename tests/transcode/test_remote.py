"""Workers of another machine: a real `headrace worker` process over TLS on loopback, and strangers at the door."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from control.certificates import Certificates
from control.secret_files import worker_token, write_private
from control.settings import Settings
from media.cut import Cut
from transcode import messages as m
from transcode import remote
from transcode.ladder import Ladder, Rung
from transcode.plan import Plan
from transcode.planner import make_plan
from transcode.pool import Pool
from transcode.remote import Guests, fitted
from transcode.remote_settings import WorkersSettings
from transcode.settings import TranscodeSettings
from transcode.wire import Decoder, frame

SETTINGS = TranscodeSettings(shed=False, x264_preset="ultrafast", nice=0, warm_spare=False)


def plan_for(track: Any) -> Plan:
    ladder = Ladder("small", (Rung(120, 200_000),))
    return make_plan(track, None, ladder, passthrough=True, hardware=None, settings=SETTINGS)


@asynccontextmanager
async def core(data: Path, **door: Any) -> AsyncIterator[tuple[Pool, Guests]]:
    """A pool with a door for workers; its authority and token are in `data`."""
    certificates = Certificates(Settings(), data)
    guests = Guests(
        WorkersSettings(port=0, **door), SETTINGS, token=worker_token(data), tls=certificates.context
    )  # fmt: skip
    await guests.start()
    pool = Pool(SETTINGS, guests)
    await pool.start()
    try:
        yield pool, guests
    finally:
        await pool.stop()
        await guests.stop()


@contextmanager
def machine(data: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`headrace worker` as a user starts it."""
    command = [sys.executable, "-m", "control.cli", "worker", "--core", f"tls://localhost:{port}", "--data", str(data)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    environment["HEADRACE_TRANSCODE__HARDWARE"] = "false"
    with (data / "worker.log").open("wb") as out:
        process = subprocess.Popen(
            [*command, "--name", "other", *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


async def until(condition: Callable[[], bool], data: Path | None = None) -> None:
    try:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError((data / "worker.log").read_text() if data else "never") from None


def states(guests: Guests) -> list[str]:
    return [guest["state"] for guest in guests.as_json()]


async def test_a_job_runs_on_the_other_machine_which_then_offers_another_worker(
    kit: Any, clip: Any, tmp_path: Path
) -> None:
    sink = kit.Collected()
    async with core(tmp_path) as (pool, guests):
        with machine(tmp_path, guests.port, "--jobs", "1") as process:
            await until(lambda: states(guests) == ["idle"], tmp_path)
            first = guests.as_json()[0]["pid"]
            job = await pool.open(plan_for(clip.track), sink, name="s")
            assert job.stats.worker_pid == first
            assert guests.as_json()[0]["stream"] == "s"
            for item in kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1])):
                job.write(item)
            await job.close(drain=True)
            assert [p.pts for p in sink.packets["120p"]] == clip.times
            assert sink.values["worker_place"] == "other"
            assert sink.events == []
            await until(lambda: states(guests) == ["idle"], tmp_path)
            assert guests.as_json()[0]["pid"] != first
            process.send_signal(signal.SIGTERM)
            await until(lambda: process.poll() is not None, tmp_path)
            assert process.returncode == 0
            await until(lambda: guests.as_json() == [])


async def test_a_machine_that_vanishes_costs_one_restart_and_this_machine_goes_on(
    kit: Any, clip: Any, tmp_path: Path
) -> None:
    sink = kit.Collected()
    async with core(tmp_path) as (pool, guests):
        with machine(tmp_path, guests.port, "--jobs", "2") as process:
            await until(lambda: states(guests) == ["idle", "idle"], tmp_path)
            job = await pool.open(plan_for(clip.track), sink, name="s")
            items = kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1]))
            while not (isinstance(items[0], Cut) and items[0].index == 1):
                job.write(items.pop(0))
            await until(lambda: "120p" in sink.packets)
            process.kill()
            await until(lambda: bool(sink.events))
            assert sink.events == [("restarted", "the connection to other ended", "")]
            before = len(sink.packets["120p"])
            for item in items:
                job.write(item)
            await job.close(drain=True)
    resumed = sink.packets["120p"][before:]
    assert resumed[0].keyframe
    assert [p.pts for p in resumed] == [t for t in clip.times if t >= resumed[0].pts]
    assert job.stats.restarts == 1


async def test_a_wrong_token_is_told_to_whoever_brings_it(tmp_path: Path) -> None:
    async with core(tmp_path) as (_, guests):
        write_private(tmp_path / "wrong", "hr_admin_guess")
        with machine(tmp_path, guests.port, "--token-file", str(tmp_path / "wrong")):
            await until(lambda: "not that of this core" in (tmp_path / "worker.log").read_text(), tmp_path)
            assert guests.take() is None


@asynccontextmanager
async def stranger(data: Path, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = ssl.create_default_context(cafile=data / "tls" / "ca.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    try:
        yield reader, writer
    finally:
        writer.close()


def spoken(*said: m.Message) -> bytes:
    return b"".join(part for message in said for part in frame(message))


def join(token: str, **other: Any) -> m.Join:
    return m.Join(**{"version": m.VERSION, "token": token, "machine": "m", "cpus": 1, "encoders": {}} | other)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(8) + b"\xff" * 64,
        (9000).to_bytes(4, "big") + bytes(4),
        (10).to_bytes(4, "big") + (1).to_bytes(4, "big"),
        spoken(m.Hello(m.VERSION, 1)),
        spoken(m.Done()),
    ],
)
async def test_whoever_does_not_begin_with_the_token_is_cut(said: bytes, tmp_path: Path) -> None:
    async with core(tmp_path) as (_, guests), stranger(tmp_path, guests.port) as (reader, writer):
        writer.write(said)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        assert guests.take() is None


async def test_only_the_right_version_and_only_so_many(tmp_path: Path) -> None:
    async with core(tmp_path, max_workers=1) as (_, guests):
        token = worker_token(tmp_path)

        async def answer(said: m.Join, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> m.Admitted:
            writer.write(spoken(said))
            decoder = Decoder()
            while not (found := decoder.feed(await asyncio.wait_for(reader.read(100), 10))):
                pass
            message = found[0][0]
            assert isinstance(message, m.Admitted)
            return message

        async with stranger(tmp_path, guests.port) as old:
            assert (await answer(join(token, version=m.VERSION + 1), *old)).slug == "worker_version"
        async with stranger(tmp_path, guests.port) as first, stranger(tmp_path, guests.port) as second:
            assert (await answer(join(token), *first)).slug == ""
            assert (await answer(join(token), *second)).slug == "too_many_workers"
            first[1].write(spoken(m.Hello(m.VERSION, 7), m.Done()))  # nothing to say without a job
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await asyncio.wait_for(first[0].readexactly(1), 10)


async def test_strangers_do_not_fill_the_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STRANGERS", 1)
    async with (
        core(tmp_path) as (_, guests),
        stranger(tmp_path, guests.port),
        stranger(tmp_path, guests.port) as (reader, _writer),
    ):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(1), 10)


def test_a_plan_is_fitted_to_the_machine_that_it_goes_to(clip: Any) -> None:
    plan = plan_for(clip.track)
    there = {"h264": ("h264_nvenc",)}
    assert fitted(plan, there, SETTINGS).video[0].encoders == ("h264_nvenc", "libx264")
    assert fitted(plan, {}, SETTINGS).video[0].encoders == ("libx264",)
    cautious = SETTINGS.model_copy(update={"hardware": False})
    assert fitted(plan, there, cautious).video[0].encoders == ("libx264",)
    picky = SETTINGS.model_copy(update={"encoders": ("libx264", "h264_qsv")})
    assert fitted(plan, there, picky).video[0].encoders == ("libx264", "h264_nvenc")
