"""What `headrace probe` found, in words."""

from __future__ import annotations

from control.cli_common import say, say_table
from transcode.device import CPU
from transcode.hardware import Hardware, Trial
from transcode.plan import CPU_ENCODERS

_KINDS = {"encode": "encodes", "decode": "decodes", "scale": "scales"}


def show(hardware: Hardware) -> None:
    """Every device, and everything that was tried on it, what works first."""
    say(f"CPUs that may be used: {hardware.cpus:g}")
    others = [d for d in hardware.devices if d.id != CPU]
    say("Devices: " + (", ".join(f"{d.label} ({d.id})" for d in others) or "none beside the CPU"))
    rows = sorted(hardware.trials, key=lambda trial: not trial.works)
    say_table(
        ("NAME", "DOES", "ON", "WORKS", "SPEED", "REMARK"),
        [
            (t.name, f"{_KINDS[t.kind]} {t.codec}".strip(), hardware.label(t.device), "yes" if t.works else "no",
             _speed(t), _remark(t))
            for t in rows
        ],
    )  # fmt: skip


def summary(hardware: Hardware | None) -> str:
    """One line for the banner, e.g. `NVIDIA GPU 0 (h264_nvenc), CPU (libx264, libx265)`. The CPU's always work."""
    if hardware is None:
        return ""
    places: dict[str, list[str]] = {}
    for trial in hardware.trials:
        if trial.works and trial.kind == "encode" and trial.device != CPU:
            places.setdefault(hardware.label(trial.device), []).append(trial.name)
    places["CPU"] = list(CPU_ENCODERS.values())
    return ", ".join(f"{place} ({', '.join(names)})" for place, names in places.items())


def _speed(trial: Trial) -> str:
    if not trial.pixels_per_s:
        return ""
    each = " a CPU" if trial.device == CPU else ""
    return f"{trial.pixels_per_s / (1280 * 720):.0f} fps at 720p{each}"


def _remark(trial: Trial) -> str:
    sessions = f"at least {trial.sessions} at once" if trial.sessions else ""
    return trial.reason or sessions
