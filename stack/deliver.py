"""Images on their way to hosts without a registry: one archive a host, with the layers it lacks and no others."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from stack import docker
from stack.errors import Failed
from stack.say import say

# Lines of `docker image inspect` in this format, on a host and here, are what this module works on.
FORMAT = "{{json .RepoTags}} {{json .RootFS.Layers}}"


def images_and_layers(lines: Iterable[str]) -> dict[str, list[str]]:
    """Image -> its layers, lowest first, from lines in FORMAT; an image without a name counts under its layers."""
    found: dict[str, list[str]] = {}
    for line in filter(str.strip, lines):
        names, _, layers = line.partition("] ")
        chain = json.loads(layers)
        found |= dict.fromkeys(json.loads(names + "]") or [" ".join(chain)], chain)
    return found


def present(chain: list[str], there: Iterable[list[str]]) -> set[str]:
    """Those layers of an image that a host has below it already.

    An engine knows a layer by everything below it, so only a common beginning counts.
    """
    longest = 0
    for other in there:
        same = next(
            (n for n, (a, b) in enumerate(zip(chain, other, strict=False)) if a != b), min(len(chain), len(other))
        )
        longest = max(longest, same)
    return set(chain[:longest])


def without(source: IO[bytes], target: IO[bytes], digests: set[str]) -> None:
    """Copies an archive of `docker save`, less the blobs with these digests.

    Engines since 25 name a layer's blob by its digest; in an older one's archive nothing matches and all of it is copied.
    `docker load` opens only the blobs of layers it does not have (26.1: with its own image store and with containerd's).
    """
    names = {digest.removeprefix("sha256:") for digest in digests}
    with tarfile.open(fileobj=source, mode="r|") as old, tarfile.open(fileobj=target, mode="w|") as new:
        for member in old:
            if member.name.removeprefix("blobs/sha256/") not in names:
                new.addfile(member, old.extractfile(member) if member.isreg() else None)


def pack(missing: list[str], there: Mapping[str, list[str]], folder: Path, whole: bool = False) -> Path:
    """An archive for `docker load` on a host that has the images `there` and not `missing`; made once for all hosts alike.

    whole: with every layer, for an engine that refuses the other.
    """
    ours = images_and_layers(docker.run("image", "inspect", *sorted(missing), "--format", FORMAT).splitlines())
    chains = [ours[image] for image in missing]
    below = [present(chain, there.values()) for chain in chains]
    lacking = {layer for chain, has in zip(chains, below, strict=True) for layer in chain if layer not in has}
    dropped = set() if whole else set().union(*below) - lacking
    key = hashlib.sha256(json.dumps([sorted(missing), sorted(map(str, chains)), sorted(dropped)]).encode()).hexdigest()
    archive = folder / f"{key[:16]}.tar.gz"
    if archive.exists():
        return archive
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".part")
    with subprocess.Popen([*docker.client(), "save", *sorted(missing)], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        # Level 1: half the size for a tenth of the time of the default.
        with gzip.open(unfinished, "wb", compresslevel=1) as target:
            without(saving.stdout, target, dropped)  # type: ignore[arg-type]
    if saving.returncode:
        unfinished.unlink()
        raise Failed(f"docker could not save {', '.join(missing)}")
    unfinished.rename(archive)
    say.line(f"{', '.join(missing)}: {archive.stat().st_size / 2**20:.1f} MB to send")
    return archive


def push(images: list[str], user: str | None, password: str | None) -> None:
    """Pushes images to the registry that their names begin with; the credentials are kept nowhere."""
    with tempfile.TemporaryDirectory() as config:
        # Without a user, this machine's own login counts.
        own = ["--config", config] if user else []
        if user:
            registry = images[0].partition("/")[0]
            docker.run(*own, "login", "--username", user, "--password-stdin", registry, stdin=password or "")
        for image in images:
            with say.step(f"{image}: pushing"):
                docker.run(*own, "push", "--quiet", image)
