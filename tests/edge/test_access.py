"""Viewer tokens and HTTPS."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from pathlib import Path

from edge_certificate import write_certificate
from edge_double import MakeEdge, ScriptedOrigin, Viewer, answer
from joserfc import jwt
from joserfc.jwk import OctKey

OLD = OctKey.generate_key(256, {"kid": "old"})
NEW = OctKey.generate_key(256, {"kid": "new"})


def write_keys(path: Path, *keys: OctKey) -> None:
    path.write_text(json.dumps({"keys": [key.as_dict(private=True) for key in keys]}))


def token(key: OctKey, subject: str = "a", seconds: float = 60, **claims: object) -> str:
    values = {"sub": subject, "exp": int(time.time() + seconds), **claims}
    return jwt.encode({"alg": "HS256", "kid": key.kid}, values, key)


async def test_tokens(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    write_keys(keys, OLD, NEW)
    edge = await make_edge(token_keys=keys, token_required=True)
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    good = token(OLD)

    async def status(target: str, **headers: str) -> int:
        return (await edge.get(target, **headers)).status

    assert await status("/live/a/p") == 401
    assert not origin.requests
    assert await status(f"/live/a/p?token={good}") == 200
    assert await status(f"/t/{good}/live/a/p") == 200
    assert await status("/live/a/p", authorization=f"Bearer {good}") == 200
    assert await status(f"/live/a/p?token={token(NEW, '*')}") == 200
    assert await status("/live/a/p") == 401, "what one viewer may see is not open to the next"
    assert await status(f"/live/a/p?token={token(OLD, 'b')}") == 403
    assert await status(f"/live/a/p?token={token(OLD, seconds=-60)}") == 403
    assert await status(f"/live/a/p?token={token(OLD, nbf=int(time.time() + 60))}") == 403
    assert await status(f"/live/a/p?token={token(OctKey.generate_key(256, {'kid': 'old'}))}") == 403
    assert await status("/live/a/p?token=garbage") == 403
    unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ."
    assert await status(f"/live/a/p?token={unsigned}") == 403
    assert origin.asked == {"/live/a/p": 1}
    assert await status(f"/t/{good}/watch/a") == 200
    write_keys(keys, NEW)
    os.utime(keys, ns=(1, 1))
    assert edge.worker.access is not None
    edge.worker.access.reload()
    assert await status(f"/live/a/p?token={good}") == 403, "its key was taken out"
    assert await status(f"/live/a/p?token={token(NEW)}") == 200


async def secure(port: int, name: str, chain: Path) -> Viewer:
    context = ssl.create_default_context(cafile=str(chain))
    return Viewer(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))


async def test_https_and_a_renewed_certificate(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    chain, private = write_certificate(tmp_path, "one.test")
    edge = await make_edge(certificate=chain, private_key=private)
    body = bytes(300_000)
    origin.answers["/live/a/p"] = answer(200, body, {"cache-control": "max-age=60"})
    first = await secure(edge.worker.tls_port, "one.test", chain)
    for _ in range(3):
        assert (await first.ask("/live/a/p")).body == body
    write_certificate(tmp_path, "two.test")
    async with asyncio.timeout(60):
        while True:
            try:
                second = await secure(edge.worker.tls_port, "two.test", chain)
                break
            except ssl.SSLError:
                await asyncio.sleep(0.1)
    assert (await second.ask("/live/a/p")).body == body
    assert (await first.ask("/live/a/p")).body == body, "open connections go on"
    bad = await secure(edge.worker.tls_port, "two.test", chain)
    bad.writer.write(b"junk\r\n")
    assert (await bad.reply()).status == 400
    for viewer in (first, second, bad):
        await viewer.close()
