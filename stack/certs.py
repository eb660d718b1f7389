"""The edge's certificate: the environment's own, one from an authority made once on this machine, or what ACME needs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from stack.edge import STAND_IN
from stack.errors import Failed
from stack.load import Site

LIFETIME = datetime.timedelta(days=89)
"""Of what is made here: a day less than what browsers and auditors begin to ask about."""
RENEW_BEFORE = datetime.timedelta(days=30)
SKEW = datetime.timedelta(hours=1)
"""Clocks that are late by less accept a new certificate at once."""


def files(site: Site) -> dict[str, bytes]:
    """What the edge's directory has in tls/; nothing where there is no HTTPS (tls.certificate: off)."""
    tls = site.environment.tls
    if tls.certificate == "off":
        return {}
    names = [*site.environment.domains, *sorted({p.host for p in site.apps.values() if p.host})]
    if tls.certificate == "acme":
        return _for_acme(site, names)
    certificate, key = _pair(site, names)
    return {"tls/certificate.pem": certificate, "tls/key.pem": key}


def _for_acme(site: Site, names: list[str]) -> dict[str, bytes]:
    """The key never leaves the edges' directories: who asks for certificates (compose/acme) gets the request alone."""
    tls, folder = site.environment.tls, site.root / ".local/acme" / site.env
    (site.root / ".local").mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pem = _read(site, tls.key) if tls.key else _once(folder / "key.pem")
        key = load_pem_private_key(pem, password=None)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise ValueError("neither RSA nor ECDSA")
    except (ValueError, TypeError) as error:
        where = tls.key or f".local/acme/{site.env}/key.pem"
        raise Failed(f"environments/{site.env}.yml: tls: {where} is no key for a certificate ({error})") from None
    stand_in, request = folder / "stand-in.pem", folder / "request.pem"
    if not (stand_in.is_file() and request.is_file() and _is_of(stand_in.read_bytes(), key, names)):
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        nobody, (begin, end) = x509.Name([]), _life()
        asked = x509.CertificateSigningRequestBuilder().subject_name(nobody).add_extension(san, critical=True)
        request.write_bytes(asked.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        made = x509.CertificateBuilder().subject_name(nobody).issuer_name(nobody).add_extension(san, critical=True)
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(begin).not_valid_after(end)
        stand_in.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return {
        "tls/key.pem": pem,
        "tls/request.pem": request.read_bytes(),
        STAND_IN: stand_in.read_bytes(),
        "tls/directory": tls.acme.directory.encode(),
    }


def _is_of(pem: bytes, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, names: list[str]) -> bool:
    """Whether a stand-in, which nobody trusts and which may have ended, and so the request beside it, is for these."""
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.public_key() == key.public_key() and _names(certificate) == set(names)


def _once(file: Path) -> bytes:
    """A key, made if there is none."""
    if not file.is_file():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.touch(0o600)
        file.write_bytes(pem)
    return file.read_bytes()


def _read(site: Site, path: str) -> bytes:
    try:
        return (site.root / path).read_bytes()
    except OSError as error:
        raise Failed(f"environments/{site.env}.yml: tls: {path} cannot be read: {error.strerror}") from None


def directory_ca(site: Site) -> str | None:
    """PEM of the authority that the ACME directory's own certificate is from, where that is no public one."""
    ca = site.environment.tls.acme.ca
    return _read(site, ca).decode("ascii", "replace") if ca else None


def _pair(site: Site, names: list[str]) -> tuple[bytes, bytes]:
    """PEM of a certificate with its chain, and of its key."""
    tls = site.environment.tls
    if tls.certificate == "local-ca":
        (site.root / ".local").mkdir(mode=0o700, exist_ok=True)
        try:
            return local(site.root / ".local/ca", names)
        except ValueError as error:
            raise Failed(
                f".local/ca holds something that is no certificate ({error}). Remove that folder and type it again"
            ) from None
    certificate, key = _read(site, tls.certificate), _read(site, tls.key or "")
    if reason := unfit(certificate, key, names):
        raise Failed(f"environments/{site.env}.yml: tls: {tls.certificate} {reason}")
    return certificate, key


def unfit(certificate: bytes, key: bytes, names: list[str]) -> str | None:
    """What is wrong with a certificate and its key, as the end of a sentence; None when they serve for these names."""
    try:
        first = x509.load_pem_x509_certificates(certificate)[0]
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        return "or its key is no PEM file, or has a password"
    if private.public_key() != first.public_key():
        return "is not the certificate of the key beside it"
    if first.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        return f"ended on {first.not_valid_after_utc:%Y-%m-%d}"
    covered = _names(first)
    missing = [n for n in names if not {_canonical(n), "*." + n.partition(".")[2]} & covered]
    return f"is not for {', '.join(missing)}, but for {', '.join(sorted(covered))}" if missing else None


def local(folder: Path, names: list[str]) -> tuple[bytes, bytes]:
    """PEM of a certificate with its chain, and of its key, for `names`; made anew only when the names changed or it ends
    within 30 days. `folder`/ca.pem is what browsers and curl have to trust."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_cert, ca_key = folder / "ca.pem", folder / "ca.key"
    cert, key = folder / "certificate.pem", folder / "key.pem"
    if not (ca_cert.is_file() and ca_key.is_file()):
        authority = trustme.CA(organization_name="Gatehouse", organization_unit_name="local development")
        ca_key.touch(0o600)
        ca_key.write_bytes(authority.private_key_pem.bytes())
        ca_cert.write_bytes(authority.cert_pem.bytes())
        cert.unlink(missing_ok=True)
    if not (cert.is_file() and key.is_file() and _fits(cert.read_bytes(), names)):
        authority = trustme.CA.from_pem(ca_cert.read_bytes(), ca_key.read_bytes())
        begin, end = _life()
        issued = authority.issue_cert(*names, not_before=begin, not_after=end)
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return cert.read_bytes(), key.read_bytes()


def _life() -> tuple[datetime.datetime, datetime.datetime]:
    """Begin and end of a certificate that is made now."""
    now = datetime.datetime.now(datetime.UTC)
    end = now + LIFETIME
    return min(now, end) - SKEW, end


def _fits(pem: bytes, names: list[str]) -> bool:
    certificate = x509.load_pem_x509_certificate(pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left = end - datetime.datetime.now(datetime.UTC)
    fresh = left > RENEW_BEFORE and end - begin <= LIFETIME + 2 * SKEW
    return _names(certificate) == {_canonical(n) for n in names} and fresh


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))}


def _canonical(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name
