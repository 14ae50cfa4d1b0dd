"""Decoders that fail are replaced without a lost picture, and the device is blamed only where it is at fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from media.packet import Packet
from transcode import decoder as decoder_module
from transcode.decoder import SILENT_PACKETS, DecoderError, OneDecoder, VideoDecoder, libav_name
from transcode.ladder import PRESETS
from transcode.planner import make_plan
from transcode.settings import TranscodeSettings

DEVICE = "h264+cuda@cuda:9"


class Substitute:
    """A test substitute for a device: decodes on the CPU, and fails in the way that `mode` says from the picture on
    that `after` counts."""

    mode = "error"
    after = 60

    def __init__(self, track: Any, seat: str) -> None:
        self.seat = seat
        self._real = OneDecoder(track, track.codec.value)
        self._left = self.after if "@" in seat else 1 << 30
        if self.mode == "open" and "@" in seat:
            raise DecoderError(f"{seat} cannot be opened: no such device")

    def decode(self, packet: Packet) -> Any:
        self._left -= 1
        if self._left < 0 and self.mode == "error":
            raise DecoderError(f"{self.seat} failed: the card fell out")
        pictures = self._real.decode(packet)
        return pictures if self._left >= 0 or self.mode != "silent" else []

    def flush(self) -> Any:
        return self._real.flush()


@pytest.mark.parametrize("mode", ["open", "error", "silent"])
@pytest.mark.parametrize("after", [0, 60])
def test_no_picture_is_lost(kit: Any, clip: Any, monkeypatch: pytest.MonkeyPatch, mode: str, after: int) -> None:
    monkeypatch.setattr(decoder_module, "OneDecoder", Substitute)
    monkeypatch.setattr(Substitute, "mode", mode)
    monkeypatch.setattr(Substitute, "after", after)
    told: list[tuple[str, str]] = []
    decoder = VideoDecoder(clip.track, [DEVICE, "hevc+cuda@cuda:9"], lambda e, bad, then: told.append((bad, then)))
    shown = [p for packet in clip.packets for p in decoder.decode(packet)] + decoder.flush()
    assert [p.pts for p in shown] == clip.times
    assert told == [(DEVICE, "h264")]
    assert decoder.seat == "h264"
    assert len(clip.packets) > SILENT_PACKETS


def test_a_broken_source_is_not_held_against_the_device(kit: Any, clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(Substitute):
        """Fails where the bitstream is broken, as hardware does."""

        def decode(self, packet: Packet) -> Any:
            if "@" in self.seat and packet.data == b"junk":
                raise DecoderError("hardware wants whole packets")
            return self._real.decode(packet)

    monkeypatch.setattr(decoder_module, "OneDecoder", Strict)
    told: list[str] = []
    decoder = VideoDecoder(clip.track, [DEVICE], lambda e, bad, then: told.append(bad))
    broken = [Packet(p.track, p.pts, p.dts, p.duration, p.keyframe, b"junk") if 60 <= n < 70 else p
              for n, p in enumerate(clip.packets)]  # fmt: skip
    shown = [p for packet in broken for p in decoder.decode(packet)] + decoder.flush()
    assert told == [""]
    assert len(shown) > 100


def test_a_device_that_is_not_there_leaves_decoding_to_the_cpu(kit: Any, clip: Any) -> None:
    """No substitute: libav is asked for a CUDA device that this machine does not have."""
    settings = TranscodeSettings(shed=False, x264_preset="ultrafast", thumbnails=False)
    plan = make_plan(clip.track, None, PRESETS["economy"], passthrough=False, hardware=None, settings=settings)
    plan = replace(plan, decoders=(DEVICE,))
    out = kit.transcode(plan, kit.interleave(clip.packets, kit.grid(clip.times[0], clip.times[-1])))
    assert len(out.packets["source"]) == len(clip.times)
    assert [slug for slug, _ in out.notices] == ["decoder_failed"]
    assert "cannot be opened" in out.notices[0][1]


def test_names() -> None:
    assert libav_name("h264") == "h264"
    assert libav_name("av1") == "libdav1d"
    assert libav_name("av1+cuda") == "av1"
    assert libav_name("hevc+qsv") == "hevc_qsv"
    assert libav_name("h264+ni_quadra_dec") == "h264_ni_quadra_dec"
    assert libav_name("hevc+ni_quadra_dec") == "h265_ni_quadra_dec"
