"""`headrace check`: what would keep a start from working, or a stream from getting through, in words."""

from __future__ import annotations

import asyncio
import ctypes
import datetime
import importlib.metadata
import os
import shutil
import socket
import ssl
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryptography import x509

from control.certificates import CertificateError, Certificates
from control.database import Database
from control.ladders import server_ladder
from control.port_holder import holder
from control.run_file import running
from control.settings import Settings
from edge import tls
from media.errors import HeadraceError

LOW_DISK_BYTES = 2**30
LOW_FILES = 4096
RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
SMALL_UDP_BUFFER_BYTES = 2 * 2**20
"""200 ms of ten callers of 6 Mb/s, as the kernel counts: each packet takes twice its size and more."""
GOOD_UDP_BUFFER_BYTES = 8 * 2**20
BAD_CLOCK_S = 1.0
NTP_TIMEOUT_S = 1.5
_NTP_EPOCH = 2_208_988_800
"""Seconds from 1900 to 1970 (RFC 5905)."""


class Verdict(Enum):
    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Result:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    text: str


def run_checks(settings: Settings, data: Path, *, ntp_server: str = "pool.ntp.org") -> list[Result]:
    """Look at everything. Changes nothing but what a start would change too (the data folder, the certificate)."""
    found = [Result("settings", Verdict.GOOD, "understood")]
    checks: tuple[Callable[[], Iterator[Result]], ...] = (
        lambda: _ladder(settings),
        lambda: _folder(data),
        lambda: _database(settings, data),
        lambda: _ports(settings, data),
        lambda: _certificates(settings, data),
        lambda: _edge_certificate(settings),
        _libraries,
        lambda: _srt(settings),
        _limits,
        lambda: _clock(ntp_server),
    )
    for check in checks:
        found.extend(check())
    return found


def _ladder(settings: Settings) -> Iterator[Result]:
    try:
        yield Result("ladder", Verdict.GOOD, server_ladder(settings.transcode).name)
    except HeadraceError as error:
        yield Result("ladder", Verdict.BAD, error.text)


def _folder(data: Path) -> Iterator[Result]:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=data):
            pass
    except OSError as error:
        yield Result("data folder", Verdict.BAD, f"{data} cannot be written: {error.strerror}")
        return
    free = shutil.disk_usage(data).free
    text = f"{data.resolve()}, {free / 2**30:.1f} GiB free"
    yield Result("data folder", Verdict.NOTE if free < LOW_DISK_BYTES else Verdict.GOOD, text)
    exposed = [p.name for p in (data / "secret", data / "admin-token") if p.exists() and p.stat().st_mode & 0o077]
    if exposed:
        yield Result("data folder", Verdict.BAD, f"others may read {', '.join(exposed)}: chmod 600 it")


def _database(settings: Settings, data: Path) -> Iterator[Result]:
    async def try_it() -> str:
        database = Database.in_folder(data, settings.database.url)
        await database.open()
        await database.close()
        return database.shown_url

    try:
        yield Result("database", Verdict.GOOD, asyncio.run(try_it()))
    except (HeadraceError, OSError) as error:
        yield Result("database", Verdict.BAD, str(error))


def _ports(settings: Settings, data: Path) -> Iterator[Result]:
    server = running(data)
    if server is not None:
        yield Result("ports", Verdict.GOOD, f"a server runs on this data folder (process {server.pid}) and has them")
        return
    for section, listener in (
        ("rtmp", settings.rtmp), ("rtmps", settings.rtmps), ("srt", settings.srt), ("edge", settings.edge),
        ("origin", settings.origin), ("api", settings.api), ("workers", settings.workers),
    ):  # fmt: skip
        if listener.enabled:
            yield _port(f"{section}.port", listener.host, listener.port, udp=section == "srt")
        else:
            yield Result(f"{section}.port", Verdict.NOTE, "switched off")
    if settings.edge.enabled and settings.edge.certificate is not None:
        yield _port("edge.tls_port", settings.edge.host, settings.edge.tls_port)


def _port(name: str, host: str, port: int, *, udp: bool = False) -> Result:
    family, transport = socket.AF_INET6 if ":" in host else socket.AF_INET, "udp" if udp else "tcp"
    try:
        with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(not udp))
            probe.bind((host, port))
    except OSError as error:
        who = holder(port, udp=udp)
        text = f"{port}/{transport}: {error.strerror}{who and f' by {who}'}; stop what listens there, or set {name}"
        return Result(name, Verdict.BAD, text)
    return Result(name, Verdict.GOOD, f"{port}/{transport} is free")


def _certificates(settings: Settings, data: Path) -> Iterator[Result]:
    if not settings.rtmps.enabled:
        return
    certificates = Certificates(settings, data)
    try:
        certificates.context()
        days = (certificates.ends() - datetime.datetime.now(datetime.UTC)).days
    except (CertificateError, OSError) as error:
        yield Result("certificate", Verdict.BAD, str(error))
        return
    yield _days("certificate", certificates.certificate, days)
    if not certificates.own:
        if _is_trusted(certificates.authority):
            yield Result("trust", Verdict.GOOD, "this machine trusts the local authority")
        else:
            text = f"encoders that verify need this once: {certificates.trust_command()}"
            yield Result("trust", Verdict.NOTE, text)


def _edge_certificate(settings: Settings) -> Iterator[Result]:
    path = settings.edge.certificate
    if not settings.edge.enabled or path is None:
        return
    try:
        tls.check(settings.edge)
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (tls.TlsUnusable, ValueError) as error:
        yield Result("edge.certificate", Verdict.BAD, str(error))
        return
    yield _days("edge.certificate", path, (ends - datetime.datetime.now(datetime.UTC)).days)


def _days(name: str, path: Path, days: int) -> Result:
    verdict = Verdict.BAD if days < 0 else Verdict.NOTE if days < 14 else Verdict.GOOD
    return Result(name, verdict, f"{path}, good for {days} days")


def _is_trusted(authority: Path) -> bool:
    der = ssl.PEM_cert_to_DER_cert(authority.read_text())
    return der in ssl.create_default_context().get_ca_certs(binary_form=True)


def _libraries() -> Iterator[Result]:
    for name in ("av", "aiortc", "uvloop", "sqlalchemy", "fastapi"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Result(name, Verdict.BAD, "not installed: run `make venv`")
            continue
        yield Result(name, Verdict.GOOD, version + (f", FFmpeg {_ffmpeg_version()}" if name == "av" else ""))


def _ffmpeg_version() -> str:
    import av

    return str(av.ffmpeg_version_info)


def _srt(settings: Settings) -> Iterator[Result]:
    if not settings.srt.enabled:
        return
    names = [settings.srt.library] if settings.srt.library else ["libsrt.so.1.5", "libsrt-gnutls.so.1.5"]
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number = library.srt_getversion()
        yield Result("libsrt", Verdict.GOOD, f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255} ({name})")
        yield from udp_buffer(RMEM_MAX)
        return
    yield Result("libsrt", Verdict.NOTE, "not found, so SRT stays off: sudo apt install libsrt1.5-openssl")


def udp_buffer(setting: Path) -> Iterator[Result]:
    """SRT asks for a large socket buffer, all callers share it, and the kernel gives no more than this setting."""
    try:
        most = int(setting.read_text())
    except (OSError, ValueError):  # not Linux
        return
    if most < SMALL_UDP_BUFFER_BYTES:
        text = (
            f"the kernel gives UDP sockets {most // 1024} KiB, so SRT and WHIP lose packets when this machine is busy: "
            f"sudo sysctl -w net.core.rmem_max={GOOD_UDP_BUFFER_BYTES}"
        )
        yield Result("udp buffer", Verdict.NOTE, text)
    else:
        yield Result("udp buffer", Verdict.GOOD, f"up to {most // 1024} KiB")


def _limits() -> Iterator[Result]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < LOW_FILES:
        text = f"only {soft} (hard limit {hard}) for connections: raise it, e.g. ulimit -n 65536"
        yield Result("open files", Verdict.NOTE, text)
    else:
        yield Result("open files", Verdict.GOOD, str(soft))
    yield Result("cpus", Verdict.GOOD, str(len(os.sched_getaffinity(0))))


def _clock(server: str) -> Iterator[Result]:
    """Ask one time server, once. DASH players and PROGRAM-DATE-TIME live by the wall clock."""
    offset_s = clock_offset_s(server)
    if offset_s is None:
        yield Result("clock", Verdict.NOTE, f"not compared: {server} did not answer")
    elif abs(offset_s) > BAD_CLOCK_S:
        yield Result("clock", Verdict.BAD, f"{offset_s:+.1f} s off: DASH viewers will stall; synchronise it")
    else:
        yield Result("clock", Verdict.GOOD, f"{offset_s * 1000:+.0f} ms off")


def clock_offset_s(server: str, port: int = 123) -> float | None:
    """This clock's distance to a time server's (SNTP, RFC 5905), in seconds; None where none answers."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(NTP_TIMEOUT_S)
            asker.connect((server, port))
            sent = time.time()
            asker.send(b"\x23" + bytes(47))
            reply = asker.recv(128)
            received = time.time()
    except OSError:
        return None
    if len(reply) < 48 or reply[1] == 0:  # stratum 0: "kiss of death", no time in it
        return None
    theirs = [whole + part / 2**32 - _NTP_EPOCH for whole, part in struct.iter_unpack("!II", reply[32:48])]
    return float((sent - theirs[0]) + (received - theirs[1])) / 2
