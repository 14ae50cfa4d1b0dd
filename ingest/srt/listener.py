"""The thread that owns every libsrt call: one port, its callers, and what they send, handed over to the event loop.

    start() -> thread: socket, hook, listen -> [ wait, commands, accept, receive, end, tell ] ... -> stop() -> joined

Knows nothing of media or of publishers. Two more threads touch it: libsrt's receiver thread runs `_hook` while a
caller's handshake waits, and the event loop calls `close` and takes batches in `_deliver`.

After each pass the thread rests for `REST_S`: packets become readable one at a time (each at its own instant of
play), and a wake for each would cost more than the reading. The price is that much latency.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from ingest.ports import SrtAdmission
from ingest.settings import LimitSettings, SrtSettings
from ingest.srt.events import Connected, Disconnected, Ending, Event, Received, Rejected, Statistics
from ingest.srt.library import ErrorCode, Library, Option, Poller, Ready, Receiver, SrtError, version_text
from ingest.srt.reject import Reject
from media.addresses import network_of

REST_S = 0.01
WAIT_MS = 50
"""How long an idle thread waits before it looks for commands."""
STATISTICS_EVERY_S = 1.0
ROOM_BYTES = 262_144
"""Read from one caller in one pass; 10 ms of 200 Mb/s."""
BACKLOG = 64
"""Callers through the handshake and not yet accepted; a pass takes them all."""
REJECTED_MAX = 256
"""Rejections told in one pass; more are only counted."""
UNFINISHED_S = 1.0
"""A caller whose key was good and who is not accepted by then failed the rest of the handshake."""
TAIL_S = 0.1
"""On top of the latency: for how long what is left in the receive buffer is read after the caller has gone."""
RECEIVE_BUFFER_BYTES = 24 * 1024 * 1024
"""Ceiling of what libsrt holds for one caller: 4 s of latency at 48 Mb/s. Filled only as far as packets wait."""
REORDER_TOLERANCE_PACKETS = 16
"""Most that libsrt may learn to wait before it calls an early packet's predecessors lost; it starts at none."""
HANDOVER_MAX_BYTES = 4 * 1024 * 1024
"""Read and not yet taken by the event loop, for one caller: 5 s at 6 Mb/s. Beyond it what comes is dropped and
counted; the demuxer sees a hole and says so."""
_SECURED = 2
"""SRT_KM_S_SECURED."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Link:
    """One caller."""

    sock: int
    network: str
    """What counts as its address (`media.addresses`)."""
    latency_s: float
    heard_at: float
    received_bytes: int = 0
    """Written by the thread alone."""
    taken_bytes: int = 0
    """Written by the event loop alone."""
    dropped_bytes: int = 0
    ending: Ending | None = None
    """Set when the caller is gone, and what it sent is still being read."""
    end_at: float = 0.0


class _Unfinished(NamedTuple):
    """A caller with a good key, and the rest of its handshake to come."""

    address: str
    network: str
    until: float


class Listener:
    """`admit(streamid, address)` answers a caller from memory, on a foreign thread; `sink(events)` runs on the loop."""

    def __init__(
        self,
        library: Library,
        settings: SrtSettings,
        limits: LimitSettings,
        admit: Callable[[bytes, str], SrtAdmission],
        sink: Callable[[list[Event]], None],
    ) -> None:
        self._library = library
        self._settings = settings
        self._max_connections = limits.max_connections
        self._max_per_address = limits.max_connections_per_address
        self._admit = admit
        self._sink = sink
        self._host = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started: Future[int] = Future()
        self._done: Future[None] = Future()
        self._wake = threading.Event()
        self._stopping = False
        self._draining = False
        self._closing: deque[int] = deque()
        """Sockets that the loop wants closed: at most one entry for each of its calls, and it calls once a link."""
        self._links: dict[int, _Link] = {}
        self._unfinished: dict[int, _Unfinished] = {}
        """By socket. At most `max_connections` together with the links."""
        self._rejected: deque[Rejected] = deque(maxlen=REJECTED_MAX)
        self.rejected_total = 0
        self.handover_dropped_bytes = 0
        """Over all callers, for the metrics."""

    # On the event loop -----------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Listen; the port. Raises `SrtError` where that fails (port taken)."""
        self._loop = asyncio.get_running_loop()
        self._host = await _literal(self._settings.host)
        self._thread = threading.Thread(target=self._run, name="srt-listener", daemon=True)
        self._thread.start()
        return await asyncio.wrap_future(self._started)

    def close(self, connection: int) -> None:
        """End a connection; `Disconnected` follows."""
        self._closing.append(connection)
        self._wake.set()

    def drain(self) -> None:
        """Turn new callers away (1503)."""
        self._draining = True

    async def stop(self) -> None:
        """Close everything and end the thread. Each open connection is told as `Disconnected`."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        await asyncio.wrap_future(self._done)
        self._thread.join()  # at its last instruction
        self._thread = None

    def _deliver(self, links: list[tuple[_Link, int]], events: list[Event]) -> None:
        try:
            self._sink(events)
        finally:
            for link, count in links:
                link.taken_bytes += count

    # On libsrt's receiver thread -------------------------------------------------------------------------------

    def _hook(self, sock: int, address: str, _port: int, streamid: bytes) -> int:
        if self._draining:
            return self._reject(sock, address, Reject.DOWN)
        if len(self._links) + len(self._unfinished) >= self._max_connections:
            return self._reject(sock, address, Reject.OVERLOAD)
        admission = self._admit(streamid, address)
        if admission.reject:
            return self._reject(sock, address, admission.reject)
        if self._count(address) >= self._max_per_address:
            return self._reject(sock, address, Reject.OVERLOAD)
        if admission.passphrase:
            self._library.set_text(sock, Option.PASSPHRASE, admission.passphrase)
        self._unfinished[sock] = _Unfinished(address, network_of(address), time.monotonic() + UNFINISHED_S)
        return 0

    def _count(self, address: str) -> int:
        """Callers from one address. The lists are copies: the listener's thread works on the dicts meanwhile."""
        network = network_of(address)
        links = sum(link.network == network for link in list(self._links.values()))
        return links + sum(other.network == network for other in list(self._unfinished.values()))

    def _reject(self, sock: int, address: str, code: int) -> int:
        self._library.reject(sock, code)
        self._rejected.append(Rejected(address, code))
        self.rejected_total += 1
        return -1

    def _hook_failed(self, kind: Any, error: Any, _traceback: Any) -> None:
        _log.error("srt_handshake_hook_failed", kind=getattr(kind, "__name__", str(kind)), error=str(error))

    # On the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        library = self._library
        try:
            library.startup()
            try:
                self._serve()
            finally:
                library.cleanup()
        except Exception as error:  # noqa: BLE001 - carried to whoever awaits start() or stop()
            (self._done if self._started.done() else self._started).set_exception(error)
        if not self._done.done():
            self._done.set_result(None)

    def _serve(self) -> None:
        library = self._library
        sock = library.create_socket()
        poller = None
        try:
            keep = self._listen(sock)
            poller = library.poller(self._max_connections + 1)
            poller.add(sock)
            receiver = library.receiver(ROOM_BYTES)
            self._started.set_result(library.port(sock))
            self._passes(sock, poller, receiver)
            del keep
        finally:
            library.close(sock)
            for link in self._links:
                library.close(link)
            if poller is not None:
                poller.close()

    def _listen(self, sock: int) -> Any:
        library, settings = self._library, self._settings
        library.set_int(sock, Option.RCVSYN, 0)
        library.set_int(sock, Option.RCVLATENCY, settings.latency_ms)
        library.set_int(sock, Option.PEERIDLETIMEO, round(settings.peer_idle_timeout_s * 1000))
        library.set_int(sock, Option.RCVBUF, RECEIVE_BUFFER_BYTES)
        library.set_int(sock, Option.LOSSMAXTTL, REORDER_TOLERANCE_PACKETS)
        if ":" in self._host:
            library.set_int(sock, Option.IPV6ONLY, 0)
        library.bind(sock, self._host, settings.port)
        keep = library.on_handshake(sock, self._hook, self._hook_failed)  # before listen: 1.5.4 refuses it after
        library.listen(sock, BACKLOG)
        return keep

    def _passes(self, sock: int, poller: Poller, receiver: Receiver) -> None:
        statistics_at = time.monotonic() + STATISTICS_EVERY_S
        while not self._stopping:
            events: list[Event] = []
            taken: list[tuple[_Link, int]] = []
            ready = poller.wait(WAIT_MS)
            self._wake.clear()
            now = time.monotonic()
            self._obey(poller, events)
            for ready_sock, bits in ready:
                if ready_sock == sock:
                    self._accept(sock, poller, events, now)
                elif (link := self._links.get(ready_sock)) is not None:
                    self._receive(link, bits, poller, receiver, events, taken, now)
            self._finish(receiver, events, taken, now)
            self._expire(events, now)
            if now >= statistics_at:
                statistics_at = now + STATISTICS_EVERY_S
                self._measure(events)
            self._tell(taken, events)
            self._wake.wait(REST_S)
        self._tell([], [Disconnected(link.sock, Ending.CLOSED) for link in self._links.values()])

    def _obey(self, poller: Poller, events: list[Event]) -> None:
        while self._closing:
            sock = self._closing.popleft()
            if self._links.pop(sock, None) is not None:
                poller.remove(sock)
                self._library.close(sock)
                events.append(Disconnected(sock, Ending.CLOSED))

    def _accept(self, sock: int, poller: Poller, events: list[Event], now: float) -> None:
        library = self._library
        while True:
            try:
                caller = library.accept(sock)
            except SrtError as error:
                _log.info("srt_accept_failed", error=error.text)
                return
            if caller is None:
                return
            accepted, address, port = caller
            self._unfinished.pop(accepted, None)
            try:
                connected = self._describe(accepted, address, port)
            except SrtError as error:  # gone between the handshake and now
                _log.info("srt_accept_failed", error=error.text)
                library.close(accepted)
                continue
            self._links[accepted] = _Link(accepted, network_of(address), connected.latency_ms / 1000, now)
            poller.add(accepted)
            events.append(connected)

    def _describe(self, accepted: int, address: str, port: int) -> Connected:
        library = self._library
        return Connected(
            accepted,
            address,
            port,
            streamid=library.get_text(accepted, Option.STREAMID),
            version=version_text(library.get_int(accepted, Option.PEERVERSION)),
            latency_ms=library.get_int(accepted, Option.RCVLATENCY),
            encrypted=library.get_int(accepted, Option.RCVKMSTATE) == _SECURED,
        )

    def _receive(
        self,
        link: _Link,
        bits: int,
        poller: Poller,
        receiver: Receiver,
        events: list[Event],
        taken: list[tuple[_Link, int]],
        now: float,
    ) -> None:
        code = self._read(link, receiver, events, taken, now)
        if code == ErrorCode.CONNECTION_LOST or (code and bits & Ready.ERR):
            poller.remove(link.sock)
            quiet_s = now - link.heard_at + link.latency_s
            silent = quiet_s >= self._settings.peer_idle_timeout_s * 0.9
            link.ending = Ending.SILENCE if silent else Ending.GOODBYE
            link.end_at = now + link.latency_s + TAIL_S

    def _read(
        self, link: _Link, receiver: Receiver, events: list[Event], taken: list[tuple[_Link, int]], now: float
    ) -> int:
        data, code = receiver(link.sock)
        if data:
            link.heard_at = now
            if link.received_bytes - link.taken_bytes + len(data) > HANDOVER_MAX_BYTES:
                link.dropped_bytes += len(data)
                self.handover_dropped_bytes += len(data)
            else:
                link.received_bytes += len(data)
                events.append(Received(link.sock, data))
                taken.append((link, len(data)))
        return code

    def _finish(self, receiver: Receiver, events: list[Event], taken: list[tuple[_Link, int]], now: float) -> None:
        """What a caller sent before it went is played out at its time, then the socket is closed."""
        for link in [link for link in self._links.values() if link.ending is not None]:
            code = self._read(link, receiver, events, taken, now)
            if now >= link.end_at or code not in (0, ErrorCode.CONNECTION_LOST, ErrorCode.NO_DATA):
                self._library.close(link.sock)
                del self._links[link.sock]
                events.append(Disconnected(link.sock, link.ending or Ending.SILENCE))

    def _expire(self, events: list[Event], now: float) -> None:
        for sock, caller in list(self._unfinished.items()):
            if now >= caller.until:
                self._unfinished.pop(sock, None)
                self.rejected_total += 1
                events.append(Rejected(caller.address, 0))
        while self._rejected:
            events.append(self._rejected.popleft())

    def _measure(self, events: list[Event]) -> None:
        for link in self._links.values():
            if link.ending is not None or link.received_bytes - link.taken_bytes > ROOM_BYTES:
                continue  # gone; or the loop is late, and numbers would only queue up
            try:
                values = self._library.statistics(link.sock)
            except SrtError:
                continue  # broke just now: the next pass sees it
            events.append(_statistics(link, values))

    def _tell(self, taken: list[tuple[_Link, int]], events: list[Event]) -> None:
        if events and self._loop is not None:
            self._loop.call_soon_threadsafe(self._deliver, taken, events)


async def _literal(host: str) -> str:
    """The address to bind: `host` resolved; for an empty one every address, IPv6 with IPv4 where there is IPv6."""
    if not host:
        return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass  # a name
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, 0, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    return str(found[0][4][0])


def _statistics(link: _Link, values: Any) -> Statistics:
    sent = values.pktRecvUnique + values.pktRcvDrop
    repaired = values.pktRcvRetrans + values.pktRcvFilterSupply + values.pktRcvDrop
    return Statistics(
        link.sock,
        rtt_ms=values.msRTT,
        repair_ratio=min(repaired / sent, 1.0) if sent else 0.0,
        drop_ratio=min(values.pktRcvDrop / sent, 1.0) if sent else 0.0,
        retransmitted=values.pktRcvRetrans,
        recovered=values.pktRcvFilterSupply,
        dropped=values.pktRcvDrop,
        undecrypted=values.pktRcvUndecrypt,
        bitrate_bits=round(values.mbpsRecvRate * 1e6),
        bandwidth_bits=round(values.mbpsBandwidth * 1e6),
        buffer_ms=values.msRcvBuf,
        handover_dropped_bytes=link.dropped_bytes,
    )
