"""The servers that the edge is compared with, each as one worker in front of the same upstream; for bench scripts.

They need nginx and varnishd from the distribution; `makers` leaves out what is not installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from processes import children, free_port

from edge.settings import EdgeSettings
from edge.supervisor import EdgePool


@dataclass
class Target:
    """One running server."""

    name: str
    port: int
    tls_port: int
    """0: it has no TLS."""
    pids: list[int]


@dataclass(frozen=True)
class Options:
    """What a bench wants of the servers beyond their usual ways."""

    edge: dict[str, object]
    """Settings of ours."""
    nginx: str = ""
    """Lines of nginx' `location`."""
    varnish: tuple[str, ...] = ()
    """Further arguments of varnishd."""
    vcl: str = ""


Maker = Callable[[int, Path, Options], contextlib.AbstractAsyncContextManager[Target]]


async def wait_open(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def certificate(folder: Path) -> None:
    """A self-signed one with a P-256 key: `cert.pem` and `key.pem`."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )


@contextlib.asynccontextmanager
async def ours(upstream: int, folder: Path, options: Options) -> AsyncIterator[Target]:
    files = {"certificate": folder / "cert.pem", "private_key": folder / "key.pem"}
    values = {"host": "127.0.0.1", "port": 0, "tls_port": 0, "workers": 1, **files, **options.edge}
    pool = EdgePool(EdgeSettings.model_validate(values), f"http://127.0.0.1:{upstream}")
    await pool.start()
    try:
        yield Target("headrace", pool.port, pool.tls_port, pool.pids)
    finally:
        await pool.stop()


@contextlib.asynccontextmanager
async def nginx(upstream: int, folder: Path, options: Options) -> AsyncIterator[Target]:
    port, tls_port = free_port(), free_port()
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn; user root;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 10000000;
  open_file_cache max=1000 inactive=300s; open_file_cache_valid 300s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=c:10m max_size=1g use_temp_path=off;
  upstream o {{ server 127.0.0.1:{upstream}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{tls_port} ssl http2 backlog=4096;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3;
    location / {{
      proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache c; proxy_cache_lock on; {options.nginx}
      add_header X-Cache $upstream_cache_status; add_header Access-Control-Allow-Origin *;
    }}
  }}
}}""")
    process = await asyncio.create_subprocess_exec(
        "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await wait_open(port)
        yield Target("nginx", port, tls_port, children(process.pid))
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def varnish(upstream: int, folder: Path, options: Options) -> AsyncIterator[Target]:
    port = free_port()
    (folder / "one.vcl").write_text(
        f'vcl 4.1;\nbackend o {{ .host = "127.0.0.1"; .port = "{upstream}"; }}\n{options.vcl}'
    )
    process = await asyncio.create_subprocess_exec(
        *("varnishd", "-F", "-n", str(folder / "v"), "-a", f"127.0.0.1:{port}", "-f", str(folder / "one.vcl")),
        *("-s", "malloc,256m", "-p", "thread_pools=1", "-j", "none", *options.varnish),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await wait_open(port)
        yield Target("varnish", port, 0, children(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


def makers() -> list[Maker]:
    """Ours, and those of the others that are installed."""
    found: list[Maker] = [ours]
    if shutil.which("nginx"):
        found.append(nginx)
    if shutil.which("varnishd"):
        found.append(varnish)
    return found
