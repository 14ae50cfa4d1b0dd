"""Status codes and headers of RFC 9725, over ASGI without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from aiortc import RTCPeerConnection
from fastapi import FastAPI
from ports import free_port

from ingest.ports import EndReason, StopReason
from ingest.settings import IceServer, LimitSettings, WhipSettings
from ingest.whip import aiortc_hooks
from ingest.whip.endpoint import WhipEndpoint
from ingest.whip.router import whip_router
from ingest.whip.sdp import MAX_CANDIDATES
from ingest.whip.state import State
from media.errors import Overloaded, Refused

KEY = {"Authorization": "Bearer secret-key"}
SDP = KEY | {"Content-Type": "application/sdp"}
FRAG = KEY | {"Content-Type": "application/trickle-ice-sdpfrag"}
CANDIDATE = "a=candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host\r\n"


@pytest.fixture
def settings() -> WhipSettings:
    turn = IceServer(urls=("turn:turn.example.net",), username="u", credential="p")
    servers = (IceServer(urls=("stun:stun.example.net",)), turn)
    return WhipSettings(addresses=("127.0.0.1",), public_address="203.0.113.9", ice_servers=servers, max_sessions=2)


@pytest.fixture
async def endpoint(settings: WhipSettings, gate: Any) -> AsyncIterator[WhipEndpoint]:
    endpoint = WhipEndpoint(settings, gate, LimitSettings(max_publishers_per_address=8))
    await endpoint.start()
    yield endpoint
    await endpoint.stop()
    assert not endpoint.sessions


@pytest.fixture
async def http(endpoint: WhipEndpoint) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(whip_router(endpoint))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


@pytest.fixture
async def offer() -> AsyncIterator[str]:
    pc = RTCPeerConnection()
    pc.addTransceiver("audio", "sendonly")
    pc.addTransceiver("video", "sendonly")
    yield (await pc.createOffer()).sdp
    await pc.close()


async def test_a_session_from_post_to_delete(
    http: httpx2.AsyncClient, endpoint: WhipEndpoint, gate: Any, offer: str
) -> None:
    made = await http.post("/whip", content=offer, headers=SDP | {"User-Agent": "test/1"})
    assert made.status_code == 201
    assert made.headers["content-type"] == "application/sdp"
    assert made.headers["access-control-allow-origin"] == "*"
    assert {"Location", "ETag", "Link"} <= set(made.headers["access-control-expose-headers"].split(", "))
    assert made.headers["accept-post"] == "application/sdp"
    assert made.headers.get_list("link") == [
        '<stun:stun.example.net>; rel="ice-server"',
        '<turn:turn.example.net>; rel="ice-server"; username="u"; credential="p"; credential-type="password"',
    ]
    etag = made.headers["etag"]
    assert etag.startswith('"')
    answer = made.text
    assert answer.count("a=setup:passive") == answer.count("a=recvonly") == 2
    assert "203.0.113.9" in answer
    assert "127.0.0.1" not in answer
    assert "H264/90000" in answer
    assert "VP8" not in answer
    request = gate.requests[0]
    assert (request.protocol, request.key, request.agent) == ("whip", "secret-key", "test/1")

    url = made.headers["location"]
    assert len(url.rsplit("/", 1)[1]) >= 32
    assert (await http.get(url)).status_code == 204
    assert (await http.patch(url, content=CANDIDATE, headers=FRAG | {"If-Match": etag})).status_code == 204
    gone = await http.delete(url, headers=KEY | {"If-Match": '"whatever"'})
    assert (gone.status_code, gone.content) == (200, b"")
    assert gate.publications[0].closed == (EndReason.FINISHED, "")
    assert (await http.delete(url, headers=KEY)).status_code == 404
    assert not endpoint.sessions


async def test_patch_says_what_is_wrong(http: httpx2.AsyncClient, offer: str) -> None:
    made = await http.post("/whip", content=offer, headers=SDP)
    url, etag = made.headers["location"], made.headers["etag"]

    async def patch(body: str = CANDIDATE, **more: str) -> httpx2.Response:
        return await http.patch(url, content=body, headers=FRAG | {"If-Match": etag} | more)

    assert (await patch(**{"Content-Type": "application/sdp"})).status_code == 415
    assert (await http.patch(url, content=CANDIDATE, headers=FRAG)).status_code == 428
    assert (await patch(**{"If-Match": '"old"'})).status_code == 412
    assert (await patch("hello")).status_code == 400
    assert (await patch("a=candidate:1 1 tcp 1 192.0.2.1 9 typ host\r\na=candidate:nonsense\r\n")).status_code == 204
    wrong = await patch(Authorization="Bearer other")
    assert wrong.status_code == 401
    assert wrong.headers["www-authenticate"].startswith("Bearer")
    anonymous = await http.patch(url, content=CANDIDATE, headers={"Content-Type": FRAG["Content-Type"]})
    assert anonymous.status_code == 401
    foreign = "a=ice-ufrag:zzzz\r\na=ice-pwd:0123456789012345678901\r\n"
    assert (await patch(foreign)).status_code == 412
    early = await patch(foreign, **{"If-Match": '"*"'})
    assert early.status_code == 422, "no restart before the first connection"
    assert (await patch()).status_code == 204, "and the session lives on"
    assert (await http.delete(url, headers={"Authorization": "Bearer other"})).status_code == 401


@pytest.mark.parametrize(
    ("content", "headers", "code"),
    [
        ("v=0", KEY | {"Content-Type": "text/plain"}, 415),
        ("v=0", KEY, 415),
        ("hello", SDP, 400),
        ("v=0\n", SDP, 422),
        (b"\xff\xfe", SDP, 400),
        (b"v" * 70_000, SDP, 413),
        ("v=0", {"Content-Type": "application/sdp"}, 401),
        ("v=0", SDP | {"Authorization": "Basic c2VjcmV0"}, 401),
        ("v=0", SDP | {"Authorization": "Bearer " + "k" * 4000}, 401),
    ],
)
async def test_requests_that_are_refused(
    http: httpx2.AsyncClient, gate: Any, content: Any, headers: dict[str, str], code: int
) -> None:
    response = await http.post("/whip", content=content, headers=headers)
    assert response.status_code == code
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.json()["detail"].endswith((".", "}"))
    assert ("www-authenticate" in response.headers) == (code == 401)
    if code == 415:
        assert response.headers["accept-post"] == "application/sdp"
    assert gate.requests == [], "the gatekeeper is asked for sound requests only"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/whip", "POST"),
        ("PATCH", "/whip", "POST"),
        ("DELETE", "/whip", "POST"),
        ("POST", "/whip/any", "PATCH, DELETE"),
        ("PUT", "/whip/any", "PATCH, DELETE"),
    ],
)
async def test_other_methods(http: httpx2.AsyncClient, method: str, path: str, allowed: str) -> None:
    response = await http.request(method, path, headers=SDP)
    assert response.status_code == 405
    assert response.headers["allow"].startswith(allowed)
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.json()["slug"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("change", "code", "slug"),
    [
        # What no codec of ours fits, what sends nothing, and what is more than one of a kind: no answer can be made.
        (lambda sdp: sdp.replace("H264/90000", "AV2/90000").replace("VP8/90000", "VP7/90000"), 422, "no_codec"),
        (lambda sdp: sdp.replace("opus/48000/2", "G729/8000"), 422, "no_codec"),
        (lambda sdp: sdp.replace("a=sendonly", "a=recvonly"), 422, "unsupported_offer"),
        (lambda sdp: sdp.replace("a=sendonly", "a=inactive"), 422, "unsupported_offer"),
        (lambda sdp: sdp + sdp[sdp.index("m=audio") : sdp.index("m=video")], 422, "unsupported_offer"),
        (lambda sdp: sdp.replace("a=ice-ufrag:", "a=ice-x:"), 400, "malformed_sdp"),
        (lambda sdp: sdp.replace("a=fingerprint:", "a=x:"), 400, "malformed_sdp"),
    ],
    ids=["video codec", "audio codec", "recvonly", "inactive", "two voices", "no ufrag", "no fingerprint"],
)
async def test_offers_that_cannot_be_answered(
    http: httpx2.AsyncClient, gate: Any, offer: str, change: Any, code: int, slug: str
) -> None:
    changed = change(offer)
    assert changed != offer
    response = await http.post("/whip", content=changed, headers=SDP)
    assert (response.status_code, response.json()["slug"]) == (code, slug)
    assert gate.requests == []


async def test_a_key_that_is_missing_is_told_from_one_that_is_wrong(
    http: httpx2.AsyncClient, gate: Any, offer: str
) -> None:
    missing = await http.post("/whip", content=offer, headers={"Content-Type": "application/sdp"})
    assert missing.headers["www-authenticate"] == 'Bearer realm="whip"'
    gate.refusal = Refused("No.", slug="unknown_key")
    wrong = await http.post("/whip", content=offer, headers=SDP)
    assert wrong.headers["www-authenticate"] == 'Bearer realm="whip", error="invalid_token"'


async def test_two_goodbyes_at_once(http: httpx2.AsyncClient, endpoint: WhipEndpoint, gate: Any, offer: str) -> None:
    url = (await http.post("/whip", content=offer, headers=SDP)).headers["location"]
    codes = [answer.status_code for answer in await asyncio.gather(*(http.delete(url, headers=KEY) for _ in range(2)))]
    assert codes == [200, 200]
    for method in ("DELETE", "PATCH", "GET"):
        assert (await http.request(method, url, headers=FRAG)).status_code == 404
    assert gate.publications[0].closed == (EndReason.FINISHED, "")
    assert not endpoint.sessions


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("No.", slug="unknown_key"), 401),
        (Refused("No.", slug="token_expired"), 401),
        (Refused("No.", slug="stream_in_use"), 409),
        (Refused("No.", slug="address_limit"), 403),
        (Refused("No.", slug="throttled"), 429),
        (Overloaded("No room."), 503),
    ],
)
async def test_the_gatekeepers_no(
    http: httpx2.AsyncClient, endpoint: WhipEndpoint, gate: Any, offer: str, error: Any, code: int
) -> None:
    gate.refusal = error
    response = await http.post("/whip", content=offer, headers=SDP)
    assert response.status_code == code
    assert response.json()["slug"] == error.slug
    assert ("retry-after" in response.headers) == (code in (429, 503))
    assert not endpoint.sessions


async def test_room_drain_and_stop(http: httpx2.AsyncClient, endpoint: WhipEndpoint, gate: Any, offer: str) -> None:
    for _ in range(2):
        assert (await http.post("/whip", content=offer, headers=SDP)).status_code == 201
    full = await http.post("/whip", content=offer, headers=SDP)
    assert (full.status_code, full.json()["slug"]) == (503, "too_many_sessions")
    gate.publications[0].stop(StopReason.KICKED, "You were kicked.")
    await gate.publications[0].until(lambda: len(endpoint.sessions) == 1)
    assert gate.publications[0].closed == (EndReason.STOPPED, "You were kicked.")
    await endpoint.drain()
    late = await http.post("/whip", content=offer, headers=SDP)
    assert (late.status_code, late.json()["slug"]) == (503, "draining")
    assert gate.publications[1].closed is None, "those who are here stay"
    await endpoint.stop()
    assert gate.publications[1].closed[0] is EndReason.STOPPED


async def test_room_is_taken_while_a_session_is_made(
    http: httpx2.AsyncClient, endpoint: WhipEndpoint, gate: Any, offer: str
) -> None:
    answers = await asyncio.gather(*(http.post("/whip", content=offer, headers=SDP) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 503, 503, 503, 503]
    assert len(gate.publications) == 2


async def test_a_page_that_is_loaded_again_takes_over_at_the_limit_of_its_address(gate: Any, offer: str) -> None:
    """Only the gatekeeper knows that the session which is still open is the one that this one replaces."""
    endpoint = WhipEndpoint(WhipSettings(addresses=("127.0.0.1",)), gate, LimitSettings(max_publishers_per_address=1))
    await endpoint.start()
    app = FastAPI()
    app.include_router(whip_router(endpoint))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://server") as http:
        codes = [(await http.post("/whip", content=offer, headers=SDP)).status_code for _ in range(2)]
    assert codes == [201, 201]
    await endpoint.stop()


async def test_candidates_without_end_are_not_kept(
    http: httpx2.AsyncClient, endpoint: WhipEndpoint, offer: str
) -> None:
    made = await http.post("/whip", content=offer, headers=SDP)
    (session,) = endpoint.sessions.values()
    for number in range(5):
        lines = "".join(CANDIDATE.replace("50000", str(1000 * number + port)) for port in range(1, 61))
        answer = await http.patch(
            made.headers["location"], content=lines, headers=FRAG | {"If-Match": made.headers["etag"]}
        )
        assert answer.status_code == 204
    assert session._path is not None
    assert len(session._path._current.remote_candidates) == MAX_CANDIDATES


async def test_two_restarts_at_once_leave_no_socket_behind(
    http: httpx2.AsyncClient, endpoint: WhipEndpoint, offer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    really = aiortc_hooks._open

    async def open_and_note(*arguments: Any) -> Any:
        opened.append(await really(*arguments))
        return opened[-1]

    monkeypatch.setattr(aiortc_hooks, "_open", open_and_note)
    made = await http.post("/whip", content=offer, headers=SDP)
    (session,) = endpoint.sessions.values()
    session.state = State.LIVE  # as far as a restart looks
    bodies = [f"a=ice-ufrag:rest{number}\r\na=ice-pwd:0123456789012345678901\r\n" for number in range(2)]
    answers = await asyncio.gather(
        *(http.patch(made.headers["location"], content=body, headers=FRAG | {"If-Match": "*"}) for body in bodies)
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (await http.delete(made.headers["location"], headers=KEY)).status_code == 200
    assert len(opened) == 3
    assert all(protocol.transport.is_closing() for protocol in opened)


async def test_a_client_that_never_connects_is_let_go(gate: Any, offer: str) -> None:
    settings = WhipSettings(addresses=("127.0.0.1",), connect_timeout_s=0.2)
    endpoint = WhipEndpoint(settings, gate)
    await endpoint.start()
    app = FastAPI()
    app.include_router(whip_router(endpoint))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://server") as http:
        assert (await http.post("/whip", content=offer, headers=SDP)).status_code == 201
    await gate.publications[0].until(lambda: not endpoint.sessions)
    assert gate.publications[0].closed[0] is EndReason.LOST
    await endpoint.stop()


async def test_the_port_range_is_kept_and_its_end_is_no_crash(gate: Any, offer: str) -> None:
    low = free_port(2)
    settings = WhipSettings(addresses=("127.0.0.1",), port_min=low, port_max=low + 1)
    endpoint = WhipEndpoint(settings, gate)
    await endpoint.start()
    app = FastAPI()
    app.include_router(whip_router(endpoint))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://server") as http:
        first = await http.post("/whip", content=offer, headers=SDP)
        second = await http.post("/whip", content=offer, headers=SDP)
        third = await http.post("/whip", content=offer, headers=SDP)
    assert (first.status_code, second.status_code, third.status_code) == (201, 201, 503)
    ports = {line.split()[5] for line in (first.text + second.text).splitlines() if line.startswith("a=candidate")}
    assert ports == {str(low), str(low + 1)}
    assert third.json()["slug"] == "no_udp_port"
    assert gate.publications[2].closed is not None
    await endpoint.stop()


async def test_too_many_requests(gate: Any) -> None:
    endpoint = WhipEndpoint(WhipSettings(requests_per_minute=3), gate)
    await endpoint.start()
    app = FastAPI()
    app.include_router(whip_router(endpoint))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://server") as http:
        codes = [(await http.post("/whip", content="v=0", headers=SDP)).status_code for _ in range(4)]
        assert codes == [422, 422, 422, 429]
    await endpoint.stop()


async def test_looking_and_preflight(http: httpx2.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        looked = await http.request(method, "/whip")
        assert (looked.status_code, looked.content) == (204, b"")
    assert (await http.get("/whip/unknown")).status_code == 404
    for path in ("/whip", "/whip/any"):
        preflight = await http.options(path, headers={"Origin": "https://x", "Access-Control-Request-Method": "POST"})
        assert preflight.status_code == 200
        assert preflight.headers["accept-post"] == "application/sdp"
        allowed = set(preflight.headers["access-control-allow-headers"].split(", "))
        assert allowed == {"Authorization", "Content-Type", "If-Match"}
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert "link" not in preflight.headers


async def test_the_page(http: httpx2.AsyncClient) -> None:
    page = await http.get("/publish")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", ""), "nothing from elsewhere"
    for name, kind in (("publish.js", "text/javascript"), ("publish.css", "text/css")):
        asset = await http.get(f"/publish/{name}")
        assert asset.headers["content-type"].startswith(kind)
        again = await http.get(f"/publish/{name}", headers={"If-None-Match": asset.headers["etag"]})
        assert again.status_code == 304
    assert (await http.get("/publish/session.py")).status_code == 404
    assert (await http.get("/publish/publish")).status_code == 404
