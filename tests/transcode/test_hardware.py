"""Probing by trying: what works is measured, what does not has a reason in words, and what hangs is ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from media.track import Codec
from transcode import hardware
from transcode.device import CPU, cpus, device_of, family_of, find, seat, split
from transcode.hardware import DECODERS, ENCODERS, Hardware, Trial, codec_of, probe
from transcode.trial import try_decoder, try_encoder


async def test_candidates_are_tried_and_have_a_speed_or_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "ENCODERS", ("h264_nvenc", "h264_ni_quadra_enc", "libx264"))
    monkeypatch.setattr(hardware, "DECODERS", ("h264+cuda", "h264+vaapi", "h264"))
    found = await probe()
    assert {t.name for t in found.trials} >= {*hardware.ENCODERS, *hardware.DECODERS, "scale"}
    assert all((t.pixels_per_s > 0) if t.works else t.reason for t in found.trials)
    assert "libx264" in found.encoders(Codec.H264)
    assert "h264" in found.decoders(Codec.H264)
    assert found.cpus == cpus()
    again = json.loads(json.dumps(found.as_json()))
    assert again["devices"][-1] == {"id": CPU, "label": "CPU"}
    assert again["trials"][0]["kind"] == "encode"


def test_what_is_not_there_says_so() -> None:
    assert try_encoder("h264_nonsense")["works"] is False
    assert try_encoder("mjpeg") == {"works": False, "reason": "not an encoder that Headrace uses"}
    for name in ("h264_nvenc@cuda:7", "h264_qsv@/dev/dri/renderD199"):
        refused = try_encoder(name)
        assert refused["works"] is False
        assert str(refused["reason"]).startswith(f"{name} cannot be opened")
    for name in ("h264+cuda@cuda:7", "hevc+qsv@/dev/dri/renderD199", "h264+amf@/dev/dri/renderD199"):
        assert try_decoder(name)["works"] is False


@pytest.mark.parametrize(
    ("script", "answers", "reason"),
    [
        ("import time; time.sleep(60)", 0, "did not answer within 2 s"),
        ("print('{}', flush=True); import time; time.sleep(60)", 1, "did not answer within 2 s"),
        ("import os; os.abort()", 0, "crashed (-6): without a word"),
        ("print('{}', flush=True); import os; os.abort()", 1, "crashed (-6): without a word"),
        ("import sys; sys.exit('no such device')", 0, "crashed (1): no such device"),
        ("print('a driver says hello'); print('{}')", 1, "crashed (0): without a word"),
        ("import sys; sys.stderr.write('x' * 300000); sys.exit('x')", 0, "crashed (1): "),
    ],
)
async def test_a_driver_that_hangs_or_crashes_takes_only_its_trial_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, answers: int, reason: str
) -> None:
    """A test substitute: the child process is a script that does what bad drivers do."""
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(hardware.sys, "executable", str(fake))
    found, why = await hardware._child(["encode:h264_nvenc@cuda:0:", "encode:hevc_nvenc@cuda:0:"], 2.0)
    assert len(found) == answers
    assert why.startswith(reason)


def test_hardware_goes_before_the_cpu() -> None:
    found = Hardware(2, tuple(Trial(n, "encode", codec_of(n).value, CPU, works=True) for n in ENCODERS))  # type: ignore[union-attr]
    for codec in (Codec.H264, Codec.HEVC, Codec.AV1):
        assert found.encoders(codec)[-1].startswith("lib")
        assert len(found.encoders(codec)) > 3


def test_a_seat_is_a_name_and_a_device() -> None:
    assert split(seat("h264_nvenc", "cuda:1")) == ("h264_nvenc", "cuda:1")
    assert split(seat("libx264", CPU)) == ("libx264", CPU)
    assert device_of("h264_vaapi@/dev/dri/renderD128") == "/dev/dri/renderD128"
    cpu = [name for name in (*ENCODERS, *DECODERS) if not family_of(name)]
    assert cpu == ["libx264", "libx265", "libsvtav1", "h264", "hevc", "av1"]
    assert family_of("h264_videotoolbox") == "videotoolbox"
    assert all(codec_of(name) for name in (*ENCODERS, *DECODERS))


def test_devices_are_found_by_their_nodes_and_vendors(tmp_path: Path) -> None:
    """A folder stands in for the root of a machine with two NVIDIA cards, an Intel and two AMD GPUs."""
    vendors = {"renderD128": "0x10de", "renderD129": "0x8086", "renderD130": "0x1002", "renderD131": "0x1002"}
    (tmp_path / "dev/dri").mkdir(parents=True)
    for name in ("nvidia0", "nvidia3", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    (tmp_path / "dev/nvme0").touch()
    for node, vendor in vendors.items():
        (tmp_path / "dev/dri" / node).touch()
        (tmp_path / "sys/class/drm" / node / "device").mkdir(parents=True)
        (tmp_path / "sys/class/drm" / node / "device/vendor").write_text(f"{vendor}\n")
    found = {d.id: d for d in find(tmp_path)}
    assert list(found) == [
        "cuda:0", "cuda:1", "/dev/dri/renderD129", "/dev/dri/renderD130", "/dev/dri/renderD131",
        "netint", "cpu",
    ]  # fmt: skip
    assert found["/dev/dri/renderD129"].families == {"qsv", "vaapi"}
    assert found["/dev/dri/renderD130"].families == {"amf", "vaapi"}
    assert found["/dev/dri/renderD131"].families == {"vaapi"}
    assert {family_of("av1_ni_quadra_enc"), family_of("hevc+ni_quadra_dec")} == found["netint"].families
    assert found["/dev/dri/renderD129"].label == "Intel GPU renderD129"
