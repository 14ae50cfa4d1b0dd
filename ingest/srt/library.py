"""libsrt through cffi in ABI mode: finding the library, the few declarations we use, and typed calls.

Not a general binding. Every call lets go of the GIL. Nothing here keeps state but the loaded library; who may call
what from which thread is the listener's affair. API: `docs/API/API-functions.md` and `API-socket-options.md` of
Haivision/srt, release 1.5 (the first of the 1.5 line that we were run against is 1.5.1).
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Any

import cffi  # type: ignore[import-untyped]

from media.errors import HeadraceError

NAMES = ("libsrt.so.1.5", "libsrt-gnutls.so.1.5")
"""Tried in this order. Debian ships one library for each TLS flavour, which can stand side by side."""

ADVICE = "SRT is off because libsrt 1.5 is not installed; to have it: apt-get install libsrt1.5-openssl"

MESSAGE_MAX_BYTES = 1456
"""Largest live-mode message: an MTU of 1500 less the IP, UDP and SRT headers (SRT_LIVE_MAX_PLSIZE)."""

STREAMID_MAX_BYTES = 512

_STATISTICS_ROOM_BYTES = 4096
"""Later releases append fields to the statistics; they must not write past what we gave them."""

_DECLARATIONS = """
typedef int SRTSOCKET;
typedef struct { int fd; int events; } SRT_EPOLL_EVENT;
typedef struct {
    int64_t msTimeStamp, pktSentTotal, pktRecvTotal;
    int pktSndLossTotal, pktRcvLossTotal, pktRetransTotal, pktSentACKTotal, pktRecvACKTotal;
    int pktSentNAKTotal, pktRecvNAKTotal;
    int64_t usSndDurationTotal;
    int pktSndDropTotal, pktRcvDropTotal, pktRcvUndecryptTotal;
    uint64_t byteSentTotal, byteRecvTotal, byteRcvLossTotal, byteRetransTotal;
    uint64_t byteSndDropTotal, byteRcvDropTotal, byteRcvUndecryptTotal;
    int64_t pktSent, pktRecv;
    int pktSndLoss, pktRcvLoss, pktRetrans, pktRcvRetrans, pktSentACK, pktRecvACK, pktSentNAK, pktRecvNAK;
    double mbpsSendRate, mbpsRecvRate;
    int64_t usSndDuration;
    int pktReorderDistance;
    double pktRcvAvgBelatedTime;
    int64_t pktRcvBelated;
    int pktSndDrop, pktRcvDrop, pktRcvUndecrypt;
    uint64_t byteSent, byteRecv, byteRcvLoss, byteRetrans, byteSndDrop, byteRcvDrop, byteRcvUndecrypt;
    double usPktSndPeriod;
    int pktFlowWindow, pktCongestionWindow, pktFlightSize;
    double msRTT, mbpsBandwidth;
    int byteAvailSndBuf, byteAvailRcvBuf;
    double mbpsMaxBW;
    int byteMSS, pktSndBuf, byteSndBuf, msSndBuf, msSndTsbPdDelay;
    int pktRcvBuf, byteRcvBuf, msRcvBuf, msRcvTsbPdDelay;
    int pktSndFilterExtraTotal, pktRcvFilterExtraTotal, pktRcvFilterSupplyTotal, pktRcvFilterLossTotal;
    int pktSndFilterExtra, pktRcvFilterExtra, pktRcvFilterSupply, pktRcvFilterLoss, pktReorderTolerance;
    int64_t pktSentUniqueTotal, pktRecvUniqueTotal;
    uint64_t byteSentUniqueTotal, byteRecvUniqueTotal;
    int64_t pktSentUnique, pktRecvUnique;
    uint64_t byteSentUnique, byteRecvUnique;
} SRT_TRACEBSTATS;

int srt_startup(void);
int srt_cleanup(void);
uint32_t srt_getversion(void);
void srt_setloglevel(int level);
SRTSOCKET srt_create_socket(void);
int srt_bind(SRTSOCKET u, const void* name, int namelen);
int srt_listen(SRTSOCKET u, int backlog);
int srt_listen_callback(SRTSOCKET lsn, void* hook, void* opaque);
SRTSOCKET srt_accept(SRTSOCKET u, void* addr, int* addrlen);
int srt_close(SRTSOCKET u);
int srt_getsockname(SRTSOCKET u, void* name, int* namelen);
int srt_getsockflag(SRTSOCKET u, int opt, void* optval, int* optlen);
int srt_setsockflag(SRTSOCKET u, int opt, const void* optval, int optlen);
int srt_setrejectreason(SRTSOCKET sock, int value);
int srt_recvmsg(SRTSOCKET u, char* buf, int len);
int srt_bistats(SRTSOCKET u, SRT_TRACEBSTATS* perf, int clear, int instantaneous);
int srt_getlasterror(int* errno_loc);
const char* srt_getlasterror_str(void);
int srt_epoll_create(void);
int srt_epoll_add_usock(int eid, SRTSOCKET u, const int* events);
int srt_epoll_remove_usock(int eid, SRTSOCKET u);
int srt_epoll_uwait(int eid, SRT_EPOLL_EVENT* fds, int size, int64_t timeout_ms);
int srt_epoll_release(int eid);
"""

_HOOK = "int(void*, SRTSOCKET, int, const void*, const char*)"
_LOG_CRITICAL = 2


class Option(IntEnum):
    """`SRT_SOCKOPT`, as far as used."""

    RCVSYN = 2
    FLIGHT_WINDOW = 4
    RCVBUF = 6
    UDP_RCVBUF = 9
    PASSPHRASE = 26
    RCVKMSTATE = 41
    PEERVERSION = 35
    LOSSMAXTTL = 42
    RCVLATENCY = 43
    STREAMID = 46
    ENFORCEDENCRYPTION = 53
    IPV6ONLY = 54
    PEERIDLETIMEO = 55
    PACKETFILTER = 60


class Ready(IntFlag):
    """`SRT_EPOLL_OPT`."""

    IN = 1
    ERR = 8


class ErrorCode(IntEnum):
    """`SRT_ERRNO`, as far as we tell them apart."""

    CONNECTION_LOST = 2001
    NO_DATA = 6002
    """SRT_EASYNCRCV: nothing to read (or to accept) now."""


class SrtUnavailable(HeadraceError):
    """libsrt is not on this machine. The text says how to install it."""

    default_slug = "srt_unavailable"


class SrtError(HeadraceError):
    """A libsrt call failed."""

    default_slug = "srt_failed"

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def load(names: tuple[str, ...] = NAMES) -> Library:
    """The first of `names` that loads. Raises `SrtUnavailable`."""
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    for name in names:
        try:
            return Library(ffi, ffi.dlopen(name), name)
        except OSError:
            continue
    raise SrtUnavailable(ADVICE)


class Library:
    """The loaded library. Methods raise `SrtError` where libsrt says -1, unless they say otherwise."""

    def __init__(self, ffi: Any, lib: Any, name: str) -> None:
        self._ffi = ffi
        self._lib = lib
        self.name = name
        self.version = version_text(lib.srt_getversion())

    def startup(self) -> None:
        """Counted by libsrt: each call wants its `cleanup`. Errors only on stderr that end the library's use."""
        if self._lib.srt_startup() < 0:
            raise self._error("srt_startup")
        self._lib.srt_setloglevel(_LOG_CRITICAL)

    def cleanup(self) -> None:
        self._lib.srt_cleanup()

    # Sockets ---------------------------------------------------------------------------------------------------

    def create_socket(self) -> int:
        return self._checked("srt_create_socket", self._lib.srt_create_socket())

    def bind(self, sock: int, host: str, port: int) -> None:
        address = self._ffi.from_buffer(pack_address(host, port))
        self._checked("srt_bind", self._lib.srt_bind(sock, address, len(address)))

    def listen(self, sock: int, backlog: int) -> None:
        self._checked("srt_listen", self._lib.srt_listen(sock, backlog))

    def on_handshake(self, sock: int, hook: Callable[[int, str, int, bytes], int], failed: Callable[..., None]) -> Any:
        """Have `hook(socket, address, port, streamid) -> 0 | -1` asked about each caller; to be set before `listen`.

        It runs on libsrt's receiver thread, which serves every socket of this port, and with that thread's locks
        held. What it raises ends in `failed(type, error, traceback)` and refuses the caller. The value returned
        must be kept for as long as the socket listens: libsrt calls into it.
        """

        def hooked(_opaque: Any, sock: int, _version: int, peer: Any, streamid: Any) -> int:
            address, port = self._unpack(peer)
            return hook(sock, address, port, self._ffi.string(streamid, STREAMID_MAX_BYTES) if streamid else b"")

        callback = self._ffi.callback(_HOOK, hooked, error=-1, onerror=failed)
        status = self._lib.srt_listen_callback(sock, self._ffi.cast("void*", callback), self._ffi.NULL)
        self._checked("srt_listen_callback", status)
        return callback

    def accept(self, sock: int) -> tuple[int, str, int] | None:
        """(socket, address, port) of the next caller, None where none waits."""
        room = self._ffi.new("char[128]")
        size = self._ffi.new("int*", 128)
        accepted = self._lib.srt_accept(sock, room, size)
        if accepted >= 0:
            return (int(accepted), *self._unpack(room))
        if self._lib.srt_getlasterror(self._ffi.NULL) == ErrorCode.NO_DATA:
            return None
        raise self._error("srt_accept")

    def close(self, sock: int) -> None:
        """Close; a socket that is gone already is no error."""
        self._lib.srt_close(sock)

    def port(self, sock: int) -> int:
        room = self._ffi.new("char[128]")
        size = self._ffi.new("int*", 128)
        self._checked("srt_getsockname", self._lib.srt_getsockname(sock, room, size))
        return self._unpack(room)[1]

    def reject(self, sock: int, code: int) -> None:
        """State why a caller is refused, from within the handshake hook. The caller sees `code` + 1000."""
        self._lib.srt_setrejectreason(sock, code)

    # Options ---------------------------------------------------------------------------------------------------

    def set_int(self, sock: int, option: Option, value: int) -> None:
        status = self._lib.srt_setsockflag(sock, option, self._ffi.new("int*", value), 4)
        self._checked(f"setting {option.name}", status)

    def set_text(self, sock: int, option: Option, value: str) -> None:
        data = value.encode()
        self._checked(f"setting {option.name}", self._lib.srt_setsockflag(sock, option, data, len(data)))

    def get_int(self, sock: int, option: Option) -> int:
        value = self._ffi.new("int*")
        self._checked(option.name, self._lib.srt_getsockflag(sock, option, value, self._ffi.new("int*", 4)))
        return int(value[0])

    def get_text(self, sock: int, option: Option) -> bytes:
        room = self._ffi.new("char[]", STREAMID_MAX_BYTES + 1)
        size = self._ffi.new("int*", STREAMID_MAX_BYTES + 1)
        self._checked(option.name, self._lib.srt_getsockflag(sock, option, room, size))
        return bytes(self._ffi.buffer(room, size[0]))

    # Receiving -------------------------------------------------------------------------------------------------

    def receiver(self, room_bytes: int) -> Receiver:
        return Receiver(self._ffi, self._lib, room_bytes)

    def statistics(self, sock: int) -> Any:
        """An `SRT_TRACEBSTATS` whose interval counters began at the call before. A broken socket's is refused."""
        room = self._ffi.new("char[]", _STATISTICS_ROOM_BYTES)
        values = self._ffi.cast("SRT_TRACEBSTATS*", room)
        self._checked("srt_bistats", self._lib.srt_bistats(sock, values, 1, 1))
        return _Held(values, room)

    def poller(self, room: int) -> Poller:
        eid = self._checked("srt_epoll_create", self._lib.srt_epoll_create())
        return Poller(self._ffi, self._lib, eid, room)

    # -----------------------------------------------------------------------------------------------------------

    def _unpack(self, address: Any) -> tuple[str, int]:
        family = int.from_bytes(self._ffi.buffer(address, 2)[:], sys.byteorder)
        size = 28 if family == socket.AF_INET6 else 16
        return unpack_address(self._ffi.buffer(address, size)[:])

    def _checked(self, what: str, status: int) -> int:
        if status < 0:
            raise self._error(what)
        return int(status)

    def _error(self, what: str) -> SrtError:
        code = int(self._lib.srt_getlasterror(self._ffi.NULL))
        text = self._ffi.string(self._lib.srt_getlasterror_str()).decode(errors="replace")
        return SrtError(f"libsrt: {what} failed: {text}", code)


class _Held:
    """A struct together with the memory it lies in (cffi frees what nobody holds)."""

    def __init__(self, values: Any, room: Any) -> None:
        self._values = values
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._values, name)


class Receiver:
    """Reads messages into one buffer, so that a pass costs one copy and no allocation per message."""

    def __init__(self, ffi: Any, lib: Any, room_bytes: int) -> None:
        self._ffi = ffi
        self._lib = lib
        self._size = max(room_bytes, MESSAGE_MAX_BYTES)
        self._room = ffi.new("char[]", self._size)

    def __call__(self, sock: int) -> tuple[bytes, int]:
        """All that waits, up to the room: (messages joined, 0, or the code that ended the reading)."""
        recv, room, used, last = self._lib.srt_recvmsg, self._room, 0, self._size - MESSAGE_MAX_BYTES
        code = 0
        while used <= last:
            count = recv(sock, room + used, MESSAGE_MAX_BYTES)
            if count <= 0:
                code = int(self._lib.srt_getlasterror(self._ffi.NULL)) if count < 0 else ErrorCode.CONNECTION_LOST
                break
            used += count
        return bytes(self._ffi.buffer(room, used)), code


class Poller:
    """An SRT epoll: level-triggered, of SRT sockets only."""

    def __init__(self, ffi: Any, lib: Any, eid: int, room: int) -> None:
        self._ffi = ffi
        self._lib = lib
        self._eid = eid
        self._room = room
        self._events = ffi.new("SRT_EPOLL_EVENT[]", room)
        self._interest = ffi.new("int*", Ready.IN | Ready.ERR)

    def add(self, sock: int) -> None:
        self._lib.srt_epoll_add_usock(self._eid, sock, self._interest)

    def remove(self, sock: int) -> None:
        self._lib.srt_epoll_remove_usock(self._eid, sock)

    def wait(self, timeout_ms: int) -> list[tuple[int, int]]:
        """(socket, `Ready` bits) of each that is ready, empty after `timeout_ms`."""
        count = self._lib.srt_epoll_uwait(self._eid, self._events, self._room, timeout_ms)
        return [(self._events[i].fd, self._events[i].events) for i in range(min(count, self._room))]

    def close(self) -> None:
        self._lib.srt_epoll_release(self._eid)


def version_text(version: int) -> str:
    """`0x010501` as `1.5.1`; 0 (a peer that did not say) as an empty string."""
    return f"{version >> 16 & 255}.{version >> 8 & 255}.{version & 255}" if version else ""


def pack_address(host: str, port: int) -> bytes:
    """A `sockaddr_in` or `sockaddr_in6` (Linux) of a literal address. Raises `ValueError` for a name."""
    address = ipaddress.ip_address(host)
    head = port.to_bytes(2, "big")
    if address.version == 4:
        return int(socket.AF_INET).to_bytes(2, sys.byteorder) + head + address.packed + bytes(8)
    return int(socket.AF_INET6).to_bytes(2, sys.byteorder) + head + bytes(4) + address.packed + bytes(4)


def unpack_address(data: bytes) -> tuple[str, int]:
    """(address, port) of a `sockaddr`. An IPv4 caller of a dual-stack socket appears as IPv4."""
    port = int.from_bytes(data[2:4], "big")
    if int.from_bytes(data[:2], sys.byteorder) != socket.AF_INET6:
        return str(ipaddress.IPv4Address(data[4:8])), port
    address = ipaddress.IPv6Address(data[8:24])
    return str(address.ipv4_mapped or address), port
