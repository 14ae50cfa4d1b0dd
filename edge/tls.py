"""HTTPS for viewers: the context, and the certificate's reload when its file changes."""

from __future__ import annotations

import asyncio
import ssl

import structlog

from edge.settings import EdgeSettings
from media.errors import HeadraceError

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0


class TlsUnusable(HeadraceError):
    """Viewers cannot be served over HTTPS as the settings say."""

    default_slug = "edge_tls_unusable"


def check(settings: EdgeSettings) -> None:
    """Raises `TlsUnusable` where the certificate is not to be used, in words: once, before each worker finds out.

    Reads files: not for an event loop.
    """
    try:
        for path in (settings.certificate, settings.private_key):
            if path is not None:
                path.open("rb").close()  # ssl does not say which of the two it is
        make_context(settings)
    except ssl.SSLError as error:
        text = f"edge.certificate {settings.certificate} and its private key cannot be used: {error.reason or error}."
        raise TlsUnusable(text) from error
    except OSError as error:
        text = f"{error.filename}, named in [edge], cannot be read by the user that Headrace runs as: {error.strerror}."
        raise TlsUnusable(text) from error


def make_context(settings: EdgeSettings) -> ssl.SSLContext | None:
    """A server context for HTTP/2 and HTTP/1.1; None without a certificate. Raises OSError or ssl.SSLError."""
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.certificate, settings.private_key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _stamp(settings: EdgeSettings) -> tuple[int, ...]:
    paths = [path for path in (settings.certificate, settings.private_key) if path is not None]
    return tuple(path.stat().st_mtime_ns for path in paths)


async def watch(context: ssl.SSLContext, settings: EdgeSettings) -> None:
    """Load the certificate anew when its files change; handshakes from then on use it. Runs until cancelled."""
    assert settings.certificate is not None
    known = _stamp(settings)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            found = _stamp(settings)
            if found == known:
                continue
            # A new chain with the old key, half way through a renewal, is refused here and tried again.
            context.load_cert_chain(settings.certificate, settings.private_key)
        except (OSError, ssl.SSLError) as error:
            log.warning("certificate_not_loaded", error=type(error).__name__, path=str(settings.certificate))
        else:
            known = found
            log.info("certificate_loaded", path=str(settings.certificate))
