"""AMF0: values there and back, what only comes in, and garbage."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.rtmp.amf0 import MAX_DEPTH, MAX_VALUES, EcmaArray, Value, decode, encode
from media.errors import ProtocolError

VALUES: list[Value] = [
    "connect",
    1.0,
    True,
    None,
    {"app": "live", "deep": {"list": ["hvc1", 2.0, {}]}},
    EcmaArray({"width": 1280.0}),
    "x" * 70_000,
    ["*"],
]


def test_values_there_and_back() -> None:
    data = encode(*VALUES)
    got = decode(data)
    assert got == VALUES
    assert encode(*got) == data


def test_every_prefix_is_an_error_or_fewer_values() -> None:
    data = encode(*VALUES[:6])
    for size in range(len(data)):
        try:
            assert len(decode(data[:size])) < 6
        except ProtocolError:
            continue


def test_markers_that_only_come_in() -> None:
    date = b"\x0b" + struct.pack(">d", 1e12) + b"\0\0"
    typed = b"\x10\0\x03cls\0\x01a\x05\0\0\x09"
    assert decode(date + b"\x06\x0d\x0f\0\0\0\x02<>" + typed) == [1e12, None, None, "<>", {"a": None}]


@pytest.mark.parametrize(
    "data",
    [
        b"\x07\0\0",  # a reference
        b"\x11\x0a",  # AMF3
        b"\x03" + b"\0\x01a\x03" * (MAX_DEPTH + 2),
        b"\x0a\xff\xff\xff\xff\x05",
        b"\x05" * (MAX_VALUES + 1),
        b"\x02\xff\xffshort",
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_garbage(data: bytes) -> None:
    try:
        decode(data)
    except ProtocolError:
        return


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4),
        max_leaves=15,
    )
)
def test_any_value_there_and_back(value: Value) -> None:
    assert decode(encode(value)) == [value]
