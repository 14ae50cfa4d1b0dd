"""With `rungs = "watched"`: from the first request for a rung that sleeps to a complete segment of it that plays.

    python bench/watched.py --clip clip.mp4 [--heights 480 1080] [--rungs 360p 720p] [--rounds 3] [--out FILE]

Starts a server, publishes the clip to it over RTMP at each height and 30 a second, waits until the rung sleeps, and
asks the edge for its playlist, as a player that switches does. Told: the time until it lists a whole segment, until
the newest whole segment of the source is there too, and until that one is downloaded; its pictures are decoded and have
to be shown at the same times as those of the source. Encoder, server and viewer share this machine; the load is told.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("support")))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import av
import imageio_ffmpeg
from arguments import file
from live_server import Server, running, wait_for

LINGER_S = 4
GIVE_UP_S = 30.0


def prepare(arguments: argparse.Namespace, height: int, folder: Path) -> Path:
    """The clip as an encoder would send it; pushing it costs no encoding."""
    path = folder / f"{height}.flv"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-stream_loop", "-1", "-i", str(arguments.clip), "-t", "20",
         "-vf", f"fps=30,scale=-2:{height}", "-c:v", "libx264", "-preset", "superfast", "-b:v", "5M", "-maxrate", "5M",
         "-bufsize", "5M", "-g", "60", "-sc_threshold", "0", "-c:a", "aac", "-y", str(path)],
        check=True,
    )  # fmt: skip
    return path


def listed(text: str) -> dict[int, str]:
    """URI by number of what a media playlist lists as whole."""
    first = re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", text)
    uris = re.findall(r"^(seg-\S+)$", text, re.M)
    return dict(enumerate(uris, int(first[1]))) if first else {}


def pictures(server: Server, base: str, text: str, uri: str) -> list[float]:
    """Times of the pictures of a segment in seconds, after decoding them."""
    init = re.findall(r'#EXT-X-MAP:URI="([^"]+)"', text)[-1]
    data = server.get(f"{base}/{init}") + server.get(f"{base}/{uri}")
    with av.open(io.BytesIO(data)) as container:
        return [round(frame.time, 3) for frame in container.decode(video=0) if frame.time is not None]


def once(server: Server, stream: str, rung: str) -> dict[str, float]:
    """One sleep, and one awakening."""
    base = f"{server.edge}/live/{stream}"
    wait_for(lambda: _state(server, stream, rung) == "off", 60, f"{rung} sleeps")
    source = listed(server.get(f"{base}/source/media.m3u8").decode())
    newest = max(source)
    start = time.monotonic()
    first = both = 0.0
    while True:
        text = server.playlist(f"/live/{stream}/{rung}/media.m3u8")
        seen = listed(text)
        at = time.monotonic() - start
        recent = [n for n in seen if n in source]
        first = first or (at if recent else 0.0)
        if newest in seen:
            both = at
            break
        if at > GIVE_UP_S:
            raise SystemExit(f"{rung} did not come within {GIVE_UP_S:.0f} s:\n{text}")
        time.sleep(0.03)
    times = pictures(server, f"{base}/{rung}", text, seen[newest])
    downloaded = time.monotonic() - start
    theirs = server.get(f"{base}/source/media.m3u8").decode()
    if times != (wanted := pictures(server, f"{base}/source", theirs, source[newest])):
        raise SystemExit(f"{rung}: segment {newest} shows {times}, the source's {wanted}")
    return {"first_s": first, "newest_s": both, "decoded_s": downloaded}


def _state(server: Server, stream: str, rung: str) -> str:
    found = next(b for b in server.admin("/v1/broadcasts") if b["stream"] == stream)
    return str(found["transcode"].get(f"rung_{rung}", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=file, required=True)
    parser.add_argument("--heights", type=int, nargs="+", default=[480, 1080])
    parser.add_argument("--rungs", nargs="+", default=["360p", "720p"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/watched"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server is stopped then too
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        settings = {
            "transcode__rungs": "watched",
            "transcode__rungs_linger_s": str(LINGER_S),
            "transcode__shed": "false",
        }
        server = stack.enter_context(running(folder / "data", **settings))
        for height in arguments.heights:
            stream = f"s{height}"
            url = server.add(stream)["urls"]["rtmp"]
            clip = prepare(arguments, height, folder)
            push = server.push(url, "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", "flv")
            try:
                master = server.wait_on_air(stream)
                for rung in (r for r in arguments.rungs if f"{r}/media.m3u8" in master):
                    rounds = [once(server, stream, rung) for _ in range(arguments.rounds)]
                    middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
                    results.append({"source": height, "rung": rung, "rounds": rounds, "load": os.getloadavg()[0]})
                    print(
                        f"  {height}p30 to {rung}: a whole segment listed after {middle['first_s']:.2f} s, the newest "
                        f"after {middle['newest_s']:.2f} s, downloaded and decoded after {middle['decoded_s']:.2f} s "
                        f"(median of {len(rounds)}, slowest {max(r['decoded_s'] for r in rounds):.2f}; load "
                        f"{os.getloadavg()[0]:.1f})",
                        flush=True,
                    )
            finally:
                push.kill()
                push.wait()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
