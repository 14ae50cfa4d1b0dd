"""A browser publishes over WHIP: pictures sent and arrived, A/V offset of what viewers get, CPU of the core.

    python bench/whip.py [--seconds 300] [--camera] [--loss 0.02] [--delay-ms 20] [--out FOLDER]

Headless Chromium goes live from the page /publish to a real `headrace serve`. Its picture is
passed through; only the sound is encoded, from Opus to AAC, in a worker whose CPU is not counted. By default its
camera is a canvas that turns white while a tone sounds, once a second, so that the offset can be measured in the
packaged segments (which are all fetched through the edge); with `--camera` it is Chromium's own fake device.

`--loss` and `--delay-ms` put `tests/support/lossy_relay.py` between browser and server (`whip_road.py` there).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("support")))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from browser_camera import SWITCHES, camera
from hls_reader import Recording, frames, update, variants
from lipsync import beeps, flashes
from live_server import Server, running, wait_for
from playwright.sync_api import Page
from processes import cpu_s
from watching import chromium
from whip_road import road

IDLE_S = 10
STATISTICS = """async () => {
  for (const sender of headrace.session.pc.getSenders()) sender.track?.stop();
  await new Promise((done) => setTimeout(done, 500));
  const found = {};
  for (const report of (await headrace.session.pc.getStats()).values())
    if (report.type === "outbound-rtp" && report.kind === "video")
      for (const name of ["framesSent", "framesEncoded", "packetsSent", "retransmittedPacketsSent", "bytesSent",
                          "pliCount", "nackCount", "qualityLimitationReason", "frameWidth", "frameHeight",
                          "encoderImplementation"])
        found[name] = report[name];
  return found;
}"""


def with_sound(server: Server) -> str:
    text = server.playlist("/live/camera/index.m3u8")
    return text if "TYPE=AUDIO" in text or "opus" in text.lower() else ""


def record(server: Server, recordings: dict[str, Recording]) -> None:
    for uri, recording in recordings.items():
        update(recording, server, f"{server.edge}/live/camera/{uri}")


def offsets_ms(video: list[Path], audio: list[Path]) -> list[float]:
    """For each flash, how much later its beep is."""
    heard = sorted(at for path in audio for at in beeps(path))
    seen = sorted(at for path in video for at in flashes(path))
    pairs = [(at, min(heard, key=lambda other: abs(other - at))) for at in seen] if heard else []
    return [(beep - flash) * 1000 for flash, beep in pairs if abs(beep - flash) < 0.33]


def run(server: Server, page: Page, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    assert server.process is not None
    key = server.add("camera", reconnect_window_s=1)["key"]
    pids = [server.process.pid]
    page.goto(f"{server.api}/publish")
    page.wait_for_selector("#hint", state="hidden")
    at, began = cpu_s(pids), time.monotonic()
    page.wait_for_timeout(IDLE_S * 1000)
    idle = (cpu_s(pids) - at) / (time.monotonic() - began)
    page.fill("#key", key)
    page.click("#go")
    page.wait_for_selector("#state[data-state=live]", timeout=30_000)
    try:
        text = wait_for(lambda: with_sound(server), 15, "picture and sound are on air")
    except AssertionError:
        print(server.playlist("/live/camera/index.m3u8"), server.text())
        raise
    video, audio = variants(text)
    recordings = {uri: Recording() for uri in (video[0].uri, *(rendition.uri for rendition in audio))}
    at, began = cpu_s(pids), time.monotonic()
    health: dict[str, Any] = {}
    while time.monotonic() - began < arguments.seconds:
        page.wait_for_timeout(2000)
        record(server, recordings)
        health = next(b for b in server.admin("/v1/broadcasts") if b["stream"] == "camera")
    busy = (cpu_s(pids) - at) / (time.monotonic() - began)
    sent = page.evaluate(STATISTICS)
    page.click("#go")
    page.wait_for_selector("#state[data-state=idle]")

    def over() -> bool:
        record(server, recordings)
        return all(recording.ended for recording in recordings.values())

    wait_for(over, 30, "the playlists end")
    files = {uri: recording.files(folder / uri.replace("/", "-")) for uri, recording in recordings.items()}
    pictures = [frame for path in files[video[0].uri] for frame in frames(path, "v")]
    times = sorted(frame.pts for frame in pictures)
    keys = [frame.pts for frame in pictures if frame.key]
    sounds = files[audio[0].uri] if audio else files[video[0].uri]
    found = [] if arguments.camera else offsets_ms(files[video[0].uri], sounds)
    fifth = max(1, len(found) // 5)
    line = next((t for t in server.text().splitlines() if "whip_closed" in t), "")
    return {
        "seconds": arguments.seconds,
        "loss": arguments.loss,
        "sent": sent,
        "pictures_in_segments": len(pictures),
        "discontinuities": sum(len(recording.discontinuities) for recording in recordings.values()),
        "longest_gap_ms": round(1000 * max(b - a for a, b in itertools.pairwise(times))),
        "keyframe_interval_s": [round(v, 2) for v in spread([b - a for a, b in itertools.pairwise(keys)])],
        "av_offset_ms": [round(v, 1) for v in spread(found)] if found else None,
        "av_offset_first_and_last_fifth_ms": [
            round(statistics.median(part), 1) for part in (found[:fifth], found[-fifth:]) if part
        ],
        "flashes": len(found),
        "core_percent": round(100 * busy, 2),
        "core_idle_percent": round(100 * idle, 2),
        "megabits": round(sent["bytesSent"] * 8 / 1e6 / arguments.seconds, 2),
        "health": health.get("health"),
        "closed": line,
    }


def spread(values: list[float]) -> tuple[float, float, float]:
    """Lowest, median, highest."""
    return (min(values), statistics.median(values), max(values)) if values else (0.0, 0.0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--camera", action="store_true", help="Chromium's fake device instead of flash and beep")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {
            "transcode__ladder": "none",
            "transcode__warm_spare": "false",
            "whip__addresses": '["127.0.0.1"]',
        }
        with running(folder / "data", **settings) as server, chromium(SWITCHES) as browser:
            page = browser.new_page()
            if not arguments.camera:
                page.add_init_script(camera(1280, 720, 40))
            with contextlib.ExitStack() as stack:
                way = None
                if arguments.loss or arguments.delay_ms:
                    way = stack.enter_context(road(page, loss=arguments.loss, delay_ms=arguments.delay_ms, seed=1))
                result = run(server, page, arguments, folder)
                result["road"] = way.ask("stats") if way else None
    print(json.dumps(result, indent=1))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "whip.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
