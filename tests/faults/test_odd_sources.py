"""Sources that are not as the book has them, through the whole server at the same time: their segments never stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import urljoin

import pytest
from hls_reader import Recording, update, variants
from live_server import Server, ended, wait_for
from rtmp_publisher import Tag, encode, publish

pytestmark = pytest.mark.e2e

LENGTH_S = 10
AT_MS = 4500
AUDIO = 8


@cache
def made(folder: Path, size: str, rate: int) -> list[Tag]:
    source = ("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}", "-f", "lavfi", "-i", "sine=f=440:r=48000")
    codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", str(2 * rate), "-c:a", "aac")
    return encode((*source, "-t", str(LENGTH_S), *codecs), folder / f"{size}-{rate}.flv")


def resized(first: list[Tag], second: list[Tag]) -> list[Tag]:
    """Another size in mid-stream, with its sequence headers, on the same connection."""
    late = [replace(tag, ms=max(tag.ms, 6000)) for tag in second if tag.ms >= 6000 or tag.header]
    return [tag for tag in first if tag.ms < 6000] + late


CASES: dict[str, Callable[[Path], list[Tag]]] = {
    "late-sound": lambda at: [t for t in made(at, "320x180", 30) if t.kind != AUDIO or t.ms >= AT_MS or t.header],
    "sound-stops": lambda at: [t for t in made(at, "320x180", 30) if t.kind != AUDIO or t.ms < AT_MS],
    "picture-only": lambda at: [t for t in made(at, "320x180", 30) if t.kind != AUDIO],
    "resized": lambda at: resized(made(at, "320x180", 30), made(at, "426x240", 30)),
    "five-a-second": lambda at: made(at, "320x180", 5),
    "one-a-second": lambda at: made(at, "320x180", 1),
}


@pytest.fixture(scope="module")
def recorded(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Recording]]:
    """For each source, and for SRT stamps that wrap at 33 bits, what its playlists listed until the end."""
    server, folder = shared_server, tmp_path_factory.mktemp("source")
    threads, errors = [], []

    def run(key: str, tags: list[Tag]) -> None:
        try:
            publish(server.ports["rtmp"], key, tags, lambda tag: tag.ms)
        except (OSError, AssertionError) as error:  # told to the test, which runs in another thread
            errors.append(error)

    for name, make in CASES.items():
        key = server.add(name, ladder=[])["key"]
        threads.append(threading.Thread(target=run, args=(key, make(folder))))
    srt = server.add("wrap33", ladder=[])["urls"]["srt"]
    clip = str(folder / "320x180-30.flv")
    wrapping = ("-re", "-i", clip, "-c", "copy", "-output_ts_offset", str(2**33 / 90_000 - AT_MS / 1000))
    for thread in threads:
        thread.start()
    found: dict[str, dict[str, Recording]] = {name: {} for name in (*CASES, "wrap33")}

    def follow() -> bool:
        for name, recordings in found.items():
            master = f"/live/{name}/index.m3u8"
            text = server.playlist(master)
            for rendition in [one for both in variants(text) for one in both] if text else ():
                recording = recordings.setdefault(rendition.uri, Recording())
                update(recording, server, urljoin(f"{server.edge}{master}", rendition.uri))
        return all(rs and all(r.ended for r in rs.values()) for rs in found.values())

    try:
        with ended(server.push(srt, *wrapping, "-f", "mpegts")):
            wait_for(follow, LENGTH_S + 25, "every stream has ended")
    finally:
        for thread in threads:
            thread.join()
    assert not errors, errors
    return found


@pytest.mark.parametrize("name", [*CASES, "wrap33"])
def test_the_picture_never_stops(recorded: dict[str, dict[str, Recording]], name: str) -> None:
    source = next(recording for uri, recording in recorded[name].items() if uri.startswith("source"))
    shown_s = sum(source.extinf.values())
    print(name, {uri: round(sum(r.extinf.values()), 2) for uri, r in recorded[name].items()}, source.discontinuities)
    assert not source.gaps
    assert LENGTH_S - 1 < shown_s < LENGTH_S + 1
    assert len(source.discontinuities) <= 1
    assert len(recorded[name]) == (1 if name == "picture-only" else 2)
