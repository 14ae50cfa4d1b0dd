"""Fixtures of the RTMP tests."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rtmp_double import Gatekeeper, Script

from ingest.rtmp.server import RtmpServer
from ingest.settings import LimitSettings, RtmpSettings


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def gatekeeper() -> Gatekeeper:
    return Gatekeeper()


@pytest.fixture
def limits() -> LimitSettings:
    return LimitSettings(linger_s=0.5)


@pytest.fixture
async def server(gatekeeper: Gatekeeper, limits: LimitSettings) -> AsyncIterator[RtmpServer]:
    listener = RtmpServer(RtmpSettings(host="127.0.0.1", port=0), gatekeeper, limits=limits)
    await listener.start()
    yield listener
    await listener.stop()
    assert listener.connections == 0


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key and a certificate for localhost that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="session")
def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(scope="session")
def trust(certificate: Path) -> ssl.SSLContext:
    """A client that trusts it."""
    return ssl.create_default_context(cafile=str(certificate))
