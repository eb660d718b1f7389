"""The edge's certificate: the environment's own, or one from an authority made once on this machine."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stack.errors import Failed
from stack.load import Site

LIFETIME = datetime.timedelta(days=90)
RENEW_BEFORE = datetime.timedelta(days=30)


def of(site: Site) -> tuple[bytes, bytes] | None:
    """PEM of the site's certificate with its chain, and of its key; None where it has none (tls.certificate: off)."""
    tls = site.environment.tls
    if tls.certificate == "off":
        return None
    names = [*site.environment.domains, *sorted({p.host for p in site.apps.values() if p.host})]
    if tls.certificate == "local-ca":
        (site.root / ".local").mkdir(mode=0o700, exist_ok=True)
        try:
            return local(site.root / ".local/ca", names)
        except ValueError as error:
            raise Failed(
                f".local/ca holds something that is no certificate ({error}). Remove that folder and type it again"
            ) from None
    pair = []
    for source in (tls.certificate, tls.key or ""):
        try:
            pair.append((site.root / source).read_bytes())
        except OSError as error:
            raise Failed(f"environments/{site.env}.yml: tls: {source} cannot be read: {error.strerror}") from None
    if reason := unfit(pair[0], pair[1], names):
        raise Failed(f"environments/{site.env}.yml: tls: {tls.certificate} {reason}")
    return pair[0], pair[1]


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
        end = datetime.datetime.now(datetime.UTC) + LIFETIME
        issued = authority.issue_cert(*names, not_after=end)
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return cert.read_bytes(), key.read_bytes()


def _fits(pem: bytes, names: list[str]) -> bool:
    certificate = x509.load_pem_x509_certificate(pem)
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return _names(certificate) == {_canonical(n) for n in names} and left > RENEW_BEFORE


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
