"""What fuzzing feeds the readers of playlists and of MP4, and the directives of a blocked request."""

from __future__ import annotations

from random import Random

from fuzz import Target, quietly
from fuzz_seeds import PLAYLIST, VARIANTS, Clips

from media.errors import ProtocolError
from media.track import Kind as TrackKind
from packager.cmaf import read
from packager.cmaf.fragment import Sample as FragmentSample
from packager.cmaf.fragment import chunk
from packager.cmaf.init import init_segment
from packager.hls import blocking, lint, parse
from packager.hls.media_lint import Tape


def _playlist() -> Target:
    def run(data: bytes, _: Random) -> None:
        found = parse.parse(data)
        if isinstance(found, parse.MediaPlaylist):
            lint.check(found)
            lint.follow(found, found)
            lint.merge(found, found)
        else:
            lint.check_multivariant(found)

    words = [line + b"\n" for line in PLAYLIST.splitlines()] + [
        b"NaN",
        b"1e400",
        b"-1",
        b"9" * 30,
        b"9" * 5000,
        b'"',
        b",",
    ]
    return Target("playlist", [PLAYLIST, VARIANTS], run, (ProtocolError,), words)


def _directives() -> Target:
    def run(data: bytes, _: Random) -> None:
        pairs = [tuple((part + "=").split("=")[:2]) for part in data.decode("latin-1").split("&")]
        blocking.parse(pairs)  # type: ignore[arg-type]

    return Target(
        "directives",
        [b"_HLS_msn=4&_HLS_part=2&_HLS_skip=YES"],
        run,
        (ProtocolError,),
        [b"_HLS_msn=", b"&", b"9" * 40, b"9" * 5000],
    )


def _mp4() -> Target:
    """Our own initialisation and media segments, as the validator and the recall of old segments read them."""
    seeds = []
    for unit in (Clips.units("h264")[3], Clips.units("hevc")[0], Clips.units("hevc")[-1]):
        sound = unit.track.kind is TrackKind.AUDIO
        one = FragmentSample(1024 if sound else 3600, 0, True, unit.data[:300])
        seeds += [init_segment(unit.track), chunk(1, 0, [one] * 3)]

    def run(data: bytes, _: Random) -> None:
        for parser in (read.header, read.track, read.chunks, lambda data: list(read.boxes(data))):
            quietly(lambda parser=parser: parser(data))  # type: ignore[misc]
        Tape(2).init("a", data)

    words = [b"moov", b"trak", b"stsd", b"avcC", b"trun", b"tfhd", b"esds", b"moof"]
    return Target("mp4", seeds, run, (), words)


TARGETS = (
    _playlist,
    _directives,
    _mp4,
)
