"""What fuzzing feeds the edge: HTTP/1.1 and HTTP/2, and viewers' tokens."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random

from fuzz import Target, cut
from fuzz_seeds import HEAD
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey

from edge import ranges, request, target
from edge.h2 import core, frames, hpack
from edge.h2 import request as h2_request
from edge.h2.sending import Stream
from edge.tokens import TokenGuard
from media.errors import ProtocolError

QUERY_KEYS = frozenset({"_HLS_msn", "_HLS_part", "_HLS_skip"})


def _http() -> Target:
    def run(data: bytes, _: Random) -> None:
        ranges.parse(data[:60].decode("latin-1"))
        if data.startswith(b"/"):
            target.parse(data[:200].decode("latin-1"), QUERY_KEYS)
        elif (end := request.find_end(data, 16_384)) > 0:
            request.parse(data[:end], QUERY_KEYS)

    words = [
        b"\r\n",
        b"\n",
        b"%2e%2E/",
        b"%00",
        b"?",
        b"&",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"9" * 5000,
    ]
    return Target("http", [HEAD, HEAD[4:52], b"/t/tok/live/a/../b?_HLS_msn=1"], run, (ProtocolError,), words)


class _Handler:
    """Takes requests as the edge does, and answers them."""

    def __init__(self) -> None:
        self.core = core.Core(self, 16_384)
        self.reader = h2_request.Reader(QUERY_KEYS, 4096, 16_384)

    def on_head(self, stream: int, block: bytes, *, ended: bool) -> None:
        try:
            self.reader.read(self.core.decoder, block)
        except frames.Broken:
            raise
        except ProtocolError:
            self.core.reset(stream, frames.Code.PROTOCOL_ERROR)
            return
        opened = self.core.open(stream, ended=ended)
        self.core.head(opened, hpack.encode(200, [(b"a", b"b")]), ended=False)
        self.core.data(opened, bytes(100))
        self.core.end(opened)

    def on_ended(self, stream: Stream) -> None: ...

    def on_body(self, stream: Stream) -> None: ...

    def on_reset(self, stream: Stream) -> None: ...


def _h2() -> Target:
    """The whole HTTP/2 core with requests and answers."""
    block = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")
    hello = frames.PREFACE + frames.settings({})
    some = b"".join(frames.headers(number, block, ended=True) for number in (1, 3, 5))
    more = (
        frames.frame(frames.Kind.PING, 0, 0, bytes(8))
        + frames.window_update(0, 1000)
        + frames.reset(3, frames.Code.CANCEL)
    )
    seeds = [
        hello + some,
        hello + more + some + more,
        hello + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 9}) + some,
    ]

    def run(data: bytes, dice: Random) -> None:
        handler = _Handler()
        for step, piece in enumerate(cut(data, dice)):
            handler.core.receive(piece, step / 10)
            handler.core.pump(10_000)
            handler.core.take()

    words = [frames.frame(kind, flag, stream) for kind in range(10) for flag in (0, 5) for stream in (0, 1)]
    return Target("h2", seeds, run, (ProtocolError,), words)


def _hpack() -> Target:
    fields = [(b"content-type", b"video/mp4"), (b"etag", b'"' + b"1" * 300 + b'"'), (b"x", b"y" * 9)]
    seeds = [bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"), hpack.encode(206, fields)]

    def run(data: bytes, dice: Random) -> None:
        decoder = hpack.Decoder()
        for piece in cut(data, dice):
            decoder.decode(piece, 16_384)

    return Target("hpack", seeds, run, (ProtocolError,), [b"\x3f\xe1\x1f", b"\x40\x01a\x01b", b"\xbe", b"\x7f\xff\xff"])


def _viewer_token() -> Target:
    key = OctKey.generate_key(256, {"kid": "a"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        path.write_text(json.dumps(KeySet([key]).as_dict(private=True)))
        guard = TokenGuard(path, required=True, wall=lambda: 1000.0)
    good = jwt.encode({"alg": "HS256", "kid": "a"}, {"sub": "*", "exp": 2000}, key)
    odd = jwt.encode({"alg": "HS256"}, {"sub": "*", "exp": float("inf"), "nbf": -1}, key)

    def run(data: bytes, _: Random) -> None:
        where = target.parse("/live/a/x", QUERY_KEYS)
        asked = request.build(
            "GET", target.Target(where.path, "", data.decode("latin-1")), request.fields({"host": "x"}, False), False
        )
        guard.refuse(asked)

    return Target("viewer_token", [good.encode(), odd.encode()], run, (), [b".", b"eyJ", b"="])


TARGETS = (
    _http,
    _h2,
    _hpack,
    _viewer_token,
)
