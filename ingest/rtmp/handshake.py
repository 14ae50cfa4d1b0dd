"""The plain RTMP handshake, server side ([RTMP] 5.2): what to answer, no bytes kept longer than needed.

S1 carries zeros where newer servers put a version: a client that sees one there starts the digest handshake, which
is in no specification, and which every known client does without. C2 is read but not checked: some encoders put
their own time into it.
"""

from __future__ import annotations

from media.errors import ProtocolError

VERSION = 3
SIZE = 1536
_TEXT = 0x20
"""[RTMP] 5.2.2: versions from 32 on are not allowed, so that RTMP can be told from text protocols."""
_TLS_HANDSHAKE = 0x16


def check_version(byte: int) -> None:
    """Look at the very first byte. Raises `ProtocolError` where it is certainly another protocol.

    Any other version is answered with ours, as 5.2.2 wants.
    """
    if byte == _TLS_HANDSHAKE:
        raise ProtocolError(
            "A TLS client came to the plain RTMP port; RTMPS has a port of its own.", slug="tls_on_rtmp"
        )
    if byte >= _TEXT:
        raise ProtocolError("The peer speaks another protocol (HTTP?) on the RTMP port.", slug="not_rtmp")


def s0_s1(random: bytes) -> bytes:
    """S0 and S1. `random`: 1528 bytes."""
    assert len(random) == SIZE - 8
    return bytes((VERSION,)) + bytes(8) + random


def s2(c1: bytes, now_ms: int) -> bytes:
    """S2: the echo of C1, with the time at which it was read ([RTMP] 5.2.4)."""
    assert len(c1) == SIZE
    return c1[:4] + (now_ms & 0xFFFFFFFF).to_bytes(4, "big") + c1[8:]
