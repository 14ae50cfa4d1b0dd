"""Bits and NAL framings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.codecs import nal
from media.codecs.bits import Bits
from media.errors import ProtocolError


def test_exp_golomb_follows_table_9_2() -> None:
    bits = Bits(int("1" + "010" + "011" + "00100" + "00111" + "0001000", 2).to_bytes(3, "big"))
    assert [bits.ue() for _ in range(6)] == [0, 1, 2, 3, 6, 7]


def test_signed_exp_golomb_alternates() -> None:
    bits = Bits(int("1" + "010" + "011" + "00100" + "00101" + "0000000", 2).to_bytes(3, "big"))
    assert [bits.se() for _ in range(5)] == [0, 1, -1, 2, -2]


def test_fields_across_bytes() -> None:
    bits = Bits(b"\xa5\x0f\xf0")
    assert (bits.u(3), bits.u(10), bits.left) == (5, 0x0A1, 11)
    bits.align()
    assert (bits.u(8), bits.u(0), bits.left) == (0xF0, 0, 0)


def test_too_long_code_and_end_of_data_are_refused() -> None:
    with pytest.raises(ProtocolError, match="longer than 32"):
        Bits(b"\0" * 5 + b"\xff" * 9).ue()
    with pytest.raises(ProtocolError):
        Bits(b"\0").u(9)
    with pytest.raises(ProtocolError):
        Bits(b"\0").skip(9)


def test_annexb_takes_both_start_codes_and_padding() -> None:
    data = b"\0\0\0\1\x67\1\0\0\1\x68\2\0\0\0\0\1\x65\3\0\0"
    assert nal.split_annexb(data) == [b"\x67\1", b"\x68\2", b"\x65\3"]


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\x67\0\0\1\x68", b"\x67"])
def test_annexb_without_a_start_code_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        nal.split_annexb(data)


UNITS = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@given(UNITS)
def test_lengths_there_and_back(units: list[bytes]) -> None:
    assert nal.split_lengths(nal.join_lengths(units)) == units


@given(UNITS.filter(bool), st.integers(1, 30))
def test_cut_lengths_are_refused(units: list[bytes], cut: int) -> None:
    data = nal.join_lengths(units)
    short = data[: -min(cut, len(units[-1]) + 3)]
    with pytest.raises(ProtocolError):
        nal.split_lengths(short)


def test_lengths_of_two_bytes() -> None:
    assert nal.split_lengths(b"\0\1a\0\0\0\2bc", 2) == [b"a", b"bc"]
    with pytest.raises(ProtocolError):
        nal.split_lengths(b"\0\1a", 5)


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 255]), max_size=30).map(bytes))
def test_unescape_undoes_what_an_encoder_does(raw: bytes) -> None:
    escaped = bytearray()
    for byte in raw:
        if byte <= 3 and escaped[-2:] == b"\0\0":
            escaped.append(3)
        escaped.append(byte)
    assert nal.unescape(bytes(escaped)) == raw
