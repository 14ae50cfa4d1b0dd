"""Real encoders publish: ffmpeg 5 and 9, and GStreamer where it is installed. Every packet is compared with its source.

What is compared: the bytes of each packet, exact times where the source is on a frame grid or counts samples, and the
distance between sound and picture.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import av
import imageio_ffmpeg
import pytest
from program import run
from recorder import Recorder
from rtmp_double import GOOD_KEY, Gatekeeper

from ingest.ports import EndReason
from ingest.rtmp.server import RtmpServer
from ingest.settings import LimitSettings, RtmpSettings
from media.codecs import normalise_video
from media.codecs.nal import split_lengths
from media.packet import Packet
from media.track import Codec, Kind

FFMPEG_9 = imageio_ffmpeg.get_ffmpeg_exe()
SYSTEM = shutil.which("ffmpeg")
FFMPEGS = [
    pytest.param(SYSTEM, id="system", marks=pytest.mark.skipif(SYSTEM is None, reason="ffmpeg is not installed")),
    pytest.param(FFMPEG_9, id="ffmpeg9"),
]
MEDIA = Path(__file__).parents[4] / "shared" / "media"
SECONDS = "4"


def make(path: Path, *arguments: str) -> Path:
    """A clip of our own: a test picture and a tone."""
    sources = ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=30000/1001", "-f", "lavfi", "-i", "sine=r=48000"]
    command = [FFMPEG_9, "-v", "error", "-y", *sources, "-t", SECONDS, *arguments, str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def h264(clips: Path) -> Path:
    """Real pictures with B-frames and 44.1 kHz sound."""
    clip = MEDIA / "bbb_720p24_60s.mp4"
    if clip.exists():
        return clip
    return make(clips / "h264.mp4", "-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", "-ar", "44100")


@pytest.fixture(scope="session")
def hevc(clips: Path) -> Path:
    quiet = ["-x265-params", "log-level=error"]
    return make(clips / "hevc.mp4", "-c:v", "libx265", "-preset", "ultrafast", *quiet, "-c:a", "libopus")


@pytest.fixture(scope="session")
def av1(clips: Path) -> Path:
    clip = MEDIA / "ertmp_bbb.flv"
    if clip.exists():
        return clip
    return make(clips / "av1.mp4", "-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-c:a", "libopus")


def expected(path: Path, kind: Kind) -> list[tuple[float, float, bytes]]:
    """(pts, dts, data) of each packet in seconds, read by another demuxer. Video in the form of `Packet.data`."""
    out = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0] if kind is Kind.VIDEO else container.streams.audio[0]
        codec = {"h264": Codec.H264, "hevc": Codec.HEVC}.get(stream.codec_context.name)
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            assert packet.pts is not None
            assert packet.dts is not None
            data = bytes(packet)
            if codec is not None:
                data = normalise_video(codec, split_lengths(data), bytes(stream.codec_context.extradata or b"")).data
            elif kind is Kind.VIDEO:
                data = normalise_video(Codec.AV1, [data]).data
            base = float(stream.time_base)
            out.append((packet.pts * base, packet.dts * base, data))
    return out


def compare(recorder: Recorder, path: Path, video_id: int = 0, audio_id: int = 100) -> None:
    """Nothing is missing, doubled or changed, and no time is off by more than RTMP's millisecond."""
    starts = []
    for kind, ident in ((Kind.VIDEO, video_id), (Kind.AUDIO, audio_id)):
        got, want = recorder.packets(ident), expected(path, kind)
        assert len(got) > 50
        # The clip is cut at its start by up to one group of pictures, and at its end: it must be one piece of it.
        first = next(index for index, one in enumerate(want) if one[2] == got[0].data)
        piece = want[first : first + len(got)]
        assert [packet.data for packet in got] == [data for _, _, data in piece]
        scale = got[0].track.timescale
        for packet, (pts, dts, _) in zip(got, piece, strict=True):
            assert (packet.dts - got[0].dts) / scale == pytest.approx(dts - piece[0][1], abs=0.0011)
            assert (packet.pts - got[0].pts) / scale == pytest.approx(pts - piece[0][0], abs=0.0011)
        assert_seamless(got)
        starts.append(got[0].pts / scale - piece[0][0])
    assert starts[0] == pytest.approx(starts[1], abs=0.0021), "sound and picture moved against each other"


def assert_seamless(packets: list[Packet]) -> None:
    for one, two in pairwise(packets):
        assert one.dts + one.duration == two.dts


def url(server: RtmpServer, name: str = GOOD_KEY) -> str:
    return f"rtmp://127.0.0.1:{server.port}/live/{name}"


async def push(
    ffmpeg: str, server: RtmpServer, gatekeeper: Gatekeeper, clip: Path, *options: str, to: str = ""
) -> Recorder:
    """Publish a clip without re-encoding, and return what arrived."""
    command = [ffmpeg, "-v", "error", "-i", str(clip), "-t", SECONDS, "-c", "copy", *options, "-f", "flv"]
    code, _, stderr = await run(*command, to or url(server))
    assert code == 0, stderr
    recorder = await gatekeeper.admitted.get()
    assert (await recorder.ended)[0] is EndReason.FINISHED
    return recorder


@pytest.mark.parametrize("ffmpeg", FFMPEGS)
async def test_h264_and_aac(ffmpeg: str, server: RtmpServer, gatekeeper: Gatekeeper, h264: Path) -> None:
    recorder = await push(ffmpeg, server, gatekeeper, h264, to=url(server, f"{GOOD_KEY}?source=studio"))
    compare(recorder, h264)
    assert recorder.request.parameters == {"source": "studio"}
    assert recorder.request.agent.startswith("FMLE/3.0")
    assert recorder.gaps() == []
    assert len({packet.duration for packet in recorder.packets(0)}) <= 2  # on the grid, not on milliseconds
    assert {packet.duration for packet in recorder.packets(100)} == {1024}


@pytest.mark.parametrize("ffmpeg", FFMPEGS)
@pytest.mark.parametrize("offset_s", ["16775", "16800", "2147481"])
async def test_extended_times_and_the_wrap_of_31_bits(
    ffmpeg: str, server: RtmpServer, gatekeeper: Gatekeeper, h264: Path, offset_s: str
) -> None:
    recorder = await push(ffmpeg, server, gatekeeper, h264, "-output_ts_offset", offset_s)
    compare(recorder, h264)
    assert recorder.gaps() == []


@pytest.mark.parametrize("options", [(), ("-rtmp_enhanced_codecs", "hvc1,Opus")])
async def test_enhanced_hevc_and_opus(
    server: RtmpServer, gatekeeper: Gatekeeper, hevc: Path, options: tuple[str, ...]
) -> None:
    recorder = await push(FFMPEG_9, server, gatekeeper, hevc, *options)
    compare(recorder, hevc)
    assert recorder.packets(0)[0].track.codec is Codec.HEVC
    assert recorder.packets(100)[0].track.codec is Codec.OPUS
    assert {packet.duration for packet in recorder.packets(0)} == {3003}


async def test_enhanced_av1_and_opus(server: RtmpServer, gatekeeper: Gatekeeper, av1: Path) -> None:
    recorder = await push(FFMPEG_9, server, gatekeeper, av1)
    compare(recorder, av1)
    assert recorder.packets(0)[0].track.codec is Codec.AV1


async def test_several_tracks_of_each_kind(server: RtmpServer, gatekeeper: Gatekeeper, h264: Path, hevc: Path) -> None:
    maps = [option for spec in ("0:v", "0:a", "1:v", "1:a") for option in ("-map", spec)]
    command = [FFMPEG_9, "-v", "error", "-i", str(h264), "-i", str(hevc), *maps, "-t", SECONDS, "-c", "copy"]
    code, _, stderr = await run(*command, "-f", "flv", url(server))
    assert code == 0, stderr
    recorder = await gatekeeper.admitted.get()
    await recorder.ended
    compare(recorder, h264)
    compare(recorder, hevc, video_id=1, audio_id=101)


@pytest.mark.parametrize("ffmpeg", FFMPEGS)
async def test_a_wrong_key_is_shown(ffmpeg: str, server: RtmpServer, gatekeeper: Gatekeeper, h264: Path) -> None:
    command = [ffmpeg, "-v", "error", "-i", str(h264), "-t", SECONDS, "-c", "copy", "-f", "flv"]
    code, _, stderr = await run(*command, url(server, "wrong"))
    assert code != 0
    assert "No stream has this key: copy it again." in stderr
    assert gatekeeper.admitted.empty()


@pytest.mark.parametrize(
    ("codec", "rate", "name"),
    [
        ("libmp3lame", "44100", "MP3"),
        ("pcm_s16le", "44100", "PCM"),
        ("adpcm_swf", "22050", "ADPCM"),
        ("nellymoser", "22050", "Nellymoser"),
        ("libspeex", "16000", "Speex"),
    ],
)
async def test_sound_of_old_kinds_is_refused_with_words(
    server: RtmpServer, gatekeeper: Gatekeeper, codec: str, rate: str, name: str
) -> None:
    ffmpeg = SYSTEM if SYSTEM and codec == "libspeex" else FFMPEG_9
    if (await run(ffmpeg, "-v", "error", "-h", f"encoder={codec}"))[2]:
        pytest.skip(f"this ffmpeg has no {codec}")
    source = ["-re", "-f", "lavfi", "-i", f"sine=r={rate}", "-c:a", codec, "-ac", "1", "-ar", rate]
    code, _, _ = await run(ffmpeg, "-v", "error", *source, "-t", "60", "-f", "flv", url(server))
    assert code != 0
    # That the words are sent is tested in test_rtmp_session; whether ffmpeg reads them before its next write is luck.
    words = f"The audio codec '{name}' is not supported: set the encoder to AAC or Opus."
    assert await (await gatekeeper.admitted.get()).ended == (EndReason.STOPPED, words)


@pytest.mark.parametrize("ffmpeg", FFMPEGS)
async def test_playing_is_refused(ffmpeg: str, server: RtmpServer) -> None:
    code, _, stderr = await run(ffmpeg, "-v", "error", "-i", url(server), "-f", "null", "-")
    assert code != 0
    assert "viewers watch over HTTP" in stderr


@pytest.mark.parametrize(
    ("source", "ident"),
    [
        (["-f", "lavfi", "-i", "sine=r=44100", "-c:a", "aac", "-ac", "1"], 100),
        (["-f", "lavfi", "-i", "testsrc2=s=160x90:r=60", "-c:v", "libx264", "-preset", "ultrafast"], 0),
    ],
)
async def test_sound_alone_and_picture_alone(
    server: RtmpServer, gatekeeper: Gatekeeper, source: list[str], ident: int
) -> None:
    code, _, stderr = await run(FFMPEG_9, "-v", "error", *source, "-t", "2", "-f", "flv", url(server))
    assert code == 0, stderr
    recorder = await gatekeeper.admitted.get()
    await recorder.ended
    got = recorder.packets(ident)
    assert_seamless(got)
    assert len(recorder.items) == len(got)
    assert len({packet.duration for packet in got}) == 1
    assert sum(packet.duration for packet in got) / got[0].track.timescale == pytest.approx(2, abs=0.06)


class TestRtmps:
    @pytest.fixture
    async def secure(self, gatekeeper: Gatekeeper, tls: ssl.SSLContext) -> AsyncIterator[RtmpServer]:
        server = RtmpServer(
            RtmpSettings(host="127.0.0.1", port=0),
            gatekeeper,
            limits=LimitSettings(linger_s=0.5),
            tls=lambda: tls,
            protocol="rtmps",
        )
        await server.start()
        yield server
        await server.stop()

    @pytest.mark.parametrize("ffmpeg", FFMPEGS)
    async def test_publishing(
        self, ffmpeg: str, secure: RtmpServer, gatekeeper: Gatekeeper, h264: Path, certificate: Path
    ) -> None:
        trust = ["-ca_file", str(certificate), "-tls_verify", "1"] if ffmpeg == FFMPEG_9 else []
        to = f"rtmps://localhost:{secure.port}/live/{GOOD_KEY}"
        recorder = await push(ffmpeg, secure, gatekeeper, h264, *trust, to=to)
        compare(recorder, h264)
        assert recorder.request.protocol == "rtmps"

    @pytest.mark.parametrize("ffmpeg", FFMPEGS)
    async def test_a_wrong_key_is_shown(self, ffmpeg: str, secure: RtmpServer, h264: Path) -> None:
        trust = ["-tls_verify", "0"] if ffmpeg == FFMPEG_9 else []
        command = [ffmpeg, "-v", "error", "-i", str(h264), "-t", SECONDS, "-c", "copy", *trust, "-f", "flv"]
        code, _, stderr = await run(*command, f"rtmps://localhost:{secure.port}/live/wrong")
        assert code != 0
        assert "No stream has this key: copy it again." in stderr


@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="GStreamer is not installed")
@pytest.mark.parametrize("streamable", ["true", "false"])
@pytest.mark.parametrize("sink", ["rtmp2sink", "rtmpsink"])
async def test_gstreamer(server: RtmpServer, gatekeeper: Gatekeeper, sink: str, streamable: str) -> None:
    """flvmux with a header for files (sizes and an index, which nobody fills in) and without; each of the two sinks."""
    for element, package in (("x264enc", "ugly"), ("voaacenc", "bad"), (sink, "bad")):
        if (await run("gst-inspect-1.0", element))[0]:
            pytest.skip(f"GStreamer has no {element} (apt-get install gstreamer1.0-plugins-{package})")
    picture = "videotestsrc num-buffers=90 ! video/x-raw,width=160,height=90,framerate=30/1"
    encoder = "x264enc speed-preset=ultrafast bframes=0 key-int-max=30 ! h264parse ! mux."
    sound = "audiotestsrc num-buffers=141 ! audio/x-raw,rate=48000,channels=2 ! voaacenc ! aacparse ! mux."
    mux = f"flvmux name=mux streamable={streamable} ! {sink} location={url(server)}"
    code, _, stderr = await run("gst-launch-1.0", "-q", *f"{mux} {picture} ! {encoder} {sound}".split())
    assert code == 0, stderr
    recorder = await gatekeeper.admitted.get()
    await recorder.ended
    got = recorder.packets(0)
    assert [packet.dts - got[0].dts for packet in got] == [index * 3000 for index in range(90)]
    assert sum(packet.keyframe for packet in got) == 3
    heard = recorder.packets(100)
    assert len(heard) >= 139
    assert_seamless(heard)
    assert abs(heard[0].pts / 48_000 - got[0].pts / 90_000) < 0.05
    assert recorder.gaps() == []
