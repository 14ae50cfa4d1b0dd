"""Many RTMP publishers of one clip in one process, so that the senders leave the machine to the server.

    python bench/support/ingest_sender.py CLIP.flv URL [URL ...]       until it is killed

Each message is put into chunks once and written to every socket at its time; publishers start spread over a second,
so that their keyframes do not come together.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from ingest.rtmp.amf0 import Value, encode
from ingest.rtmp.chunks import ChunkWriter
from ingest.rtmp.messages import Kind, Message, number

CHUNK_BYTES = 4096
"""What OBS sends."""


def tags(data: bytes) -> list[tuple[int, int, bytes]]:
    """(kind, milliseconds, body) of each tag of an FLV file."""
    at, found = 13, []
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        ms = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        found.append((data[at], ms, data[at + 11 : at + 11 + size]))
        at += 15 + size
    return found


def command(writer: ChunkWriter, name: str, transaction: float, *values: Value, sid: int = 0) -> bytes:
    return writer.write(Message(Kind.COMMAND_AMF0, 0, sid, encode(name, transaction, *values), 3))


async def connect(url: str) -> asyncio.StreamWriter:
    """Publish; what the server says is thrown away from here on."""
    parts = urlsplit(url)
    app, _, key = parts.path.strip("/").partition("/")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    chunks = ChunkWriter()
    writer.write(b"\x03" + bytes(1536) + bytes(1536))
    writer.write(command(chunks, "connect", 1.0, {"app": app, "flashVer": "bench/1"}))
    writer.write(command(chunks, "createStream", 2.0, None) + command(chunks, "publish", 3.0, None, key, "live", sid=1))
    while b"NetStream.Publish.Start" not in (said := await reader.read(65_536)):
        if not said:
            raise RuntimeError("refused")
    writer.write(chunks.write(number(Kind.SET_CHUNK_SIZE, CHUNK_BYTES)))
    return writer


async def drain(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        await writer.drain()


async def main(clip: bytes, urls: list[str]) -> None:
    media = [tag for tag in tags(clip) if tag[0] in (Kind.AUDIO, Kind.VIDEO)]
    length_ms = media[-1][1] + 33
    writers = [await connect(url) for url in urls]
    chunks = ChunkWriter()
    chunks.chunk_size = CHUNK_BYTES
    spread = [index / len(urls) for index in range(len(urls))]
    schedule = sorted(
        (ms / 1000 + late, at, index) for at, (_, ms, _) in enumerate(media) for index, late in enumerate(spread)
    )
    began, turn = time.monotonic() + 0.2, 0
    while True:
        made: dict[int, bytes] = {}
        for due, at, index in schedule:
            wait = began + turn * length_ms / 1000 + due - time.monotonic()
            if wait > 0.005:
                await drain(writers)
                await asyncio.sleep(wait)
            kind, ms, body = media[at]
            if at not in made:
                stamp = ms + turn * length_ms
                made[at] = chunks.write(Message(kind, stamp, 1, body, 6 if kind == Kind.VIDEO else 4))
            writers[index].write(made[at])
        turn += 1


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_bytes(), sys.argv[2:]))
