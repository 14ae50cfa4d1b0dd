"""What fuzzing feeds the check of stream keys and publish tokens."""

from __future__ import annotations

from random import Random

from fuzz import Target

from control import credentials
from control.snapshot import KeyRecord, Snapshot, StreamRecord
from control.stream_settings import StreamSettings
from ingest.whip import headers
from media.errors import HeadraceError


def _credentials() -> Target:
    """Stream keys and publish tokens."""
    secret, ident, plain = b"x" * 32, "k12345678901", credentials.new_key()
    signing = credentials.signing_key(secret, ident)
    stream = StreamRecord("s", "show", "show", StreamSettings(), 0)
    rows = [
        KeyRecord(name, "s", credentials.hash_key(text), name == ident, False, "", 0, None, None, False, None, None)
        for name, text in ((ident, signing), ("k2", plain))
    ]
    snapshot = Snapshot(0, {"s": stream}, {row.id: row for row in rows}, {row.hash: row for row in rows})
    token = credentials.make_token(ident, signing, expires_s=600_000)

    def run(data: bytes, _: Random) -> None:
        text = data.decode("utf-8", "surrogateescape")
        headers.bearer(text)
        headers.if_match(text, '"a"')
        headers.media_type(text)
        snapshot.check(text, secret=secret, now_ms=0)

    return Target("credentials", [token.encode(), plain.encode()], run, (HeadraceError,), [b"hrt_", b"."])


TARGETS = (_credentials,)
