"""Glass to glass: the wall clock in the encoder's picture against the wall clock of a headless browser.

    python bench/latency.py [--seconds 60] [--size 1280x720] [--rate 30] [--out bench/results/latency]

Starts a server with the default ladder, publishes `clock_source.py` to it over RTMP, opens the player page in
Chromium and reads the clock out of the pixels of the playing video five times a second. Encoder, server, ladder and
browser share this machine, so the figure holds the encoder's own delay too. Prints a table, writes JSON and an SVG.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from live_server import running
from playwright.sync_api import Page
from watching import chromium

READ_CLOCK = """() => {
  const v = document.querySelector('video');
  if (!v || !v.videoWidth || v.readyState < 2) return null;
  const c = window.__c || (window.__c = document.createElement('canvas'));
  c.width = v.videoWidth; c.height = Math.max(2, Math.round(v.videoHeight * 16 / HEIGHT));
  const g = c.getContext('2d', {willReadFrequently: true});
  g.drawImage(v, 0, 0, v.videoWidth, c.height, 0, 0, c.width, c.height);
  const now = Date.now();
  const y = Math.floor(c.height / 2), block = c.width / 32;
  let value = 0;
  g.drawImage(v, 0, 0, v.videoWidth, c.height, 0, 0, c.width, c.height);
  const row = g.getImageData(0, y, c.width, 1).data;
  for (let i = 0; i < 32; i++) value = value * 2 + (row[4 * Math.floor((i + 0.5) * block)] > 128 ? 1 : 0);
  const q = v.getVideoPlaybackQuality();
  return {ms: (now % 4294967296) - value, height: v.videoHeight, rate: v.playbackRate,
          dropped: q.droppedVideoFrames, total: q.totalVideoFrames, stalls: window.__stalls};
}"""


def measure(page: Page, url: str, height: int, seconds: float) -> dict[str, object]:
    page.add_init_script(
        "window.__stalls = 0;"
        "document.addEventListener('waiting', () => { if (window.__t1) window.__stalls++; }, true);"
        "document.addEventListener('playing', () => { window.__t1 = window.__t1 || performance.now(); }, true);"
    )
    page.goto(url)
    page.wait_for_function("window.__t1", timeout=30_000)
    first_ms = page.evaluate("window.__t1")
    script = READ_CLOCK.replace("HEIGHT", str(height))
    rows = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        row = page.evaluate(script)
        if row and 0 < row["ms"] < 60_000:
            rows.append({"at_s": round(seconds - (end - time.monotonic()), 2), **row})
        page.wait_for_timeout(200)
    settled = [r["ms"] for r in rows if r["at_s"] > min(10, seconds / 3)]
    return {
        "first_frame_ms": round(first_ms),
        "median_ms": round(statistics.median(settled)),
        "p95_ms": round(statistics.quantiles(settled, n=20)[18]),
        "max_ms": round(max(settled)),
        "stalls": rows[-1]["stalls"],
        "dropped_frames": rows[-1]["dropped"],
        "frames": rows[-1]["total"],
        "samples": rows,
    }


def chart(samples: list[dict[str, float]], path: Path, title: str) -> None:
    """Latency over time as an SVG."""
    width, height, pad = 800, 300, 40
    top = max(3000.0, max(s["ms"] for s in samples)) * 1.05
    span = max(s["at_s"] for s in samples) or 1
    points = " ".join(
        f"{pad + s['at_s'] / span * (width - 2 * pad):.1f},{height - pad - s['ms'] / top * (height - 2 * pad):.1f}"
        for s in samples
    )
    lines = "".join(
        f'<line x1="{pad}" x2="{width - pad}" y1="{(y := height - pad - ms / top * (height - 2 * pad)):.1f}" '
        f'y2="{y:.1f}" stroke="#ccc"/><text x="4" y="{y + 4:.1f}" font-size="11">{ms / 1000:.0f} s</text>'
        for ms in range(0, int(top), 1000)
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/><text x="{pad}" y="20" font-size="14">{title}</text>{lines}'
        f'<polyline points="{points}" fill="none" stroke="#1769aa" stroke-width="1.5"/></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--rate", type=int, default=30)
    parser.add_argument("--query", default="", help="added to the page's address, such as ?dash=1")
    parser.add_argument("--out", type=Path, default=Path("bench/results/latency"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(running(Path(folder) / "data"))
        made = server.add("clock")
        source = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("clock_source.py")), made["urls"]["rtmp"], arguments.size,
             str(arguments.rate)],
        )  # fmt: skip
        stack.callback(source.wait)
        stack.callback(source.kill)
        server.wait_on_air("clock")
        time.sleep(8)
        browser = stack.enter_context(chromium())
        height = int(arguments.size.split("x")[1])
        result = measure(
            browser.new_context(viewport={"width": 640, "height": 400}, bypass_csp=True).new_page(),
            f"{server.edge}/watch/clock{arguments.query}", height, arguments.seconds,
        )  # fmt: skip
        result["transcode"] = [b["transcode"] for b in server.admin("/v1/broadcasts")]
    samples = result.pop("samples")
    for name, value in result.items():
        print(f"{name:>16}  {value}")
    arguments.out.with_suffix(".json").write_text(json.dumps({**result, "samples": samples}, indent=1) + "\n")
    chart(samples, arguments.out.with_suffix(".svg"), f"Latency in the browser, {arguments.size} at {arguments.rate}")


if __name__ == "__main__":
    main()
