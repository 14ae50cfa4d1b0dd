"""Rungs that nobody asks for are not encoded; one that is asked for comes at once, with the right numbers and times."""

from __future__ import annotations

import re
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from live_server import FFMPEG, new_server, wait_for

LINGER_S = 4


def workers(server: Any) -> list[int]:
    """Transcode workers below the server, the waiting one included."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.children()}
    return [pid for pid, line in lines.items() if b"transcode\0worker" in line]


def segments(text: str) -> dict[int, str]:
    """URI by number of what a media playlist lists as whole."""
    first = int(re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", text)[1])  # type: ignore[index]
    uris = re.findall(r"^(seg-\S+)$", text, re.M)
    return dict(enumerate(uris, first))


def test_a_rung_is_encoded_while_it_is_asked_for(tmp_path: Path) -> None:
    server = new_server(tmp_path / "data")
    server.environment["HEADRACE_TRANSCODE__RUNGS"] = "watched"
    server.environment["HEADRACE_TRANSCODE__RUNGS_LINGER_S"] = str(LINGER_S)
    server.environment["HEADRACE_TRANSCODE__SHED"] = "false"  # a busy machine must not halve the frame rate
    server.start()
    push = None
    try:
        made = server.cli("stream", "add", "s")
        push = server.push(
            made["urls"]["rtmp"], "-re", "-f", "lavfi", "-i", "testsrc2=s=960x540:r=25", "-f", "lavfi", "-i", "sine",
            "-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-b:v", "1500k", "-c:a", "aac", "-f", "flv",
        )  # fmt: skip
        index = server.wait_on_air("s")
        assert "480p/media.m3u8" in index
        assert "360p/media.m3u8" in index
        origin = f"http://127.0.0.1:{server.ports['origin']}/live/s"

        wait_for(lambda: server.text().count("rung_off") >= 2, 30, "both rungs went to sleep")
        slept = time.monotonic()
        wait_for(lambda: time.monotonic() - slept > 10, 12, "nobody watches for five segments")
        # With nothing to encode there is no worker but the spare.
        assert len(workers(server)) == 1
        told = server.admin("/v1/broadcasts")[0]["transcode"]
        assert (told["rung_480p"], told["rung_360p"]) == ("off", "off")
        index = server.get(f"{origin}/index.m3u8").decode()
        assert "480p/media.m3u8" in index
        assert 'id="480p"' in server.get(f"{origin}/manifest.mpd").decode()

        started = time.monotonic()
        rung = server.get(f"{origin}/480p/media.m3u8").decode()
        took = time.monotonic() - started
        print(f"first playlist after {took:.2f} s")
        source = server.get(f"{origin}/source/media.m3u8").decode()
        ours, theirs = segments(rung), segments(source)
        assert len(ours) >= 2
        assert max(theirs) - max(ours) <= 1
        assert took < 6

        # The same numbers cover the same pictures.
        number = max(ours)
        for name, uri in (("480p", ours[number]), ("source", theirs[number])):
            text = server.get(f"{origin}/{name}/media.m3u8").decode()
            init = re.search(r'#EXT-X-MAP:URI="([^"]+)"', text)[1]  # type: ignore[index]
            body = server.get(f"{origin}/{name}/{init}") + server.get(f"{origin}/{name}/{uri}")
            (tmp_path / f"{name}.mp4").write_bytes(body)
        assert times(tmp_path / "480p.mp4") == times(tmp_path / "source.mp4")

        # It goes on through the change of worker, without a hole, while somebody asks.
        seen = dict(ours)
        end = time.monotonic() + 9
        while time.monotonic() < end:
            seen |= segments(server.get(f"{origin}/480p/media.m3u8").decode())
            time.sleep(0.5)
        assert sorted(seen) == list(range(min(seen), max(seen) + 1))
        text = server.get(f"{origin}/480p/media.m3u8").decode()
        assert "EXT-X-GAP" not in text
        assert "DISCONTINUITY\n" not in text
        assert "rung_joined" in server.text()
        sample = [server.get(f"{origin}/480p/{seen[n]}") for n in sorted(seen)[-4:-1]]
        init = re.search(r'#EXT-X-MAP:URI="([^"]+)"', text)[1]  # type: ignore[index]
        (tmp_path / "run.mp4").write_bytes(server.get(f"{origin}/480p/{init}") + b"".join(sample))
        got = times(tmp_path / "run.mp4")
        steps = {round((b - a) * 25, 2) for a, b in pairwise(got)}
        assert steps == {1.0}

        before = server.text().count("rung_off")
        wait_for(lambda: server.text().count("rung_off") >= before + 2, 30, "they sleep again")
        wait_for(lambda: len(workers(server)) == 1, 5, "their workers end")
    finally:
        if push is not None:
            push.kill()
            push.wait()
        server.stop()


def times(path: Path) -> list[float]:
    """Presentation times of a file's pictures."""
    out = subprocess.check_output(
        [FFMPEG.replace("ffmpeg", "ffprobe"), "-v", "error", "-select_streams", "v", "-show_entries", "frame=pts_time",
         "-of", "csv=p=0", str(path)], text=True,
    )  # fmt: skip
    return [float(line.strip(",")) for line in out.split()]
