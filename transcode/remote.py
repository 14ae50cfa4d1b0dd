"""Workers on other machines: the door by which they come in, and each of them as a `Link` that a job can use.

A connection is one worker process over there (`agent`), and good for one job. It is TLS; the worker checks our
certificate, and we its token, in the first message. From then on the connection carries what the socket pair of a
worker of this machine carries.

| state | means | leaves by |
|---|---|---|
| `KNOCKING` | connected, nothing said | `Join` with the token: `WARMING`; anything else, or `JOIN_TIMEOUT_S`: gone |
| `WARMING` | its process loads libav | `Hello`: `IDLE` |
| `IDLE` | waits for a job | `Guests.take`: `BUSY` |
| `BUSY` | has a job, and does not come back | its connection ends |
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import structlog

from media.errors import HeadraceError, ProtocolError
from media.track import Codec
from transcode import messages as m
from transcode.device import split
from transcode.link import Link
from transcode.plan import CPU_ENCODERS, Plan
from transcode.remote_settings import WorkersSettings
from transcode.settings import TranscodeSettings
from transcode.wire import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES

log = structlog.get_logger(__name__)

JOIN_TIMEOUT_S = 30.0
"""From connecting until the worker is ready: it loads libav in between, on a machine that may be busy."""
JOIN_BYTES = 8192
"""A `Join` that is not yet believed may be so long; a list of encoders is below 1 kB."""
STRANGERS = 16
"""Connections that have not shown the token; more are cut at once."""
SILENT_MS = 15_000
"""A machine that answers no packet of ours for so long is gone (TCP_USER_TIMEOUT, RFC 5482)."""
KEEPALIVE_S = 5


class State(Enum):
    KNOCKING = "knocking"
    WARMING = "warming"
    IDLE = "idle"
    BUSY = "busy"


class Guest(Link):
    """One worker on another machine."""

    def __init__(self, guests: Guests) -> None:
        super().__init__()
        self._guests = guests
        self._gone = asyncio.Event()
        self._late: asyncio.TimerHandle | None = None
        self._decoder.max_header_bytes, self._decoder.max_payload_bytes = JOIN_BYTES, 0
        self.state = State.KNOCKING
        self.address = ""
        self.cpus = 0
        self.encoders: Mapping[str, tuple[str, ...]] = {}
        self.job = ""

    def send(self, message: m.Message, payload: bytes = b"") -> None:
        if isinstance(message, (m.Open, m.Change)):
            message = replace_plan(message, fitted(message.plan, self.encoders, self._guests.settings))
            self.job = message.name if isinstance(message, m.Open) else self.job
        super().send(message, payload)

    def kill_soon(self, why: str) -> None:
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()

    async def wait(self) -> None:
        await self._gone.wait()

    def refuse(self, slug: str, text: str) -> None:
        """Say why, and end the connection."""
        log.warning("worker_refused", slug=slug, text=text, address=self.address)
        self.send(m.Admitted(slug, text))
        self._why = text
        if self._transport is not None:
            self._transport.close()

    def received(self, message: m.Message, payload: bytes) -> None:
        if self._why:
            return  # refused
        match self.state:
            case State.KNOCKING:
                if not isinstance(message, m.Join):
                    raise ProtocolError("The first message of a worker is not `Join`.")
                self._guests.join(self, message)
                self._decoder.max_header_bytes, self._decoder.max_payload_bytes = MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES
            case State.WARMING:
                if not isinstance(message, m.Hello):
                    raise ProtocolError("A worker that has joined says `Hello` first.")
                self._in_time()
                self.pid = message.pid
                self.state = State.IDLE
                log.info("worker_joined", place=self.place, address=self.address, pid=self.pid)
            case State.BUSY:
                self.on_message(message, payload)
            case State.IDLE:
                if not isinstance(message, m.Progress):
                    raise ProtocolError("A worker without a job has nothing to say.")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        _watch_for_silence(transport.get_extra_info("socket"))
        self._late = asyncio.get_running_loop().call_later(JOIN_TIMEOUT_S, self.kill_soon, "did not join in time")
        self._guests.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self.exited = True
        self.exit_reason = self._why or f"the connection to {self.place or self.address} ended"
        self._guests.left(self)
        self._gone.set()
        self.on_exit(self.exit_reason)

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Guests:
    """All workers of other machines. `start` before the first, `stop` after the last; on the core's event loop."""

    def __init__(
        self,
        door: WorkersSettings,
        settings: TranscodeSettings,
        *,
        token: str,
        tls: Callable[[], ssl.SSLContext],
    ) -> None:
        """`token`: what a worker must know. `tls`: asked for each connection, so that a renewed certificate counts."""
        self._door = door
        self.settings = settings
        self._token = token.encode()
        self._tls = tls
        self._all: dict[Guest, None] = {}
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The TCP port in use; 0 before `start`."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def start(self) -> None:
        """Listen. Raises `HeadraceError` where the address cannot be had."""
        await asyncio.to_thread(self._tls)  # makes the certificate where it is missing
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._renew
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Guest(self), self._door.host or None, self._door.port, ssl=context, reuse_address=True
            )
        except OSError as error:
            raise HeadraceError(
                f"Port {self._door.port} on {self._door.host or 'every address'} cannot be used ({error.strerror}): "
                "stop what listens there, or set workers.port to another.",
                slug="port_taken",
            ) from error
        log.info("listening", protocol="workers", port=self.port)

    def _renew(self, connection: ssl.SSLObject, _name: str | None, _old: ssl.SSLContext) -> None:
        connection.context = self._tls()

    async def stop(self) -> None:
        """Nobody new; those who are there are cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await asyncio.gather(*(guest.kill("the core ends") for guest in list(self._all)))

    @property
    def present(self) -> int:
        """Workers that are here, idle or busy."""
        return sum(guest.state in (State.IDLE, State.BUSY) for guest in self._all)

    def take(self) -> Guest | None:
        """An idle worker, of the machine with the fewest jobs of ours; None where nobody is idle."""
        busy = Counter(guest.place for guest in self._all if guest.state is State.BUSY)
        idle = [guest for guest in self._all if guest.state is State.IDLE]
        if not idle:
            return None
        found = min(idle, key=lambda guest: busy[guest.place] / guest.cpus)
        found.state = State.BUSY
        return found

    def as_json(self) -> list[dict[str, Any]]:
        """Everybody who has joined, for operators."""
        return [
            {
                "machine": guest.place, "address": guest.address, "pid": guest.pid, "state": guest.state.value,
                "stream": guest.job, "cpus": guest.cpus, "encoders": {k: list(v) for k, v in guest.encoders.items()},
            }
            for guest in self._all if guest.state is not State.KNOCKING
        ]  # fmt: skip

    # -- told by the guests -----------------------------------------------------------------------------------

    def arrived(self, guest: Guest) -> None:
        """Somebody has connected."""
        self._all[guest] = None
        strangers = sum(other.state is State.KNOCKING for other in self._all)
        if strangers > STRANGERS or len(self._all) > self._door.max_workers + STRANGERS:
            guest.kill_soon("too many connections")

    def join(self, guest: Guest, said: m.Join) -> None:
        """`said` is what somebody shows who wants in."""
        if not hmac.compare_digest(said.token.encode(), self._token):
            return guest.refuse("worker_token_wrong", "The token is not that of this core.")
        if said.version != m.VERSION:
            return guest.refuse("worker_version", "The worker is of another version of Headrace.")
        if sum(other.state is not State.KNOCKING for other in self._all) >= self._door.max_workers:
            return guest.refuse("too_many_workers", f"This core takes {self._door.max_workers} workers.")
        guest.place, guest.cpus, guest.encoders = said.machine[:64] or guest.address, max(1, said.cpus), said.encoders
        guest.state = State.WARMING
        return guest.send(m.Admitted())

    def left(self, guest: Guest) -> None:
        """A connection is over."""
        self._all.pop(guest, None)
        if guest.state is not State.KNOCKING:
            log.info("worker_left", place=guest.place, address=guest.address, job=guest.job, reason=guest.exit_reason)


def fitted(plan: Plan, hardware: Mapping[str, tuple[str, ...]], settings: TranscodeSettings) -> Plan:
    """`plan` for the machine that it goes to: the encoders preferred, its hardware, its CPU; its CPU decodes."""

    def names(codec: Codec) -> tuple[str, ...]:
        there = hardware.get(codec.value, ()) if settings.hardware else ()
        cpu = CPU_ENCODERS[codec]
        preferred = [seat for name in settings.encoders for seat in (*there, cpu) if split(seat)[0] == name]
        return tuple(dict.fromkeys((*preferred, *there, cpu)))

    video = tuple(replace(encode, encoders=names(encode.codec)) for encode in plan.video)
    return replace(plan, video=video, decoders=())


def replace_plan(message: m.Open | m.Change, plan: Plan) -> m.Open | m.Change:
    """The same message with another plan."""
    return m.Open(plan, message.name) if isinstance(message, m.Open) else m.Change(plan)


def _watch_for_silence(sock: Any) -> None:
    """A machine that loses its power says nothing: let the kernel notice, also while nothing is sent."""
    if sock is None:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", KEEPALIVE_S), ("TCP_KEEPINTVL", KEEPALIVE_S), ("TCP_USER_TIMEOUT", SILENT_MS)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
