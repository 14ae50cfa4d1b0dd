"""Access units as `Packet.data` wants them: parameter sets moved out of band, nothing that only repeats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import NamedTuple

from media.codecs import av1, h264, hevc
from media.codecs.nal import join_lengths
from media.errors import ProtocolError
from media.track import Codec

MAX_SET_BYTES = 4096
"""A parameter set larger than this is an attack, not a picture format: real ones have 10 to 200 bytes."""

MAX_SETS = 64
"""Parameter sets in one access unit; real streams have three to ten."""

MAX_ALL_SETS_BYTES = 16_384
"""All parameter sets of one access unit: each one is read bit by bit."""


class Unit(NamedTuple):
    """A normalised access unit."""

    data: bytes
    """With 4-byte lengths (AV1: OBUs with size fields). Empty where the unit holds no picture: nothing but parameter
    sets, or messages that an encoder sends on their own."""
    keyframe: bool
    config: bytes | None
    """A new configuration record, where parameter sets in this unit differ from the one given; it counts from this
    unit on."""


def normalise_video(codec: Codec, units: Sequence[bytes], config: bytes = b"") -> Unit:
    """Normalise one access unit.

    `units`: its NAL units without start codes or lengths (H264, HEVC); the temporal unit in one or several pieces
    (AV1); the frame (VP8). `config`: the record that holds so far; empty before the first. Raises `ProtocolError`.
    """
    match codec:
        case Codec.H264:
            return _from_h264(units, config)
        case Codec.HEVC:
            return _from_hevc(units, config)
        case Codec.AV1:
            return _from_av1(b"".join(units), config)
        case Codec.VP8:
            data = b"".join(units)
            return Unit(data, bool(data) and not data[0] & 1, None)  # RFC 6386 9.1: key_frame is an inverse bit
        case _:
            raise ProtocolError(f"{codec.value} is not a video codec.", slug="bad_track")


def _from_h264(units: Sequence[bytes], config: bytes) -> Unit:
    kept: list[bytes] = []
    sets: list[bytes] = []
    keyframe = picture = False
    for unit in units:
        kind = h264.nal_type(unit)
        if kind in (h264.SPS, h264.PPS):
            sets.append(unit)
        elif kind not in (0, h264.AUD, h264.FILLER):
            keyframe = keyframe or kind == h264.IDR
            picture = picture or h264.SLICE <= kind <= h264.IDR
            kept.append(unit)
    _bound(sets)
    record: bytes | None = None
    if _news(sets, config):
        old = h264.parse_avcc(config) if config else None
        sps = _merge(h264, h264.SPS, sets, old.sps if old else ())
        pps = _merge(h264, h264.PPS, sets, old.pps if old else ())
        if sps and pps:
            record = h264.build_avcc(sps, pps)
    return Unit(join_lengths(kept) if picture else b"", keyframe, record if record != config else None)


def _from_hevc(units: Sequence[bytes], config: bytes) -> Unit:
    kept: list[bytes] = []
    sets: list[bytes] = []
    for unit in units:
        kind = hevc.nal_type(unit)
        if hevc.layer_id(unit):
            continue  # a second layer (another view, or an enhancement) that no player of plain HEVC takes
        if kind in (hevc.VPS, hevc.SPS, hevc.PPS):
            sets.append(unit)
        elif kind < 48 and kind not in (hevc.AUD, hevc.FILLER):
            kept.append(unit)
    _bound(sets)
    record: bytes | None = None
    if _news(sets, config):
        old = hevc.parse_hvcc(config) if config else None
        vps = _merge(hevc, hevc.VPS, sets, old.vps if old else ())
        sps = _merge(hevc, hevc.SPS, sets, old.sps if old else ())
        pps = _merge(hevc, hevc.PPS, sets, old.pps if old else ())
        if vps and sps and pps:
            record = hevc.build_hvcc(vps, sps, pps)
    data = join_lengths(kept) if any(hevc.is_vcl(unit) for unit in kept) else b""
    return Unit(data, hevc.is_idr(kept), record if record != config else None)


def _from_av1(unit: bytes, config: bytes) -> Unit:
    data = av1.clean(unit)
    sequence = av1.sequence_obu(data)
    record: bytes | None = None
    if sequence is not None and bytes(sequence) not in config:
        record = av1.build_av1c(sequence)
    return Unit(data if av1.has_frame(data) else b"", av1.is_keyframe(data), record)


def four_byte_lengths(codec: Codec, config: bytes) -> bytes:
    """The record as it must stand in a `Track`, whose packets have 4-byte lengths; publishers may use fewer."""
    at = {Codec.H264: 4, Codec.HEVC: 21}.get(codec)
    if at is None or len(config) <= at:
        return config
    return config[:at] + bytes((config[at] | 3,)) + config[at + 1 :]


def _news(sets: Iterable[bytes], config: bytes) -> bool:
    """True where one of the sets does not stand in the record, looked up with its length in front: costs no parsing."""
    return any(len(unit).to_bytes(2, "big") + unit not in config for unit in sets)


def _bound(sets: Sequence[bytes]) -> None:
    sizes = [len(unit) for unit in sets]
    if len(sizes) > MAX_SETS or max(sizes, default=0) > MAX_SET_BYTES or sum(sizes) > MAX_ALL_SETS_BYTES:
        raise ProtocolError(
            "There are more or larger parameter sets than in any real stream.", slug="bad_parameter_set"
        )


def _merge(module: ModuleType, kind: int, fresh: Iterable[bytes], old: Iterable[bytes]) -> list[bytes]:
    """Sets of one kind, by id: fresh ones go before old ones, so that the first SPS is the one in use."""
    by_id: dict[int, bytes] = {}
    # Of two fresh sets with the same id the later one counts.
    for unit in reversed([unit for unit in fresh if module.nal_type(unit) == kind]):
        by_id.setdefault(module.set_id(unit), unit)
    fresh_ids = sorted(by_id)
    for unit in old:
        by_id.setdefault(module.set_id(unit), unit)
    return [by_id[ident] for ident in (*fresh_ids, *sorted(set(by_id) - set(fresh_ids)))]
