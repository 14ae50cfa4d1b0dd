"""Audio against video: a flash and a beep that start together at the encoder must do so in every rendition."""

from __future__ import annotations

from pathlib import Path

import lipsync
import pytest
from hls_reader import record, variants
from live_server import Server, ended

pytestmark = pytest.mark.e2e

TOLERANCE_S = 0.020


def test_audio_stays_within_20_ms_of_video_in_every_rendition(shared_server: Server, tmp_path: Path) -> None:
    server = shared_server
    made = server.add("lips")
    codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "60", "-bf", "2", "-c:a", "aac")
    with ended(server.push(made["urls"]["rtmp"], *lipsync.SOURCE, *codecs, "-f", "flv")):
        video, audio = variants(server.wait_on_air("lips"))
        uris = sorted({v.uri for v in video} | {a.uri for a in audio})
        recordings = record(server, f"{server.edge}/live/lips/index.m3u8", uris, 4, 40)
    sound = recordings[audio[0].uri].files(tmp_path / "audio")[0]
    for v in video:
        found = lipsync.offsets(recordings[v.uri].files(tmp_path / "video")[0], sound)
        assert len(found) >= 4, v.uri
        assert max(map(abs, found)) < TOLERANCE_S, (v.uri, found)
