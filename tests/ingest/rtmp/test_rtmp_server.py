"""The listener on a real socket: refusals that arrive, ends of every kind, strangers, and nothing left behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest
from recorder import Recorder
from rtmp_double import GOOD_KEY, Gatekeeper, Script
from structlog.testing import capture_logs

from ingest.ports import EndReason, StopReason
from ingest.rtmp.messages import Kind, Message
from ingest.rtmp.server import RtmpServer
from ingest.settings import LimitSettings, RtmpSettings
from media.errors import HeadraceError

ASC = Message(Kind.AUDIO, 0, 1, bytes.fromhex("af001210"), 4)


def frame(index: int) -> Message:
    return Message(Kind.AUDIO, index * 1024_000 // 44_100, 1, b"\xaf\x01frame", 4)


class Client:
    """A scripted encoder on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.script = Script()
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: RtmpServer) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, code: str) -> None:
        """Read until a status of this code came. Fails at the end of the connection."""
        while code not in [status[0] for status in self.script.statuses()]:
            data = await self._reader.read(65_536)
            assert data, f"closed before {code}"
            self.script.read(data)

    async def rest(self) -> None:
        """Read to the end of the connection; a reset fails."""
        while data := await self._reader.read(65_536):
            self.script.read(data)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def publish(server: RtmpServer, gatekeeper: Gatekeeper, **connect: float) -> tuple[Client, Recorder]:
    client = await Client.open(server)
    await client.send(client.script.start(**connect) + client.script.message(ASC))
    recorder = await gatekeeper.admitted.get()
    await client.until("NetStream.Publish.Start")
    return client, recorder


async def gone(server: RtmpServer) -> None:
    """Wait until the listener has forgotten every connection."""
    while server.connections:  # noqa: ASYNC110 (the listener has no event for it, and needs none)
        await asyncio.sleep(0.005)


async def test_media_reaches_the_publication_and_goodbye_is_finished(
    server: RtmpServer, gatekeeper: Gatekeeper
) -> None:
    client, recorder = await publish(server, gatekeeper)
    for index in range(20):
        await client.send(client.script.message(frame(index)))
    await client.send(client.script.command("deleteStream", 7.0, None, 1.0))
    assert await recorder.ended == (EndReason.FINISHED, "")
    assert [packet.dts for packet in recorder.packets(100)] == [index * 1024 for index in range(20)]
    request = recorder.request
    assert (request.protocol, request.address, request.agent) == ("rtmp", "127.0.0.1", "test/1")
    await client.close()
    await gone(server)


async def test_a_wrong_key_is_told_although_the_client_keeps_sending(
    server: RtmpServer, gatekeeper: Gatekeeper
) -> None:
    client = await Client.open(server)
    with capture_logs() as logs:
        await client.send(client.script.start("secret-wrong-key") + bytes(500_000))
        await client.rest()
    assert client.script.statuses() == [
        ("NetStream.Publish.BadName", "error", "No stream has this key: copy it again.")
    ]
    assert gatekeeper.admitted.empty()
    assert "publish_refused" not in [line["event"] for line in logs], "the gatekeeper tells it, once"
    assert "secret-wrong-key" not in str(logs)
    await client.close()
    await gone(server)


async def test_nothing_is_read_while_the_gatekeeper_thinks(server: RtmpServer, gatekeeper: Gatekeeper) -> None:
    gatekeeper.open.clear()
    client = await Client.open(server)
    await client.send(client.script.start() + client.script.message(ASC) + client.script.message(frame(0)))
    await gatekeeper.asked.wait()
    flood = client.script.message(Message(Kind.VIDEO, 0, 1, b"\x57" * 4_000_000, 6)) * 8
    sending = asyncio.create_task(client.send(flood))
    done, _ = await asyncio.wait([sending], timeout=0.2)
    assert not done, "32 MB were taken from a client that nobody had admitted"
    gatekeeper.open.set()
    recorder = await gatekeeper.admitted.get()
    await recorder.first.wait()
    await sending
    client.writer.transport.abort()
    assert (await recorder.ended)[0] is EndReason.LOST
    await gone(server)


async def test_a_client_that_leaves_before_it_is_admitted(server: RtmpServer, gatekeeper: Gatekeeper) -> None:
    gatekeeper.open.clear()
    client = await Client.open(server)
    await client.send(client.script.start())
    await gatekeeper.asked.wait()
    client.writer.transport.abort()
    gatekeeper.open.set()
    recorder = await gatekeeper.admitted.get()
    await gone_or_ended(server, recorder)


async def gone_or_ended(server: RtmpServer, recorder: Recorder) -> None:
    assert (await recorder.ended)[0] is EndReason.LOST
    await gone(server)


async def test_a_fault_of_the_gatekeeper_ends_one_connection_only(server: RtmpServer, gatekeeper: Gatekeeper) -> None:
    gatekeeper.broken = True
    client = await Client.open(server)
    with capture_logs() as logs:
        await client.send(client.script.start())
        await client.rest()
    assert "admission_failed" in [line["event"] for line in logs]
    await client.close()
    gatekeeper.broken = False
    other, recorder = await publish(server, gatekeeper)
    await other.close()
    assert (await recorder.ended)[0] is EndReason.LOST


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (StopReason.TAKEOVER, "NetStream.Publish.BadName"),
        (StopReason.REVOKED, "NetStream.Publish.Denied"),
        (StopReason.LIMIT, "NetStream.Failed"),
        (StopReason.DRAIN, "NetStream.Unpublish.Success"),
    ],
)
async def test_the_servers_reasons_in_rtmps_words(
    server: RtmpServer, gatekeeper: Gatekeeper, reason: StopReason, code: str
) -> None:
    client, recorder = await publish(server, gatekeeper)
    assert recorder.stop is not None
    recorder.stop(reason, "For a reason.")
    recorder.stop(reason, "Once is enough.")
    await client.rest()
    assert client.script.statuses()[-1][0] == code
    assert client.script.statuses()[-1][2] == "For a reason."
    assert await recorder.ended == (EndReason.STOPPED, "For a reason.")
    await client.close()


async def test_drain_asks_those_to_reconnect_who_can(server: RtmpServer, gatekeeper: Gatekeeper) -> None:
    able, able_recorder = await publish(server, gatekeeper, capsEx=1.0)
    unable, unable_recorder = await publish(server, gatekeeper)
    draining = asyncio.create_task(server.drain())
    await able.until("NetConnection.Connect.ReconnectRequest")
    await unable.rest()
    assert unable.script.statuses()[-1][0] == "NetStream.Unpublish.Success"
    assert (await unable_recorder.ended)[0] is EndReason.STOPPED
    await unable.close()
    await able.send(able.script.message(frame(0)))
    await able_recorder.first.wait()  # served on until it leaves
    await able.close()
    await draining
    with pytest.raises(OSError):
        await Client.open(server)


@pytest.mark.parametrize(
    ("stranger", "slug"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not_rtmp"),
        (b"\x16\x03\x01\x02\x00\x01", "tls_on_rtmp"),
        (b"\x03" + bytes(3072) + b"\xff" * 400, "bad_chunk"),
    ],
)
async def test_strangers_are_closed_with_a_reason_and_nobody_notices(
    server: RtmpServer, gatekeeper: Gatekeeper, stranger: bytes, slug: str
) -> None:
    good, recorder = await publish(server, gatekeeper)
    client = await Client.open(server)
    with capture_logs() as logs:
        await client.send(stranger)
        await client.rest()
    assert [line.get("reason") for line in logs if line["event"] == "connection_ended"] == [slug]
    await client.close()
    await good.send(good.script.message(frame(0)))
    await recorder.first.wait()
    await good.close()


async def test_too_many_connections_from_one_address(gatekeeper: Gatekeeper) -> None:
    server = RtmpServer(
        RtmpSettings(host="127.0.0.1", port=0), gatekeeper, limits=LimitSettings(max_connections_per_address=2)
    )
    await server.start()
    clients = [await Client.open(server) for _ in range(2)]
    for client in clients:
        await client.send(b"\x03")
        await client._reader.readexactly(1 + 1536)
    with capture_logs() as logs:
        for _ in range(5):
            clients.append(await Client.open(server))
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):  # noqa: PT012 (which of them meets the reset is the kernel's choice)
                await clients[-1].send(b"\x03")
                await clients[-1]._reader.readexactly(1)
    assert server.refused == 5
    assert [line["refused"] for line in logs] == [1, 2, 4], "a flood of callers is no flood of lines"
    await server.stop()
    for client in clients:
        client.writer.transport.abort()


async def test_half_a_handshake_is_cut(gatekeeper: Gatekeeper) -> None:
    limits = LimitSettings(handshake_timeout_s=0.2, linger_s=0)
    server = RtmpServer(RtmpSettings(host="127.0.0.1", port=0), gatekeeper, limits=limits)
    await server.start()
    client = await Client.open(server)
    await client.send(b"\x03" + bytes(100))
    await client.rest()
    await client.close()
    await server.stop()


async def test_publishes_in_a_row_leave_nothing_behind(server: RtmpServer, gatekeeper: Gatekeeper) -> None:
    tasks = len(asyncio.all_tasks())
    for _ in range(20):
        client, recorder = await publish(server, gatekeeper)
        await client.send(client.script.message(frame(0)) + client.script.command("FCUnpublish", 6.0, None, GOOD_KEY))
        assert (await recorder.ended)[0] is EndReason.FINISHED
        await client.close()
    await gone(server)
    assert len(asyncio.all_tasks()) == tasks


async def test_a_port_in_use_is_named(server: RtmpServer, gatekeeper: Gatekeeper) -> None:
    second = RtmpServer(RtmpSettings(host="127.0.0.1", port=server.port), gatekeeper)
    with pytest.raises(HeadraceError, match=r"rtmp\.port"):
        await second.start()


async def test_stop_ends_publications(gatekeeper: Gatekeeper) -> None:
    server = RtmpServer(RtmpSettings(host="127.0.0.1", port=0), gatekeeper)
    await server.start()
    client, recorder = await publish(server, gatekeeper)
    await server.stop()
    await server.stop()
    assert (await recorder.ended)[0] is EndReason.STOPPED
    client.writer.transport.abort()


class TestTls:
    @pytest.fixture
    async def secure(self, gatekeeper: Gatekeeper, tls: ssl.SSLContext) -> AsyncIterator[RtmpServer]:
        server = RtmpServer(
            RtmpSettings(host="127.0.0.1", port=0),
            gatekeeper,
            limits=LimitSettings(handshake_timeout_s=3, linger_s=0.5),
            tls=lambda: tls,
            protocol="rtmps",
        )
        await server.start()
        yield server
        await server.stop()

    async def test_publishes_over_tls(self, secure: RtmpServer, gatekeeper: Gatekeeper, trust: ssl.SSLContext) -> None:
        streams = await asyncio.open_connection("127.0.0.1", secure.port, ssl=trust, server_hostname="localhost")
        client = Client(*streams)
        await client.send(client.script.start() + client.script.message(ASC) + client.script.message(frame(0)))
        recorder = await gatekeeper.admitted.get()
        await recorder.first.wait()
        assert recorder.request.protocol == "rtmps"
        client.writer.transport.abort()
        assert (await recorder.ended)[0] is EndReason.LOST
        await gone(secure)

    async def test_a_wrong_key_is_told_over_tls(self, secure: RtmpServer, trust: ssl.SSLContext) -> None:
        streams = await asyncio.open_connection("127.0.0.1", secure.port, ssl=trust, server_hostname="localhost")
        client = Client(*streams)
        await client.send(client.script.start("bad"))
        await client.until("NetStream.Publish.BadName")
        client.writer.transport.abort()
        await gone(secure)

    @pytest.mark.parametrize("stranger", [b"\x03" + bytes(1536), b"GET / HTTP/1.1\r\n\r\n"])
    async def test_a_plain_client_is_closed_with_a_reason(self, secure: RtmpServer, stranger: bytes) -> None:
        client = await Client.open(secure)
        with capture_logs() as logs:
            await client.send(stranger)
            with pytest.raises((ConnectionError, AssertionError)):  # a reset, or an end without any status
                await client.until("never")
            await gone(secure)
        assert "tls_failed" in [line["event"] for line in logs]
        client.writer.transport.abort()


async def test_a_task_that_fails_ends_no_listener() -> None:
    """A peer that had gone when it was refused (ENOTCONN from shutdown) once took the whole listener down."""
    server = RtmpServer(RtmpSettings(host="127.0.0.1", port=0), Gatekeeper())
    await server.start()

    async def broken() -> None:
        raise OSError(107, "Transport endpoint is not connected")

    server._spawn(broken())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.close()
    await writer.wait_closed()
    await server.stop()
