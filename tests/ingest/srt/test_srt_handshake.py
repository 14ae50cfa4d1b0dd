"""What real callers see when they are refused, and that it happens during the handshake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ingest.ports import EndReason, SrtAdmission
from ingest.srt.handshake import answer
from ingest.srt.reject import Reject
from ingest.srt.server import SrtServer

Run = Callable[..., Awaitable[Any]]

BAD_SECRET, UNSECURE = 10, 11
"""libsrt's own reasons; 1010 and 1011 on the wire."""


def publish(ffmpeg: str, port: int, query: str, seconds: float = 0.5) -> list[str]:
    """The command line of a small publisher."""
    return [
        *(ffmpeg, "-hide_banner", "-loglevel", "info", "-re", "-f", "lavfi", "-i", "testsrc=size=160x90:rate=10"),
        *("-t", str(seconds), "-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-f", "mpegts"),
        f"srt://127.0.0.1:{port}?{query}",
    ]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"open", 0),
        (b"live/open", 0),
        (b"nobody", Reject.UNAUTHORIZED),
        (b"", Reject.BAD_REQUEST),
        (b"#!::m=publish", Reject.BAD_REQUEST),
        (b"\xff", Reject.BAD_REQUEST),
        (b"#!::r=open,m=request", Reject.BAD_MODE),
        (b"#!::r=open,m=bidirectional", Reject.BAD_MODE),
        (b"#!::r=open,m=publish,t=file", Reject.NOT_SUPPORTED_MEDIA),
        (b"#!::r=open", 0),
    ],
)
def test_answer(gatekeeper: Any, raw: bytes, code: int) -> None:
    assert answer(gatekeeper, raw, "192.0.2.1").reject == code


def test_answer_carries_the_passphrase(gatekeeper: Any) -> None:
    assert answer(gatekeeper, b"locked", "192.0.2.1") == SrtAdmission(passphrase="correct horse")
    assert gatekeeper.asked == [("locked", "192.0.2.1")]


@pytest.mark.parametrize("query", ["streamid=publish/open", "streamid=#!::r=live/open,m=publish,u=me"])
async def test_plain_callers_are_admitted(
    server: SrtServer, gatekeeper: Any, run: Run, any_ffmpeg: str, query: str
) -> None:
    caller = await run(*publish(any_ffmpeg, server.port, query))
    publication = await gatekeeper.publication("open")
    assert (await publication.ended)[0] is EndReason.FINISHED
    status, said = await caller.end()
    assert status == 0, said
    assert publication.request.protocol == "srt"
    assert publication.request.address == "127.0.0.1"
    assert publication.request.agent.startswith("libsrt 1.")


@pytest.mark.parametrize("length", [16, 24, 32])
async def test_encrypted_callers_are_admitted(
    server: SrtServer, gatekeeper: Any, run: Run, any_ffmpeg: str, length: int
) -> None:
    query = f"streamid=locked&passphrase=correct horse&pbkeylen={length}"
    caller = await run(*publish(any_ffmpeg, server.port, query))
    publication = await gatekeeper.publication("locked")
    assert (await publication.ended)[0] is EndReason.FINISHED
    status, said = await caller.end()
    assert status == 0, said
    assert publication.items


@pytest.mark.parametrize(
    ("streamid", "passphrase", "code"),
    [
        ("open", "", 0),
        ("locked", "correct horse", 0),
        ("nobody", "", Reject.UNAUTHORIZED),
        ("#!::r=nobody,m=publish", "", Reject.UNAUTHORIZED),
        ("#!::r=open,m=request", "", Reject.BAD_MODE),
        ("#!::r=open,m=publish,t=file", "", Reject.NOT_SUPPORTED_MEDIA),
        ("", "", Reject.BAD_REQUEST),
        ("locked", "wrong passphrase", BAD_SECRET),
        ("locked", "", UNSECURE),
        ("open", "correct horse", UNSECURE),
    ],
)
async def test_refused_callers_learn_why(
    server: SrtServer, gatekeeper: Any, peer: Any, streamid: str, passphrase: str, code: int
) -> None:
    assert (await peer.dial(server.port, streamid, passphrase))[0] == code
    if code:
        assert not gatekeeper.publications


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("streamid=nobody", "Application-defined rejection reason"),
        ("streamid=locked&passphrase=wrong passphrase", "Incorrect passphrase"),
        ("streamid=locked", "Password required or unexpected"),
    ],
)
async def test_what_ffmpeg_says_when_refused(
    server: SrtServer, run: Run, any_ffmpeg: str, query: str, words: str
) -> None:
    status, said = await (await run(*publish(any_ffmpeg, server.port, query))).end()
    assert status != 0
    assert words in said


async def test_a_bug_in_the_gatekeeper_refuses_and_does_no_harm(server: SrtServer, gatekeeper: Any, peer: Any) -> None:
    gatekeeper.broken = True
    assert (await peer.dial(server.port, "open"))[0] != 0
    gatekeeper.broken = False
    assert (await peer.dial(server.port, "open"))[0] == 0


async def test_refused_after_the_handshake(server: SrtServer, gatekeeper: Any, run: Run, ffmpeg: str) -> None:
    gatekeeper.refuse = True
    status, said = await (await run(*publish(ffmpeg, server.port, "streamid=open", seconds=20))).end(15)
    assert status != 0, said
    assert server.connections == 0


async def test_draining_turns_new_callers_away(server: SrtServer, peer: Any) -> None:
    assert (await peer.dial(server.port, "open"))[0] == 0
    await server.drain()
    assert (await peer.dial(server.port, "open"))[0] == Reject.DOWN
