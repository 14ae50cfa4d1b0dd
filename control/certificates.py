"""Certificates for RTMPS: one's own, or from a local authority that the first start makes.

File in DATA/tls    life
ca.pem, ca.key      made once, ten years; only ca.pem is for others: whoever trusts it accepts this server
server.pem, .key    made for this machine's names and addresses; renewed before it ends, and when those change
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shlex
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control.secret_files import write_private
from control.settings import Settings
from control.urls import guess_host
from media.errors import HeadraceError

CA_DAYS = 3650
SERVER_DAYS = 397
"""Longest life that Apple's systems accept (398 days, with a day to spare)."""
RENEW_BEFORE_DAYS = 30

log = structlog.get_logger(__name__)


class CertificateError(HeadraceError):
    """A certificate or key cannot be used."""

    default_slug = "bad_certificate"


class Certificates:
    """The certificate of RTMPS. Makes what is missing when first asked; notices when a file changes."""

    def __init__(self, settings: Settings, data: Path) -> None:
        self._data = data
        self._names = machine_names(settings)
        own = settings.rtmps.certificate
        self.own = own is not None
        """True with a certificate of the operator's own, False with one of the local authority."""
        self.certificate = own or data / "tls" / "server.pem"
        self.private_key = settings.rtmps.private_key or (own if own else data / "tls" / "server.key")
        self._context: ssl.SSLContext | None = None
        self._seen: tuple[int, ...] = ()
        self._renew_at = datetime.datetime.min.replace(tzinfo=datetime.UTC)

    @property
    def authority(self) -> Path:
        """The local authority's certificate: what others must trust."""
        return self._data / "tls" / "ca.pem"

    def context(self) -> ssl.SSLContext:
        """The context for a new connection; fresh when the files changed. A broken new file leaves the old one in use.

        Cheap: two `stat`s. Raises `CertificateError` where there never was a good certificate.
        """
        if not self.own:
            self._make_missing()
        seen = self._stamp()
        if self._context is None or seen != self._seen:
            try:
                self._context, self._seen = self._load(), seen
            except CertificateError as error:
                if self._context is None:
                    raise
                self._seen = seen
                log.error("certificate_not_reloaded", file=str(self.certificate), error=error.text)
            else:
                log.info("certificate_loaded", file=str(self.certificate), ends=self.ends().isoformat())
        return self._context

    def ends(self) -> datetime.datetime:
        """When the certificate in use stops being valid (UTC)."""
        return _read(self.certificate).not_valid_after_utc

    def trust_command(self) -> str:
        """The one command that makes a Debian or Ubuntu machine trust the local authority; empty with one's own."""
        if self.own:
            return ""
        path = shlex.quote(str(self.authority.resolve()))
        return f"sudo cp {path} /usr/local/share/ca-certificates/headrace.crt && sudo update-ca-certificates"

    def _stamp(self) -> tuple[int, ...]:
        try:
            stats = [os.stat(path) for path in (self.certificate, self.private_key)]
        except OSError as error:
            if self._context is not None:
                return self._seen  # being replaced just now
            raise CertificateError(f"{error.filename} cannot be read: {error.strerror}.") from error
        return tuple(value for stat in stats for value in (stat.st_mtime_ns, stat.st_size, stat.st_ino))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(
                f"The certificate {self.certificate} with the key {self.private_key} cannot be used: {error}."
            ) from error
        return context

    def _make_missing(self) -> None:
        """The authority and a certificate from it, where they are missing, ending, or for other names."""
        if self._context is not None and datetime.datetime.now(datetime.UTC) < self._renew_at:
            return
        folder = self.authority.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ca_key_path = folder / "ca.key"
        if not (self.authority.exists() and ca_key_path.exists()):
            _make_authority(self.authority, ca_key_path)
        if not self._is_good():
            _make_certificate(self.authority, ca_key_path, self.certificate, self.private_key, self._names)
        self._renew_at = self.ends() - datetime.timedelta(days=RENEW_BEFORE_DAYS)

    def _is_good(self) -> bool:
        """Whether our certificate is there, not ending, from our authority, and for all our names."""
        if not (self.certificate.exists() and self.private_key.exists()):
            return False
        found = _read(self.certificate)
        left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        return (
            left > datetime.timedelta(days=RENEW_BEFORE_DAYS)
            and found.issuer == _read(self.authority).subject
            and _names_of(found) >= set(self._names)
        )


def machine_names(settings: Settings) -> tuple[str, ...]:
    """Names and addresses under which this machine may be reached."""
    names = {"localhost", "127.0.0.1", "::1", guess_host(), settings.api.public_host}
    host = socket.gethostname()
    names |= {host, f"{host}.local" if "." not in host else host}
    names.add(settings.rtmps.host if settings.rtmps.host not in ("0.0.0.0", "::") else "")
    return tuple(sorted(name for name in names if name))


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _names_of(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"The certificate {path} cannot be read: {error}.") from error


def _make_authority(certificate_path: Path, key_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial in the name keeps two authorities apart that one machine may come to trust.
    serial = x509.random_serial_number()
    name = _name(f"Headrace local authority {serial % 16**8:08x}")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(name, name, key.public_key(), serial, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    write_private(key_path, _pem(key))
    _write_public(certificate_path, builder.sign(key, hashes.SHA256()))


def _make_certificate(
    ca_path: Path, ca_key_path: Path, certificate_path: Path, key_path: Path, names: Iterable[str]
) -> None:
    ca = _read(ca_path)
    ca_key = serialization.load_pem_private_key(ca_key_path.read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey), "made by us, on P-256"
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name("Headrace"), ca.subject, key.public_key(), x509.random_serial_number(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    write_private(key_path, _pem(key))
    _write_public(certificate_path, builder.sign(ca_key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of encoders run late
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _write_public(path: Path, certificate: x509.Certificate) -> None:
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM).decode())
    path.chmod(0o644)
