"""From a real encoder over RTMP and RTMPS to HLS that ffmpeg reads: shapes of sources, joins, alignment, refusals."""

from __future__ import annotations

import os
import signal
import ssl
from itertools import pairwise
from pathlib import Path
from urllib.parse import urljoin

import pytest
from hls_reader import Recording, decode_errors, frames, record, update, variants
from live_server import Server, ended, media, wait_for

from control.api_answers import BroadcastAnswer, HardwareAnswer, OneBroadcast

pytestmark = pytest.mark.e2e

TONE = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-b:v", "1500k")
AAC = ("-c:a", "aac", "-b:a", "96k")
FLV = ("-f", "flv")


def picture(size: str, rate: str) -> tuple[str, ...]:
    return ("-re", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}")


SHAPES = {
    "720p25": (*picture("1280x720", "25"), *TONE, *X264, "-g", "50", *AAC),
    "540p29.97": (*picture("960x540", "30000/1001"), *TONE, *X264, "-g", "60", "-bf", "2", *AAC),
    "360p60": (*picture("640x360", "60"), *TONE, *X264, "-g", "60", *AAC),
    "long-gop": (*picture("640x360", "30"), *TONE, *X264, "-g", "300", "-bf", "2", *AAC),
    "variable": (*picture("640x360", "30"), *TONE, "-vf", "select='not(eq(mod(n,7),3))'", "-vsync", "vfr",
                 *X264, "-force_key_frames", "expr:gte(t,n_forced*2)", *AAC),
    "mono44": (*picture("640x360", "25"), "-f", "lavfi", "-i", "sine=sample_rate=44100", *X264, "-g", "50",
               "-c:a", "aac", "-ac", "1", "-ar", "44100"),
    "video-only": (*picture("640x360", "30"), *X264, "-g", "60"),
    "audio-only": ("-re", *TONE, *AAC),
}  # fmt: skip


def follow(server: Server, name: str, count: int = 4) -> dict[str, Recording]:
    base = f"{server.edge}/live/{name}/index.m3u8"
    video, audio = variants(server.wait_on_air(name))
    uris = sorted({v.uri for v in video} | {a.uri for a in audio})
    assert uris
    return record(server, base, uris, count, 40)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_rendition_of_every_shape_is_whole_and_aligned(shared_server: Server, shape: str, tmp_path: Path) -> None:
    server, name = shared_server, f"shape-{shape.replace('.', '-')}"
    made = server.add(name)
    with ended(server.push(made["urls"]["rtmp"], *SHAPES[shape], *FLV)):
        recordings = follow(server, name)
    starts: dict[int, list[float]] = {}
    for uri, recording in recordings.items():
        kind = "a" if "audio" in uri or shape == "audio-only" else "v"
        paths = recording.files(tmp_path / uri.replace("/", "_"))
        got = sorted((f for path in paths for f in frames(path, kind)), key=lambda f: f.pts)
        settled = max(recording.discontinuities, default=min(recording.segments))
        assert not recording.gaps
        steps = [b.pts - a.pts for a, b in pairwise(got)]
        longest = 0.09 if shape == "variable" else 0.071
        assert max(steps) < longest, f"{uri}: a hole at {got[steps.index(max(steps))].pts}"
        assert min(steps) > 0.005, f"{uri}: a doubled frame"
        assert [decode_errors(path) for path in paths] == [""] * len(paths), uri
        for number in recording.segments:
            first = frames(recording.one(number, tmp_path / "one.mp4"), kind)
            if kind == "v":
                assert first[0].key, f"{uri} segment {number} starts with a keyframe"
                starts.setdefault(number, []).append(first[0].pts)
            if number > settled:
                assert abs(recording.extinf[number] - 2) < 0.1, (uri, recording.extinf)
    for number, times in starts.items():
        assert max(times) - min(times) < 0.001, f"segment {number} starts at {times}"


def test_real_clip_with_scene_cut_keyframes_is_encoded_at_the_top_and_loses_no_frame(
    shared_server: Server, tmp_path: Path
) -> None:
    server = shared_server
    made = server.add("clip")
    source = ("-re", "-ss", "0.4", "-i", str(media("bbb_720p24_60s.mp4")), "-c", "copy")
    with ended(server.push(made["urls"]["rtmps"], *source, *FLV)):
        recordings = follow(server, "clip", 5)
        detail = server.admin("/v1/broadcasts")
        found = next(b["id"] for b in detail if b["stream"] == "clip")
        OneBroadcast.model_validate(server.admin(f"/v1/broadcasts/{found}"))
        HardwareAnswer.model_validate(server.admin("/v1/hardware"))
    for each in detail:
        BroadcastAnswer.model_validate(each)
    for uri, recording in recordings.items():
        if "audio" not in uri:
            got = sorted((f for p in recording.files(tmp_path / "x") for f in frames(p, "v")), key=lambda f: f.pts)
            assert max(b.pts - a.pts for a, b in pairwise(got)) < 1.5 / 24, uri
    assert any("keyframe" in n for b in detail for n in b["notices"] if b["stream"] == "clip")


def test_wrong_key_is_refused_with_words_and_no_broadcast(shared_server: Server) -> None:
    server = shared_server
    url = f"rtmp://127.0.0.1:{server.ports['rtmp']}/live/not-a-key"
    with ended(server.push(url, *SHAPES["video-only"], *FLV)) as p:
        assert p.wait(60) != 0
    said = (server.data / "push.log").read_text()
    assert "not accepted" in said or "BadName" in said, said
    assert "not-a-key" not in server.text()


def test_keys_never_show_up_in_logs_or_urls(shared_server: Server) -> None:
    server = shared_server
    made = server.add("secret")
    key = made["key"]
    with ended(server.push(made["urls"]["rtmp"], *SHAPES["video-only"], *FLV)):
        text = server.wait_on_air("secret")
        listed = str(server.admin("/v1/streams")) + str(server.admin("/v1/streams/secret/keys"))
    for place in (text, listed, server.text(), str(server.admin("/v1/broadcasts"))):
        assert key not in place


def test_worker_killed_with_sigkill_is_replaced_behind_a_discontinuity(server: Server) -> None:
    made = server.add("kill")
    with ended(server.push(made["urls"]["rtmp"], *SHAPES["720p25"], *FLV)):
        base = f"{server.edge}/live/kill/index.m3u8"
        video, _ = variants(server.wait_on_air("kill"))
        rung = next(v.uri for v in video if "source" not in v.uri)
        url = urljoin(base, rung)
        recording = Recording()
        wait_for(lambda: (update(recording, server, url), len(recording.segments) >= 2)[1], 20, "two segments")
        workers = [p for p in server.children() if b"transcode" in Path(f"/proc/{p}/cmdline").read_bytes()]
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        before = max(recording.segments)

        def resumed() -> bool:
            update(recording, server, url)
            return bool(recording.discontinuities) and max(recording.segments) > before + 1

        wait_for(resumed, 15, "segments go on after a discontinuity")
        numbers = sorted(set(recording.segments) | recording.gaps)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert len(recording.gaps) <= 2


def test_certificate_of_rtmps_is_signed_by_our_own_authority(shared_server: Server) -> None:
    import socket

    context = ssl.create_default_context(cafile=str(next(shared_server.data.rglob("*ca*.pem"))))
    with (
        socket.create_connection(("127.0.0.1", shared_server.ports["rtmps"]), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


def test_twenty_publishes_leave_nothing_behind(server: Server) -> None:
    made = server.add("again")

    def count() -> tuple[int, int]:
        assert server.process is not None
        return len(server.children()), len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

    source = (*picture("320x180", "25"), *TONE, "-t", "1.5", *X264, "-g", "25", *AAC)
    baseline = None
    for n in range(20):
        with ended(server.push(made["urls"]["rtmp"], *source, *FLV)) as process:
            process.wait(60)
        if n == 3:
            wait_for(lambda: not any(b["ended"] is None for b in server.admin("/v1/broadcasts")), 10, "all ended")
            baseline = count()
    wait_for(lambda: not any(b["ended"] is None for b in server.admin("/v1/broadcasts")), 10, "all ended")
    assert baseline is not None
    wait_for(lambda: count()[0] <= baseline[0] and count()[1] <= baseline[1] + 4, 15, f"{count()} is as at {baseline}")


def test_sigterm_ends_everything(tmp_path: Path) -> None:
    from live_server import new_server

    server = new_server(tmp_path / "data")
    server.start("--demo")
    server.wait_on_air("demo")
    children = server.children()
    assert len(children) >= 3
    assert server.stop() == 0
    assert not [p for p in children if Path(f"/proc/{p}").exists()]
    assert not list((tmp_path / "data").rglob("*.sock"))
