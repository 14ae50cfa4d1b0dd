"""Pictures of streams of which nothing is decoded, by the real process: each codec, crashes, hangs, crowds."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import av
import pytest
from until import until

from media.cut import Cut
from media.packet import Packet
from transcode.job import Job
from transcode.ladder import Ladder, Rung
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings
from transcode.stills import Stills

SETTINGS = TranscodeSettings(thumbnail_height=90, nice=0)
SMALL = {"libx264": None, "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"}, "libsvtav1": {}}


@asynccontextmanager
async def stills_of(settings: TranscodeSettings = SETTINGS, **bounds: Any) -> AsyncIterator[Stills]:
    stills = Stills(settings, **bounds)
    try:
        yield stills
    finally:
        await stills.stop()
        assert not stills.pid


def keyframe(kit: Any, encoder: str = "libx264", pixels: str = "yuv420p", size: str = "320x180") -> Packet:
    frames = kit.pictures(0.2, Fraction(10), size, pixels)
    source = kit.code_video(frames, [9000 * n for n in range(len(frames))], b_frames=0, rate=Fraction(10),
                            encoder=encoder, options=SMALL[encoder])  # fmt: skip
    found: Packet = source.packets[0]
    assert found.keyframe
    return found


def opened(jpeg: bytes) -> av.VideoFrame:
    with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
        return next(container.decode(video=0))


@pytest.fixture
def h264(clip: Any) -> Packet:
    first: Packet = clip.packets[0]
    return first


@pytest.mark.parametrize(
    ("encoder", "pixels"),
    [("libx264", "yuv420p"), ("libx265", "yuv420p"), ("libx265", "yuv420p10le"), ("libsvtav1", "yuv420p")],
)
async def test_a_keyframe_becomes_a_picture_of_what_it_shows(kit: Any, encoder: str, pixels: str) -> None:
    packet, made = keyframe(kit, encoder, pixels), []
    async with stills_of() as stills:
        stills.offer("s", packet, made.append)
        await until(lambda: bool(made))
        assert stills.counts.made == 1
    picture = opened(made[0])
    assert (picture.width, picture.height) == (160, 90)
    assert kit.psnr(picture, kit.pictures(0.1, Fraction(10), "320x180")[0]) > 25


async def test_nothing_is_started_where_thumbnails_are_off(h264: Packet) -> None:
    async with stills_of(SETTINGS.model_copy(update={"thumbnails": False})) as stills:
        stills.offer("s", h264, lambda jpeg: None)
        assert stills.waiting == (0, 0)
        assert stills._starting is None


async def test_what_is_no_picture_is_counted_and_the_next_one_is_made(h264: Packet) -> None:
    made: list[bytes] = []
    async with stills_of() as stills:
        for data in (b"", b"\0\0\0\5\x65nope", h264.data[: len(h264.data) // 8]):
            stills.offer(f"bad-{len(data)}", replace(h264, data=data), made.append)
        stills.offer("bad-config", replace(h264, track=replace(h264.track, config=b"\1nope")), made.append)
        stills.offer("good", h264, made.append)
        await until(lambda: stills.counts.made + stills.counts.failed == 5)
        assert stills.counts.failed >= 3  # a torn picture may be shown as far as it goes
        assert made
        assert stills.counts.restarts == 0


async def test_after_a_crash_the_others_go_on_and_the_one_that_did_it_is_left_out(h264: Packet) -> None:
    made: list[str] = []
    async with stills_of(retry_s=0.01) as stills:
        stills.offer("first", h264, lambda jpeg: made.append("first"))
        await until(lambda: made == ["first"])
        before = stills.pid
        os.kill(before, signal.SIGSTOP)  # so that it dies with a keyframe at work
        for name in ("bad", "good"):
            stills.offer(name, h264, lambda jpeg, name=name: made.append(name))
        os.kill(before, signal.SIGKILL)
        await until(lambda: "good" in made)
        assert stills.pid not in (0, before)
        assert stills.counts.restarts == stills.counts.failed == 1
        stills.offer("bad", h264, lambda jpeg: made.append("bad"))
        assert stills.counts.left_out == 1
        stills.offer("good", h264, lambda jpeg: made.append("again"))
        await until(lambda: "again" in made)
    assert made == ["first", "good", "again"]


async def test_a_hang_costs_its_time_and_the_one_that_did_it_comes_back_later(h264: Packet) -> None:
    made: list[str] = []
    async with stills_of(retry_s=0.01, out_s=0.01, picture_s=20) as stills:
        stills.offer("first", h264, lambda jpeg: made.append("first"))
        await until(lambda: made == ["first"])
        hung = stills.pid
        os.kill(hung, signal.SIGSTOP)
        stills._picture_s = 0.1
        for name in ("bad", "good"):
            stills.offer(name, h264, lambda jpeg, name=name: made.append(name))
        stills._picture_s = 20
        await until(lambda: "good" in made)
        assert stills.pid != hung
        stills.offer("bad", h264, lambda jpeg: made.append("bad"))  # 0.01 s are over
        await until(lambda: "bad" in made)
        assert stills.counts.restarts == 1


async def test_two_hundred_streams_share_one_process_and_only_the_newest_of_each_waits(h264: Packet) -> None:
    made: list[str] = []
    async with stills_of(picture_s=80) as stills:
        stills.offer("first", h264, lambda jpeg: made.append("first"))
        await until(lambda: bool(made))
        pid = stills.pid
        os.kill(pid, signal.SIGSTOP)
        for turn in range(3):
            for number in range(200):
                stills.offer(str(number), h264, lambda jpeg, name=f"{number}/{turn}": made.append(name))
        # One is at work, and its stream has another waiting, at the end of the line.
        assert stills.waiting == (200, 200 * len(h264.data))
        assert stills.counts.left_out == 399
        stills.forget("7")
        os.kill(pid, signal.SIGCONT)
        await until(lambda: len(made) == 201)
        await until(lambda: stills.waiting == (0, 0))
        assert stills.pid == pid
    assert made == ["first", "0/0", *(f"{n}/2" for n in range(1, 200) if n != 7), "0/2"]


async def test_what_waits_is_bounded_in_bytes(h264: Packet) -> None:
    async with stills_of(max_bytes=3 * len(h264.data)) as stills:
        for number in range(5):  # the process is still to be started
            stills.offer(str(number), h264, lambda jpeg: None)
        assert stills.waiting == (3, 3 * len(h264.data))
        assert stills.counts.left_out == 2


async def test_the_process_ends_when_nobody_needs_it_and_comes_back(h264: Packet) -> None:
    made: list[bytes] = []
    async with stills_of(idle_s=0.05) as stills:
        stills.offer("s", h264, made.append)
        await until(lambda: len(made) == 1)
        await until(lambda: not stills.pid and not stills._ending)
        stills.offer("s", h264, made.append)
        await until(lambda: len(made) == 2)
        assert stills.counts.restarts == 0


def test_a_job_says_whether_its_worker_makes_pictures(h264: Packet) -> None:
    ladder = Ladder("small", (Rung(120, 200_000),))
    plan = make_plan(h264.track, None, ladder, passthrough=True, hardware=None, settings=SETTINGS)
    job = Job(plan, cast(Any, None), "s", SETTINGS, cast(Any, None), lambda job: None)
    assert job.pictures
    job.change(replace(plan, video=()))  # nobody watches its one rung (`rungs = "watched"`)
    assert job.pictures, "up to the next cut"
    job.write(Cut(1, 180_000, 0))
    assert not job.pictures
