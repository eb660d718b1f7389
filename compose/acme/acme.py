"""Has the site's certificate issued, and renewed when a third of its life is left: the service `acme` beside the edges.

    POST /certificate                        from each edge every few seconds (compose/certificate.sh): its request for a
                                             certificate (CSR), and the certificate that it serves. 200: a newer one
    GET /.well-known/acme-challenge/TOKEN    from the ACME server, through any edge
    GET /healthz                             204

Nothing is kept here: what edges serve and send is the state, so this may start anew on any host. The certificate's private
key is at the edges alone; this has the request and, in /tmp, a key of its own for an account at the ACME server.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LOOK = 60.0
"""s between two looks at the clock, at most: it may have been set, or the machine have slept. The ACME server is asked for
nothing before a certificate is due."""
SETTLE = 6.0
"""s that edges have to send what they serve, before a certificate is asked for because this knows of none."""
FORGOTTEN = 60.0
"""s after which a request that no edge sends any more counts as gone: names that were, in an earlier release."""
FIRST_PAUSE, LONGEST_PAUSE = 300.0, 12 * 3600.0
"""s after the first failure, and at most; doubled with each. Let's Encrypt refuses after five failures in an hour."""
LIMITED_PAUSE = 3600.0
"""s, at least, where the ACME server says that there were too many."""
PATIENCE = 600.0
"""s that an attempt may take."""
LARGEST = 64 * 1024
"""bytes of what an edge sends."""
WEBROOT = Path("/tmp/www")


def leaf(chain: bytes) -> x509.Certificate:
    """The certificate of a PEM chain."""
    return x509.load_pem_x509_certificates(chain)[0]


def names(of: x509.Certificate | x509.CertificateSigningRequest) -> set[str]:
    """The host names it is for, or asks for."""
    try:
        san = of.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return set(san.get_values_for_type(x509.DNSName))


def answers(certificate: x509.Certificate, request: x509.CertificateSigningRequest) -> bool:
    """Whether an authority gave this certificate for this request, or for one of the same key with more names. The
    stand-in, which an edge has before its first certificate, is from nobody but itself."""
    keys = [
        of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for of in (certificate, request)
    ]
    return keys[0] == keys[1] and certificate.issuer != certificate.subject and names(request) <= names(certificate)


def due(certificate: x509.Certificate, spread: float) -> datetime.datetime:
    """When to renew it: a third of its life before its end, or up to a hundredth earlier (spread: 0 to 1), because not
    everybody should come at the same minute."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - life / 3 - spread * life / 100


def pause(failures: int, said: str) -> float:
    """s until the next attempt, after so many that failed; said: what the last one said."""
    wait = min(FIRST_PAUSE * 2 ** min(failures - 1, 16), LONGEST_PAUSE)
    return max(wait, LIMITED_PAUSE) if limited(said) else wait


def limited(said: str) -> bool:
    """Whether the ACME server has refused because there were too many."""
    return bool(re.search(r"rateLimited|too many|rate limit", said, re.IGNORECASE))


def reason(said: str) -> str:
    """certbot's output as one line: what the ACME server says, without the hints around it."""
    lines = [line.strip() for line in said.splitlines()]
    noise = (
        r"^$|^Saving debug log|^See the logfile|^Ask for help|^Please see the logfiles|^- - -|^Some challenges have failed"
        r"|^Hint:|^Account registered|^Requesting a certificate|^Certbot failed to authenticate"
    )
    kept = [line for line in lines if not re.search(noise, line)]
    return " ".join(kept)[:600] or "certbot says no reason"


@dataclass
class State:
    """What edges have sent. Whoever waits for a change of it holds `changed`."""

    chain: bytes | None = None
    """The newest certificate, with its chain."""
    asked: dict[bytes, tuple[float, float]] = field(default_factory=dict)
    """Request -> when it was first and last sent, s."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def request(self) -> bytes | None:
        """The request that counts: while a release is under way, edges send the old one and the new one."""
        return max(self.asked, key=lambda sent: self.asked[sent][0], default=None)

    def post(self, body: bytes, now: float) -> bytes | None:
        """What an edge gets that sends this: a certificate newer than its own, or nothing. ValueError where it is neither.

        now: s."""
        parsed, theirs = x509.load_pem_x509_csr(body), leaf(body)
        sent = parsed.public_bytes(Encoding.PEM)
        with self.changed:
            first, _ = self.asked.get(sent, (now, now))
            self.asked[sent] = first, now
            self.asked = {request: times for request, times in self.asked.items() if now - times[1] < FORGOTTEN}
            ours = leaf(self.chain) if self.chain and answers(leaf(self.chain), parsed) else None
            fits = answers(theirs, parsed)
            if ours and not (fits and theirs.not_valid_before_utc >= ours.not_valid_before_utc):
                return self.chain
            if fits and theirs != ours and sent == self.request():
                self.chain = b"".join(c.public_bytes(Encoding.PEM) for c in x509.load_pem_x509_certificates(body))
            self.changed.notify_all()
            return None

    def known(self) -> x509.Certificate | None:
        """The certificate that answers the request that counts."""
        request = self.request()
        found = leaf(self.chain) if self.chain else None
        return found if found and request and answers(found, x509.load_pem_x509_csr(request)) else None


class Handler(BaseHTTPRequestHandler):
    """Edges, and through them the ACME server."""

    state = State()
    timeout = 10

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
            if self.path != "/certificate" or not 0 < length <= LARGEST:
                raise ValueError
            newer = self.state.post(self.rfile.read(length), time.monotonic())
        except (ValueError, IndexError):
            self._answer(400)
        else:
            self._answer(200 if newer else 204, newer or b"")

    def do_GET(self) -> None:
        if self.path == "/healthz":
            return self._answer(204)
        token = re.fullmatch(r"/\.well-known/acme-challenge/([A-Za-z0-9_-]+)", self.path)
        try:
            return self._answer(200, (WEBROOT / ".well-known/acme-challenge" / token[1]).read_bytes() if token else b"")
        except OSError:
            return self._answer(404)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response_only(status if body or status != 200 else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass  # an edge asks every few seconds


def say(text: str) -> None:
    """One line of the log."""
    print(f"acme: {text}", flush=True)


def issue(request: bytes) -> tuple[bytes | None, str]:
    """(the chain that the ACME server gives for this request, or None; what certbot said)."""
    with tempfile.TemporaryDirectory() as folder:
        asked, chain = Path(folder, "request.pem"), Path(folder, "fullchain.pem")
        asked.write_bytes(request)
        WEBROOT.mkdir(exist_ok=True)
        email = os.environ.get("ACME_EMAIL")
        command = [
            *("certbot", "certonly", "--non-interactive", "--agree-tos", "--webroot", "--webroot-path", str(WEBROOT)),
            *("--server", os.environ["ACME_DIRECTORY"], "--csr", str(asked), "--fullchain-path", str(chain)),
            *("--cert-path", f"{folder}/certificate.pem", "--chain-path", f"{folder}/chain.pem"),
            *("--config-dir", "/tmp/certbot", "--work-dir", "/tmp/certbot/work", "--logs-dir", "/tmp/certbot/log"),
            *("--max-log-backups", "2", *(["--email", email] if email else ["--register-unsafely-without-email"])),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return None, f"no answer within {PATIENCE:g} s"
        return (chain.read_bytes() if done.returncode == 0 and chain.is_file() else None), done.stdout


def keep(state: State) -> None:
    """For ever: a certificate that answers the request, and is not near its end."""
    failures, not_before, spread = 0, 0.0, random.random()
    seen: bytes | None = None
    while True:
        with state.changed:
            request, known, now = state.request(), state.known(), time.monotonic()
            if request and request != seen:  # other names, or the first ones: what failed before counts no more
                failures, not_before, seen = 0, now + (0 if seen else SETTLE), request
            wait = not_before - now
            if known:
                left = due(known, spread) - datetime.datetime.now(datetime.UTC)
                wait = max(wait, left.total_seconds())
            if request is None or wait > 0:
                state.changed.wait(min(wait, LOOK) if request else LOOK)
                continue
        asked = ", ".join(sorted(names(x509.load_pem_x509_csr(request))))
        say(f"asking {os.environ['ACME_DIRECTORY']} for a certificate for {asked}")
        chain, said = issue(request)
        if chain:
            failures, spread = 0, random.random()
            say(f"issued, until {leaf(chain).not_valid_after_utc:%Y-%m-%d %H:%M} UTC: {asked}")
            with state.changed:
                state.chain = chain
            continue
        failures += 1
        delay = pause(failures, said) * random.uniform(1, 1.1)
        not_before = time.monotonic() + delay
        kind = "too many requests" if limited(said) else "refused"
        say(f"{kind}, trying again in {delay / 60:.0f} min (make restart APP=acme: at once): {reason(said)}")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if ca := os.environ.get("ACME_CA"):
        Path("/tmp/ca.pem").write_text(ca)
        os.environ["REQUESTS_CA_BUNDLE"] = "/tmp/ca.pem"
    threading.Thread(target=keep, args=(Handler.state,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        ThreadingHTTPServer(("", 8000), Handler).serve_forever()


if __name__ == "__main__":
    main()
