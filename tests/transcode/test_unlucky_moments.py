"""Jobs, rungs and pools at moments that are seldom: each was a fault once. No worker process runs here."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from av.video.frame import VideoFrame

from media.cut import Cut
from media.errors import ProtocolError
from media.packet import Packet
from media.track import Codec, Kind, Track
from transcode import messages as m
from transcode import rung as rung_module
from transcode.bitstream import config_of
from transcode.encoder import Coded, Colour, EncoderError
from transcode.job import Job
from transcode.ladder import Ladder
from transcode.ladder import Rung as LadderRung
from transcode.link import Link
from transcode.pipeline import Pipeline
from transcode.plan import Plan, VideoEncode
from transcode.planner import make_plan
from transcode.pool import Pool
from transcode.process import WorkerError, _explain
from transcode.rung import Rung
from transcode.scale import Scaler, colour_of, tame
from transcode.settings import TranscodeSettings
from transcode.shed import STEP_S, Shedder
from transcode.shot import Shot
from transcode.thumbnail import Jpeg

TRACK = Track(0, Kind.VIDEO, Codec.H264, 90_000, width=320, height=180)
SETTINGS = TranscodeSettings(shed=False, warm_spare=False)


class FakeLink(Link):
    """A worker that notes what it is sent; the test speaks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[m.Message] = []

    def send(self, message: m.Message, payload: bytes = b"") -> None:
        self.sent.append(message)

    def kill_soon(self, why: str) -> None:
        pass

    async def wait(self) -> None:
        pass


async def test_a_worker_that_was_let_go_does_not_speak_for_the_one_after_it(kit: Any) -> None:
    links: list[FakeLink] = []

    async def take(_local: bool) -> Link:
        links.append(FakeLink())
        return links[-1]

    def packet(second: int) -> Packet:
        return Packet(TRACK, second * 90_000, second * 90_000, 90_000, True, b"x")

    sink = kit.Collected()
    ladder = Ladder("small", (LadderRung(120, 200_000),))
    plan = make_plan(TRACK, None, ladder, passthrough=True, hardware=None, settings=SETTINGS)
    job = Job(plan, sink, "s", SETTINGS, take, lambda closed: None)
    await job.start()
    job.write(Cut(0, 0, 0))
    job.write(packet(0))
    job.change(Plan())
    job.write(Cut(1, 180_000, 0))
    job.change(plan)
    job.write(Cut(2, 360_000, 0))
    job.write(packet(4))
    await asyncio.sleep(0)
    old, new = links
    made = Track(0, Kind.VIDEO, Codec.H264, 90_000, b"new")
    new.on_message(m.Made(1, "120p", made, "libx264"), b"")
    old.on_message(m.Made(1, "120p", TRACK, "libx264"), b"")
    old.on_message(m.Progress(1000, {}), b"")
    old.on_message(m.Done(), b"")
    closing = asyncio.create_task(job.close(drain=True))
    await asyncio.sleep(0)
    assert isinstance(new.sent[-1], m.Close)
    assert not closing.done(), "the worker at work has not handed over what it has"
    new.on_message(m.Encoded(1, 360_000, 360_000, 3000, True), b"x")
    new.on_message(m.Done(), b"")
    async with asyncio.timeout(5):
        await closing
    assert [p.track.config for p in sink.packets["120p"]] == [b"new"]


async def test_a_process_without_file_descriptors_left_starts_no_worker_and_says_so(
    monkeypatch: pytest.MonkeyPatch, kit: Any
) -> None:
    def full(*_: object) -> object:
        raise OSError(errno.EMFILE, "Too many open files")

    pool = Pool(SETTINGS)
    await pool.start()
    monkeypatch.setattr(socket, "socketpair", full)
    plan = make_plan(TRACK, None, Ladder("none", ()), passthrough=False, hardware=None, settings=SETTINGS)
    with pytest.raises(WorkerError, match="Too many open files"):
        await pool.open(plan, kit.Collected(), name="s")
    monkeypatch.undo()
    await pool.stop()


class Breaks:
    """A test substitute that fails at its 10th picture."""

    def __init__(self, spec: VideoEncode, name: str, colour: Colour) -> None:
        self.name, self.track, self._count = name, TRACK, 0

    def encode(self, picture: Any, *, idr: bool) -> list[Coded]:
        self._count += 1
        if self._count == 10:
            raise EncoderError("broken")
        return [Coded(picture.pts, idr, b"x")]

    def flush(self) -> list[Coded]:
        return []


def test_a_rung_that_waits_for_its_next_encoder_is_not_behind(monkeypatch: pytest.MonkeyPatch, kit: Any) -> None:
    """Else the others would be shed for it."""
    monkeypatch.setattr(rung_module, "Encoder", Breaks)
    spec = VideoEncode("r", 0, Codec.H264, ("h264_broken", "libx264"), 64, 36, 10**6, 300, frame_rate=Fraction(25))
    rung = Rung(spec, kit.Collected())
    for number in range(50):
        picture = VideoFrame(64, 36, "yuv420p")
        picture.pts = number * 3600
        rung._take(Shot(picture, number * 3600, 3600, number == 0, Fraction(1), Colour(1, 1, 1)))
        assert rung.position == number * 3600
    assert rung.frames == 9


def test_a_smaller_ladder_has_fewer_steps_to_come_back_from() -> None:
    specs = [VideoEncode(str(n), 0, Codec.H264, ("libx264",), 64, 36, 1, 400, value=n) for n in range(4)]
    shedder = Shedder(0.5)
    now = 0.0
    for step in range(10):
        now += STEP_S
        shedder.look(1.0 + step, now, specs)
    assert shedder.level == 7
    shedder.look(0.0, now, specs[:1])
    assert shedder.level == 1


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC, Codec.AV1])
def test_an_encoder_without_a_header_is_told_like_any_other_that_fails(codec: Codec) -> None:
    with pytest.raises(ProtocolError):
        config_of(codec, b"")


@pytest.mark.parametrize("size", [(1, 1), (200, 1), (1, 200), (2, 2)])
def test_a_picture_of_a_line_has_a_thumbnail(size: tuple[int, int]) -> None:
    picture = VideoFrame(*size, "yuv420p")
    picture.pts = 0
    assert Jpeg(360)(picture, Fraction(1)).startswith(b"\xff\xd8")


def test_every_way_to_die_has_a_name() -> None:
    assert _explain(-9) == "killed by SIGKILL"
    assert _explain(-40) == "killed by signal 40"
    assert _explain(m.EXIT_MEMORY) == "over its memory limit"


def test_rungs_of_a_track_that_is_no_longer_the_source_are_handed_over_at_the_cut(kit: Any) -> None:
    """They were at the end, behind those of the track after it, and their encoders stayed open until then."""
    clips = [
        kit.code_video(kit.pictures(1, Fraction(25), "64x36"), range(start, start + 90_000, 3600), track_id=number)
        for number, start in enumerate((0, 90_000))
    ]
    encode = VideoEncode("r", 0, Codec.H264, ("libx264",), 64, 36, 10**6, 300, preset="ultrafast", profile="main")
    out = kit.Collected()
    pipeline = Pipeline(Plan(video=(encode,)), out)
    for number, clip in enumerate(clips):
        pipeline.change(Plan(video=(replace(encode, track_id=number),)))
        pipeline.cut(m.Mark(number, number * 90_000, number > 0))
        for packet in clip.packets:
            pipeline.write(packet)
    ends = time.monotonic() + 20
    while len(out.packets.get("r", ())) < 48 and time.monotonic() < ends:
        time.sleep(0.01)
    assert 86_400 in [packet.pts for packet in out.packets["r"]], "the last of the first track"
    pipeline.close()
    times = [packet.pts for packet in out.packets["r"]]
    assert sorted(times) == list(range(0, 180_000, 3600))
    assert times == sorted(times)
    assert pipeline.units == 50


def test_a_source_that_is_configured_anew_at_every_picture_is_not_remembered_for_ever(kit: Any) -> None:
    link = FakeLink()

    async def run() -> Job:
        async def take(_local: bool) -> Link:
            return link

        ladder = Ladder("small", (LadderRung(120, 200_000),))
        plan = make_plan(TRACK, None, ladder, passthrough=True, hardware=None, settings=SETTINGS)
        job = Job(plan, kit.Collected(), "s", SETTINGS, take, lambda closed: None)
        await job.start()
        job.write(Cut(0, 0, 0))
        for number in range(100):
            track = replace(TRACK, config=bytes([number]))
            job.write(Packet(track, number * 3000, number * 3000, 3000, True, b"x"))
        await job.close(drain=False)
        return job

    job = asyncio.run(run())
    assert len(job._keys) <= 1
    units = [message for message in link.sent if isinstance(message, m.Unit)]
    described = {message.key: message.track for message in link.sent if isinstance(message, m.Describe)}
    assert [described[unit.key].config for unit in units] == [bytes([number]) for number in range(100)]


@pytest.mark.parametrize("matrix", [0, 2, 3, 8, 11, 12, 14, 15, 255])
@pytest.mark.parametrize("code", [3, 22, 255])
def test_colours_that_are_reserved_or_unknown_cost_nobody_the_picture(matrix: int, code: int) -> None:
    """A scaler refused every picture of YCgCo, and x265 to open for reserved primaries: there was no ladder then."""
    picture = VideoFrame(128, 72, "yuv420p")
    picture.pts, picture.colorspace = 0, matrix
    picture.color_primaries = picture.color_trc = code
    tame(picture)
    colour = colour_of(picture)
    assert colour.matrix in (1, 6)
    assert {colour.primaries, colour.transfer} <= {1, 2, 6}
    assert Scaler(64, 36, Fraction(1))(picture, Fraction(1)).format.name == "yuv420p"
