"""The chunk stream: every header form, extended times with and without their repetition, and its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.rtmp import messages
from ingest.rtmp.chunks import ChunkReader, ChunkWriter
from ingest.rtmp.messages import Kind, Message, split_aggregate
from media.errors import ProtocolError


def reader(max_message: int = 1 << 20, max_partial: int = 1 << 20) -> ChunkReader:
    return ChunkReader(max_message_bytes=max_message, max_partial_bytes=max_partial)


def read(data: bytes, **bounds: int) -> list[Message]:
    chunks = reader(**bounds)
    chunks.feed(data)
    return list(chunks.messages())


def read_bytewise(data: bytes) -> list[Message]:
    chunks = reader()
    out = []
    for at in range(len(data)):
        chunks.feed(data[at : at + 1])
        out += chunks.messages()
    return out


def full(csid: int, time: int, length: int, kind: int = 9, sid: int = 1) -> bytes:
    head = min(time, 0xFFFFFF).to_bytes(3, "big") + length.to_bytes(3, "big") + bytes((kind,))
    extended = time.to_bytes(4, "big") if time >= 0xFFFFFF else b""
    return bytes((csid,)) + head + sid.to_bytes(4, "little") + extended


def delta(fmt: int, csid: int, time: int, length: int = 0, kind: int = 9) -> bytes:
    head = min(time, 0xFFFFFF).to_bytes(3, "big")
    if fmt == 1:
        head += length.to_bytes(3, "big") + bytes((kind,))
    return bytes((fmt << 6 | csid,)) + head + (time.to_bytes(4, "big") if time >= 0xFFFFFF else b"")


MESSAGES = [
    Message(Kind.VIDEO, 0, 1, b"v" * 1000, 6),
    Message(Kind.AUDIO, 0x00FFFFFF, 1, b"a" * 300, 4),
    Message(Kind.AUDIO, 0xFFFFFFFF, 1, b"", 63),
    Message(Kind.DATA_AMF0, 0x01000000, 7, b"d" * 129, 64),
    Message(Kind.DATA_AMF0, 5, 7, b"d" * 128, 319),
    Message(Kind.DATA_AMF0, 5, 7, b"d" * 127, 320),
    Message(Kind.COMMAND_AMF0, 6, 0, b"c", 65_599),
]


@pytest.mark.parametrize("cut", ["whole", "bytewise", "junk"])
def test_what_is_written_is_read(cut: str) -> None:
    writer = ChunkWriter()
    data = b"".join(writer.write(message) for message in MESSAGES)
    if cut == "bytewise":
        assert read_bytewise(data) == MESSAGES
    elif cut == "junk":
        assert read(data + b"\x06\0\0") == MESSAGES  # the beginning of another header
    else:
        assert read(data) == MESSAGES


@given(
    st.lists(
        st.builds(
            Message,
            st.sampled_from([8, 9, 18, 20]),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=600),
            st.integers(2, 65_599),
        ),
        max_size=20,
    ),
    st.integers(1, 300),
    st.integers(1, 500),
)
@settings(max_examples=80, deadline=None)
def test_any_messages_in_any_pieces(wanted: list[Message], chunk_size: int, piece: int) -> None:
    writer = ChunkWriter()
    data = writer.write(messages.number(Kind.SET_CHUNK_SIZE, chunk_size))
    data += b"".join(writer.write(message) for message in wanted)
    chunks = reader()
    got = []
    for at in range(0, len(data), piece):
        chunks.feed(data[at : at + piece])
        got += chunks.messages()
    assert got[1:] == wanted
    assert chunks.pending_bytes == 0


@given(st.lists(st.binary(max_size=300), max_size=10))
@settings(max_examples=300, deadline=None)
def test_garbage_raises_protocol_errors_only_and_stays_bounded(pieces: list[bytes]) -> None:
    chunks = reader(max_message=4096, max_partial=8192)
    try:
        for piece in pieces:
            chunks.feed(piece)
            list(chunks.messages())
            assert chunks.pending_bytes <= 8192 + 4096
    except ProtocolError:
        return


class TestHeaders:
    def test_type_3_begins_a_message_with_the_last_delta(self) -> None:
        data = full(6, 1000, 1) + b"a" + delta(2, 6, 40) + b"b" + b"\xc6c" + b"\xc6d"
        assert [(m.timestamp, m.body) for m in read(data)] == [
            (1000, b"a"),
            (1040, b"b"),
            (1080, b"c"),
            (1120, b"d"),
        ]

    def test_type_3_behind_type_0_moves_on_by_its_whole_time(self) -> None:
        assert [m.timestamp for m in read(full(6, 1000, 1) + b"a\xc6b")] == [1000, 2000]

    def test_type_1_changes_length_and_kind_and_type_2_keeps_them(self) -> None:
        data = full(6, 10, 1) + b"a" + delta(1, 6, 5, 2, 8) + b"bb" + delta(2, 6, 5) + b"cc"
        assert [(m.kind, m.timestamp, m.stream_id, m.body) for m in read(data)] == [
            (9, 10, 1, b"a"),
            (8, 15, 1, b"bb"),
            (8, 20, 1, b"cc"),
        ]

    def test_time_wraps_with_32_bits(self) -> None:
        assert [m.timestamp for m in read(full(6, 0xFFFFFFF0, 1) + b"a" + delta(2, 6, 0x20) + b"b")] == [
            0xFFFFFFF0,
            0x10,
        ]

    def test_interleaved_chunk_streams(self) -> None:
        data = full(6, 1, 200) + b"v" * 128 + full(4, 2, 3, 8) + b"aaa" + b"\xc6" + b"v" * 72
        assert [(m.kind, len(m.body)) for m in read(data)] == [(8, 3), (9, 200)]

    @pytest.mark.parametrize("repeated", [True, False])
    @pytest.mark.parametrize("how", [read, read_bytewise])
    def test_extended_time_on_continuations(self, repeated: bool, how: type[list[Message]]) -> None:
        """ffmpeg repeats the four bytes on every type 3 chunk of the message; old encoders leave them out."""
        time = 16_800_000
        again = time.to_bytes(4, "big") if repeated else b""
        data = full(6, time, 300) + b"x" * 128 + b"\xc6" + again + b"y" * 128 + b"\xc6" + again + b"z" * 44
        (message,) = how(data + full(4, 1, 1, 8) + b"a")[:1]
        assert (message.timestamp, message.body) == (time, b"x" * 128 + b"y" * 128 + b"z" * 44)

    @pytest.mark.parametrize("repeated", [True, False])
    def test_extended_delta_and_a_message_begun_by_type_3(self, repeated: bool) -> None:
        """ffmpeg's first media message behind `-output_ts_offset 16800` has an extended *delta*, on type 1."""
        step = 16_800_000
        again = step.to_bytes(4, "big") if repeated else b""
        data = full(6, 0, 1) + b"a" + delta(1, 6, step, 130) + b"b" * 128 + b"\xc6" + again + b"bb"
        data += b"\xc6" + again + b"c" * 128 + b"\xc6" + again + b"cc" + delta(2, 6, 7) + b"d" * 128 + b"\xc6dd"
        assert [(m.timestamp, len(m.body)) for m in read(data)] == [
            (0, 1),
            (step, 130),
            (2 * step, 130),
            (2 * step + 7, 130),
        ]

    def test_abort_drops_what_was_begun(self) -> None:
        data = full(6, 1, 200) + b"v" * 128 + b"\x02" + full(0, 0, 4, 2, 0)[1:] + (6).to_bytes(4, "big")
        data += delta(1, 6, 1, 1) + b"w"
        assert [m.body for m in read(data)][1:] == [b"w"]

    def test_chunk_size_counts_from_the_next_chunk_on(self) -> None:
        data = b"\x02" + full(0, 0, 4, 1, 0)[1:] + (1 << 30).to_bytes(4, "big") + full(6, 1, 5000) + b"v" * 5000
        assert len(read(data)[1].body) == 5000


class TestBounds:
    @pytest.mark.parametrize(
        ("data", "slug"),
        [
            (b"\xc6", "bad_chunk"),
            (delta(1, 6, 1, 1), "bad_chunk"),
            (full(6, 0, 4097), "message_too_large"),
            (b"\x02" + full(0, 0, 4, 1, 0)[1:] + bytes(4), "bad_chunk_size"),
            (b"\x02" + full(0, 0, 4, 1, 0)[1:] + b"\x80\0\0\1", "bad_chunk_size"),
            (b"\x02" + full(0, 0, 2, 1, 0)[1:] + bytes(2), "bad_control"),
            (b"".join(full(2 + n, 0, 4096) + b"x" * 128 for n in range(60)), "too_many_partial"),
            (b"".join(bytes((0, n)) + full(0, 0, 1)[1:] + b"x" for n in range(65)), "too_many_chunk_streams"),
        ],
    )
    def test_refused(self, data: bytes, slug: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            read(data, max_message=4096, max_partial=4096)
        assert caught.value.slug == slug


class TestAggregate:
    def tag(self, kind: int, time: int, body: bytes) -> bytes:
        head = bytes((kind,)) + len(body).to_bytes(3, "big") + (time & 0xFFFFFF).to_bytes(3, "big")
        return head + bytes((time >> 24,)) + bytes(3) + body + (11 + len(body)).to_bytes(4, "big")

    def test_times_are_moved_by_the_aggregates(self) -> None:
        body = self.tag(8, 0x01000010, b"a") + self.tag(9, 0x01000020, b"vv") + self.tag(22, 0, b"nested")
        got = list(split_aggregate(Message(22, 5000, 3, body, 4)))
        assert [(m.kind, m.timestamp, m.stream_id, m.body) for m in got] == [(8, 5000, 3, b"a"), (9, 5016, 3, b"vv")]

    @given(st.binary(max_size=80))
    def test_garbage(self, body: bytes) -> None:
        try:
            list(split_aggregate(Message(22, 0, 1, body)))
        except ProtocolError:
            return
