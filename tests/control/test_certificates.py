"""Certificates: a real TLS handshake with the local authority, and a reload in mid-flight."""

from __future__ import annotations

import datetime
import os
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from control.certificates import CertificateError, Certificates
from control.settings import Settings


def handshake(server: ssl.SSLContext, trust: Path | None, name: str) -> dict[str, object]:
    """Connect a verifying client to the server in memory; the certificate that it saw."""
    context = ssl.create_default_context(cafile=trust)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    return dict(ends[0].getpeercert() or {})


def settings(**rtmps: object) -> Settings:
    return Settings.model_validate({"rtmps": rtmps, "api": {"public_host": "live.example.org"}})


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "live.example.org"])
def test_whoever_trusts_the_authority_accepts_the_server(tmp_path: Path, name: str) -> None:
    certificates = Certificates(settings(), tmp_path)
    seen = handshake(certificates.context(), certificates.authority, name)
    assert (("commonName", "Headrace"),) in seen["subject"]  # type: ignore[operator]


def test_others_do_not(tmp_path: Path) -> None:
    certificates = Certificates(settings(), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(certificates.context(), None, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(certificates.context(), certificates.authority, "example.net")


def test_strict_verification_passes(tmp_path: Path) -> None:
    """openssl's -x509_strict is what GnuTLS, Apple and newer Pythons check too."""
    certificates = Certificates(settings(), tmp_path)
    certificates.context()
    command = ["openssl", "verify", "-x509_strict", "-CAfile", certificates.authority, certificates.certificate]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keys_are_private(tmp_path: Path) -> None:
    Certificates(settings(), tmp_path).context()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "ca.pem": 0o644, "server.pem": 0o644}


def test_a_restart_keeps_authority_and_certificate(tmp_path: Path) -> None:
    first = Certificates(settings(), tmp_path)
    first.context()
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    second = Certificates(settings(), tmp_path)
    assert second.context() is second.context()
    assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before


def test_a_new_name_brings_a_new_certificate_from_the_same_authority(tmp_path: Path) -> None:
    first = Certificates(settings(), tmp_path)
    first.context()
    authority = first.authority.read_bytes()
    renamed = Settings.model_validate({"api": {"public_host": "other.example.org"}})
    second = Certificates(renamed, tmp_path)
    handshake(second.context(), second.authority, "other.example.org")
    assert second.authority.read_bytes() == authority


def test_an_own_certificate_is_reloaded_when_its_file_changes(tmp_path: Path) -> None:
    made = [Certificates(settings(), tmp_path / name) for name in ("a", "b")]
    for certificates in made:
        certificates.context()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"

    def install(which: Certificates, stamp: int) -> None:
        for source, target in ((which.certificate, chain), (which.private_key, key)):
            shutil.copy(source, target)
            os.utime(target, ns=(stamp, stamp))

    install(made[0], 1)
    own = Certificates(settings(certificate=chain, private_key=key), tmp_path / "c")
    assert own.trust_command() == ""
    first = own.context()
    handshake(first, made[0].authority, "localhost")
    install(made[1], 2)
    assert own.context() is not first
    handshake(own.context(), made[1].authority, "localhost")

    key.write_text("broken")  # half-written: the good one stays
    handshake(own.context(), made[1].authority, "localhost")
    chain.unlink()
    handshake(own.context(), made[1].authority, "localhost")
    assert not (tmp_path / "c").exists()


def test_a_wrong_own_certificate_is_told(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="cannot be read"):
        Certificates(settings(certificate=tmp_path / "none.pem"), tmp_path).context()
    (tmp_path / "bad.pem").write_text("x")
    with pytest.raises(CertificateError, match="cannot be used"):
        Certificates(settings(certificate=tmp_path / "bad.pem"), tmp_path).context()


def test_the_certificate_lives_as_long_as_apple_accepts(tmp_path: Path) -> None:
    certificates = Certificates(settings(), tmp_path)
    certificates.context()
    life = certificates.ends() - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=390) < life < datetime.timedelta(days=398)
    assert str(certificates.authority) in certificates.trust_command()
