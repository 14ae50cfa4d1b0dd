"""Devices of this machine by name, and how libav is told to use one. Not here: what works on them (`hardware`).

A *seat* is a libav name and the device that it runs on: `h264_nvenc@cuda:1`, `h264_vaapi@/dev/dri/renderD128`. On the
CPU it is the name alone (`libx264`). A decoder that a device helps is called `h264+cuda@cuda:0`, after the codec and
libav's name of that kind of help.
"""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from av.codec.hwaccel import HWAccel

CPU = "cpu"

_VENDORS = {"0x8086": "Intel", "0x1002": "AMD", "0x10de": "NVIDIA"}

NODES = {
    "nvenc": "/dev/nvidia[0-9]*",
    "cuda": "/dev/nvidia[0-9]*",
    "qsv": "/dev/dri/renderD* of Intel",
    "amf": "/dev/dri/renderD* of AMD",
    "vaapi": "/dev/dri/renderD*",
    "v4l2m2m": "/dev/video*",
    "videotoolbox": "macOS",
    "enc": "/dev/nvme*",  # NETINT's: an SSD has one too, but no build without its encoders tries it
    "dec": "/dev/nvme*",
}
"""What has to be there for a family of encoders or decoders: the last part of their names."""


@dataclass(frozen=True, slots=True)
class Device:
    """Something that encodes or decodes."""

    id: str
    """`cpu`, `cuda:0`, `/dev/dri/renderD128`, `v4l2`, `videotoolbox`, `netint`."""
    label: str
    """For a person: `CPU`, `NVIDIA GPU 0`, `Intel GPU renderD128`, ..."""
    families: frozenset[str]
    """Which families are to be tried on it (see `NODES`)."""


def seat(name: str, device: str) -> str:
    """`name` on `device`."""
    return name if device == CPU else f"{name}@{device}"


def split(seat: str) -> tuple[str, str]:
    """(libav name, device) of a seat."""
    name, _, device = seat.partition("@")
    return name, device or CPU


def device_of(seat: str) -> str:
    """The device of a seat."""
    return split(seat)[1]


def family_of(name: str) -> str:
    """`nvenc` of `h264_nvenc`, `cuda` of `h264+cuda`; empty for what runs on the CPU."""
    family = name.replace("+", "_").rpartition("_")[2]
    return family if family in NODES else ""


def find(root: Path = Path("/")) -> tuple[Device, ...]:
    """The devices that are there, the CPU last. Reads folders: not for an event loop. `root`: for tests."""
    found: list[Device] = []
    count = len(glob.glob(str(root / "dev/nvidia[0-9]*")))
    # CUDA numbers the cards that it is shown from 0, whatever their nodes are called.
    found += [Device(f"cuda:{n}", f"NVIDIA GPU {n}", frozenset({"nvenc", "cuda"})) for n in range(count)]
    amd_seen = False
    for node in sorted(glob.glob(str(root / "dev/dri/renderD*"))):
        name = Path(node).name
        vendor = _VENDORS.get(_read(root / f"sys/class/drm/{name}/device/vendor"), "")
        if vendor == "NVIDIA":
            continue  # the same card as its CUDA device
        families = {"vaapi"}
        if vendor == "Intel":
            families.add("qsv")
        elif vendor == "AMD" and not amd_seen:
            families.add("amf")  # AMF takes the first card and cannot be told of another by its node
            amd_seen = True
        found.append(Device(f"/dev/dri/{name}", f"{vendor} GPU {name}".strip(), frozenset(families)))
    if glob.glob(str(root / "dev/video*")):
        found.append(Device("v4l2", "V4L2 codec", frozenset({"v4l2m2m"})))
    if sys.platform == "darwin":
        found.append(Device("videotoolbox", "Apple VideoToolbox", frozenset({"videotoolbox"})))
    if glob.glob(str(root / "dev/nvme*")):
        found.append(Device("netint", "NETINT", frozenset({"enc", "dec"})))
    return (*found, Device(CPU, "CPU", frozenset({""})))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def accel(name: str, device: str) -> HWAccel | None:
    """How PyAV is to open the encoder or decoder `name` on `device`; None where libav finds the device itself."""
    match family_of(name):
        case "vaapi":
            return HWAccel("vaapi", device, allow_software_fallback=False)
        case "qsv":
            return HWAccel("qsv", options={"child_device": device}, allow_software_fallback=False)
        case "cuda":
            return HWAccel("cuda", cuda_index(device), allow_software_fallback=False)
        case "amf" if "+" in name:
            return HWAccel("amf", allow_software_fallback=False)
        case "videotoolbox" if "+" in name:
            return HWAccel("videotoolbox", allow_software_fallback=False)
        case _:
            return None


def cuda_index(device: str) -> str:
    """`1` of `cuda:1`."""
    return device.partition(":")[2] or "0"


def cpus() -> float:
    """CPUs that this process may use: those it may run on, and no more than its control group's quota."""
    count = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    if quota.isdigit() and period.isdigit():
        count = min(count, max(0.1, int(quota) / int(period)))
    return round(count, 2)
