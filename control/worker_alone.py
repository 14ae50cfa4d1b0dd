"""`headrace worker`: transcode workers of this machine for a core on another one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from control.secret_files import WORKER_TOKEN
from media.errors import Refused
from media.track import Codec
from transcode.agent import Agent, Offer
from transcode.hardware import probe
from transcode.remote_settings import WorkersSettings
from transcode.settings import TranscodeSettings

log = structlog.get_logger(__name__)

CPUS_PER_JOB = 2
"""A ladder of 720p30 on the CPU takes more than one core at its peaks."""


def core_address(url: str) -> tuple[str, int]:
    """Host and port of `tls://HOST[:PORT]`. Raises `Refused` (`bad_core_url`)."""
    try:
        parts = urlsplit(url if "://" in url else f"tls://{url}")
        port = parts.port
    except ValueError as error:
        raise Refused(f"--core {url}: {error}.", slug="bad_core_url") from error
    if parts.scheme not in ("tls", "https") or not parts.hostname or parts.path.strip("/"):
        raise Refused(
            f"--core {url}: write tls://HOST:PORT, with the port that the core has as workers.port (it is always TLS).",
            slug="bad_core_url",
        )
    return parts.hostname, port or int(WorkersSettings.model_fields["port"].default)


async def serve_worker(
    settings: TranscodeSettings,
    data: Path,
    core: str,
    *,
    jobs: int | None = None,
    name: str = "",
    token_file: Path | None = None,
    authority: Path | None = None,
) -> int:
    """Offer workers to `core` until SIGTERM or SIGINT; the exit status. Raises `Refused` where that cannot begin."""
    host, port = core_address(core)
    cpus = len(os.sched_getaffinity(0))
    places = jobs or max(1, cpus // CPUS_PER_JOB)
    token = _read(token_file or data / WORKER_TOKEN)
    tls = _context(authority, data / "tls" / "ca.pem")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    encoders: dict[str, tuple[str, ...]] = {}
    if settings.hardware:
        hardware = await probe(cpu=False)
        encoders = {codec.value: names for codec in Codec if (names := hardware.encoders(codec))}
    offer = Offer(host, port, tls, token, name or socket.gethostname(), cpus, encoders)
    print(f"Headrace worker {offer.machine}: {places} at once for {host}:{port}", flush=True)
    task = asyncio.create_task(Agent(offer, settings, places).run())
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Refused(
            f"The token {path} cannot be read ({error.strerror}): copy `worker-token` from the core's data folder and "
            "name it with --token-file. The core makes it when it starts with workers.enabled = true.",
            slug="no_worker_token",
        ) from error


def _context(authority: Path | None, local: Path) -> ssl.SSLContext:
    """Trusts `authority` alone; without it the core's own in this data folder; without that what the machine trusts."""
    chosen = authority or (local if local.exists() else None)
    try:
        return ssl.create_default_context(cafile=chosen)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"The authority {chosen} cannot be used: {error}.", slug="bad_authority") from error
