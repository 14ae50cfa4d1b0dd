"""Two encoders and one stream, and keys that end while they are in use: who is on air, who goes, and what is said."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from live_server import Server, ended, wait_for
from small_source import small

pytestmark = pytest.mark.e2e


def broadcast(server: Server, name: str) -> dict[str, object]:
    """The newest broadcast of a stream."""
    return next((b for b in server.admin("/v1/broadcasts") if b["stream"] == name), {"state": ""})


def wait_state(server: Server, name: str, state: str, seconds: float = 10) -> dict[str, object]:
    wait_for(lambda: broadcast(server, name)["state"] == state, seconds, f"{name} is {state}")
    return broadcast(server, name)


def goes_on(server: Server, name: str) -> None:
    """The stream's playlist grows."""
    path = f"/live/{name}/source/media.m3u8"
    before = server.playlist(path)
    assert before
    wait_for(lambda: server.playlist(path) not in ("", before), 6, "the playlist grows")


def said(server: Server, process: subprocess.Popen[bytes], log: str, seconds: float = 60) -> str:
    """What a publisher wrote until it ended."""
    assert process.wait(seconds) != 0
    return (server.data / log).read_text()


def test_takeover_while_the_first_connection_is_half_open(shared_server: Server) -> None:
    server, name = shared_server, "half"
    url = server.add(name)["urls"]["rtmp"]
    with ended(server.push(url, *small())) as first:
        wait_state(server, name, "live")
        server.wait_on_air(name)
        os.kill(first.pid, signal.SIGSTOP)  # the connection stands, and nothing comes any more
        with ended(server.push(url, *small())):
            wait_for(lambda: broadcast(server, name)["sessions"] == 2, 5, "the second encoder is let in")
            found = wait_state(server, name, "live", 5)
            assert "another encoder took over" in server.text(), "not only once the first was given up as idle"
            goes_on(server, name)
            os.kill(first.pid, signal.SIGCONT)
            assert first.wait(60) != 0
            assert broadcast(server, name)["id"] == found["id"]
            goes_on(server, name)


def test_reject_policy_refuses_the_second_with_words(shared_server: Server) -> None:
    server, name = shared_server, "reject"
    url = server.add(name, on_second_publisher="reject")["urls"]["rtmp"]
    with ended(server.push(url, *small())) as first:
        wait_state(server, name, "live")
        server.wait_on_air(name)
        with ended(server.push(url, *small(), log="second.log")) as second:
            assert "on air already" in said(server, second, "second.log")
        assert first.poll() is None
        goes_on(server, name)
        assert broadcast(server, name)["sessions"] == 1


def test_rotated_key_ends_after_its_grace_and_the_stream_waits_for_the_new_one(shared_server: Server) -> None:
    server, name = shared_server, "rotate"
    url = server.add(name, reconnect_window_s=600)["urls"]["rtmp"]
    with ended(server.push(url, *small(), log="old.log")) as old:
        found = wait_state(server, name, "live")
        server.wait_on_air(name)
        began = time.monotonic()
        made = server.cli("key", "rotate", name, "--grace", "3s")
        text = said(server, old, "old.log")
        assert time.monotonic() - began > 2.5
        assert "was replaced and is no longer valid" in server.text()
        assert text
        wait_state(server, name, "interrupted")
        assert server.status(f"{server.edge}/live/{name}/index.m3u8") == 200
        with ended(server.push(url, *small(), log="refused.log")) as refused:
            assert "not accepted" in said(server, refused, "refused.log")
        with ended(server.push(made["urls"]["rtmp"], *small())):
            assert wait_state(server, name, "live")["id"] == found["id"]
            goes_on(server, name)


def test_a_key_in_the_wrong_place_or_none_is_told_in_one_line(shared_server: Server) -> None:
    server = shared_server
    made = server.add("misplaced")
    base = made["urls"]["rtmp"].rpartition("/live/")[0]
    for url, words, slug in (
        (f"{base}/{made['key']}", "stands where the application belongs", "key_as_application"),
        (f"{base}/live", "No stream key came", "no_key"),
        (f"{base}/live/{made['key'][:-1]}", "not accepted", "unknown_key"),
    ):
        before = server.text()
        with ended(server.push(url, *small(), log=f"{slug}.log")) as publisher:
            assert words in said(server, publisher, f"{slug}.log")
        lines = [line for line in server.text()[len(before) :].splitlines() if slug in line]
        assert len(lines) == 1, lines
        assert made["key"] not in server.text()


def test_revoked_key_ends_at_once(shared_server: Server) -> None:
    server, name = shared_server, "revoke"
    made = server.add(name, reconnect_window_s=600)
    with ended(server.push(made["urls"]["rtmp"], *small(), log="revoked.log")) as publisher:
        wait_state(server, name, "live")
        key_id = server.cli("key", "list", name)[0]["key_id"]
        server.cli("key", "revoke", key_id)
        assert publisher.wait(60) != 0
        wait_state(server, name, "interrupted")


def test_stream_removed_while_live_ends_for_everyone(shared_server: Server) -> None:
    server, name = shared_server, "removed"
    made = server.add(name)
    with ended(server.push(made["urls"]["rtmp"], *small(), log="removed.log")) as publisher:
        wait_state(server, name, "live")
        server.wait_on_air(name)
        server.cli("stream", "remove", name)
        assert publisher.wait(60) != 0
        wait_state(server, name, "ended")
        assert "this stream was removed" in server.text()
        assert broadcast(server, name)["end_reason"] == "stream_removed"
        path = f"/live/{name}/source/media.m3u8"
        wait_for(lambda: "#EXT-X-ENDLIST" in server.playlist(path), 5, "the playlist is closed")
