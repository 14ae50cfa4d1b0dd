"""Rules by address, country and site; bound and revoked tokens; keys that end. What is refused says so to players."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import time
from pathlib import Path

import pytest
from edge_double import Edge, MakeEdge, ScriptedOrigin, answer
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from edge.revocation import LIMIT, Revocations, fingerprint
from edge.rules import Ranges, countries
from edge.settings import EdgeSettings
from edge.worker import Orders, Worker

KEY = OctKey.generate_key(256, {"kid": "k"})
VIA = {"trusted_proxies": ("127.0.0.0/8",)}


def token(**claims: object) -> str:
    return jwt.encode({"alg": "HS256", "kid": "k"}, {"sub": "a", "exp": int(time.time()) + 60, **claims}, KEY)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def keys(path: Path, **more: object) -> Path:
    return write(path, json.dumps({"keys": [{**KEY.as_dict(private=True), **more}]}))


async def ask(edge: Edge, target: str = "/live/a/p", **headers: str) -> tuple[int, str]:
    reply = await edge.get(target, **headers)
    assert reply.headers["access-control-allow-origin"] == "*", "so that a player can read why"
    assert reply.status < 400 or reply.headers["cache-control"] == "no-store"
    return reply.status, reply.body.decode().split("\n")[0].partition(" ")[2] if reply.status >= 400 else ""


async def test_tokens_bound_to_an_address(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    edge = await make_edge(token_keys=keys(tmp_path / "k"), token_required=True, token_ipv4_bits=24, **VIA)

    async def status(bound: object, viewer: str) -> tuple[int, str]:
        return await ask(edge, f"/t/{token(ip=bound)}/live/a/p", x_forwarded_for=viewer)

    elsewhere = (403, "token_for_another_address")
    assert await status("203.0.113.9", "203.0.113.9") == (200, "")
    assert await status("203.0.113.9", "203.0.113.77") == (200, ""), "the same /24, as the setting says"
    assert await status("203.0.113.9", "203.0.112.9") == elsewhere
    assert await status("203.0.113.9/32", "203.0.113.77") == elsewhere, "a network of its own is taken at its word"
    assert await status("2001:db8::1", "2001:db8::ffff") == (200, "")
    assert await status("2001:db8::1", "2001:db8:0:1::1") == elsewhere
    assert await status(["198.51.100.0/24", "2001:db8::/32"], "2001:db8:9::1") == (200, "")
    for broken in ([], "here", 7, ["203.0.113.9", None]):
        assert await status(broken, "203.0.113.9") == (403, "token_bad")
    assert origin.asked["/live/a/p"] == 1


async def test_revoked_tokens(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    origin.default = answer(200, b"x", {"cache-control": "max-age=60"})
    edge = await make_edge(token_keys=keys(tmp_path / "k"), token_required=True)
    now = int(time.time())
    one, other, old = token(jti="one", iat=now), token(jti="other", iat=now), token(sub="*", iat=now - 100)
    assert edge.worker.access is not None
    edge.worker.access.revoke(Revocations(frozenset({fingerprint("one")}), {fingerprint("a"): now - 50.0}))
    assert await ask(edge, f"/live/a/p?token={one}") == (403, "token_revoked")
    assert await ask(edge, f"/live/a/p?token={other}") == (200, "")
    assert await ask(edge, f"/live/a/p?token={old}") == (403, "token_revoked")
    assert await ask(edge, f"/live/b/p?token={old}") == (200, ""), "its other streams are not meant"
    assert await ask(edge, f"/live/a/p?token={token()}") == (403, "token_revoked"), "it does not say how old it is"
    edge.worker.access.revoke(Revocations())
    assert await ask(edge, f"/live/a/p?token={one}") == (200, "")


async def test_a_key_ends_by_itself(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    origin.default = answer(200, b"x")
    path = keys(tmp_path / "k", exp=int(time.time()) + 100)
    edge = await make_edge(token_keys=path, token_required=True)
    assert await ask(edge, f"/live/a/p?token={token()}") == (200, "")
    assert edge.worker.access is not None
    guard = edge.worker.access.tokens
    assert guard is not None
    guard._wall = lambda: time.time() + 101
    late = token(exp=int(time.time()) + 1000)
    assert await ask(edge, f"/live/a/p?token={late}") == (403, "token_bad")


async def test_a_key_ends_although_its_file_has_gone(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    origin.default = answer(200, b"x")
    path = keys(tmp_path / "k", exp=int(time.time()) + 100)
    edge = await make_edge(token_keys=path, token_required=True)
    late = token(exp=int(time.time()) + 1000)
    assert await ask(edge, f"/live/a/p?token={late}") == (200, "")
    path.unlink()
    assert edge.worker.access is not None
    guard = edge.worker.access.tokens
    assert guard is not None
    assert not guard.reload()
    assert await ask(edge, f"/live/a/p?token={late}") == (200, "")
    guard._wall = lambda: time.time() + 101
    assert await ask(edge, f"/live/a/p?token={late}") == (403, "token_bad")


async def test_a_time_that_cannot_be_is_no_token(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    edge = await make_edge(token_keys=keys(tmp_path / "k"), token_required=True)
    assert await ask(edge, f"/live/a/p?token={token(exp=10**400)}") == (403, "token_bad")


async def test_a_long_list_of_revocations_reaches_a_worker(origin: ScriptedOrigin, tmp_path: Path) -> None:
    names = ("host", "port", "token_keys", "drain_s")
    settings = EdgeSettings.model_validate(dict(zip(names, ("127.0.0.1", 0, keys(tmp_path / "k"), 0), strict=True)))
    worker = Worker(Orders(settings, (origin.url,), 0, 0, str(tmp_path / "control"), "00" * 16))
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    half = LIMIT // 2
    listed = Revocations(
        frozenset(fingerprint(str(n)) for n in range(half)),
        {fingerprint(str(n)): 1_700_000_000.123456 for n in range(half)},
    )
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
    writer.write(json.dumps({"do": "revoke", "list": listed.to_json()}).encode() + b"\n")
    assert json.loads(await reader.readline()) == {"revoked": True}
    assert worker.access is not None
    assert worker.access.tokens is not None
    assert worker.access.tokens.revoked == listed
    writer.close()
    worker.stop()
    await running


RULES = """
[all]
deny_addresses = ["198.51.100.0/24", "file:more.txt"]
[streams.a]
allow_countries = ["de", "AT"]
[streams.office]
allow_addresses = ["192.0.2.0/24", "2001:db8::/32"]
[streams.sites]
sites = ["example.org", "*.friends.test"]
[streams.strict]
sites = ["example.org"]
sites_only = true
"""


async def with_rules(make_edge: MakeEdge, origin: ScriptedOrigin, folder: Path, **values: object) -> Edge:
    origin.default = answer(200, b"x", {"cache-control": "max-age=60"})
    write(folder / "more.txt", "# bad\n203.0.113.66\n\n2001:db8:bad::/48 # worse\n")
    return await make_edge(access_rules=write(folder / "rules.toml", RULES), **VIA, **values)


async def test_addresses(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    edge = await with_rules(make_edge, origin, tmp_path)
    denied, others = (403, "address_denied"), (403, "address_not_allowed")
    assert await ask(edge, "/live/x/p", x_forwarded_for="203.0.113.65") == (200, "")
    assert await ask(edge, "/live/x/p", x_forwarded_for="203.0.113.66") == denied
    assert await ask(edge, "/live/x/p", x_forwarded_for="::ffff:198.51.100.1") == denied
    assert await ask(edge, "/live/office/p", x_forwarded_for="2001:db8:bad::1") == denied
    assert await ask(edge, "/live/office/p", x_forwarded_for="2001:db8:1::1") == (200, "")
    assert await ask(edge, "/live/office/p", x_forwarded_for="203.0.113.65") == others
    assert (await edge.get("/watch/office", x_forwarded_for="203.0.113.65")).status == 200, "the page says why"
    preflight = await edge.connect()
    preflight.send("/live/office/p", "OPTIONS", origin="https://example.org")
    assert (await preflight.reply()).status == 204


async def test_countries(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    geo = write(tmp_path / "geo.csv", '203.0.113.0/24,DE,Berlin\n"203.0.113.128/25","FR"\n2001:db8::/32,at\n')
    edge = await with_rules(make_edge, origin, tmp_path, country_addresses=geo)
    refused = (403, "country_not_allowed")
    assert await ask(edge, x_forwarded_for="192.0.2.1", cf_ipcountry="DE") == (200, "")
    assert await ask(edge, x_forwarded_for="203.0.113.1", cf_ipcountry="US") == refused, "the CDN knows better"
    assert await ask(edge, x_forwarded_for="203.0.113.1") == (200, "")
    assert await ask(edge, x_forwarded_for="203.0.113.200") == refused
    assert await ask(edge, x_forwarded_for="2001:db8::1") == (200, "")
    assert await ask(edge, x_forwarded_for="192.0.2.1") == refused, "nobody knows where that is"
    open_edge = await make_edge(access_rules=tmp_path / "rules.toml")
    assert await ask(open_edge, cf_ipcountry="DE") == refused, "a viewer's own word"


@pytest.mark.parametrize(
    ("headers", "loose", "strict"),
    [
        ({}, True, False),
        ({"referer": "https://example.org/page"}, True, True),
        ({"origin": "https://live.friends.test:8443"}, True, False),
        ({"origin": "https://friends.test"}, False, False),
        ({"origin": "https://example.org.evil.test"}, False, False),
        ({"referer": "https://evil.test/?https://example.org/"}, False, False),
        ({"origin": "null"}, False, False),
        ({"sec_fetch_site": "cross-site"}, False, False),
        ({"sec_fetch_site": "same-origin"}, True, True),
        ({"referer": "http://edge.test/watch/a"}, True, True),
        ({"referer": "http://[broken"}, False, False),
    ],
)
async def test_sites(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path, headers: dict[str, str], loose: bool, strict: bool
) -> None:
    edge = await with_rules(make_edge, origin, tmp_path)
    for stream, good in (("sites", loose), ("strict", strict)):
        assert await ask(edge, f"/live/{stream}/p", **headers) == ((200, "") if good else (403, "site_not_allowed"))


async def test_the_page_in_a_frame_of_another_site(make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path) -> None:
    edge = await with_rules(make_edge, origin, tmp_path)
    evil = {"referer": "https://evil.test/", "sec_fetch_site": "cross-site"}
    assert (await edge.get("/watch/sites", sec_fetch_dest="iframe", **evil)).status == 403
    assert (await edge.get("/watch/sites", sec_fetch_dest="document", **evil)).status == 200, "a link is no frame"
    assert (await edge.get("/watch/sites", sec_fetch_dest="iframe", referer="https://example.org/")).status == 200


async def test_rules_are_read_again_and_broken_ones_change_nothing(
    make_edge: MakeEdge, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    edge = await with_rules(make_edge, origin, tmp_path)
    assert edge.worker.access is not None

    async def now_is(text: str, moment: int) -> tuple[int, str]:
        os.utime(write(tmp_path / "rules.toml", text), ns=(moment, moment))
        assert edge.worker.access is not None
        edge.worker.access.reload()
        return await ask(edge, "/live/x/p")

    assert await now_is("[all]\ndeny_addresses = ['127.0.0.1']", 1) == (403, "address_denied")
    assert await now_is("[all]\nsitez = []", 2) == (403, "address_denied")
    assert await now_is("[all]\ndeny_addresses = ['file:none']", 3) == (403, "address_denied")
    assert await now_is("", 4) == (200, "")
    assert await now_is("[all]\ndeny_addresses = ['127.0.0.1', 'file:more.txt']", 5) == (403, "address_denied")
    (tmp_path / "more.txt").unlink()
    assert await now_is("", 6) == (200, ""), "a file that is named no more may go"
    closed = await make_edge(access_rules=tmp_path / "none.toml")
    assert await ask(closed, "/live/x/p") == (503, "access_rules_unreadable"), "no rules are not no rules"


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=12), st.integers(0, 255))
def test_ranges_find_the_narrowest(nets: list[tuple[int, int]], last: int) -> None:
    named = [(f"192.0.2.{at}/{bits}", f"{at >> (32 - bits)}/{bits}") for at, bits in nets]
    address = ipaddress.ip_address(f"192.0.2.{last}")
    around = [(ipaddress.ip_network(net, strict=False), name) for net, name in named]
    inside = [(net.prefixlen, name) for net, name in around if address in net]
    found = Ranges(named).find(address)
    assert found == (max(inside)[1] if inside else "")
    assert Ranges(named).find(ipaddress.ip_address("::1")) == ""


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        countries(write(tmp_path / "geo", "nowhere,DE\n"))
    for value in (None, [], {"tokens": {}}, {"tokens": [1]}, {"streams": {"a": "x"}}, {"tokens": ["x"] * (LIMIT + 1)}):
        with pytest.raises(ValueError):
            Revocations.from_json(value)
    same = Revocations(frozenset({"a"}), {"b": 1.0})
    assert Revocations.from_json(json.loads(json.dumps(same.to_json()))) == same
