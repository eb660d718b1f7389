"""The ways that docs/bring-your-app.md names, gone: an app's own Dockerfile, other folders and repositories, a private index,
a database outside of the stack, a later version of Gatehouse."""

from __future__ import annotations

import base64
import functools
import http.server
import shutil
import socket
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stack import docker
from tests.brought.conftest import URL, Clone, commands, take_down
from tests.conftest import REPOSITORY, Checkout

GUIDE = "bring-your-app.md"


@pytest.fixture(autouse=True)
def _leave_no_app(clone: Clone) -> Iterator[None]:
    before = set((clone.root / "apps").iterdir())
    yield
    for path in set((clone.root / "apps").iterdir()) - before:
        path.unlink() if path.is_symlink() else shutil.rmtree(path)


def app(clone: Clone, name: str, code: str, requirements: str = "", settings: str = "") -> Path:
    folder = clone.root / "apps" / name
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(code)
    (folder / "requirements.in").write_text(requirements)
    if not requirements:
        (folder / "requirements.txt").touch()
    (folder / "app.yml").write_text(f"interface: wsgi\nentry: app:app\n{settings}")
    return folder


HELLO = """
import os, socket


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said(environ).encode()]


"""


def host_of_containers() -> str:
    """This machine's address, as containers that may call the outside reach it."""
    return docker.run("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()


def test_a_dockerfile_of_its_own(clone: Clone) -> None:
    # What a developer has lying around is in no image, with this Dockerfile either.
    (clone.root / "apps/own").mkdir()
    (clone.root / "apps/own/.env").write_text("SECRET=1")
    (clone.root / "apps/own/notes.txt").write_text("private")
    (clone.root / "apps/own/.dockerignore").write_text("notes.txt\n")
    clone.follow(GUIDE, "A Dockerfile of its own")
    assert httpx.get(f"{URL}/own/anything").text == "from /srv/own"
    listed = docker.run("exec", "gatehouse-brought-own-1", "ls", "-A", "/srv/own").split()
    assert sorted(listed) == [".dockerignore", "Dockerfile", "hello.py"]
    # Without a gateway: one sentence, and what ran before goes on.
    (clone.root / "apps/own/Dockerfile").write_text(
        "FROM python:3.13-slim-trixie\nWORKDIR /app\nCOPY . .\nUSER 10001\n"
    )
    failed = subprocess.run(["make", "up"], cwd=clone.root, capture_output=True, text=True, check=False)
    assert failed.returncode
    assert "gunicorn" in failed.stderr
    assert httpx.get(f"{URL}/own/anything").text == "from /srv/own"


def test_an_app_elsewhere_on_this_machine(clone: Clone, tmp_path: Path) -> None:
    """A linked folder, with its package in src/ and a secret in its environment."""
    elsewhere = app(clone, "moving", HELLO, settings="secrets: [TOKEN]\nsecrets_as_env: true\n").rename(tmp_path / "it")
    (elsewhere / "src/shop").mkdir(parents=True)
    (elsewhere / "app.py").rename(elsewhere / "src/shop/web.py")
    code = (elsewhere / "src/shop/web.py").read_text()
    (elsewhere / "src/shop/web.py").write_text(
        code + 'def said(environ):\n    return os.environ["TOKEN"] + open(os.environ["TOKEN_FILE"]).read()\n'
    )
    settings = (elsewhere / "app.yml").read_text().replace("app:app", "shop.web:app")
    command = '[sh, -c, "test $TOKEN = s3cret"]'
    (elsewhere / "app.yml").write_text(f"{settings}release_command: {command}\n")
    (clone.root / "apps/linked").symlink_to(elsewhere)
    clone.type("echo s3cret | make secret APP=linked NAME=TOKEN")
    clone.type("make up")
    assert httpx.get(f"{URL}/linked/").text == "s3crets3cret"
    assert clone.type("echo 'echo $TOKEN' | make shell APP=linked").strip() == "s3cret"


class Private(http.server.SimpleHTTPRequestHandler):
    """An index of packages for who knows its password."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] == f"Basic {base64.b64encode(b'ann:of-the-index').decode()}":
            super().do_GET()
        else:
            self.send_error(401)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[int]:
    """Its port; it has one package, gatehouse-private-example."""
    folder = tmp_path / "simple/gatehouse-private-example"
    folder.mkdir(parents=True)
    name, info = "gatehouse_private_example-1.0", "gatehouse_private_example-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("gatehouse_private_example.py", 'WORD = "from the private index"\n')
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gatehouse-private-example\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    handler = functools.partial(Private, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_private_package_index(clone: Clone, index: int) -> None:
    code = HELLO + "def said(environ):\n    import gatehouse_private_example as e\n    return e.WORD\n"
    app(clone, "shop", code, "gatehouse-private-example\n")
    (block,) = commands(GUIDE, "A private package index")
    host = host_of_containers()
    clone.type(
        block.replace("https://", "http://"),  # without a certificate here
        INDEX_USER="ann", INDEX_PASSWORD="of-the-index", INDEX_HOST=f"{host}:{index}", PIP_TRUSTED_HOST=host,
    )  # fmt: skip
    assert httpx.get(f"{URL}/shop/").text == "from the private index"
    image = docker.run("inspect", "--format", "{{.Config.Image}}", "gatehouse-brought-shop-1").strip()
    assert "of-the-index" not in docker.run("image", "inspect", image)
    assert "of-the-index" not in docker.run("history", "--no-trunc", image)
    grep = [
        "run",
        "--rm",
        "--network=none",
        "--entrypoint=grep",
        image,
        "-rlsF",
        "of-the-index",
        "/app",
        "/venv",
        "/etc",
    ]
    assert not docker.succeeds(*grep)
    assert "of-the-index" not in (clone.root / "apps/shop/requirements.txt").read_text()


def test_a_database_outside_of_the_stack(clone: Clone) -> None:
    """Or anything that listens: an app that may call the outside reaches it, and one that may not does not."""
    code = HELLO + (
        "def said(environ):\n"
        '    if environ["PATH_INFO"] == "/healthz":\n        return "well"\n'
        "    try:\n"
        '        with socket.create_connection((os.environ["DB_HOST"], int(os.environ["DB_PORT"])), timeout=2) as db:\n'
        "            return db.recv(100).decode()\n"
        "    except OSError as error:\n"
        "        return type(error).__name__\n"
    )
    with socket.create_server(("0.0.0.0", 0)) as database:

        def serve() -> None:
            while True:
                try:
                    connection, _ = database.accept()
                except OSError:
                    return
                connection.sendall(b"rows")
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        env = f"env: {{DB_HOST: {host_of_containers()}, DB_PORT: {database.getsockname()[1]}}}\n"
        app(clone, "outward", code, settings=env)
        app(clone, "inward", code, settings=f"{env}egress: false\n")
        clone.type("make up")
        assert httpx.get(f"{URL}/outward/").text == "rows"
        assert "Error" in httpx.get(f"{URL}/inward/").text


def test_everything_of_yours_in_a_folder_of_its_own(clone: Clone) -> None:
    app(clone, "some", HELLO + 'def said(environ):\n    return ""\n')
    try:
        clone.follow(GUIDE, "In a repository of its own")
        assert httpx.get(f"{URL}/blog/healthz").text == "ours"
        assert not (clone.root / "apps/blog").exists()
    finally:
        take_down(clone.root.parent / "ours")


def test_a_later_version_of_gatehouse(tmp_path: Path) -> None:
    """From the commit before `cache` to this one, with an app and an environment of one's own."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=ann", "-c", "user.email=ann@b.example", *arguments],
            cwd=tmp_path / "clone", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "clone").mkdir()
    git("clone", "--quiet", "--no-local", str(REPOSITORY), ".")
    added = git("log", "--format=%H", "--diff-filter=A", "--", "nginx/snippets/proxy-cache.conf").split()
    if not added:
        pytest.skip("this clone has no history")
    git("branch", "-m", "theirs")
    git("branch", "main")  # what `upstream/main` is here
    git("reset", "--quiet", "--hard", f"{added[-1]}~1")
    (tmp_path / "clone/apps/shop").mkdir()
    (tmp_path / "clone/apps/shop/app.yml").write_text("interface: wsgi\nentry: app:app\nworkers: 2\n")
    (tmp_path / "clone/apps/shop/app.py").touch()
    (tmp_path / "clone/apps/shop/requirements.txt").touch()
    local = tmp_path / "clone/environments/local.yml"
    local.write_text(local.read_text().replace("http_port: 8080", "http_port: 9090"))
    git("add", "--all")
    git("commit", "--quiet", "-m", "Our shop")
    (block,) = commands(GUIDE, "Later versions of Gatehouse")
    merge = block.removesuffix("make up\n")
    assert merge != block
    identity = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    Clone(tmp_path / "clone").type(merge, GATEHOUSE_URL=str(tmp_path / "clone"), **identity)
    site = Checkout(tmp_path / "clone").site
    assert site.apps["shop"].app.workers == 2
    assert site.environment.http_port == 9090
    assert (tmp_path / "clone/nginx/snippets/proxy-cache.conf").exists()
