"""What this machine can really encode with: every encoder that PyAV knows is tried, in a child with a time limit.

A name in a build's list says nothing about the machine: the wheel lists NVENC everywhere, drivers lie or hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from media.errors import HeadraceError
from media.track import Codec

TRIAL_TIMEOUT_S = 20.0
"""Includes the import of libav on a loaded machine, and drivers that take seconds to wake a device."""

CANDIDATES = (
    "h264_nvenc", "hevc_nvenc", "av1_nvenc",
    "h264_qsv", "hevc_qsv", "av1_qsv",
    "h264_vaapi", "hevc_vaapi", "av1_vaapi",
    "h264_amf", "hevc_amf", "av1_amf",
    "h264_videotoolbox", "hevc_videotoolbox",
    "h264_v4l2m2m", "hevc_v4l2m2m",
    "h264_ni_quadra_enc", "h265_ni_quadra_enc", "av1_ni_quadra_enc",
    "libx264", "libx265", "libsvtav1",
)  # fmt: skip
"""Best first within a codec: fixed-function silicon before the CPU."""

_FAMILIES = {
    "nvenc": ("NVIDIA GPU", "/dev/nvidia[0-9]*"),
    "qsv": ("Intel GPU", "/dev/dri/renderD*"),
    "vaapi": ("GPU by VAAPI", "/dev/dri/renderD*"),
    "amf": ("AMD GPU", "/dev/dri/renderD*"),
    "v4l2m2m": ("V4L2 codec", "/dev/video*"),
    "enc": ("NETINT", "/dev/nvme*"),
}


CPU = "CPU"


@dataclass(frozen=True, slots=True)
class EncoderTrial:
    """One encoder on this machine."""

    name: str
    codec: str
    device: str
    """What it runs on, for a person: `CPU`, `NVIDIA GPU`, ..."""
    works: bool
    pixels_per_s: int = 0
    """Measured: one session, 720p, our live settings. Divide by width x height x frame rate."""
    sessions: int = 0
    """How many could be open at once, up to 8; 0 where there is no limit but speed."""
    reason: str = ""
    """Why it does not work, in words; empty where it does."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """All trials of one probing."""

    cpus: int
    """CPUs that this process may use."""
    trials: tuple[EncoderTrial, ...] = field(default=())

    def encoders(self, codec: Codec) -> tuple[str, ...]:
        """Names of encoders for `codec` that work, hardware first, the CPU last."""
        return tuple(t.name for t in self.trials if t.works and t.codec == codec.value)

    def as_json(self) -> dict[str, Any]:
        """For `headrace probe --json` and `/v1/hardware`."""
        return asdict(self)


def codec_of(name: str) -> Codec | None:
    """The codec that the encoder `name` makes."""
    for codec, marks in ((Codec.H264, ("264",)), (Codec.HEVC, ("265", "hevc")), (Codec.AV1, ("av1",))):
        if any(mark in name for mark in marks):
            return codec
    return None


async def probe(timeout_s: float = TRIAL_TIMEOUT_S, *, cpu: bool = True) -> Hardware:
    """Try every candidate, one after the other so that speeds are true. Takes about a second per encoder.

    Without `cpu`, those that run on the CPU are left out: they always work, and measuring them takes it from others.
    """
    listed, why = await _child("", timeout_s)
    if listed is None:
        raise HeadraceError(f"libav cannot be loaded: {why}.", slug="libav_unusable")
    trials = [await _trial(name, name in listed, timeout_s) for name in CANDIDATES if cpu or _device(name)[0] != CPU]
    return Hardware(len(os.sched_getaffinity(0)), tuple(trials))


def _device(name: str) -> tuple[str, str]:
    """Where the encoder `name` runs, and the device nodes that it needs."""
    return _FAMILIES.get(name.rsplit("_", 1)[-1], (CPU, ""))


async def _trial(name: str, available: bool, timeout_s: float) -> EncoderTrial:
    codec = codec_of(name)
    assert codec is not None
    device, nodes = _device(name)

    def failed(reason: str) -> EncoderTrial:
        return EncoderTrial(name, codec.value, device, works=False, reason=reason)

    if not available:
        return failed("this build of PyAV does not have it")
    if nodes and not await asyncio.to_thread(glob.glob, nodes):
        return failed(f"no device: there is no {nodes}")
    result, why = await _child(name, timeout_s)
    if result is None:
        return failed(why)
    return EncoderTrial(
        name,
        codec.value,
        device,
        works=result["works"],
        pixels_per_s=result.get("pixels_per_s", 0),
        sessions=result.get("sessions", 0),
        reason=result["reason"],
    )


async def _child(name: str, timeout_s: float) -> tuple[Any, str]:
    """(what `python -m transcode trial` answers, ""), or (None, why it does not)."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "transcode", "trial", name,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await child.communicate()
    except TimeoutError:
        return None, f"did not answer within {timeout_s:.0f} s"
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            await child.wait()
    if child.returncode != 0 or not out:
        said = err.decode(errors="replace").strip().splitlines()
        return None, f"crashed ({child.returncode}): {said[-1] if said else 'without a word'}"
    return json.loads(out.splitlines()[-1]), ""
