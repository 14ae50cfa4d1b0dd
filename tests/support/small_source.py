"""What ffmpeg publishes in tests where the picture does not matter: small, cheap, with sound."""

from __future__ import annotations


def small(size: str = "320x180", rate: int = 25, *, seconds: float = 0) -> tuple[str, ...]:
    """Arguments of an ffmpeg that publishes in real time, keyframes every 2 s; for ever, or for `seconds`."""
    length = ("-t", str(seconds)) if seconds else ()
    return (
        "-re", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}",
        "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", *length,
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", str(2 * rate), "-b:v", "300k",
        "-c:a", "aac", "-b:a", "64k", "-f", "flv",
    )  # fmt: skip
