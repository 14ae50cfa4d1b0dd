"""Rungs that nobody asks for are not encoded; one that is asked for comes at once, with the right numbers and times."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from live_server import FFMPEG, Server, ended, running, wait_for

pytestmark = pytest.mark.e2e
LINGER_S = 4


def workers(server: Server) -> list[int]:
    """Transcode workers below the server, the waiting one included."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.children()}
    return [pid for pid, line in lines.items() if b"transcode\0worker" in line]


def segments(text: str) -> dict[int, str]:
    """URI by number of what a media playlist lists as whole."""
    first = int(re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", text)[1])  # type: ignore[index]
    uris = re.findall(r"^(seg-\S+)$", text, re.M)
    return dict(enumerate(uris, first))


def test_a_rung_is_encoded_while_it_is_asked_for(tmp_path: Path) -> None:
    settings = {
        "packager__segment_s": "1",
        "transcode__rungs": "watched",
        "transcode__rungs_linger_s": str(LINGER_S),
        "transcode__shed": "false",  # a busy machine must not halve the frame rate
    }
    source = (
        "-re", "-f", "lavfi", "-i", "testsrc2=s=854x480:r=25", "-f", "lavfi", "-i", "sine",
        "-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-b:v", "1000k", "-c:a", "aac", "-f", "flv",
    )  # fmt: skip
    with running(tmp_path / "data", **settings) as server:
        url = server.add("s")["urls"]["rtmp"]
        with ended(server.push(url, *source)):
            assert "360p/media.m3u8" in server.wait_on_air("s")
            origin = f"http://127.0.0.1:{server.ports['origin']}/live/s"

            def listed(name: str) -> dict[int, str]:
                return segments(server.get(f"{origin}/{name}/media.m3u8").decode())

            # Nobody watches: it goes to sleep and stays in the lists. Nothing to encode: only the spare worker is left.
            wait_for(lambda: "rung_off" in server.text(), 30, "the rung went to sleep")
            wait_for(lambda: len(workers(server)) == 1, 30, "its worker ended")
            assert server.admin("/v1/broadcasts")[0]["transcode"]["rung_360p"] == "off"
            assert "360p/media.m3u8" in server.get(f"{origin}/index.m3u8").decode()
            assert 'id="360p"' in server.get(f"{origin}/manifest.mpd").decode()
            slept = max(listed("source"))
            wait_for(lambda: max(listed("source")) > slept + 3, 30, "some segments without it")
            assert len(workers(server)) == 1

            # The first request brings its recent segments; the same numbers cover the same pictures.
            seen = listed("360p")
            theirs = listed("source")
            number = max(seen)
            assert number in theirs
            for name, uri in (("360p", seen[number]), ("source", theirs[number])):
                (tmp_path / f"{name}.mp4").write_bytes(server.get(f"{origin}/{name}/{init(server, name)}"))
                with (tmp_path / f"{name}.mp4").open("ab") as file:
                    file.write(server.get(f"{origin}/{name}/{uri}"))
            assert times(tmp_path / "360p.mp4") == times(tmp_path / "source.mp4")

            # It goes on through the change of worker, without a hole, while somebody asks.
            def through() -> bool:
                seen.update(listed("360p"))
                return "rung_joined" in server.text() and max(seen) > number + 4

            wait_for(through, 30, "the broadcast's own worker makes it")
            assert sorted(seen) == list(range(min(seen), max(seen) + 1))
            text = server.get(f"{origin}/360p/media.m3u8").decode()
            assert "EXT-X-GAP" not in text
            assert "DISCONTINUITY\n" not in text
            sample = [server.get(f"{origin}/360p/{seen[n]}") for n in sorted(seen)[-5:]]
            (tmp_path / "run.mp4").write_bytes(server.get(f"{origin}/360p/{init(server, '360p')}") + b"".join(sample))
            assert {round((b - a) * 25, 2) for a, b in pairwise(times(tmp_path / "run.mp4"))} == {1.0}

            wait_for(lambda: server.text().count("rung_off") == 2, 30, "it sleeps again when its viewer has left")
            wait_for(lambda: len(workers(server)) == 1, 30, "and its worker ends")


def init(server: Server, name: str) -> str:
    """The CMAF header that the newest segments of a rendition have."""
    text = server.get(f"http://127.0.0.1:{server.ports['origin']}/live/s/{name}/media.m3u8").decode()
    return re.findall(r'#EXT-X-MAP:URI="([^"]+)"', text)[-1]


def times(path: Path) -> list[float]:
    """Presentation times of a file's pictures."""
    out = subprocess.check_output(
        [FFMPEG.replace("ffmpeg", "ffprobe"), "-v", "error", "-select_streams", "v", "-show_entries", "frame=pts_time",
         "-of", "csv=p=0", str(path)], text=True,
    )  # fmt: skip
    return [float(line.strip(",")) for line in out.split()]
