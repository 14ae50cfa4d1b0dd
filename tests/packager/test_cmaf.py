"""Our boxes against ffmpeg's own CMAF output, and against what the specifications ask."""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import imageio_ffmpeg
import pytest

from media.errors import MediaError, ProtocolError
from media.track import Codec, Kind, Track
from packager.cmaf import read
from packager.cmaf.fragment import NON_SYNC, SYNC, Sample, chunk, emsg, prft
from packager.cmaf.init import init_segment
from packager.presentation import Presentation
from packager.settings import PackagerSettings

FFMPEG = shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()
CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"mvex", b"moof", b"traf"}
Box = tuple[str, bytes]


def boxes(data: bytes, path: str = "") -> Iterator[Box]:
    """Every box with its path, depth first; sizes must add up."""
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        assert 8 <= size <= len(data) - position, (path, kind, size)
        body = data[position + 8 : position + size]
        here = f"{path}/{kind.decode('latin-1')}"
        yield here, body
        if kind in CONTAINERS:
            yield from boxes(body, here)
        elif kind == b"stsd":
            yield from boxes(body[8:], here)
        elif kind in (b"avc1", b"hvc1", b"av01"):
            yield from boxes(body[78:], here)
        elif kind in (b"mp4a", b"Opus"):
            yield from boxes(body[28:], here)
        position += size


def read_trun(body: bytes) -> tuple[int, int, list[tuple[int, ...]]]:
    """Version, flags and rows (duration, size, flags, offset as far as present)."""
    version, flags = body[0], int.from_bytes(body[1:4], "big")
    (count,) = struct.unpack_from(">I", body, 4)
    at = 8 + (4 if flags & 1 else 0) + (4 if flags & 4 else 0)
    fields = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
    rows = []
    for _ in range(count):
        row = []
        for bit in fields:
            row.append(struct.unpack_from(">i" if bit == 0x800 else ">I", body, at)[0])
            at += 4
        rows.append(tuple(row))
    assert at == len(body)
    return version, flags, rows


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC, Codec.AV1, Codec.AAC, Codec.OPUS], ids=lambda c: c.value)
async def test_same_structure_as_ffmpeg(studio: SimpleNamespace, tmp_path: Path, codec: Codec) -> None:
    """ffmpeg copies our packets into its own CMAF: what both write must tell the same of every sample."""
    sound = codec in (Codec.AAC, Codec.OPUS)
    feed = studio.audio(codec=codec, seconds=4) if sound else studio.video(codec=codec, seconds=4)
    presentation = Presentation("x", PackagerSettings())
    presentation.declare([feed.rendition])
    studio.play(presentation, studio.script([feed], studio.cuts_of(feed)))
    shelf = presentation.shelves[feed.rendition.name]
    (init,) = shelf.inits.values()
    ours = init.data + b"".join(part.data for segment in shelf.listed for part in segment.parts)
    (tmp_path / "ours.mp4").write_bytes(ours)
    theirs = tmp_path / "theirs.mp4"
    flags = "+cmaf+negative_cts_offsets+frag_custom+empty_moov+default_base_moof+delay_moov"
    tag = ("-tag:v", "hvc1") if codec is Codec.HEVC else ()
    source = ("-v", "warning", "-copyts", "-i", str(tmp_path / "ours.mp4"), "-c", "copy")
    _, _, messages = await studio.run(
        FFMPEG, *source, *tag, "-strict", "experimental", "-movflags", flags, "-f", "mp4", str(theirs)
    )
    assert "mov,mp4" not in messages  # the reader has no complaint about ours
    mine, other = list(boxes(ours)), list(boxes(theirs.read_bytes()))
    head = [path for path, _ in mine if path.startswith("/moov")]
    wanted = {path for path, _ in other if path.startswith("/moov")} - {"/moov/udta"}
    optional = {"colr", "pasp", "btrt", "fiel", "elst", "edts", "udta", "trex", "mehd", "sgpd", "sbgp"}
    missing = {p for p in wanted - set(head) if not optional & set(p.split("/"))}
    assert missing == set()
    config = next(path.rsplit("/", 1)[1] for path in head if path[-4:] in ("avcC", "hvcC", "av1C", "esds", "dOps"))
    if config != "esds":  # ffmpeg orders the descriptors of esds in its own way
        pick = [next(body for path, body in found if path.endswith(config)) for found in (mine, other)]
        assert pick[0] == pick[1]
    told, again = samples(mine), samples(other)
    assert len(told) == len(feed.packets)
    assert [sample[:3] for sample in told] == [sample[:3] for sample in again]
    assert {a[3] - b[3] for a, b in zip(told, again, strict=True)} == {told[0][3] - again[0][3]}
    for path, body in mine:
        if path.endswith(("/tfdt", "/trun")):
            assert body[0] == 1
        assert not path.endswith("/elst")


def samples(found: list[Box]) -> list[tuple[int, int, bool, int]]:
    """(duration, size, sync, composition offset) of every sample, defaults resolved."""
    told: list[tuple[int, int, bool, int]] = []
    defaults: dict[int, int] = {}
    for path, body in found:
        if path.endswith("/tfhd"):
            at, defaults = 8, {}
            for bit, width in ((0x1, 8), (0x2, 4), (0x8, 4), (0x10, 4), (0x20, 4)):
                if int.from_bytes(body[1:4], "big") & bit:
                    defaults[bit] = int.from_bytes(body[at : at + width], "big")
                    at += width
        elif path.endswith("/trun"):
            _, flags, rows = read_trun(body)
            present = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
            for index, values in enumerate(rows):
                row = dict(zip(present, values, strict=True))
                marks = row.get(0x400, defaults.get(0x20, 0))
                if index == 0 and flags & 4:
                    (marks,) = struct.unpack_from(">I", body, 8 + (4 if flags & 1 else 0))
                sync = not marks & 0x10000
                told.append(
                    (row.get(0x100, defaults.get(8, 0)), row.get(0x200, defaults.get(0x10, 0)), sync, row.get(0x800, 0))
                )
    return told


def test_a_chunk_reads_back() -> None:
    samples = [Sample(3000, 0, True, b"abc"), Sample(3000, 6000, False, b"de"), Sample(3001, -3000, False, b"f")]
    data = chunk(7, 2**33, samples, prft(2**33, 1_800_000_000_000_000))
    found = dict(boxes(data))
    assert list(found)[:2] == ["/prft", "/moof"]
    assert found["/moof/mfhd"] == struct.pack(">II", 0, 7)
    assert found["/moof/traf/tfdt"] == struct.pack(">IQ", 1 << 24, 2**33)
    version, flags, rows = read_trun(found["/moof/traf/trun"])
    assert (version, flags) == (1, 0x1 | 0x4 | 0x100 | 0x200 | 0x800)
    assert rows == [(3000, 3, 0), (3000, 2, 6000), (3001, 1, -3000)]
    offset, first = struct.unpack_from(">II", found["/moof/traf/trun"], 8)
    assert first == SYNC
    moof = data.index(b"moof") - 4
    assert data[moof + offset :] == b"abcdef"
    assert found["/mdat"] == b"abcdef"


def test_flags_of_samples() -> None:
    keys = dict(boxes(chunk(1, 0, [Sample(1, 0, True, b"a"), Sample(1, 0, True, b"b")])))
    assert struct.unpack(">IIII", keys["/moof/traf/tfhd"]) == (0x020028, 1, 1, SYNC)
    assert read_trun(keys["/moof/traf/trun"])[1:] == (0x201, [(1,), (1,)])
    mixed = dict(boxes(chunk(1, 0, [Sample(1, 0, False, b"a"), Sample(1, 0, True, b"b")])))
    assert read_trun(mixed["/moof/traf/trun"])[1:] == (0x601, [(1, NON_SYNC), (1, SYNC)])


def test_prft_and_emsg() -> None:
    ((_, body),) = boxes(prft(90_000, 1_500_000))
    assert struct.unpack(">IIQQ", body) == (1 << 24 | 24, 1, (2_208_988_801 << 32) | 1 << 31, 90_000)
    ((_, body),) = boxes(emsg("urn:x", "v", 1000, 5, 6, 7, b"{}"))
    assert body == struct.pack(">IIQII", 1 << 24, 1000, 5, 6, 7) + b"urn:x\0v\0{}"


def test_init_of_picture_and_sound(studio: SimpleNamespace) -> None:
    track = replace(
        studio.long[0].packets[0].track, language="en", sample_aspect=studio.long[0].rendition.frame_rate / 40
    )
    found = dict(boxes(init_segment(track)))
    assert found["/moov/trak/mdia/elng"] == b"\0\0\0\0en\0"
    assert found["/moov/trak/mdia/minf/stbl/stsd/avc1/pasp"] == struct.pack(">II", 3, 4)
    assert found["/moov/trak/mdia/mdhd"][12:16] == struct.pack(">I", 90_000)
    assert b"cmfc" in found["/ftyp"]
    wide = dict(boxes(init_segment(replace(track, sample_aspect=Fraction(65_535)))))
    assert wide["/moov/trak/tkhd"][-8:-4] == struct.pack(">I", 0xFFFF << 16), "no more fits, and no error either"
    init_segment(replace(studio.long[1].packets[0].track, bitrate=1 << 40))  # as a publisher's metadata may say
    with av.open(io.BytesIO(init_segment(studio.long[1].packets[0].track))) as opened:
        assert opened.streams.audio[0].codec_context.sample_rate == 48_000
    with pytest.raises(MediaError):
        init_segment(Track(0, Kind.VIDEO, Codec.VP8, 90_000))


def test_an_init_whose_descriptor_ends_early_is_the_files_fault(studio: SimpleNamespace) -> None:
    whole = init_segment(studio.long[1].packets[0].track)
    kind = whole.index(b"esds")
    end = kind - 4 + int.from_bytes(whole[kind - 4 : kind], "big")
    broken = whole[: kind + 8] + b"\x80" * (end - kind - 8) + whole[end:]
    for reader in (read.track, read.header):
        with pytest.raises(ProtocolError):
            reader(broken)
