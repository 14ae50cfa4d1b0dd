"""What this machine can really encode, decode and scale with: each way is tried, in a child with a time limit.

A name in a build's list says nothing about the machine: the wheel lists NVENC everywhere, drivers lie or hang. Every
encoder and decoder is tried on every device that could run it (`device`), each in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from media.errors import HeadraceError
from media.track import Codec
from transcode.device import CPU, NODES, Device, cpus, family_of, find, seat

TRIAL_TIMEOUT_S = 20.0
"""Includes the import of libav on a loaded machine, and drivers that take seconds to wake a device."""

IDLE_PATIENCE = 6
"""The CPU is measured when it has nothing else to do: on a busy machine that takes longer."""

ENCODERS = (
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

DECODERS = (
    "h264+cuda", "hevc+cuda", "av1+cuda",
    "h264+qsv", "hevc+qsv", "av1+qsv",
    "h264+vaapi", "hevc+vaapi", "av1+vaapi",
    "h264+amf", "hevc+amf", "av1+amf",
    "h264+videotoolbox", "hevc+videotoolbox",
    "h264+v4l2m2m", "hevc+v4l2m2m",
    "h264+ni_quadra_dec", "hevc+ni_quadra_dec",
    "h264", "hevc", "av1",
)  # fmt: skip

SCALER = "scale"
"""Pictures of another size, on the CPU."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One encoder, decoder or scaler on one device of this machine."""

    name: str
    """libav's name of an encoder; of a decoder its codec, with `+cuda` or the like behind it where a device helps."""
    kind: str
    """`encode`, `decode` or `scale`."""
    codec: str
    device: str
    """Its id (`transcode.device`); for what has no device here, the empty string."""
    works: bool
    pixels_per_s: int = 0
    """Measured at 720p with our live settings: by a device with up to three sessions at once, by the CPU in one CPU
    second. Divide by width x height x frame rate."""
    sessions: int = 0
    """How many could be open at once, up to 8; 0 where there is no limit but speed."""
    reason: str = ""
    """Why it does not work, in words; empty where it does."""

    @property
    def seat(self) -> str:
        """Name and device as one string."""
        return seat(self.name, self.device)


@dataclass(frozen=True, slots=True)
class Hardware:
    """All trials of one probing."""

    cpus: float
    """CPUs that this process may use."""
    trials: tuple[Trial, ...] = field(default=())
    devices: tuple[Device, ...] = field(default=())

    def encoders(self, codec: Codec) -> tuple[str, ...]:
        """Seats of encoders for `codec` that work, hardware first, the CPU last."""
        return self._working("encode", codec)

    def decoders(self, codec: Codec) -> tuple[str, ...]:
        """Seats of decoders for `codec` that work, hardware first, the CPU last."""
        return self._working("decode", codec)

    def _working(self, kind: str, codec: Codec) -> tuple[str, ...]:
        return tuple(t.seat for t in self.trials if t.works and t.kind == kind and t.codec == codec.value)

    def label(self, device: str) -> str:
        """What a person calls a device."""
        return next((d.label for d in self.devices if d.id == device), device or "none")

    def with_cpu(self, measured: Hardware) -> Hardware:
        """These devices, and what was measured on the CPU."""
        ours = tuple(t for t in self.trials if t.device != CPU)
        return Hardware(self.cpus, ours + tuple(t for t in measured.trials if t.device == CPU), measured.devices)

    def as_json(self) -> dict[str, Any]:
        """For `headrace probe --json` and `/v1/hardware`."""
        return {
            "cpus": self.cpus,
            "devices": [{"id": d.id, "label": d.label} for d in self.devices],
            "trials": [asdict(t) for t in self.trials],
        }


def codec_of(name: str) -> Codec | None:
    """The codec that the encoder or decoder `name` is for."""
    for codec, marks in ((Codec.H264, ("264",)), (Codec.HEVC, ("265", "hevc")), (Codec.AV1, ("av1",))):
        if any(mark in name for mark in marks):
            return codec
    return None


async def probe(
    timeout_s: float = TRIAL_TIMEOUT_S,
    *,
    devices: bool = True,
    cpu: bool = True,
    presets: Mapping[str, str] | None = None,
    idle: bool = False,
) -> Hardware:
    """Try everything, one after the other so that speeds are true. A device takes about a second for each trial.

    `devices`, `cpu`: what to try. `presets`: of CPU encoders by name (`libx264`); without, the defaults. `idle`:
    measure the CPU only while nothing else wants it. Raises `HeadraceError` where libav itself cannot be loaded.
    """
    listed, why = await _child([""], timeout_s)
    if not listed:
        raise HeadraceError(f"libav cannot be loaded: {why}.", slug="libav_unusable")
    found = await asyncio.to_thread(find)
    trials: list[Trial] = []
    if devices:
        for kind, names in (("encode", ENCODERS), ("decode", DECODERS)):
            for name in names:
                if family_of(name):
                    trials += await _on_devices(kind, name, found, listed[0], timeout_s)
    if cpu:
        trials += await _on_cpu(presets or {}, timeout_s, idle)
    return Hardware(cpus(), tuple(trials), found)


async def _on_devices(
    kind: str, name: str, found: Sequence[Device], listed: Mapping[str, list[str]], timeout_s: float
) -> list[Trial]:
    codec = codec_of(name)
    assert codec is not None
    family = family_of(name)
    if name not in listed[kind]:
        return [Trial(name, kind, codec.value, "", works=False, reason="this build of PyAV does not have it")]
    fitting = [d for d in found if family in d.families]
    if not fitting:
        return [Trial(name, kind, codec.value, "", works=False, reason=f"no device: it needs {NODES[family]}")]
    return [await _trial(kind, name, codec.value, device.id, timeout_s) for device in fitting]


async def _on_cpu(presets: Mapping[str, str], timeout_s: float, idle: bool) -> list[Trial]:
    """In one child: what runs on the CPU does not hang, and libav is loaded but once."""
    wanted = [("encode", n) for n in ENCODERS if not family_of(n)]
    wanted += [("decode", n) for n in DECODERS if not family_of(n)]
    wanted.append(("scale", SCALER))
    requests = [f"{kind}:{name}:{presets.get(name, '')}" for kind, name in wanted]
    results, why = await _child(requests, timeout_s * IDLE_PATIENCE, idle=idle)
    trials = []
    for index, (kind, name) in enumerate(wanted):
        codec = codec_of(name)
        result = results[index] if index < len(results) else {"works": False, "reason": why}
        trials.append(Trial(name, kind, codec.value if codec else "", CPU, **result))
    return trials


async def _trial(kind: str, name: str, codec: str, device: str, timeout_s: float) -> Trial:
    results, why = await _child([f"{kind}:{seat(name, device)}:"], timeout_s)
    result = results[0] if results else {"works": False, "reason": why}
    return Trial(name, kind, codec, device, **result)


async def _child(requests: Sequence[str], timeout_s: float, *, idle: bool = False) -> tuple[list[Any], str]:
    """(what `python -m transcode trial` answers to each request until it ended, why there is no more)."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "transcode", "trial", *(["--idle"] if idle else []), *requests,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            words, _ = await asyncio.gather(_tail(child.stderr), _collect(child.stdout, lines))
            await child.wait()
    except TimeoutError:
        return _answers(lines), f"did not answer within {timeout_s:.0f} s"
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    answers = _answers(lines)
    if child.returncode == 0 and len(answers) == len(requests):
        return answers, ""
    return answers, f"crashed ({child.returncode}): {words or 'without a word'}"


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    async for line in stream:
        lines.append(line.decode(errors="replace"))


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last line, of a stream that may say much."""
    last = b""
    while data := await stream.read(1 << 16):
        last = (last + data)[-4096:]
    lines = last.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _answers(lines: Sequence[str]) -> list[Any]:
    """Drivers print on stdout too: only lines that are our answers count."""
    answers = []
    for line in lines:
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                answers.append(json.loads(line))
    return answers
