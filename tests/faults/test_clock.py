"""Clocks of encoders that jump and wrap, through the whole server: segments never stop, and lips stay in step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from urllib.parse import urljoin

import lipsync
import pytest
from hls_reader import Recording, update, variants
from live_server import Server, wait_for
from rtmp_publisher import Tag, encode, publish

pytestmark = pytest.mark.e2e

LENGTH_S = 13
AT_MS = 4500
"""Where the clock misbehaves: in the middle of a GOP."""
TOLERANCE_S = 0.020
FORMAT = (
    "-t", str(LENGTH_S), "-s", "320x180", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "60",
    "-bf", "2", "-c:a", "aac",
)  # fmt: skip


def jumping(by_ms: int) -> Callable[[Tag], int]:
    """A clock that starts at 100 s and is set by `by_ms` in the middle."""
    return lambda tag: 100_000 + tag.ms + (by_ms if tag.ms >= AT_MS else 0)


def wrapping(modulus: int) -> Callable[[Tag], int]:
    """A clock that overflows in the middle."""
    return lambda tag: (modulus - AT_MS + tag.ms) % modulus


def audio_only(by_ms: int) -> Callable[[Tag], int]:
    """A clock of which only the sound is set."""
    return lambda tag: 100_000 + tag.ms + (by_ms if tag.kind == 8 and tag.ms >= AT_MS else 0)


def video_only(by_ms: int) -> Callable[[Tag], int]:
    """A clock of which only the picture is set."""
    return lambda tag: 100_000 + tag.ms + (by_ms if tag.kind == 9 and tag.ms >= AT_MS else 0)


CLOCKS = {
    "forward": jumping(3_600_000),
    "back": jumping(-60_000),
    "wrap24": wrapping(2**24),
    "wrap31": wrapping(2**31),
    "wrap32": wrapping(2**32),
    "sound": audio_only(40_000),
    "picture": video_only(40_000),
}


@pytest.fixture(scope="module")
def recorded(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Recording]]:
    """All clocks published at the same time; for each stream what its playlists listed until the end."""
    server = shared_server
    tags = encode((*lipsync.SOURCE[1:], *FORMAT), tmp_path_factory.mktemp("source") / "source.flv")
    errors: list[Exception] = []

    def run(name: str, key: str) -> None:
        try:
            publish(server.ports["rtmp"], key, tags, CLOCKS[name])
        except (OSError, AssertionError) as error:  # told to the test, which runs in another thread
            errors.append(error)

    threads = []
    for name in CLOCKS:
        made = server.add(name, ladder=[])
        threads.append(threading.Thread(target=run, args=(name, made["key"])))
    for thread in threads:
        thread.start()
    found: dict[str, dict[str, Recording]] = {}
    try:
        for name in CLOCKS:
            video, audio = variants(server.wait_on_air(name))
            found[name] = {video[0].uri: Recording(), audio[0].uri: Recording()}

        def follow() -> bool:
            for name, recordings in found.items():
                for uri, recording in recordings.items():
                    update(recording, server, urljoin(f"{server.edge}/live/{name}/index.m3u8", uri))
            return all(r.ended for recordings in found.values() for r in recordings.values())

        wait_for(follow, LENGTH_S + 20, "every stream has ended")
    finally:
        for thread in threads:
            thread.join()
    assert not errors, errors
    return found


@pytest.mark.parametrize("name", CLOCKS)
def test_segments_never_stop_and_sound_stays_with_the_picture(
    recorded: dict[str, dict[str, Recording]], name: str, tmp_path: Path
) -> None:
    video, audio = recorded[name].values()
    lengths = [sum(r.extinf.values()) for r in (video, audio)]
    print(name, "seconds shown:", [round(s, 2) for s in lengths], "discontinuities at", video.discontinuities)
    assert not video.gaps
    assert not audio.gaps
    assert min(lengths) > LENGTH_S - 1.5
    assert max(lengths) < LENGTH_S + 1.5
    assert len(video.discontinuities) <= 1
    assert video.discontinuities == audio.discontinuities
    edges = [min(video.segments), *sorted(video.discontinuities), max(video.segments) + 1]
    for first, last in pairwise(edges):
        parts = []
        for recording in (video, audio):
            path = tmp_path / f"{first}-{recording is audio}.mp4"
            numbers = [n for n in recording.segments if first <= n < last]
            path.write_bytes(
                recording.headers[recording.inits[first]] + b"".join(recording.segments[n] for n in numbers)
            )
            parts.append(path)
        offsets = lipsync.offsets(*parts)
        print(
            name, f"segments {first} to {last - 1}: sound after picture by (ms)", [round(1000 * o, 1) for o in offsets]
        )
        assert len(offsets) >= 3
        assert max(map(abs, offsets)) < TOLERANCE_S, offsets
