"""The edge's configuration as a versioned directory: tested beside the running one, then switched to by a symlink.

    .local/edge/releases/<hash>/{nginx.conf,site.conf,snippets/,pages/,tls/,version.conf}
    .local/edge/current -> releases/<hash>

The container mounts the parent, so a new configuration never touches it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

KEEP = 5
"""Releases that stay on disk."""


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
        for folder in (edge, edge / "releases", unfinished, *(p for p in unfinished.rglob("*") if p.is_dir())):
            folder.chmod(0o755)
        unfinished.rename(release)
    return version


def current(edge: Path) -> str | None:
    """The hash of the release that `current` points to."""
    link = edge / "current"
    return link.readlink().name if link.is_symlink() else None


def switch(edge: Path, version: str) -> None:
    """Points `current` at a release, atomically, and removes the oldest ones."""
    link = edge / ".current"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("releases") / version)
    link.replace(edge / "current")
    os.utime(edge / "releases" / version)
    by_age = sorted((edge / "releases").iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in by_age[KEEP:]:
        shutil.rmtree(old)
