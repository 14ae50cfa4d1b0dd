"""What only Enhanced RTMP v2 knows, through the whole server: names of audio tracks, a drain that sends elsewhere."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hls_reader import variants
from live_server import Server, running, wait_for
from rtmp_double import Script
from rtmp_publisher import Tag, encode

from ingest.rtmp import amf0
from ingest.rtmp.amf0 import Value
from ingest.rtmp.messages import Kind, Message

pytestmark = pytest.mark.e2e
ELSEWHERE = "rtmp://other.example.org/live"
METADATA: dict[str, Value] = {
    "language": "en",
    "audioTrackIdInfoMap": {"1": {"lang": "fra", "title": "Commentaire"}},
}


class Encoder(threading.Thread):
    """Publishes tags in real time until it is asked to reconnect; then it leaves, as the specification wants."""

    def __init__(self, port: int, key: str, tags: list[Tag]) -> None:
        super().__init__()
        self._port, self._key, self._tags = port, key, tags
        self.script = Script()
        self.sent_to = ""
        """`tcUrl` of the reconnect request."""
        self.closed_by_server = False
        self.stop = threading.Event()

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 10) as sock:
            sock.sendall(self.script.start(self._key, capsEx=1.0))
            while not any(code == "NetStream.Publish.Start" for code, _, _ in self.script.statuses()):
                self._hear(sock, 20)
            metadata = amf0.encode("@setDataFrame", "onMetaData", METADATA)
            sock.sendall(self.script.message(Message(Kind.DATA_AMF0, 0, 1, metadata, 4)))
            began = time.monotonic()
            for tag in self._tags:
                while (left_s := began + tag.ms / 1000 - time.monotonic()) > 0:
                    self._hear(sock, left_s)
                if self.stop.is_set() or self.sent_to or self.closed_by_server:
                    break
                kind = Kind(tag.kind)
                if kind is not Kind.DATA_AMF0:
                    message = Message(kind, tag.ms, 1, tag.body, 6 if kind is Kind.VIDEO else 4)
                    sock.sendall(self.script.message(message))
            sock.sendall(self.script.command("deleteStream", 7.0, None, 1.0))

    def _hear(self, sock: socket.socket, timeout_s: float) -> None:
        sock.settimeout(timeout_s)
        try:
            data = sock.recv(65536)
        except TimeoutError:
            return
        finally:
            sock.settimeout(10)
        self.closed_by_server = not data
        self.script.read(data)
        for command in self.script.commands():
            info = command.arguments[0] if command.arguments else None
            if isinstance(info, dict) and info.get("code") == "NetConnection.Connect.ReconnectRequest":
                self.sent_to = str(info.get("tcUrl"))


@pytest.fixture
def draining(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "data", rtmp__reconnect_url=ELSEWHERE, transcode__warm_spare="false") as it:
        yield it


def test_names_of_audio_tracks_and_a_drain(draining: Server, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()  # Debian's writes one track of each kind
    source = (
        *("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=10", "-f", "lavfi", "-i", "sine=r=48000"),
        *("-f", "lavfi", "-i", "sine=r=48000:frequency=880", "-map", "0", "-map", "1", "-map", "2", "-t", "60"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", "20", "-c:a", "aac"),
    )
    server = draining
    key = server.add("names", ladder=[])["key"]
    encoder = Encoder(server.ports["rtmp"], key, encode(source, tmp_path / "clip.flv", ffmpeg))
    encoder.start()
    try:

        def two() -> str:
            text = server.playlist("/live/names/index.m3u8")
            return text if text.count("TYPE=AUDIO") == 2 else ""

        _, audio = variants(wait_for(two, 40, "both audio tracks are listed"))
        told = [(a.attributes["LANGUAGE"], a.attributes["NAME"], a.attributes["DEFAULT"]) for a in audio]
        assert told == [("en", "English", "YES"), ("fr", "Commentaire", "NO")]
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        encoder.join(10)
        assert encoder.sent_to == ELSEWHERE
        assert not encoder.closed_by_server, "it is served until it leaves"
        assert '"reason": "finished"' in server.text()
    finally:
        encoder.stop.set()
        encoder.join(15)
