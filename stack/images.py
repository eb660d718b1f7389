"""Images: an app's is named by its content, so that what did not change is neither built nor restarted."""

from __future__ import annotations

import configparser
import fnmatch
import functools
import hashlib
import os
import queue
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from stack import docker
from stack.errors import Failed
from stack.load import AppPlan
from stack.say import say

PRODUCT = Path(__file__).resolve().parent.parent
DOCKERFILE = PRODUCT / "apps/Dockerfile"
GATEWAYS = PRODUCT / "compose/gateways"
ACME = PRODUCT / "compose/acme"
SHARED = tuple(GATEWAYS / f"gatehouse_{part}.py" for part in ("timing", "behind", "workers"))
"""Modules that the gateways' conf.py import, in every image: apps/Dockerfile."""
PYTHON_IMAGE = "python:3.13-slim-trixie"
DEBIAN_IMAGE = "debian:trixie-slim"

PULL_PATIENCE = 10.0
"""s. A registry that has not begun to answer by then is out of reach."""


# --- names ------------------------------------------------------------------------------------------------------------


def name(plan: AppPlan, prefix: str | None = None) -> str:
    """Repository and tag of the app's image; the tag is a hash of everything the image is made from.

    prefix: the environment's registry, in front of the app's name; None: gatehouse.

    The base image counts by name only: after pulling a newer one, `docker image rm` the app's to build on it.
    """
    digest = hashlib.sha256()
    for part in (recipe(plan).read_bytes(), *(path.read_bytes() for path in SHARED), repr(_arguments(plan)).encode()):
        digest.update(hashlib.sha256(part).digest())
    for folder, path in ((f, p) for f in (GATEWAYS / plan.gateway.files, plan.folder) for p in sorted(_content(f))):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            content, kind = path.read_bytes(), mode & 0o100
        elif stat.S_ISLNK(mode):  # copied as a link, wherever it leads
            content, kind = os.fsencode(path.readlink()), mode
        else:  # a socket or pipe is not copied
            continue
        digest.update(f"{path.relative_to(folder)}\0{kind}\0".encode())
        digest.update(hashlib.sha256(content).digest())
    return f"{prefix or 'gatehouse'}/{plan.name}:{digest.hexdigest()[:12]}"


def recipe(plan: AppPlan) -> Path:
    """The Dockerfile that the app's image is built with: its own, or its gateway's, or the one that apps share."""
    candidates = (plan.folder / "Dockerfile", GATEWAYS / plan.gateway.files / "Dockerfile", DOCKERFILE)
    return next(path for path in candidates if path.is_file())


def _base_of(plan: AppPlan) -> str:
    return DEBIAN_IMAGE if recipe(plan).parent.parent == GATEWAYS else PYTHON_IMAGE


def _arguments(plan: AppPlan) -> dict[str, str]:
    return {
        "GATEWAY": plan.gateway.files,
        "PACKAGES": " ".join(plan.app.packages),
        "VOLUMES": " ".join(plan.app.volumes.values()),
        "BUILD_COMMAND": shlex.join(plan.app.build_command),
    }


def _content(folder: Path) -> Iterator[Path]:
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    ignored = [line.removeprefix("**/") for line in lines if line and not line.startswith("#")]
    for directory, names, files in os.walk(folder):
        names[:] = [n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in ignored)]
        links = [n for n in names if Path(directory, n).is_symlink()]
        yield from (
            Path(directory, f) for f in [*files, *links] if not any(fnmatch.fnmatch(f, pattern) for pattern in ignored)
        )


def copy(plan: AppPlan, to: Path) -> None:
    """What the image would have in /app."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for path in _content(plan.folder):
        target = to / path.relative_to(plan.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            shutil.copy2(path, target, follow_symlinks=False)
    subprocess.run([sys.executable, "-m", "compileall", "-q", to], stdout=subprocess.DEVNULL, check=False)


# --- building ---------------------------------------------------------------------------------------------------------


def ensure(apps: list[AppPlan], bases: list[str], prefix: str | None = None) -> list[str]:
    """Makes every image that is missing; returns those of apps that were built."""
    missing = [plan for plan in apps if not exists(name(plan, prefix))]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(base, {*bases, *(_base_of(plan) for plan in missing)}))
        list(pool.map(lambda plan: _build_app(plan, name(plan, prefix)), missing))
    return [name(plan, prefix) for plan in missing]


def exists(image: str) -> bool:
    """Whether the engine has this image."""
    return docker.succeeds("image", "inspect", image)


def acme() -> str:
    """The image of the service that asks for certificates (compose/acme): named by its content, as an app's."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ACME.iterdir()) if path.is_file()))
    return f"gatehouse/acme:{digest.hexdigest()[:12]}"


def base(image: str) -> None:
    """Makes sure of a public base image: pulled where a registry answers, else built under the same name from Debian
    packages (compose/images)."""
    if exists(image):
        return
    if image == acme():
        base(DEBIAN_IMAGE)
        with say.step("acme: building its image"):
            _build(["--tag", image, str(ACME)], "compose/acme")
        return
    reason = _pull(image)
    if reason is None:
        return
    if image == DEBIAN_IMAGE:
        with _base_lock:
            if not _debian():
                raise Failed("")  # the script has said why
        return
    with say.step(f"{image}: {reason}; building it from Debian packages, once, in under a minute"):
        with _base_lock:
            if not _debian():
                raise Failed("")  # the script has said why
        recipe = PRODUCT / "compose/images" / f"{image.split(':')[0]}.Dockerfile"
        _build(["--file", str(recipe), "--tag", image, str(recipe.parent)], image)


_base_lock = threading.Lock()


@functools.cache  # one attempt a run
def _debian() -> bool:
    """Makes sure of the image under the others; the script tells what it does, because it may install mmdebstrap."""
    if exists(DEBIAN_IMAGE):
        return True
    command = [str(docker.BOOTSTRAP), "base-image", DEBIAN_IMAGE]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def _pull(image: str) -> str | None:
    """None when pulled; else why not. A slow download is fine, a registry that does not begin to answer is not."""
    process = subprocess.Popen(
        [*docker.client(), "pull", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: queue.Queue[str | None] = queue.Queue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            lines.put(line.strip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    said = ""
    try:
        line = lines.get(timeout=PULL_PATIENCE)
        if line and "Pulling from" in line:
            say.line(f"{image}: pulling")
        while line is not None:
            said = line or said
            line = lines.get()
    except queue.Empty:
        process.kill()
        process.wait()
        return f"no registry answered within {PULL_PATIENCE:g} s"
    return (
        None
        if process.wait() == 0
        else "no registry in reach"
        if "dial tcp" in said or "lookup" in said
        else f"not pulled ({said[-120:]})"
    )


def _build_app(plan: AppPlan, image: str) -> None:
    with say.step(f"{plan.name}: building its image"), tempfile.TemporaryDirectory() as folder:
        arguments = [part for key, value in _arguments(plan).items() for part in ("--build-arg", f"{key}={value}")]
        # Docker reads only the list beside the Dockerfile: every app has ours, and its own, if it has one, after that.
        file, own = Path(folder, "Dockerfile"), plan.folder / ".dockerignore"
        shutil.copyfile(recipe(plan), file)
        ignored = [DOCKERFILE.with_name("Dockerfile.dockerignore"), *([own] if own.is_file() else [])]
        file.with_name("Dockerfile.dockerignore").write_text("\n".join(path.read_text() for path in ignored))
        _build(
            [
                "--file",
                str(file),
                "--build-context",
                f"gateways={GATEWAYS}",
                *arguments,
                "--tag",
                image,
                str(plan.folder),
            ],
            f"apps/{plan.name}",
        )


def load_generator() -> str:
    """Makes sure of the load generator's image (loadtests/Dockerfile); returns its name."""
    recipe, requirements = PRODUCT / "loadtests/Dockerfile", PRODUCT / "requirements"
    digest = hashlib.sha256(recipe.read_bytes() + (requirements / "load.txt").read_bytes()).hexdigest()[:12]
    image = f"gatehouse/load:{digest}"
    if not exists(image):
        base(PYTHON_IMAGE)
        with say.step("load generator: building its image"):
            _build(["--file", str(recipe), "--tag", image, str(requirements)], "loadtests")
    return image


def load_generator_of(site_root: Path) -> str:
    """The load generator with all that it reads inside, for hosts where nothing is mounted; returns its name."""
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        for part in ("stack", "loadtests"):
            shutil.copytree(PRODUCT / part, context / part, ignore=shutil.ignore_patterns("__pycache__"))
        files = list((site_root / "environments").rglob("*.yml"))
        for app in (p.parent for p in (site_root / "apps").glob("*/app.yml")):
            files += [*_content(app), app / "app.yml", app / "loadtest.py"]  # its image's, and two that are not in it
        for path in files:
            if path.is_file() and not path.is_symlink():
                target = context / path.relative_to(site_root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        (context / "Dockerfile").write_text(
            f"FROM {load_generator()}\nUSER 0\nRUN install -d -o 10001 -g 10001 /results\nUSER 10001:10001\n"
            'COPY . /gatehouse\nWORKDIR /gatehouse\nENTRYPOINT ["locust", "--config", "loadtests/locust.conf"]\n'
        )
        digest = hashlib.sha256()
        for path in sorted(p for p in context.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(context)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        for path in [context, *context.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # whatever the clone's umask was
        image = f"gatehouse/load-hosts:{digest.hexdigest()[:12]}"
        if not exists(image):
            _build(["--tag", image, str(context)], "loadtests")
    return image


def _build(arguments: list[str], what: str) -> None:
    with secrets() as given:
        proxies = [
            part
            for key in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
            if key in os.environ
            for part in ("--build-arg", key)
        ]
        try:
            docker.run("build", "--progress=plain", *proxies, *given, *arguments, env={"DOCKER_BUILDKIT": "1"})
        except Failed as failure:
            raise Failed(f"the image of {what} could not be built", failure.log) from None


@contextmanager
def secrets() -> Iterator[list[str]]:
    """docker build's arguments for this machine's CA bundle and pip settings, as secrets that end in no layer."""
    ca = next(
        (
            p
            for v in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
            if (p := os.environ.get(v)) and Path(p).is_file()
        ),
        None,
    )
    ca = ca or next(
        (p for p in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt") if Path(p).is_file()),
        None,
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "pip.conf")
        settings.touch(0o600)
        settings.write_text(pip_settings())
        empty = Path(folder, "empty")
        empty.touch()
        yield ["--secret", f"id=ca,src={ca or empty}", "--secret", f"id=pip,src={settings}"]


def pip_settings() -> str:
    """pip's own effective settings as a pip.conf, less what means nothing inside a build: paths of this machine."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_USER": "0"},  # `user = true` would be taken for `pip config --user`
    ).stdout
    config = configparser.RawConfigParser()
    config.add_section("global")
    # What comes later wins, as it does in pip: [install] over [global], variables over both.
    for line in sorted(
        listed.splitlines(), key=lambda line: line.startswith(("install.", ":env:.")) + line.startswith(":")
    ):
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section not in ("global", "install", ":env:", "site", "user") or option in (
            "cert",
            "cache-dir",
            "target",
            "user",
            "prefix",
        ):
            continue
        words = [
            w for w in value.strip().strip("'").replace("\\n", "\n").split() if not w.startswith(("/", "file:", "~"))
        ]
        if words:
            config.set("global", option.replace("_", "-"), "\n".join(words))
    with tempfile.TemporaryFile("w+") as text:
        config.write(text)
        text.seek(0)
        return text.read()


def remember(built: Path, new: list[str]) -> None:
    """Adds images that this site has built to its list, newest last."""
    known = built.read_text().split() if built.exists() else []
    built.write_text("".join(f"{image}\n" for image in [*(i for i in known if i not in new), *new]))


def prune(built: Path, keep: int = 3) -> None:
    """Removes images that nobody uses any more, all but the newest `keep` of each app.

    built: the list of images that this site has built; other clones on this machine have their own.
    """
    known = built.read_text().split() if built.exists() else []
    for image in known[:]:
        same_app = [other for other in known if other.rpartition(":")[0] == image.rpartition(":")[0]]
        if image not in same_app[-keep:] and docker.succeeds("image", "rm", image):
            known.remove(image)
    built.write_text("".join(f"{image}\n" for image in known))
