"""The local certificate: made once, reused while it fits, and good for every name of the site."""

from __future__ import annotations

import datetime
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stack import certs

NAMES = ["localhost", "127.0.0.1", "shop.example.com"]


def serial(pem: bytes) -> int:
    return x509.load_pem_x509_certificate(pem).serial_number


def test_the_certificate_is_reused_while_it_fits(tmp_path: Path) -> None:
    first = certs.local(tmp_path, NAMES)
    assert certs.local(tmp_path, NAMES) == first
    assert certs.local(tmp_path, list(reversed(NAMES))) == first


@pytest.mark.parametrize("names", [[*NAMES, "edge"], NAMES[:-1], ["localhost", "127.0.0.2", "shop.example.com"]])
def test_other_names_get_another_certificate_of_the_same_authority(tmp_path: Path, names: list[str]) -> None:
    first, _ = certs.local(tmp_path, NAMES)
    authority = (tmp_path / "ca.pem").read_bytes()
    second, _ = certs.local(tmp_path, names)
    assert serial(second) != serial(first)
    assert (tmp_path / "ca.pem").read_bytes() == authority


@pytest.mark.parametrize(("days_left", "renewed"), [(31, False), (29, True), (-1, True)])
def test_a_certificate_is_renewed_30_days_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days_left: int, renewed: bool
) -> None:
    monkeypatch.setattr(certs, "LIFETIME", datetime.timedelta(days=days_left))
    first, _ = certs.local(tmp_path, NAMES)
    monkeypatch.undo()
    second, _ = certs.local(tmp_path, NAMES)
    assert (serial(second) != serial(first)) is renewed


def test_a_lost_authority_takes_its_certificate_with_it(tmp_path: Path) -> None:
    first, _ = certs.local(tmp_path, NAMES)
    (tmp_path / "ca.pem").unlink()
    second, _ = certs.local(tmp_path, NAMES)
    assert serial(second) != serial(first)
    verify(second, tmp_path / "ca.pem", "localhost")


@pytest.mark.parametrize("name", NAMES)
def test_who_trusts_the_authority_trusts_the_certificate(tmp_path: Path, name: str) -> None:
    certificate, _ = certs.local(tmp_path, NAMES)
    verify(certificate, tmp_path / "ca.pem", name)


def test_the_certificate_is_good_for_no_other_name(tmp_path: Path) -> None:
    certificate, _ = certs.local(tmp_path, NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
        verify(certificate, tmp_path / "ca.pem", "elsewhere.example.com")


def test_the_key_belongs_to_the_certificate_and_to_its_owner_alone(tmp_path: Path) -> None:
    certificate, key = certs.local(tmp_path, NAMES)
    public = x509.load_pem_x509_certificate(certificate).public_key()
    assert load_pem_private_key(key, None).public_key() == public
    for secret in ("ca.key", "key.pem"):
        assert (tmp_path / secret).stat().st_mode & 0o077 == 0


def verify(pem: bytes, authority: Path, name: str) -> None:
    """Raises unless a client that trusts `authority` alone ends a TLS handshake with a server called `name`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (authority.parent / "served.pem").write_bytes(pem)
    server.load_cert_chain(authority.parent / "served.pem", authority.parent / "key.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = ssl.create_default_context(cafile=authority).wrap_bio(to_client, to_server, server_hostname=name)
    for side in (here, there, here):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert here.getpeercert()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["localhost", "127.0.0.1"], None),
        (["a.wild.example.com"], None),
        (["wild.example.com"], "is not for wild.example.com, but for"),
        (["other.example.com"], "is not for other.example.com, but for"),
    ],
)
def test_a_certificate_of_ones_own_has_to_be_for_the_sites_names(
    tmp_path: Path, names: list[str], reason: str | None
) -> None:
    pem, key = certs.local(tmp_path, [*NAMES, "*.wild.example.com"])
    said = certs.unfit(pem, key, names)
    assert said is None if reason is None else reason in str(said)


def test_a_certificate_that_cannot_serve_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, key = certs.local(tmp_path / "one", NAMES)
    _, other = certs.local(tmp_path / "two", NAMES)
    assert certs.unfit(pem, other, NAMES) == "is not the certificate of the key beside it"
    assert "is no PEM file" in str(certs.unfit(b"\x30\x82", key, NAMES))
    monkeypatch.setattr(certs, "LIFETIME", datetime.timedelta(days=-1))
    assert "ended on" in str(certs.unfit(*certs.local(tmp_path / "three", NAMES), NAMES))
