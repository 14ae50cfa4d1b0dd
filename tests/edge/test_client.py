"""Who a viewer is behind proxies: X-Forwarded-For, Forwarded (RFC 7239), a CDN's header; only from trusted peers."""

from __future__ import annotations

import pytest
from edge_double import MakeEdge, ScriptedOrigin, answer
from hypothesis import given
from hypothesis import strategies as st

from edge.client import Clients, plain
from edge.viewers import Viewers

TRUSTED = ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "said", "viewer"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("fd00::1", "2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, rubbish, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
    ],
)
def test_forwarded_for(peer: str, said: str, viewer: str) -> None:
    assert Clients(TRUSTED, "x-forwarded-for").find(peer, {"x-forwarded-for": said}) == viewer


@pytest.mark.parametrize(
    ("said", "viewer"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ('For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("for=6.6.6.6, for=203.0.113.9;proto=http;by=203.0.113.43", "203.0.113.9"),
        ('for=203.0.113.9;host="a, for=6.6.6.6", for=10.0.0.2', "203.0.113.9"),
        ("proto=https ; for=203.0.113.9 , for=10.0.0.2", "203.0.113.9"),
        ("for=_hidden", "10.0.0.1"),
        ("for=unknown, for=10.0.0.2", "10.0.0.2"),
        ("for=203.0.113.9, proto=http", "10.0.0.1"),
        ('for=203.0.113.9, for="6.6.6.6', "10.0.0.1"),
        ("=", "10.0.0.1"),
    ],
)
def test_forwarded(said: str, viewer: str) -> None:
    assert Clients(TRUSTED, "forwarded").find("10.0.0.1", {"forwarded": said}) == viewer


def test_only_the_named_header_is_believed() -> None:
    headers = {"forwarded": "for=6.6.6.6", "x-forwarded-for": "6.6.6.6", "cf-connecting-ip": "203.0.113.9"}
    assert Clients(TRUSTED, "cf-connecting-ip").find("10.0.0.1", headers) == "203.0.113.9"
    assert Clients((), "x-forwarded-for").find("10.0.0.1", headers) == "10.0.0.1"


@given(st.text(alphabet='for="[]:;, \\a1.', max_size=40) | st.text(max_size=40), st.sampled_from(["forwarded", "x"]))
def test_anything_ends_in_an_address(said: str, header: str) -> None:
    found = Clients(TRUSTED, header).find("10.0.0.1", {header: said})
    assert plain(found) == found


async def test_viewers_are_counted_behind_a_proxy(make_edge: MakeEdge, origin: ScriptedOrigin) -> None:
    origin.answers["/live/a/p"] = answer(200, b"x", {"cache-control": "max-age=60"})
    edge = await make_edge(trusted_proxies=("127.0.0.1",), client_header="forwarded")
    proxy = await edge.connect()
    for number in range(20):
        await proxy.ask("/live/a/p", forwarded=f"for=203.0.113.{number % 5}")
    assert len(edge.worker.viewers.snapshot()["a"]) == 5


def test_each_viewer_counts_for_the_rendition_of_picture_that_it_asked_for_last() -> None:
    viewers = Viewers(30, b"k")
    for number in range(5):
        then = ("720p/seg-1.m4s",) if number < 3 else ()
        for path in ("index.m3u8", "360p/media.m3u8", *then, "audio/media.m3u8"):
            viewers.seen(f"/live/a/{path}", f"203.0.113.{number}", "player", 1.0 + number)
    assert viewers.watching() == {"a": {"720p": 3, "360p": 2}}
    viewers.sweep(32.5)  # the first two have left
    assert viewers.watching() == {"a": {"720p": 1, "360p": 2}}
    viewers.sweep(99)
    assert viewers.watching() == {}
