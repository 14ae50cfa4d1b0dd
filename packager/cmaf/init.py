"""The CMAF header of a track: ftyp and moov without samples (ISO/IEC 23000-19 7.3.1).

No edit list: video uses signed composition offsets (brand `cmf2`), audio starts where its first frame says.
"""

from __future__ import annotations

import struct

from media.track import Kind, Track
from packager.cmaf.boxes import box, full
from packager.cmaf.entries import sample_entry

_MATRIX = struct.pack(">9I", 0x00010000, 0, 0, 0, 0x00010000, 0, 0, 0, 0x40000000)
TRACK_ID = 1
"""The same in every file: a CMAF track file holds one track."""

_ISO_639_2 = {
    "en": "eng",
    "de": "deu",
    "fr": "fra",
    "es": "spa",
    "it": "ita",
    "pt": "por",
    "nl": "nld",
    "pl": "pol",
    "ru": "rus",
    "uk": "ukr",
    "tr": "tur",
    "ar": "ara",
    "he": "heb",
    "hi": "hin",
    "ja": "jpn",
    "ko": "kor",
    "zh": "zho",
    "sv": "swe",
    "da": "dan",
    "nb": "nob",
    "no": "nor",
    "fi": "fin",
    "cs": "ces",
    "hu": "hun",
    "el": "ell",
    "ro": "ron",
    "bg": "bul",
    "hr": "hrv",
    "sr": "srp",
    "sk": "slk",
    "th": "tha",
    "vi": "vie",
}


def init_segment(track: Track) -> bytes:
    """ftyp + moov. Raises `media.errors.HeadraceError` for a configuration that cannot be packaged."""
    brands = [b"iso6", b"cmfc", b"cmf2", b"dash"]
    if track.kind is Kind.AUDIO:
        brands = [b"iso6", b"cmfc", b"dash", b"mp41"]
    ftyp = box(b"ftyp", b"iso6", struct.pack(">I", 0), *brands)
    mvex = box(b"mvex", full(b"trex", 0, 0, struct.pack(">5I", TRACK_ID, 1, 0, 0, 0)))
    return ftyp + box(b"moov", _mvhd(), _trak(track), mvex)


def _mvhd() -> bytes:
    times = struct.pack(">IIII", 0, 0, 1000, 0)
    rest = struct.pack(">IHHQ", 0x00010000, 0x0100, 0, 0)
    return full(b"mvhd", 0, 0, times, rest, _MATRIX, bytes(24), struct.pack(">I", TRACK_ID + 1))


def _trak(track: Track) -> bytes:
    video = track.kind is Kind.VIDEO
    # As it is to be shown; a bitstream may say that its samples are 65535 times as wide as high.
    width = min(round(track.width * track.sample_aspect), 0xFFFF) if video else 0
    times = struct.pack(">IIIII", 0, 0, TRACK_ID, 0, 0)
    layout = struct.pack(">QhhHH", 0, 0, 0, 0 if video else 0x0100, 0)
    size = struct.pack(">II", width << 16, track.height << 16 if video else 0)
    tkhd = full(b"tkhd", 0, 0x7, times, layout, _MATRIX, size)  # enabled, in movie, in preview
    return box(b"trak", tkhd, _mdia(track))


def _mdia(track: Track) -> bytes:
    video = track.kind is Kind.VIDEO
    mdhd = full(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, track.timescale, 0, _language(track.language), 0))
    # elng carries the tag as it is; mdhd holds only three letters (ISO/IEC 14496-12 8.4.6).
    elng = full(b"elng", 0, 0, track.language.encode("ascii", "replace"), b"\0") if track.language != "und" else b""
    name = b"video\0" if video else b"audio\0"
    hdlr = full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide" if video else b"soun"), name)
    header = full(b"vmhd", 0, 1, bytes(8)) if video else full(b"smhd", 0, 0, bytes(4))
    dinf = box(b"dinf", full(b"dref", 0, 0, struct.pack(">I", 1), full(b"url ", 0, 1)))
    return box(b"mdia", mdhd, elng, hdlr, box(b"minf", header, dinf, _stbl(track)))


def _stbl(track: Track) -> bytes:
    stsd = full(b"stsd", 0, 0, struct.pack(">I", 1), sample_entry(track))
    empty = struct.pack(">I", 0)
    tables = [full(kind, 0, 0, empty) for kind in (b"stts", b"stsc", b"stco")]
    return box(b"stbl", stsd, tables[0], tables[1], full(b"stsz", 0, 0, empty, empty), tables[2])


def _language(tag: str) -> int:
    """ISO 639-2/T letters, five bits each, of a BCP 47 tag; `und` where we know no such code."""
    primary = tag.split("-")[0].lower()
    code = primary if len(primary) == 3 else _ISO_639_2.get(primary, "und")
    if not (code.isascii() and code.isalpha()):
        code = "und"
    a, b, c = (ord(letter) - 0x60 for letter in code)
    return a << 10 | b << 5 | c
