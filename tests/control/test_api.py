"""The API over ASGI, with real services and a node that stands still."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter

from control import viewer_news
from control.api import make_app
from control.api_answers import (
    AddedKey,
    AddedStream,
    AuditAnswer,
    EventAnswer,
    KeyAnswer,
    OneStream,
    RemovedStream,
    RotatedKey,
    StoppedBroadcast,
    StreamAnswer,
    TokenAnswer,
)
from control.client import ROUTES, RUNNING
from control.operations import Operations
from control.secret_files import admin_token
from control.services import Services, open_services
from control.settings import Settings

BROADCAST = {
    "id": "b1",
    "stream": "main",
    "state": "live",
    "started": 1.0,
    "ended": None,
    "source": {"bitrate_bits": 6_000_000, "frame_rate": 30.0, "rtt_ms": 12.5, "bytes": 10},
    "transcode": {"speed_ratio": 1.5, "state": "running", "shed_level": 2, "worker_lag_s": 0.4, "overruns": 1},
    "dropped_packets": 3,
}


class StillNode:
    """Implements `control.ports.Node`."""

    def __init__(self) -> None:
        self.parts = {"rtmp": True}
        self.live: list[dict[str, Any]] = [dict(BROADCAST)]
        self.stopped: list[str] = []

    def ready(self) -> Mapping[str, bool]:
        return self.parts

    def broadcasts(self) -> Sequence[Mapping[str, Any]]:
        return self.live

    def broadcast(self, broadcast_id: str) -> Mapping[str, Any] | None:
        return next((b for b in self.live if b["id"] == broadcast_id), None)

    async def reload_edge(self) -> int:
        return 2

    async def purge_edge(self, playback_id: str) -> int:
        return len(playback_id)

    def announce(
        self, broadcast_id: str, message: bytes, *, scheme: str, value: str, duration_s: float | None
    ) -> Mapping[str, Any] | None:
        return {"id": "event-1", "start": "", "scheme": scheme}

    async def stop_broadcast(self, broadcast_id: str) -> bool:
        self.stopped.append(broadcast_id)
        return self.broadcast(broadcast_id) is not None

    def hardware(self) -> Mapping[str, Any] | None:
        return {"cpus": 2, "trials": []}

    def workers(self) -> Sequence[Mapping[str, Any]]:
        return [{"machine": "gpu-1", "state": "busy"}]

    def refusals(self) -> Mapping[str, Mapping[str, int]]:
        return {"publishers": {"node_full": 2}, "limits": {"bitrate": 1}, "callers": {"srt": 6}}

    def drops(self) -> Mapping[str, int]:
        return {"srt_bytes": 9, "dvr_jobs": 5}

    def origin(self) -> tuple[Mapping[int, int], int]:
        return {200: 7, 404: 1}, 4

    def stills(self) -> Mapping[str, int]:
        return {"made": 8, "failed": 1, "left_out": 3, "restarts": 2}

    async def metrics(self) -> str:
        return 'headrace_edge_requests_total{result="hit"} 5.0\n'


@pytest.fixture
def node() -> StillNode:
    return StillNode()


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with open_services(tmp_path) as opened:
        yield opened


@pytest.fixture
async def stranger(services: Services, node: StillNode) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(make_app(services, Settings(), node))
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


@pytest.fixture
async def admin(stranger: httpx2.AsyncClient, services: Services) -> httpx2.AsyncClient:
    stranger.headers["Authorization"] = f"Bearer {admin_token(services.data)}"
    return stranger


async def test_everything_but_health_needs_the_token(stranger: httpx2.AsyncClient, services: Services) -> None:
    app = make_app(services, Settings(), StillNode())
    paths = app.openapi()["paths"]
    free = {"/healthz", "/readyz"}
    assert len(paths) > 12
    for path, methods in paths.items():
        for method in methods:
            for header in ("", "Bearer wrong", "Bearer ", "Basic x", "Bearer \xe9"):
                headers = {"Authorization": header.encode("latin-1")} if header else {}
                answer = await stranger.request(method, path, headers=headers)
                assert answer.status_code == (200 if path in free else 401), (method, path, header)
                if path not in free:
                    assert answer.json()["slug"] == "admin_token_needed"
                    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_stream_from_birth_to_removal(admin: httpx2.AsyncClient, services: Services) -> None:
    made = await admin.post("/v1/streams", json={"name": "main"})
    assert made.status_code == 201
    answer = made.json()
    assert {"name", "playback_id", "key", "urls"} <= answer.keys()
    assert set(answer["urls"]) == {"rtmp", "rtmps", "srt", "whip", "watch", "hls", "dash"}
    key = answer["key"]
    assert answer["urls"]["rtmp"].endswith(f":1935/live/{key}")
    for public in ("watch", "hls", "dash", "whip"):
        assert key not in answer["urls"][public]

    again = await admin.post("/v1/streams", json={"name": "main"})
    assert (again.status_code, again.json()["slug"]) == (409, "stream_exists")
    changed = await admin.patch("/v1/streams/main", json={"settings": {"reconnect_window_s": 5}})
    assert changed.json()["settings"]["reconnect_window_s"] == 5
    more = (await admin.post("/v1/streams/main/keys", json={"expires_s": 60, "once": True})).json()
    rotated = (await admin.post("/v1/streams/main/keys/rotate", json={"grace_s": 5})).json()
    await admin.post(f"/v1/keys/{rotated['key_id']}/revoke")
    everything = ""
    for path in ("/v1/streams", "/v1/streams/main", "/v1/streams/main/keys", "/v1/audit", "/v1/audit?name=main"):
        got = await admin.get(path)
        assert got.status_code == 200
        everything += got.text
    for secret in (key, more["key"], rotated["key"]):
        assert secret not in everything
    states = {k["key_id"]: k["state"] for k in (await admin.get("/v1/streams/main/keys")).json()}
    assert states == {answer["key_id"]: "ending", more["key_id"]: "ending", rotated["key_id"]: "revoked"}
    assert (await admin.delete("/v1/streams/main")).json() == {"name": "main", "removed": True}
    assert (await admin.get("/v1/streams/main")).status_code == 404


async def test_tokens_are_made_by_signing_keys_only(admin: httpx2.AsyncClient, services: Services) -> None:
    made = (await admin.post("/v1/streams", json={"name": "main"})).json()
    signing = (await admin.post("/v1/streams/main/keys", json={"signing": True})).json()
    token = (await admin.post(f"/v1/keys/{signing['key_id']}/token")).json()["token"]
    grant = await services.keys.verify(token, protocol="whip", address="192.0.2.1")
    assert grant.stream_name == "main"
    refused = await admin.post(f"/v1/keys/{made['key_id']}/token")
    assert refused.json()["slug"] == "not_a_signing_key"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "slug"),
    [
        ("GET", "/v1/streams/none", None, 404, "unknown_stream"),
        ("POST", "/v1/streams", {"name": "a b"}, 422, "bad_name"),
        ("POST", "/v1/streams", {"name": "a", "settings": {"x": 1}}, 422, "bad_setting"),
        ("POST", "/v1/streams", {"nmae": "a"}, 422, "bad_request"),
        ("POST", "/v1/streams", None, 422, "bad_request"),
        ("POST", "/v1/keys/none/revoke", None, 404, "unknown_key_id"),
        ("GET", "/v1/broadcasts/none", None, 404, "unknown_broadcast"),
        ("POST", "/v1/broadcasts/none/stop", None, 404, "unknown_broadcast"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("PUT", "/v1/streams", None, 405, "method_not_allowed"),
    ],
)
async def test_errors_have_a_slug_and_a_text(
    admin: httpx2.AsyncClient, method: str, path: str, body: Any, status: int, slug: str
) -> None:
    answer = await admin.request(method, path, json=body)
    assert (answer.status_code, answer.json()["slug"]) == (status, slug)
    assert answer.json()["text"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/streams", rb'{"name": "b", "settings": {"ladder": ["\ud800"]}}'),
        ("POST", "/v1/streams", rb'{"name": "b", "settings": {"audio_tracks": ["\ud800"]}}'),
        ("POST", "/v1/streams", rb'{"name": "b", "settings": {"rotate_file": "\ud800", "rotate_every_s": 60}}'),
        ("POST", "/v1/streams", rb'{"name": "b", "settings": {"rotate_file": "a\u0000b", "rotate_every_s": 60}}'),
        ("POST", "/v1/streams", rb'{"name": "b", "settings": {"\ud800": 1}}'),
        ("POST", "/v1/streams", rb'{"name": "b", "settings": {"rotate_every_s": 1e300, "rotate_file": "x"}}'),
        ("POST", "/v1/streams", b'{"name":"b","settings":{"rotate_file":"x","rotate_every_s":' + b"9" * 200 + b"}}"),
        ("POST", "/v1/streams", rb'{"name": "b", "settings": {"ladder": 5}}'),
        ("POST", "/v1/streams", rb'{"name": "\ud800"}'),
        ("PATCH", "/v1/streams/a", rb'{"settings": {"audio_tracks": ["\udfff:x"]}}'),
        ("PATCH", "/v1/streams/a", rb'{"settings": {"reconnect_window_s": NaN}}'),
        ("PATCH", "/v1/streams/a", rb'{"settings": {"reconnect_window_s": 1e999}}'),
        ("PATCH", "/v1/streams/a", rb'{"settings": {"dvr_window_s": true, "ladder": {"a": null}}}'),
        ("POST", "/v1/streams/a/keys", rb'{"label": "\ud800"}'),
        ("POST", "/v1/streams/a/keys", rb'{"expires_s": NaN}'),
        ("POST", "/v1/streams/a/keys/rotate", rb'{"grace_s": -1e999}'),
        ("POST", "/v1/edge/purge", rb'{"playback_id": "\ud800"}'),
        ("POST", "/v1/viewers/revoke", rb'{"token": "\ud800"}'),
        ("POST", "/v1/viewers/revoke", rb'{"playback_id": "\ud800"}'),
        ("POST", "/v1/viewers/revoke", b'{"token": "a.' + b"W1tb" * 900 + b'.c"}'),
        ("POST", "/v1/broadcasts/b1/events", rb'{"message": "\ud800"}'),
        ("POST", "/v1/broadcasts/b1/events", rb'{"message": {"a": NaN}}'),
        ("POST", "/v1/broadcasts/b1/events", rb'{"message": "x", "duration_s": NaN}'),
        ("POST", "/v1/broadcasts/b1/events", b'{"message": ' + b"[" * 985 + b"]" * 985 + b"}"),
        ("POST", "/v1/broadcasts/b1/events", b'{"message": ' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}"),
    ],
)  # fmt: skip
async def test_odd_values_are_the_callers_fault_and_are_not_kept(
    admin: httpx2.AsyncClient, method: str, path: str, body: bytes
) -> None:
    await admin.post("/v1/streams", json={"name": "a"})
    answer = await admin.request(method, path, content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["text"]
    assert [stream["name"] for stream in (await admin.get("/v1/streams")).json()] == ["a"]


async def test_broadcasts(admin: httpx2.AsyncClient, node: StillNode) -> None:
    assert (await admin.get("/v1/broadcasts")).json() == [BROADCAST]
    assert (await admin.get("/v1/broadcasts/b1")).json() == BROADCAST
    assert (await admin.post("/v1/broadcasts/b1/stop")).json() == {"id": "b1", "stopped": True}
    assert node.stopped == ["b1"]
    assert (await admin.get("/v1/hardware")).json() == {
        "probed": True,
        "cpus": 2,
        "trials": [],
        "workers": [{"machine": "gpu-1", "state": "busy"}],
    }


async def test_events_end_with_the_broadcast(admin: httpx2.AsyncClient, node: StillNode) -> None:
    node.live[0]["ended"] = 2.0
    answer = await admin.get("/v1/broadcasts/b1/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    event, data = answer.text.strip().splitlines()
    assert event == "event: broadcast"
    assert json.loads(data.removeprefix("data: "))["ended"] == 2.0


async def test_readiness_follows_the_parts(admin: httpx2.AsyncClient, node: StillNode) -> None:
    assert (await admin.get("/readyz")).status_code == 200
    node.parts["edge"] = False
    answer = await admin.get("/readyz")
    assert (answer.status_code, answer.json()["parts"]) == (503, {"rtmp": True, "edge": False})
    assert (await admin.get("/healthz")).status_code == 200


async def test_metrics_have_our_names_and_those_of_the_edge(admin: httpx2.AsyncClient, services: Services) -> None:
    services.keys.srt_lookup("nothing", "192.0.2.1")
    text = (await admin.get("/metrics")).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["headrace_ingest_bitrate_bits", "b1", "main"] == 6_000_000
    assert samples["headrace_transcode_speed_ratio", "b1", "main"] == 1.5
    assert samples["headrace_transcode_shed_level", "b1", "main"] == 2
    assert samples["headrace_transcode_lag_seconds", "b1", "main"] == 0.4
    assert samples["headrace_transcode_overruns_total", "b1", "main"] == 1
    assert samples["headrace_control_dropped_packets_total", "b1", "main"] == 3
    assert samples["headrace_control_refused_keys_total", "unknown_key"] == 1
    assert samples["headrace_ingest_refused_callers_total", "srt"] == 6
    assert samples["headrace_ingest_srt_dropped_bytes_total",] == 9
    assert samples["headrace_packager_dvr_dropped_jobs_total",] == 5
    assert samples["headrace_transcode_stills_total", "left_out"] == 3
    assert samples["headrace_packager_origin_requests_total", "404"] == 1
    assert samples["headrace_packager_origin_waiting_requests",] == 4
    assert samples["headrace_control_broadcasts",] == 1
    assert samples["headrace_edge_requests_total", "hit"] == 5


async def test_the_dashboard_is_served_without_secrets(stranger: httpx2.AsyncClient, services: Services) -> None:
    answer = await stranger.get("/")
    assert answer.status_code == 200
    assert "Content-Security-Policy" in answer.headers
    assert admin_token(services.data) not in answer.text
    assert (await stranger.get("/docs")).status_code == 200


def test_every_operation_has_its_route(services: Services) -> None:
    """What the command line calls by name exists here and in the API."""
    app = make_app(services, Settings(), StillNode())
    paths = app.openapi()["paths"]
    for operation, (method, path) in ROUTES.items():
        assert method.lower() in paths[path]
        assert operation in RUNNING or callable(getattr(Operations, operation))


async def test_the_document_says_what_is_answered(admin: httpx2.AsyncClient) -> None:
    """FastAPI's own document has its own errors, and JSON for whatever makes its answer by itself."""
    document = (await admin.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            assert all(parameter["description"] for parameter in operation.get("parameters", [])), (method, path)
            assert "422" not in operation["responses"], (method, path)
            problem = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert problem == {"$ref": "#/components/schemas/Problem"}
    for path, kind in (("/metrics", "text/plain"), ("/v1/broadcasts/{broadcast_id}/events", "text/event-stream")):
        assert list(document["paths"][path]["get"]["responses"]["200"]["content"]) == [kind]
    wrong = await admin.post("/v1/streams", json={"name": 5})
    assert set(wrong.json()) == set(document["components"]["schemas"]["Problem"]["required"])


async def test_answers_are_what_their_models_say(admin: httpx2.AsyncClient) -> None:
    async def ask(model: Any, method: str, path: str, body: Any = None) -> Any:
        answer = (await admin.request(method, path, json=body)).json()
        found = TypeAdapter(model).validate_python(answer)
        assert found
        return answer

    encrypted = {"name": "main", "settings": {"srt_passphrase": "required", "ladder": ["none"]}}
    assert (await ask(AddedStream, "POST", "/v1/streams", encrypted))["srt_passphrase"]
    await ask(list[StreamAnswer], "GET", "/v1/streams")
    await ask(OneStream, "GET", "/v1/streams/main")
    await ask(StreamAnswer, "PATCH", "/v1/streams/main", {"settings": {"dvr_window_s": 60}})
    key = await ask(AddedKey, "POST", "/v1/streams/main/keys", {"expires_s": 60, "once": True, "label": "x"})
    await ask(RotatedKey, "POST", "/v1/streams/main/keys/rotate", {"grace_s": 5})
    await ask(KeyAnswer, "POST", f"/v1/keys/{key['key_id']}/revoke")
    signing = await ask(AddedKey, "POST", "/v1/streams/main/keys", {"signing": True})
    await ask(TokenAnswer, "POST", f"/v1/keys/{signing['key_id']}/token")
    states = {each["state"] for each in await ask(list[KeyAnswer], "GET", "/v1/streams/main/keys")}
    assert states >= {"live", "ending", "revoked"}
    await ask(list[AuditAnswer], "GET", "/v1/audit")
    await ask(EventAnswer, "POST", "/v1/broadcasts/b1/events", {"message": "x"})
    await ask(StoppedBroadcast, "POST", "/v1/broadcasts/b1/stop")
    await ask(RemovedStream, "DELETE", "/v1/streams/main")


async def test_the_edge_is_replaced_and_purged_and_tokens_withdrawn(
    admin: httpx2.AsyncClient, services: Services
) -> None:
    assert (await admin.post("/v1/edge/reload")).json() == {"workers": 2}
    assert (await admin.post("/v1/edge/purge", json={"playback_id": "abc"})).json() == {"objects": 3}
    assert (await admin.post("/v1/edge/purge", json={"playback_id": "../x"})).status_code == 422
    assert (await admin.post("/v1/viewers/revoke", json={"token": "some-id"})).json() == {"revoked": True}
    assert (await admin.post("/v1/viewers/revoke", json={"playback_id": "abc"})).status_code == 200
    for bad in ({}, {"token": "a", "playback_id": "b"}, {"token": "a.b.c"}):
        assert (await admin.post("/v1/viewers/revoke", json=bad)).status_code == 422
    found = viewer_news.read(services.data)
    assert (len(found.tokens), len(found.streams), len(found.purges)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/streams/main/keys", {"expires_s": 1e300}),
        ("/v1/streams/main/keys", {"label": "a\x00b"}),
        ("/v1/streams/main/keys/rotate", {"grace_s": 1e18}),
    ],
)
async def test_numbers_and_text_that_no_database_holds(admin: httpx2.AsyncClient, path: str, body: Any) -> None:
    await admin.post("/v1/streams", json={"name": "main"})
    for content in (json.dumps(body), json.dumps(body).replace("1e+300", "1e999").replace("1e+18", "Infinity")):
        answer = await admin.post(path, content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["slug"]) == (422, "bad_request")


async def test_the_token_comes_before_the_body(admin: httpx2.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 4096

    content = {"Content-Type": "application/json"}
    answer = await admin.post("/v1/streams", content=endless(), headers={**content, "Authorization": "Bearer no"})
    assert (answer.status_code, sent) == (401, 0)
    answer = await admin.post("/v1/streams", content=endless(), headers=content)
    assert (answer.status_code, answer.json()["slug"]) == (413, "body_too_long")
    assert sent < 100
    answer = await admin.post("/v1/streams", content=b"{", headers=content)
    assert answer.json()["text"].startswith("the body: ")


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/docs", "/metrics", "/v1/streams"])
async def test_head_is_get_without_the_body(admin: httpx2.AsyncClient, path: str) -> None:
    answer = await admin.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == (await admin.get(path)).headers["content-type"]


async def test_rotations_at_once_leave_one_live_key(admin: httpx2.AsyncClient) -> None:
    await admin.post("/v1/streams", json={"name": "main"})
    await asyncio.gather(*(admin.post("/v1/streams/main/keys/rotate") for _ in range(8)))
    states = [key["state"] for key in (await admin.get("/v1/streams/main/keys")).json()]
    assert states.count("live") == 1
