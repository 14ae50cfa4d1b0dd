"""Ladders: the rungs that may stand under a source, and `fit`, which picks and shapes those that do.

A rung is stated for a landscape source: `height` is the short side of the picture. Nothing here knows encoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from media.track import Codec, Track
from transcode.settings import LadderSettings


@dataclass(frozen=True, slots=True)
class Rung:
    """One encoded rendition under the source."""

    height: int
    """Short side in pixels: 720 gives 1280x720 of a 16:9 source and 720x1280 of a 9:16 one. After `fit`, the height
    as encoded."""
    bitrate: int
    """Target bits per second, at up to 30 frames per second."""
    codec: Codec = Codec.H264
    max_rate: Fraction = Fraction(30)
    """Frames per second above which every second frame (or more) is left out."""
    value: int = 0
    """What it is worth when CPU is short: the lowest is shed first."""
    width: int = 0
    """Filled by `fit`: size in pixels as encoded."""
    name: str = ""
    """Filled by `fit`: `720p`, and `720p-av1` where it is not the ladder's first codec."""
    sample_aspect: Fraction = Fraction(1)
    """Filled by `fit`."""
    frame_rate: Fraction | None = None
    """Filled by `fit`: nominal frames per second after leaving out; None where the source's is unknown."""
    divide: int = 1
    """Filled by `fit`: 1 keeps every frame of the source, 2 every second one, and so on."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Rungs from top to bottom, and what may be passed through above them."""

    name: str
    rungs: tuple[Rung, ...]
    passthrough: frozenset[Codec] = frozenset({Codec.H264})
    """Codecs of a source that every viewer of this ladder can be expected to play."""
    source_codec: Codec = Codec.H264
    """What `source` is encoded to where it cannot be passed through."""


_60 = Fraction(60)


def _h264(*rungs: tuple[int, int, int], keep_60_from: int = 720) -> tuple[Rung, ...]:
    return tuple(
        Rung(height, bitrate, max_rate=_60 if height >= keep_60_from else Fraction(30), value=value)
        for height, bitrate, value in rungs
    )


# The lowest rung is worth most: it is what keeps a viewer on a poor network. The rungs between are worth least,
# since their viewers have a neighbour to go to.
PRESETS: Mapping[str, Ladder] = MappingProxyType(
    {
        ladder.name: ladder
        for ladder in (
            Ladder(
                "default",
                _h264(
                    (1080, 6_000_000, 4),
                    (720, 3_000_000, 3),
                    (480, 1_200_000, 2),
                    (360, 600_000, 5),
                ),
            ),
            Ladder("mobile", _h264((720, 2_200_000, 2), (480, 1_000_000, 3), (360, 550_000, 4), (240, 300_000, 5))),
            Ladder("economy", _h264((480, 1_000_000, 2), (240, 300_000, 5))),
            Ladder(
                "modern",
                (
                    Rung(1080, 3_200_000, Codec.AV1, _60, 3),
                    Rung(720, 1_600_000, Codec.AV1, _60, 4),
                    Rung(480, 700_000, Codec.AV1, Fraction(30), 2),
                    Rung(480, 1_200_000, Codec.H264, Fraction(30), 5),
                    Rung(360, 350_000, Codec.AV1, Fraction(30), 4),
                    Rung(360, 600_000, Codec.H264, Fraction(30), 6),
                ),
                frozenset({Codec.H264, Codec.HEVC, Codec.AV1}),
            ),
            Ladder(
                "hevc",
                (
                    Rung(1080, 4_000_000, Codec.HEVC, _60, 3),
                    Rung(720, 2_000_000, Codec.HEVC, _60, 2),
                    Rung(480, 1_200_000, Codec.H264, Fraction(30), 5),
                    Rung(360, 600_000, Codec.H264, Fraction(30), 6),
                ),
                frozenset({Codec.H264, Codec.HEVC}),
            ),
            Ladder("archive", _h264((1080, 8_000_000, 4), (720, 4_500_000, 3), keep_60_from=480)),
            Ladder("none", ()),
        )
    }
)
"""The ladders that need no configuration, by name."""


def ladders(own: Iterable[LadderSettings]) -> dict[str, Ladder]:
    """Presets and own ladders by name; an own one takes the place of a preset of its name."""
    return {**PRESETS, **{settings.name: _own(settings) for settings in own}}


def _own(settings: LadderSettings) -> Ladder:
    rungs = sorted(settings.rungs, key=lambda rung: -rung.height)
    return Ladder(
        settings.name,
        tuple(
            Rung(r.height, r.bitrate, Codec(r.codec), Fraction(r.frame_rate).limit_denominator(1001), r.value)
            for r in rungs
        ),
        frozenset(Codec(name) for name in settings.passthrough),
        Codec(settings.source_codec),
    )


def _even(value: Fraction) -> int:
    """The nearest even integer, at least 2: 4:2:0 pictures have no odd sizes."""
    return max(2, 2 * ((value / 2 + Fraction(1, 2)).__floor__()))


def divisor(rate: Fraction | None, max_rate: Fraction) -> int:
    """Every how-manieth frame to keep of a source at `rate`, so as not to pass `max_rate` by more than a tenth."""
    if rate is None or rate <= max_rate * Fraction(11, 10):
        return 1
    return -(-rate // (max_rate * Fraction(11, 10))).__floor__()


def fit(ladder: Ladder, source: Track) -> tuple[Rung, ...]:
    """The ladder's rungs that lie under `source`, with sizes, names and frame rates filled in.

    Never upscales, and leaves out a rung of the source's own height (it is the rendition `source`). Keeps the
    picture's aspect and its sample aspect ratio; the short side is the rung's height, the long side the nearest
    even number. A source of unknown size gets no rungs.
    """
    if source.width <= 0 or source.height <= 0:
        return ()
    portrait = source.height > source.width
    short = min(source.width, source.height)
    first = ladder.rungs[0].codec if ladder.rungs else Codec.H264
    fitted: list[Rung] = []
    for rung in ladder.rungs:
        if rung.height >= short:
            continue
        long = _even(Fraction(max(source.width, source.height) * rung.height, short))
        divide = divisor(source.frame_rate, rung.max_rate)
        rate = source.frame_rate / divide if source.frame_rate else None
        # Frames at 60 a second differ less from each other: half as many bits again keep the look of 30.
        bitrate = rung.bitrate * 3 // 2 if rate is not None and rate > 33 else rung.bitrate
        fitted.append(
            replace(
                rung,
                width=_even(Fraction(rung.height)) if portrait else long,
                height=long if portrait else _even(Fraction(rung.height)),
                name=f"{rung.height}p" + ("" if rung.codec is first else f"-{rung.codec.value}"),
                sample_aspect=source.sample_aspect,
                frame_rate=rate,
                divide=divide,
                bitrate=bitrate,
            )
        )
    return tuple(fitted)
