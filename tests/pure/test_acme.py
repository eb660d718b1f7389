"""When a certificate is asked for, and which of those that edges send is the one to keep."""

from __future__ import annotations

import datetime
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from stack import certs, doctor, edge
from stack.doctor import Facts
from stack.model import Environment
from stack.render import render
from tests.conftest import REPOSITORY
from tests.pure.conftest import Draft
from tests.pure.test_doctor import container

_spec = importlib.util.spec_from_file_location("acme", REPOSITORY / "compose/acme/acme.py")
assert _spec is not None
assert _spec.loader is not None
acme: Any = importlib.util.module_from_spec(_spec)
sys.modules["acme"] = acme  # dataclasses look there
_spec.loader.exec_module(acme)

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
SITE = "domains: [example.com]\nengine: compose\ntls: {certificate: acme}\n"


def authority() -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")]), ec.generate_private_key(
        ec.SECP256R1()
    )


def issued(files: dict[str, bytes], *names: str, begin: datetime.datetime = NOW, days: float = 90) -> bytes:
    """What an authority gives for the key in these files."""
    issuer, theirs = authority()
    key: Any = load_pem_private_key(files["tls/key.pem"], None)
    san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    made = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).add_extension(san, critical=True)
    made = made.not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=days))
    return made.sign(theirs, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture
def files(draft: Draft) -> dict[str, bytes]:
    """Of a site that gets its certificate by ACME."""
    draft.environment(SITE)
    return certs.files(draft.load())


def sent(files: dict[str, bytes], certificate: bytes | None = None) -> bytes:
    """What an edge posts."""
    return files["tls/request.pem"] + (certificate or files[edge.STAND_IN])


# --- what the service decides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "left"), [(90, 30), (45, 15), (6, 2)])
def test_a_third_of_the_life_is_left_at_a_renewal(files: dict[str, bytes], days: float, left: float) -> None:
    certificate = acme.leaf(issued(files, "example.com", days=days))
    ends = certificate.not_valid_after_utc
    assert ends - acme.due(certificate, 0) == datetime.timedelta(days=left)
    assert (
        datetime.timedelta()
        < acme.due(certificate, 0) - acme.due(certificate, 1)
        <= datetime.timedelta(days=days / 100)
    )


def test_pauses_grow_and_stay_below_five_failures_in_an_hour() -> None:
    pauses = [acme.pause(n, "unauthorized") for n in range(1, 12)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 300
    assert pauses[-1] == 12 * 3600
    assert sum(pauses[:4]) > 3600
    assert acme.pause(1, "urn:ietf:params:acme:error:rateLimited :: too many certificates") == 3600
    assert acme.pause(9, "rateLimited") == 12 * 3600


def test_the_stand_in_and_strangers_are_no_certificates(files: dict[str, bytes], draft: Draft) -> None:
    state = acme.State()
    stranger = trustme.CA().issue_cert("example.com").cert_chain_pems[0].bytes()
    for certificate in (files[edge.STAND_IN], stranger, issued(files, "www.example.com")):
        assert state.post(sent(files, certificate), 0) is None
        assert state.known() is None
    assert state.request() == files["tls/request.pem"]


def test_the_newest_that_any_edge_has_goes_to_the_others(files: dict[str, bytes]) -> None:
    state = acme.State()
    old = issued(files, "example.com")
    new = issued(files, "example.com", begin=NOW + datetime.timedelta(days=60))
    assert state.post(sent(files, old), 0) is None
    assert state.post(sent(files), 1) == old
    assert state.post(sent(files, new), 2) is None
    assert state.post(sent(files, old), 3) == new
    assert state.post(sent(files, new), 4) is None
    assert state.known() == acme.leaf(new)


def test_another_name_is_asked_for_while_some_edges_still_send_the_old_ones(draft: Draft) -> None:
    draft.environment(SITE)
    before = certs.files(draft.load())
    draft.environment(SITE.replace("[example.com]", "[example.com, www.example.com]"))
    after = certs.files(draft.load())
    assert before["tls/key.pem"] == after["tls/key.pem"], "so that what is served fits until there is another one"
    state, old = acme.State(), issued(before, "example.com")
    state.post(sent(before, old), 0)
    assert state.post(sent(after, old), 5) is None
    assert state.known() is None, "it lacks a name"
    for now in range(6, 50, 5):
        state.post(sent(before, old), now)
        assert state.request() == after["tls/request.pem"], "the newer one, whoever asks last"
    wider = issued(before, "example.com", "www.example.com", begin=NOW + datetime.timedelta(days=1))
    state.chain = wider
    assert state.post(sent(before, old), 50) == wider, "one for more names is one for these"
    # A rollback: only the old one is sent, and counts after a minute.
    for now in (60, 100, 140):
        state.post(sent(before, wider), now)
    assert state.request() == before["tls/request.pem"]


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(ValueError, match=r".*"):
        acme.State().post(b"-----BEGIN", 0)


# --- what the edge's directory holds --------------------------------------------------------------------------------


def served(root: Path) -> bytes:
    return (root / "current/tls/certificate.pem").read_bytes()


def release(root: Path, files: dict[str, bytes], **more: bytes) -> str:
    version = edge.publish(root, {**files, **more})
    edge.switch(root, version)
    return version


def test_a_new_certificate_is_no_new_release_and_outlives_the_next(tmp_path: Path, files: dict[str, bytes]) -> None:
    version = release(tmp_path, files)
    assert served(tmp_path) == files[edge.STAND_IN]
    file = (tmp_path / "current/tls/certificate.pem").resolve()
    assert file.parent == tmp_path.resolve() / "acme"
    file.write_bytes(b"newer")
    assert edge.publish(tmp_path, files) == version
    release(tmp_path, files, **{"site.conf": b"another"})
    assert served(tmp_path) == b"newer"


def test_another_key_or_authority_begins_with_the_stand_in(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A certificate of another key would not fit, and a staging one would stay for months."""
    release(tmp_path, files)
    (tmp_path / "current/tls/certificate.pem").resolve().write_bytes(b"newer")
    release(tmp_path, files, **{"tls/directory": b"https://staging.example.com/directory"})
    assert served(tmp_path) == files[edge.STAND_IN]
    release(tmp_path, files)
    assert served(tmp_path) == b"newer"
    release(tmp_path, files, **{"tls/key.pem": b"another"})
    assert served(tmp_path) == files[edge.STAND_IN]


def test_a_certificate_from_a_file_serves_on_until_acmes_comes(tmp_path: Path, files: dict[str, bytes]) -> None:
    release(tmp_path, {"tls/certificate.pem": b"bought", "tls/key.pem": files["tls/key.pem"]})
    release(tmp_path, files)
    assert served(tmp_path) == b"bought"


def test_the_request_is_for_every_name_and_made_once(draft: Draft) -> None:
    draft.app("interface: wsgi\nentry: app:app\nhost: shop.example.com\n")
    draft.environment(SITE)
    files = certs.files(draft.load())
    assert acme.names(x509.load_pem_x509_csr(files["tls/request.pem"])) == {"example.com", "shop.example.com"}
    assert certs.files(draft.load()) == files
    for secret in (draft.root / ".local/acme/local/key.pem", draft.root / ".local"):
        assert secret.stat().st_mode & 0o077 == 0


def test_a_key_of_ones_own_is_taken_and_a_bad_one_named(draft: Draft) -> None:
    draft.environment(SITE)
    made = certs.files(draft.load())["tls/key.pem"]
    (draft.root / "mine.key").write_bytes(made)
    draft.environment(SITE.replace("acme}", "acme, key: mine.key}"))
    assert certs.files(draft.load())["tls/key.pem"] == made
    (draft.root / "mine.key").write_text("none")
    with pytest.raises(Exception, match=r"tls: mine.key is no key for a certificate"):
        certs.files(draft.load())


# --- what is rendered and said -----------------------------------------------------------------------------------------


def test_the_key_is_in_no_rendered_file_and_apps_are_not_where_it_asks(draft: Draft) -> None:
    for engine in ("compose", "swarm"):
        draft.environment(SITE.replace("compose", engine))
        key = certs.files(draft.load())["tls/key.pem"].decode().splitlines()[1]
        files = render(draft.load())
        assert not any(key in text for text in files.values())
        assert "networks: [edge]" in files["stack.yml"].partition("\n  acme:")[2].partition("\n\n")[0]
        assert "/etc/gatehouse/acme" in files["local.yml" if engine == "compose" else "stack.yml"]
    draft.environment("domains: [example.com]\nengine: compose\n")
    assert "acme" not in "".join(render(draft.load()).values())


@pytest.mark.parametrize(
    ("log", "days", "said"),
    [
        ([], 60, []),
        (["acme: issued, until 2026-07-30"], 60, []),
        (["acme: refused, trying again in 5 min: no such name"], 60, ["no certificate from https://acme-v02"]),
        ([], 9, ["the edge's certificate ends on"]),
        ([], 20, []),
        ([], -1, ["the edge's certificate ended on"]),
    ],
)
def test_doctor_says_what_is_wrong_with_it(draft: Draft, log: list[str], days: float, said: list[str]) -> None:
    draft.environment(SITE)
    now = NOW + datetime.timedelta(days=90 - days)
    found = Facts(draft.load(), now.timestamp(), certificate=issued(certs.files(draft.load()), "example.com"))
    found = replace(found, containers=[container("acme")], logs={container("acme").id: log})
    told = [finding.sentence for finding in doctor._certificate(found)]
    assert len(told) == len(said)
    assert all(part in sentence for part, sentence in zip(said, told, strict=True))


def test_the_environment_knows_what_no_authority_gives() -> None:
    for domain in ("localhost", "10.0.0.1"):
        with pytest.raises(ValueError, match="no authority gives"):
            Environment.model_validate({"domains": [domain], "tls": {"certificate": "acme"}})
