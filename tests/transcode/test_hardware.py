"""Probing by trying: what works is measured, what does not has a reason in words, and what hangs is ended."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from media.track import Codec
from transcode import hardware
from transcode.hardware import CANDIDATES, EncoderTrial, Hardware, codec_of, probe
from transcode.trial import try_encoder


async def test_candidates_are_tried_and_have_a_speed_or_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    some = ("h264_nvenc", "h264_vaapi", "h264_ni_quadra_enc", "libx264")
    monkeypatch.setattr(hardware, "CANDIDATES", some)
    found = await probe()
    assert tuple(t.name for t in found.trials) == some
    assert all((t.pixels_per_s > 0) if t.works else t.reason for t in found.trials)
    assert "libx264" in found.encoders(Codec.H264)
    assert found.cpus == len(os.sched_getaffinity(0))
    again = json.loads(json.dumps(found.as_json()))
    assert again["trials"][0]["name"] == some[0]


def test_an_encoder_that_is_not_there_says_so() -> None:
    assert try_encoder("h264_nonsense")["works"] is False
    assert try_encoder("mjpeg") == {"works": False, "reason": "not an encoder that Headrace uses"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import time; time.sleep(60)", "did not answer within 1 s"),
        ("import os; os.abort()", "crashed (-6): without a word"),
        ("import sys; sys.exit('no such device')", "crashed (1): no such device"),
    ],
)
async def test_a_driver_that_hangs_or_crashes_takes_only_its_trial_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(hardware.sys, "executable", str(fake))
    assert await hardware._child("h264_nvenc", 1.0) == (None, reason)


def test_hardware_goes_before_the_cpu() -> None:
    found = Hardware(2, tuple(EncoderTrial(n, codec_of(n).value, "", works=True) for n in CANDIDATES))  # type: ignore[union-attr]
    for codec in (Codec.H264, Codec.HEVC, Codec.AV1):
        assert found.encoders(codec)[-1].startswith("lib")
        assert len(found.encoders(codec)) > 3
