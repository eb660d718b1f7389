"""The edge's configuration as a versioned directory: tested beside the running one, then switched to by a symlink.

    .local/edge/releases/<hash>/{nginx.conf,site.conf,snippets/,pages/,tls/,version.conf}
    .local/edge/current -> releases/<hash>
    .local/edge/acme/<hash>.pem     tls.certificate: acme. What a release's tls/certificate.pem is a link to: the newest
                                    certificate of a key, which the edge writes itself (compose/certificate.sh)

The container mounts the parent, so a new configuration never touches it. On this machine `make up` uses these functions,
on a host the Ansible module gatehouse_edge does (ansible/module_utils/ links here): nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import socket
import ssl
from pathlib import Path

KEEP = 5
"""Releases that stay on disk."""
STAND_IN = "tls/stand-in.pem"
"""Of a release whose certificate comes by ACME: the certificate until there is one."""
OURS = "gatehouse"
"""User-Agent of what we ask ourselves: no request of the site's."""


def publish(edge: Path, files: dict[str, bytes]) -> str:
    """Writes `files` (relative path -> content) as a release below `edge` unless it is there; returns its hash."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(content).digest())
    version = digest.hexdigest()[:12]
    release = edge / "releases" / version
    if not release.is_dir():
        unfinished = release.with_name(f".{version}")
        shutil.rmtree(unfinished, ignore_errors=True)
        # The running Nginx answers its own version, so that a reload that did not happen is noticed.
        for name, content in {**files, "version.conf": f'return 200 "{version}";\n'.encode()}.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)  # Nginx's user reads it; .local itself is closed to others
        if STAND_IN in files:
            certificate = unfinished / "tls/certificate.pem"
            certificate.symlink_to(Path("../../../acme") / _first_certificate(edge, files))
        for folder in (edge, edge / "releases", unfinished, *(p for p in unfinished.rglob("*") if p.is_dir())):
            folder.chmod(0o755)
        unfinished.rename(release)
    return version


def _first_certificate(edge: Path, files: dict[str, bytes]) -> str:
    """The name of the file in acme/ that has the newest certificate of a key and a directory; before there is one, it gets
    what there is: that of the release before, if it was not asked for by ACME and is for this key, or the stand-in."""
    folder, digest = edge / "acme", hashlib.sha256(files["tls/key.pem"] + files["tls/directory"]).hexdigest()
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)  # for Nginx's user; what is above it is closed to others
    file = folder / f"{digest[:12]}.pem"
    if not file.exists():
        before = edge / "current/tls"
        key = before / "key.pem"
        same = key.is_file() and key.read_bytes() == files["tls/key.pem"] and not (before.parent / STAND_IN).is_file()
        file.write_bytes((before / "certificate.pem").read_bytes() if same else files[STAND_IN])
        file.chmod(0o644)
    return file.name


def current(edge: Path) -> str | None:
    """The hash of the release that `current` points to."""
    link = edge / "current"
    return link.readlink().name if link.is_symlink() else None


def switch(edge: Path, version: str) -> None:
    """Points `current` at a release, atomically, and removes the oldest ones, but never the one it pointed to before."""
    if not (edge / "releases" / version).is_dir():
        raise FileNotFoundError(f"{edge} has no release {version} any more")
    previous = current(edge)
    link = edge / ".current"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("releases") / version)
    link.replace(edge / "current")
    os.utime(edge / "releases" / version)
    by_age = sorted((edge / "releases").iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in by_age[KEEP:]:
        if old.name != previous:
            shutil.rmtree(old)


def discard(edge: Path, version: str) -> None:
    """Removes a release that was refused."""
    shutil.rmtree(edge / "releases" / version, ignore_errors=True)


def arguments(release: str, *flags: str, directory: str = "/etc/gatehouse") -> list[str]:
    """Nginx's arguments for one release of the directory ("current", "releases/<hash>"), as in compose/edge.sh."""
    return ["-e", "/dev/stderr", "-p", f"{directory}/{release}/", "-c", "nginx.conf", *flags]


def test(edge: Path, version: str, image: str) -> list[str]:
    """Arguments of `docker` with which the shipped Nginx tests a release: exit code 0, or its reasons."""
    return [
        "run", "--rm", "--pull=never", "--network=none", "--read-only", "--tmpfs=/tmp", "--user=101:101", "--cap-drop=ALL",
        "--volume", f"{edge}:/etc/gatehouse:ro", "--entrypoint=nginx", image, *arguments(f"releases/{version}", "-t"),
    ]  # fmt: skip


VERSION = [
    "bash",
    "-c",
    "exec 3<>/dev/tcp/127.0.0.1/8081; printf 'GET /version HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3",
]
"""A command in the edge's container that prints the hash of the release that the running Nginx serves."""


def ask(address: str, port: int, secure: bool, host: str, path: str) -> str:
    """The status that `path` answers through the edge at address:port under the name `host`, or the reason why none came."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            if secure:
                # The question is whether the chain answers, not whether this machine trusts the authority.
                trust = ssl.create_default_context()
                trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
                connection = trust.wrap_socket(connection, server_hostname=host)
            request = http.client.HTTPConnection(host)
            request.sock = connection
            request.request("GET", path, headers={"User-Agent": OURS})
            return str(request.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
