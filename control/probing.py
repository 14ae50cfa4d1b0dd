"""What `headrace probe` found, in words."""

from __future__ import annotations

from control.cli_common import say, say_table
from transcode.hardware import CPU, EncoderTrial, Hardware
from transcode.plan import CPU_ENCODERS


def show(hardware: Hardware) -> None:
    """Every encoder that was tried, those that work first."""
    say(f"CPUs that may be used: {hardware.cpus}")
    rows = sorted(hardware.trials, key=lambda trial: not trial.works)
    say_table(
        ("ENCODER", "CODEC", "ON", "WORKS", "SPEED", "REMARK"),
        [(t.name, t.codec, t.device, "yes" if t.works else "no", _speed(t), _remark(t)) for t in rows],
    )


def summary(hardware: Hardware | None) -> str:
    """One line for the banner, e.g. `NVIDIA GPU (h264_nvenc), CPU (libx264, libx265)`. The CPU's always work."""
    if hardware is None:
        return ""
    places: dict[str, list[str]] = {}
    for trial in hardware.trials:
        if trial.works and trial.device != CPU:
            places.setdefault(trial.device, []).append(trial.name)
    places[CPU] = list(CPU_ENCODERS.values())
    return ", ".join(f"{place} ({', '.join(names)})" for place, names in places.items())


def _speed(trial: EncoderTrial) -> str:
    return f"{trial.pixels_per_s / (1280 * 720):.0f} fps at 720p" if trial.pixels_per_s else ""


def _remark(trial: EncoderTrial) -> str:
    sessions = f"at least {trial.sessions} at once" if trial.sessions else ""
    return trial.reason or sessions
