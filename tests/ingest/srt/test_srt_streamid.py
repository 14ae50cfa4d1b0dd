"""Stream ids as encoders send them, and as nobody should."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.srt.streamid import MAX_BYTES, Mode, parse
from media.errors import ProtocolError


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"abc123", "abc123"),
        (b"live/abc123", "abc123"),
        (b"/live/abc123", "abc123"),
        (b"publish/abc123", "abc123"),
        (b"publish:abc123", "abc123"),
        (b"publish:live/abc123", "abc123"),
        (b"publish/live/abc123", "abc123"),
        (b"abc123?x=1", "abc123"),
        (b"#!::r=abc123,m=publish", "abc123"),
        (b"#!::m=publish,r=live/abc123,u=me,s=7,h=example.org,t=stream", "abc123"),
        (b"#!::r=/live/abc123?x=1,m=publish", "abc123"),
        (b"#!::r=tok.en-_=,m=publish,", "tok.en-_="),
        (b"%23!::r=abc123,m=publish", "abc123"),
        (b"%23%21%3A%3Ar%3Dabc123%2Cm%3Dpublish", "abc123"),
        ("schlüssel".encode(), "schlüssel"),
    ],
)
def test_key(raw: bytes, key: str) -> None:
    stated = parse(raw)
    assert stated.key == key
    assert stated.mode is Mode.PUBLISH
    assert stated.kind == "stream"


def test_every_field_of_the_standard_form() -> None:
    stated = parse(b"#!::r=live/k,m=publish,u=ada,s=9,h=example.org,t=file,Custom=x")
    assert (stated.user, stated.session, stated.host, stated.kind) == ("ada", "9", "example.org", "file")
    assert stated.parameters == {"Custom": "x"}
    assert stated.mode_stated


@pytest.mark.parametrize(
    ("raw", "mode", "said"),
    [
        (b"k", Mode.PUBLISH, False),
        (b"publish/k", Mode.PUBLISH, True),
        (b"#!::r=k", Mode.PUBLISH, False),  # the standard's default is request: see the module
        (b"#!::r=k,m=request", Mode.REQUEST, True),
        (b"#!::r=k,m=bidirectional", Mode.BIDIRECTIONAL, True),
        (b"read:k", Mode.REQUEST, True),
        (b"play/live/k", Mode.REQUEST, True),
    ],
)
def test_mode(raw: bytes, mode: Mode, said: bool) -> None:
    stated = parse(raw)
    assert (stated.mode, stated.mode_stated) == (mode, said)


def test_query_parameters() -> None:
    assert parse(b"live/k?a=1&b=").parameters == {"a": "1", "b": ""}
    assert parse(b"#!::m=publish,r=k?a=1,X=2").parameters == {"a": "1", "X": "2"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"/",
        b"live/",
        b"?x=1",
        b"#!::m=publish",
        b"#!::r=,m=publish",
        b"#!::r=a,r=b",
        b"#!::r=a,m=steal",
        b"#!::r=a,word",
        b"#!::=a",
        b"#!:{r=a}",
        b"\xff\xfe",
        b"key\x00more",
        b"key\nmore",
        b"k" * (MAX_BYTES + 1),
    ],
)
def test_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(raw)


def test_a_key_is_not_shown_by_accident() -> None:
    assert "s3cret" not in repr(parse(b"live/s3cret?t=s3cret"))


@given(st.one_of(st.binary(max_size=600), st.text(max_size=200).map(lambda text: ("#!::" + text).encode())))
@example(b"%23!%")
@example(b"#!::r=k?&&&=&;%ff")
def test_nothing_but_a_protocol_error(raw: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        stated = parse(raw)
        assert stated.key
        assert "/" not in stated.key


@pytest.mark.parametrize(
    "raw", [b"live%2FKEY", b"%23!::r=live/KEY,m=publish", b"%23%21%3A%3Ar%3Dlive%2FKEY%2Cm%3Dpublish", b"publish%3AKEY"]
)
def test_percent_signs_that_an_encoder_left_in(raw: bytes) -> None:
    found = parse(raw)
    assert (found.key, found.mode) == ("KEY", Mode.PUBLISH)
