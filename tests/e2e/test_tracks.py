"""Several tracks, changes on air and what the publisher is told, with real encoders and players."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hls_reader import Recording, decode_errors, frames, record, update, variants
from live_server import Server, ended, running, wait_for
from watching import chromium

pytestmark = pytest.mark.e2e

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-sc_threshold", "0")


def picture(size: str, rate: int = 25) -> tuple[str, ...]:
    return ("-re", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}")


def tone(hertz: int) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"sine=frequency={hertz}:sample_rate=48000")


def new_ffmpeg() -> str:
    """One that writes Enhanced RTMP with several tracks (since 7.1), which Debian's does not."""
    binary = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    assert isinstance(binary, str)
    return binary


def metrics(server: Server) -> str:
    token = (server.data / "admin-token").read_text().strip()
    return server.get(f"{server.api}/metrics", Authorization=f"Bearer {token}").decode()


def described(server: Server, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = next(b for b in server.admin("/v1/broadcasts") if b["stream"] == name)
    return found


def follow(server: Server, name: str, count: int, ready: Callable[[str], bool] = bool) -> dict[str, Recording]:
    base = f"{server.edge}/live/{name}/index.m3u8"
    text = wait_for(lambda: (t := server.playlist(f"/live/{name}/index.m3u8")) and ready(t) and t, 20, "tracks listed")
    video, audio = variants(str(text))
    return record(server, base, [v.uri for v in video + audio], count, 30)


def test_two_languages_over_srt_are_two_renditions(shared_server: Server, tmp_path: Path) -> None:
    server = shared_server
    wait_for(lambda: "/watch/" in server.text(), 10, "the server has said where it is")
    if "SRT   " not in server.text():
        pytest.skip("libsrt is not there")
    made = server.add("languages", ladder=[])
    source = (
        *picture("320x180"), *tone(440), *tone(880), "-map", "0", "-map", "1", "-map", "2", *X264, "-g", "50",
        "-c:a", "aac", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra", "-f", "mpegts",
    )  # fmt: skip
    with ended(server.push(made["urls"]["srt"], *source, log="languages.log")):
        recordings = follow(server, "languages", 3, lambda text: text.count("TYPE=AUDIO") == 2)
        _, audio = variants(server.wait_on_air("languages"))
    told = [(a.uri, a.attributes["LANGUAGE"], a.attributes["NAME"], a.attributes["DEFAULT"]) for a in audio]
    assert told == [("audio/media.m3u8", "en", "English", "YES"), ("audio-2/media.m3u8", "fr", "French", "NO")]
    first = {u: frames(r.files(tmp_path / "x")[0], "a" if "audio" in u else "v")[0].pts for u, r in recordings.items()}
    assert max(first.values()) - min(first.values()) < 0.05, first
    assert not any(r.gaps or r.discontinuities for r in recordings.values())


@pytest.mark.parametrize("gop", [50, 70], ids=["aligned", "apart"])
def test_the_publishers_own_ladder(shared_server: Server, tmp_path: Path, gop: int) -> None:
    server, name = shared_server, f"own-{gop}"
    made = server.add(name, ladder=["360p"])
    source = (
        *picture("640x480"), *tone(440), "-filter_complex", "[0:v]split[a][b];[b]scale=480:360[c]", "-map", "[a]",
        "-map", "[c]", "-map", "1", *X264, "-g:v:0", "50", "-g:v:1", str(gop), "-c:a", "aac", "-f", "flv",
    )  # fmt: skip
    command = [new_ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin", *source, made["urls"]["rtmp"]]
    with ended(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)):
        recordings = follow(server, name, 3 if gop == 50 else 5)
        told = described(server, name)
    passed = {r["name"]: r["passthrough"] for r in told["renditions"]}  # type: ignore[index,call-overload]
    starts: dict[int, list[float]] = {}
    for uri, recording in recordings.items():
        for number in recording.segments:
            if "audio" not in uri:
                got = frames(recording.one(number, tmp_path / "one.mp4"), "v")
                assert got[0].key
                starts.setdefault(number, []).append(got[0].pts)
    assert all(max(times) - min(times) < 0.009 for times in starts.values()), starts
    assert passed["source"]
    assert passed["360p"] == (gop == 50)
    assert any("do not lie together" in notice for notice in told["notices"]) == (gop == 70)


def test_a_long_gop_is_told_to_the_streamer_in_words(shared_server: Server) -> None:
    server = shared_server
    made = server.add("words", ladder=[])
    source = (*picture("320x180"), *tone(440), *X264, "-g", "200", "-c:a", "aac", "-f", "flv")
    with ended(server.push(made["urls"]["rtmp"], *source, log="words.log")):
        server.wait_on_air("words")

        def said() -> str:
            health = described(server, "words")["health"]
            return next((r for r in health["reasons"] if "keyframes every" in r), "")  # type: ignore[call-overload]

        words = wait_for(lambda: "8.0 s" in said() and said(), 25, "the interval is measured")
        assert words == "keyframes every 8.0 s: set the keyframe interval to 2 s"
        grades = [line for line in metrics(server).splitlines() if line.startswith("headrace_ingest_health{")]
        assert any('stream="words"' in line and line.endswith(" 0.0") for line in grades), grades


def test_sound_that_stops_leaves_the_picture_whole_and_returns(shared_server: Server, tmp_path: Path) -> None:
    server = shared_server
    made = server.add("silence", ladder=[])
    source = (
        *picture("320x180"), *tone(440), *X264, "-g", "50", "-af", "aselect='lt(t,3)+gt(t,7)'", "-c:a", "aac",
        "-max_interleave_delta", "300000", "-f", "flv",
    )  # fmt: skip
    with ended(server.push(made["urls"]["rtmp"], *source, log="silence.log")):
        recordings = follow(server, "silence", 6)
    got = frames(recordings["source/media.m3u8"].files(tmp_path / "v")[0], "v")
    assert max(b.pts - a.pts for a, b in pairwise(got)) < 0.041
    sound = recordings["audio/media.m3u8"]
    assert sound.gaps
    assert max(sound.segments) > max(sound.gaps), "it is back"
    assert decode_errors(recordings["source/media.m3u8"].files(tmp_path / "v")[0]) == ""


@pytest.fixture
def own_ladder(tmp_path: Path) -> Iterator[Server]:
    """A server with a ladder of its own in its TOML."""
    rungs = "[[transcode.ladders.rungs]]\nheight = 144\nbitrate = 200_000\nframe_rate = 15\n"
    (tmp_path / "headrace.toml").write_text(f'[[transcode.ladders]]\nname = "tiny"\n{rungs}')
    with running(tmp_path / "data", "--config", str(tmp_path / "headrace.toml")) as it:
        yield it


def test_a_ladder_changed_on_air_breaks_no_viewer(own_ladder: Server) -> None:
    server = own_ladder
    made = server.add("change", ladder=["240p"])
    source = (*picture("640x360"), *tone(440), *X264, "-g", "50", "-c:a", "aac", "-f", "flv")
    with ended(server.push(made["urls"]["rtmp"], *source, log="change.log")), chromium() as browser:
        server.wait_on_air("change")
        page = browser.new_page()
        page.goto(f"{server.edge}/watch/change")
        clock = "document.querySelector('video') ? document.querySelector('video').currentTime : 0"
        wait_for(lambda: page.evaluate(clock) > 1, 25, "the player plays")
        server.cli("stream", "set", "change", "ladder=tiny")

        def listed() -> list[str]:
            return [v.uri.partition("/")[0] for v in variants(server.playlist("/live/change/index.m3u8"))[0]]

        wait_for(lambda: listed() == ["source", "144p"], 15, "the new rung is there and the old one gone")
        before = page.evaluate(clock)
        wait_for(lambda: page.evaluate(clock) > before + 4, 12, "the player plays on")
        recording = Recording()
        update(recording, server, f"{server.edge}/live/change/source/media.m3u8")
        assert not recording.discontinuities
        assert not recording.gaps
