"""HPACK and the HTTP/2 core: the RFC's own vectors, whole and byte by byte; floods; junk."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.h2 import core, frames, hpack, huffman
from edge.h2.core import Core
from edge.h2.frames import Broken, Code, Flag, Kind, Setting
from edge.h2.sending import Stream
from media.errors import ProtocolError

# RFC 7541 C.3 and C.4: the same three requests, plain and in Huffman codes, on one connection each.
PLAIN = (
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
)
CODED = (
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
)
MEANT = (
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")],
    [
        *((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")),
        (b"cache-control", b"no-cache"),
    ],
    [
        *((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html")),
        *((b":authority", b"www.example.com"), (b"custom-key", b"custom-value")),
    ],
)
GET = bytes.fromhex(CODED[0])


@pytest.mark.parametrize("blocks", [PLAIN, CODED])
def test_the_blocks_of_the_rfc(blocks: tuple[str, ...]) -> None:
    decoder = hpack.Decoder()
    assert [decoder.decode(bytes.fromhex(block), 1000) for block in blocks] == list(MEANT)


def test_the_static_table_is_complete() -> None:
    assert len(hpack.STATIC) == 62
    assert hpack.STATIC[61] == (b"www-authenticate", b"")
    assert huffman.CODES[255] == (0x3FFFFEE, 26)
    assert huffman.CODES[256] == (0x3FFFFFFF, 30)


@given(st.binary(max_size=200))
def test_huffman_there_and_back(text: bytes) -> None:
    assert huffman.decode(huffman.encode(text)) == text


@pytest.mark.parametrize("bad", [b"\xff", b"\xff\xff\xff\xff", b"\x00", b"\x1f\xff", b"\xff\xff\xff\xfc"])
def test_bad_padding_and_the_end_code_are_refused(bad: bytes) -> None:
    if bad == b"\x00":
        bad = b"\x18"  # five bits of '3', then zeros
    with pytest.raises(ProtocolError):
        huffman.decode(bad)


@given(st.binary(max_size=300))
def test_a_block_of_junk_is_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(Broken):
        fields = hpack.Decoder().decode(data, 1000)
        assert sum(len(name) + len(value) for name, value in fields) <= 1000


def test_a_few_bytes_do_not_become_a_megabyte() -> None:
    big = b"\x40" + b"\x01a" + b"\x7f\x81\x1e" + b"x" * 4000
    with pytest.raises(Broken, match="too large"):
        hpack.Decoder().decode(big + b"\xbe" * 1000, 16_384)


def test_a_response_is_read_by_the_decoder() -> None:
    fields = [(b"content-type", b"video/mp4"), (b"x-cache", b"HIT"), (b"etag", b'"' + b"1" * 300 + b'"')]
    decoder = hpack.Decoder()
    found = decoder.decode(hpack.encode(206, fields), 1000)
    assert found == [(b":status", b"206"), *fields]


class Heard:
    """A handler that writes down what it is told, and keeps every stream open."""

    def __init__(self) -> None:
        self.core = Core(self, 16_384)
        self.said: list[tuple[str, int]] = []
        self.blocks: list[list[hpack.Field]] = []

    def on_head(self, stream: int, block: bytes, *, ended: bool) -> None:
        self.blocks.append(self.core.decoder.decode(block, 16_384))
        self.said.append(("head" if ended else "begin", stream))
        self.core.open(stream, ended=ended)

    def on_ended(self, stream: Stream) -> None:
        self.said.append(("ended", stream.number))

    def on_body(self, stream: Stream) -> None:
        self.said.append(("body", stream.number))

    def on_reset(self, stream: Stream) -> None:
        self.said.append(("reset", stream.number))


HELLO = frames.PREFACE + frames.settings({})


def sent(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of whole frames."""
    found, at = [], 0
    while at < len(data):
        length, kind, flags, stream = frames.read_header(data, at)
        at += frames.HEADER_BYTES
        found.append((kind, flags, stream, data[at : at + length]))
        at += length
    assert at == len(data)
    return found


def talk(*parts: bytes, now: float = 1.0) -> Heard:
    heard = Heard()
    for part in (HELLO, *parts):
        heard.core.receive(part, now)
    return heard


def goaway_code(heard: Heard) -> int | None:
    last = [payload for kind, _, _, payload in sent(heard.core.take()) if kind == Kind.GOAWAY]
    return int.from_bytes(last[-1][4:8], "big") if last else None


CONVERSATION = b"".join(
    (
        HELLO,
        frames.headers(1, GET, ended=True),
        frames.frame(Kind.HEADERS, Flag.END_STREAM, 3, bytes.fromhex(CODED[1])[:3]),
        frames.frame(Kind.CONTINUATION, Flag.END_HEADERS, 3, bytes.fromhex(CODED[1])[3:]),
        frames.frame(Kind.HEADERS, Flag.END_HEADERS | Flag.PADDED, 5, b"\x04" + bytes.fromhex(CODED[2]) + bytes(4)),
        frames.frame(Kind.PING, 0, 0, b"12345678"),
        frames.frame(99, 7, 0, b"unknown frames are ignored"),  # type: ignore[arg-type]
        frames.frame(Kind.DATA, Flag.END_STREAM, 5),
        frames.reset(1, Code.CANCEL),
    )
)


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_conversation_in_pieces(step: int) -> None:
    heard = Heard()
    for at in range(0, len(CONVERSATION), step):
        heard.core.receive(CONVERSATION[at : at + step], 1.0)
    assert heard.said == [("head", 1), ("head", 3), ("begin", 5), ("ended", 5), ("reset", 1)]
    assert heard.blocks == list(MEANT)
    out = sent(heard.core.take())
    assert out[0][0] == Kind.SETTINGS
    assert (int(Setting.HEADER_TABLE_SIZE), 0) in frames.read_settings(out[0][3])
    assert (Kind.PING, Flag.ACK, 0, b"12345678") in out
    assert not heard.core.failed
    heard.core.receive(b"\x00\x00\x00\x08", 1.0)
    assert heard.core.partial


def test_windows_hold_a_body_back_and_share_it_out() -> None:
    small = frames.settings({Setting.INITIAL_WINDOW_SIZE: 10})
    heard = talk(small, frames.headers(1, GET, ended=True), frames.headers(3, GET, ended=True))
    one, three = heard.core.streams[1], heard.core.streams[3]
    heard.core.take()
    for stream in (one, three):
        heard.core.data(stream, b"a" * 25)
        heard.core.end(stream)
    heard.core.pump(10_000)
    assert [(s, len(p)) for k, _, s, p in sent(heard.core.take()) if k == Kind.DATA] == [(1, 10), (3, 10)]
    heard.core.receive(frames.window_update(3, 100), 1.0)
    heard.core.pump(10_000)
    assert sent(heard.core.take()) == [(Kind.DATA, Flag.END_STREAM, 3, b"a" * 15)]
    assert list(heard.core.streams) == [1]
    heard.core.receive(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}), 1.0)
    assert one.window == -10


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frames.headers(2, GET, ended=True), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.CONTINUATION, 4, 1, GET), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.HEADERS, 0, 1, GET) + frames.frame(Kind.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.PUSH_PROMISE, 4, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
        (frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR),
        (frames.settings({Setting.MAX_FRAME_SIZE: 5}), Code.PROTOCOL_ERROR),
        (frames.window_update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
        (frames.window_update(0, 0), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (b"\x00\x40\x01" + bytes(6), Code.FRAME_SIZE_ERROR),
        (frames.frame(Kind.HEADERS, 5, 1, b"\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (frames.reset(7, Code.CANCEL), Code.PROTOCOL_ERROR),
        (frames.frame(Kind.HEADERS, 13, 1, b"\x09abc"), Code.PROTOCOL_ERROR),
    ],
)
def test_breaches_end_the_connection(bad: bytes, code: Code) -> None:
    heard = talk(bad)
    assert heard.core.failed
    assert goaway_code(heard) == code


@pytest.mark.parametrize(
    "flood",
    [
        b"".join(frames.headers(n, GET, ended=True) + frames.reset(n, Code.CANCEL) for n in range(1, 2001, 2)),
        frames.frame(Kind.PING, 0, 0, bytes(8)) * 1000,
        frames.settings({}) * 1000,
        frames.headers(1, GET, ended=False) + frames.frame(Kind.DATA, 0, 1) * 1000,
        frames.frame(Kind.HEADERS, 0, 1, GET) + frames.frame(Kind.CONTINUATION, 0, 1) * 1000,
        frames.frame(Kind.PRIORITY, 0, 1, bytes(5)) * 1000,
    ],
    ids=["rapid_reset", "ping", "settings", "empty_data", "continuation", "priority"],
)
def test_floods_end_the_connection(flood: bytes) -> None:
    heard = talk(flood)
    assert goaway_code(heard) == Code.ENHANCE_YOUR_CALM


def test_resets_now_and_then_are_fine() -> None:
    heard = Heard()
    heard.core.receive(HELLO, 0.0)
    for n in range(1, 4001, 2):
        heard.core.receive(frames.headers(n, GET, ended=True) + frames.reset(n, Code.CANCEL), n / 20)
    assert not heard.core.failed


def test_too_many_streams_are_refused_and_can_be_tried_again() -> None:
    count = core.MAX_STREAMS + 2
    heard = talk(b"".join(frames.headers(2 * n + 1, GET, ended=True) for n in range(count)))
    refused = [s for k, _, s, p in sent(heard.core.take()) if k == Kind.RST_STREAM and p[3] == Code.REFUSED_STREAM]
    assert refused == [2 * core.MAX_STREAMS + 1, 2 * core.MAX_STREAMS + 3]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 7), st.binary(max_size=40))))
def test_any_frames_at_all(parts: list[tuple[int, int, int, bytes]]) -> None:
    heard = talk(*(frames.frame(kind, flags, stream, data) for kind, flags, stream, data in parts))  # type: ignore[arg-type]
    for stream in list(heard.core.streams.values()):
        heard.core.data(stream, b"x" * 100)
        heard.core.end(stream)
    heard.core.pump(10_000)
    sent(heard.core.take())


@given(st.binary(max_size=200))
def test_any_bytes_at_all(data: bytes) -> None:
    sent(talk(data).core.take())
