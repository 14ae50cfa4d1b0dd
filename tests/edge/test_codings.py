"""Accept-Encoding: q values, wildcards, and what is not understood."""

from __future__ import annotations

import gzip

import brotli
import pytest

from edge import codings


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", ""),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP;Q=0.5", "gzip"),
        ("br;q=0.4, gzip;q=0.8", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0.000, gzip ; q=0", ""),
        ("*", "br"),
        ("*;q=0.5, br;q=0", "gzip"),
        ("*;q=0", ""),
        ("identity", ""),
        ("identity;q=1, gzip;q=0.5", ""),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("deflate, compress", ""),
        ("gzip;q=2", ""),
        ("gzip;level=9", ""),
        (", ,;;q=1,br", "br"),
    ],
)
def test_choose(accepted: str, coding: str) -> None:
    assert codings.choose(accepted) == coding


def test_compress() -> None:
    text = b"#EXTINF:2.0,\nsegment.m4s\n" * 50
    assert brotli.decompress(codings.compress("br", text)) == text
    assert gzip.decompress(codings.compress("gzip", text)) == text
    assert codings.compress("gzip", text) == codings.compress("gzip", text)
