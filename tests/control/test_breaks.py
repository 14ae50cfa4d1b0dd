"""Breaks of every kind, at random: publishers that go, come back, take over, jump and change; ladders and workers too.

What viewers are given is held against all validators at every step (`break_stage`). More examples, other seeds:
`BREAKS=2000 python -m pytest tests/control/test_breaks.py --hypothesis-seed=7`
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import pytest
from break_script import Deed, Publisher, Script, Sound
from break_stage import play
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingest.sample import RTMP_CLOCK, UNWRAPPED_90K
from media.track import Codec

EXAMPLES = int(os.environ.get("BREAKS", "0"))


def tenths(low: float, high: float) -> Any:
    return st.integers(round(low * 50), round(high * 50)).map(lambda n: n / 50)


RATES = st.sampled_from([Fraction(25), Fraction(30), Fraction(30_000, 1001), Fraction(60), Fraction(10), None])
GOPS = st.sampled_from([2.0, 2.0, 2.0, 1.0, 0.5, 1.3, 2.4, 4.0, 8.0])


@st.composite
def audio(draw: Any) -> Sound:
    codec = draw(st.sampled_from([Codec.AAC, Codec.AAC, Codec.AAC, Codec.OPUS]))
    start = draw(st.sampled_from([0.0, 0.0, 0.0, 0.3, 2.6]))
    return Sound(codec, draw(st.just(0.0) | tenths(-1, 1)), start, draw(st.sampled_from([1e9, 1e9, 1e9, 4.4])))


@st.composite
def publisher(draw: Any) -> Publisher:
    kind = draw(st.sampled_from(["both"] * 6 + ["picture", "sound"]))
    length = draw(tenths(0.3, 9))
    count = 0 if kind == "picture" else draw(st.sampled_from([1, 1, 1, 2]))
    rare = st.sampled_from([False, False, False, True])
    instant = tenths(0.1, 8)
    return Publisher(
        length_s=length,
        away_s=draw(st.sampled_from([-0.5, 0.1, 0.4, 0.5, 0.6, 1.0, 3.0]) | tenths(0.1, 6)),
        rate=draw(RATES),
        gop_s=draw(GOPS),
        bframes=draw(st.sampled_from([0, 0, 1, 2, 3])),
        size=None if kind == "sound" else draw(st.sampled_from(["big", "big", "small"])),
        picture_from_s=draw(st.sampled_from([0.0, 0.0, 0.0, 0.2, 1.1])),
        picture_until_s=draw(st.sampled_from([1e9, 1e9, 1e9, 3.7])),
        keyless_s=draw(st.sampled_from([0.0, 0.0, 0.0, 0.4, 1.7])),
        sounds=tuple(draw(audio()) for _ in range(count)),
        clock=draw(st.sampled_from([UNWRAPPED_90K, RTMP_CLOCK])),
        jumps=((draw(instant), draw(st.sampled_from([-100.0, -5.0, -1.5, 5.0, 100.0]))),) if draw(rare) else (),
        stalls=((draw(instant), draw(tenths(0.2, 3))),) if draw(rare) else (),
        resize_s=draw(instant) if draw(rare) else None,
    )


@st.composite
def script(draw: Any) -> Script:
    publishers = tuple(draw(publisher()) for _ in range(draw(st.integers(1, 3))))
    ladders = st.sampled_from([(), ("360p",), ("360p", "240p"), ("240p",)])
    end = sum(p.length_s + max(0.0, p.away_s) for p in publishers)
    at = tenths(0, end)
    deeds = [
        *(Deed(draw(at), "ladder", draw(ladders)) for _ in range(draw(st.sampled_from([0, 0, 1, 2])))),
        *(Deed(draw(at), "die") for _ in range(draw(st.sampled_from([0, 0, 1])))),
    ]
    rungs = draw(st.sampled_from(["always", "always", "watched"]))
    if rungs == "watched":
        deeds += [Deed(draw(at), "ask", draw(ladders)) for _ in range(3)]
    return Script(publishers, tuple(deeds), draw(ladders), draw(st.sampled_from([0.0, 0.3, 0.3, 0.9, 2.0, 3.0])), rungs)


FOUND = {
    "sound goes on without a picture until the publisher goes": Script(
        (Publisher(5, picture_until_s=3.7),),
    ),
    "a picture joins and its first keyframe is long in coming": Script(
        (Publisher(9, picture_from_s=1.1, gop_s=8, keyless_s=5),),
    ),
    "sound that begins late in a segment waits for the next": Script(
        (
            Publisher(0.82, size=None),
            Publisher(7.5, away_s=0.1, gop_s=2.4, sounds=(Sound(ahead_s=-0.82, from_s=0.3),), resize_s=3.76),
        ),
        ladder=(),
    ),
    "an encoder far behind hands over after the pause": Script(
        (Publisher(8.36, keyless_s=1.7, sounds=()),),
        lag_s=3,
    ),
    "back at once, and no keyframe": Script(
        (Publisher(8.36), Publisher(1.32, away_s=0.1, keyless_s=1.7, sounds=())),
        ladder=(),
    ),
    "encoded before the break, passed through behind it": Script(
        (
            Publisher(6.44, picture_from_s=0.2, resize_s=1.6, sounds=()),
            Publisher(4.6, away_s=1.6, gop_s=8, bframes=2, size="small", sounds=(Sound(ahead_s=0.22, from_s=0.3),)),
        ),
        ladder=(),
    ),
    "sound encoded before the break, passed through behind it": Script(
        (Publisher(5, sounds=(Sound(Codec.OPUS), Sound())), Publisher(7, away_s=0.2)),
        lag_s=2,
    ),
    "a rendition is given up that had nothing open": Script(
        (
            Publisher(3.18),
            Publisher(
                8.6,
                away_s=3.26,
                rate=Fraction(30),
                bframes=1,
                keyless_s=1.7,
                sounds=(Sound(ahead_s=-0.96),),
                stalls=((3.74, 2.38),),
                resize_s=2.22,
            ),
        ),
        lag_s=0.9,
    ),
    "sound encoded before the break, passed through and ahead of the picture behind it": Script(
        (Publisher(7, sounds=(Sound(Codec.OPUS),)), Publisher(7.2, away_s=1.32, sounds=(Sound(ahead_s=1),))),
        ladder=(),
    ),
    "sound that an encoder hands over after the pause, and another pause": Script(
        (
            Publisher(2.68, sounds=()),
            Publisher(2.78, away_s=0.6, rate=Fraction(10), gop_s=8, picture_from_s=0.2, sounds=(Sound(Codec.OPUS),)),
        ),
        ladder=(),
        lag_s=2,
    ),
    "nothing of what is declared is there yet": Script(
        (Publisher(1, sounds=()), Publisher(6, away_s=3.92, picture_from_s=1.1, sounds=(Sound(Codec.OPUS),))),
        ladder=(),
    ),
    "a keyframe comes late in a segment that the sound has begun": Script(
        (Publisher(6, picture_from_s=1.1, sounds=(Sound(ahead_s=0.94),)),),
        ladder=(),
    ),
    "no picture, and a second track of sound comes ahead": Script(
        (Publisher(9, size=None, sounds=(Sound(), Sound(ahead_s=0.9))),),
    ),
    "sound that is no longer declared, and comes out of the encoder": Script(
        (Publisher(6, keyless_s=0.4, sounds=(Sound(Codec.OPUS),)), Publisher(1, away_s=-0.5, sounds=())),
        ladder=(),
        lag_s=2,
    ),
    "taken over before it was planned": Script(
        (Publisher(0.6), Publisher(6, away_s=-0.5)),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_broken_stays_mended(name: str) -> None:
    assert play(FOUND[name]).faults() == []


def test_a_reordered_picture_that_is_still_to_be_shown_is_not_the_next_publishers() -> None:
    before = Publisher(7.3, rate=Fraction(10), bframes=1, sounds=())
    after = Publisher(4.1, away_s=-0.5, picture_from_s=0.2, sounds=(Sound(ahead_s=0.74, from_s=0.3), Sound()))
    stage = play(Script((before, after), (Deed(2.32, "ladder", ("240p",)),), ladder=(), lag_s=0))
    assert [text for text in stage.faults() if "sessions" in text] == []


@settings(
    max_examples=EXAMPLES or 30,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(script())
def test_whatever_breaks_viewers_are_given_a_stream_that_keeps_all_rules(script: Script) -> None:
    assert play(script).faults() == []
