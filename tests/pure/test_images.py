"""An image's name changes with everything the image is made from, and with nothing else."""

from __future__ import annotations

import configparser
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stack import images
from stack.gateways import CONFIGURATION
from tests.pure.conftest import ASGI, LOCAL, WSGI, Draft


def name(draft: Draft) -> str:
    return images.name(draft.plan())


def test_the_name_is_the_apps_and_a_hash(draft: Draft) -> None:
    assert re.fullmatch("gatehouse/shop:[0-9a-f]{12}", name(draft))
    assert name(draft) == name(draft)


def touch(draft: Draft, *paths: str) -> None:
    for path in paths:
        file = draft.root / "apps/shop" / path
        file.parent.mkdir(exist_ok=True)
        file.touch()


def shop(draft: Draft, path: str = "app.py") -> Path:
    return draft.root / "apps/shop" / path


NEW_IMAGE: dict[str, Callable[[Draft], object]] = {
    "a byte of code": lambda draft: shop(draft).write_text("app = 1\n"),
    "a new file, even an empty one": lambda draft: touch(draft, "static.css"),
    "a new file in a folder": lambda draft: touch(draft, "pages/index.html"),
    "a file's name": lambda draft: shop(draft, "static/x.css").rename(shop(draft, "static/y.css")),
    "a file that may be executed": lambda draft: shop(draft).chmod(0o755),
    "the app's lock": lambda draft: shop(draft, "requirements.txt").write_text("flask==3\n"),
    "where a link leads": lambda draft: shop(draft, "link").symlink_to("app.py"),
    "a Debian package": lambda draft: draft.app(WSGI + "packages: [libpq5]\n"),
    "a build command": lambda draft: draft.app(WSGI + "build_command: [python, manage.py, collectstatic]\n"),
    "a Dockerfile of its own": lambda draft: shop(draft, "Dockerfile").write_text("FROM scratch\n"),
    "a mount point": lambda draft: draft.app(WSGI + "volumes: {media: /media}\n"),
    "another gateway's lock": lambda draft: draft.app(WSGI + "gateway: gunicorn-gevent\n"),
}


@pytest.mark.parametrize("change", NEW_IMAGE.values(), ids=list(NEW_IMAGE))
def test_what_the_image_is_made_from_names_it(draft: Draft, change: Callable[[Draft], object]) -> None:
    touch(draft, "static/x.css")
    before = name(draft)
    change(draft)
    assert name(draft) != before


@pytest.mark.parametrize(
    "recipe", ["apps/Dockerfile", "gateways/gunicorn/requirements.txt", "gateways/gunicorn/conf.py"]
)
def test_a_change_of_the_recipe_or_of_the_gateway_is_a_new_image(
    draft: Draft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    before = name(draft)
    product = tmp_path / "product"
    shutil.copytree(images.DOCKERFILE.parent, product / "apps")
    shutil.copytree(images.GATEWAYS, product / "gateways")
    monkeypatch.setattr(images, "DOCKERFILE", product / "apps/Dockerfile")
    monkeypatch.setattr(images, "GATEWAYS", product / "gateways")
    assert name(draft) == before
    with (product / recipe).open("a") as file:
        file.write("# changed\n")
    assert name(draft) != before


def test_a_dockerfile_of_its_own_is_the_recipe(draft: Draft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop(draft, "Dockerfile").write_text("FROM scratch\n")
    assert images.recipe(draft.plan()) == shop(draft, "Dockerfile")
    before = name(draft)
    shutil.copytree(images.DOCKERFILE.parent, tmp_path / "product/apps")
    monkeypatch.setattr(images, "DOCKERFILE", tmp_path / "product/apps/Dockerfile")
    with images.DOCKERFILE.open("a") as file:
        file.write("# changed\n")
    assert name(draft) == before
    shop(draft, "Dockerfile").write_text("FROM scratch AS changed\n")
    assert name(draft) != before


SAME_IMAGE: dict[str, Callable[[Draft], object]] = {
    "settings that the image does not hold": lambda draft: draft.app(
        WSGI
        + "workers: 9\nroute: /x\nenv: {A: b}\nsecrets: [TOKEN]\nsecrets_as_env: true\nprocesses: {w: {command: [a]}}\n"
    ),
    "a gateway of the same family": lambda draft: draft.app(WSGI + "gateway: gunicorn-sync\n"),
    "another environment": lambda draft: draft.environment(LOCAL + "apps: {shop: {replicas: 3}}\n"),
    "a comment in app.yml": lambda draft: draft.app(WSGI + "# why\n"),
    "what Python leaves behind": lambda draft: touch(draft, "__pycache__/app.cpython-313.pyc", "old.pyc"),
    "a virtual environment": lambda draft: touch(draft, ".venv/x.py"),
    "secrets of a developer": lambda draft: touch(draft, ".env", ".env.local"),
    "when a file was saved": lambda draft: os.utime(shop(draft), (1, 1)),
    "who else may read a file": lambda draft: shop(draft).chmod(0o600),
    "an editor's lock, a link to nothing": lambda draft: shop(draft, ".#app.py").symlink_to("me@here.123"),
    "an editor's unsaved and previous text": lambda draft: touch(draft, ".app.py.swp", "app.py~"),
}


@pytest.mark.parametrize("change", SAME_IMAGE.values(), ids=list(SAME_IMAGE))
def test_nothing_else_names_it(draft: Draft, change: Callable[[Draft], object]) -> None:
    before = name(draft)
    change(draft)
    assert name(draft) == before


def test_two_apps_with_the_same_code_have_their_own_images(draft: Draft) -> None:
    draft.app(name="blog")
    shop_image, blog_image = images.name(draft.plan()), images.name(draft.plan("blog"))
    assert shop_image.split(":")[1] == blog_image.split(":")[1]
    assert shop_image != blog_image


@pytest.mark.parametrize(
    ("interface", "gateway", "folder"),
    [
        (WSGI, "gunicorn-sync", "gunicorn"),
        (WSGI, "gunicorn-gthread", "gunicorn"),
        (WSGI, "gunicorn-gevent", "gunicorn-gevent"),
        (ASGI, "gunicorn-asgi", "gunicorn-asgi"),
        (ASGI, "uvicorn", "uvicorn"),
        (ASGI, "hypercorn", "hypercorn"),
        (ASGI, "daphne", "daphne"),
    ],
)
def test_a_gateway_is_installed_from_its_own_lock(draft: Draft, interface: str, gateway: str, folder: str) -> None:
    draft.app(f"{interface}gateway: {gateway}\n")
    plan = draft.plan()
    assert plan.gateway.files == folder
    assert "--hash=sha256:" in (images.GATEWAYS / folder / "requirements.txt").read_text()
    command = plan.gateway.command(plan.app, 1, "", "0.0.0.0:8000")
    assert (CONFIGURATION in command) is (images.GATEWAYS / folder / "conf.py").is_file()


def test_mod_wsgi_is_built_on_debians_own_python(draft: Draft) -> None:
    draft.app(f"{WSGI}gateway: mod_wsgi\n")
    plan = draft.plan()
    assert images.recipe(plan) == images.GATEWAYS / "mod_wsgi/Dockerfile"
    assert "libapache2-mod-wsgi-py3" in images.recipe(plan).read_text()
    assert images._base_of(plan) == "debian:trixie-slim"
    shop(draft, "Dockerfile").write_text("FROM scratch\n")
    assert images.recipe(plan) == shop(draft, "Dockerfile")


def test_what_docker_ignores_is_written_so_that_both_readers_agree() -> None:
    """images.py takes `**/` off and matches names: any other form would be understood by Docker alone."""
    lines = images.DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns
    assert [line for line in patterns if not re.fullmatch(r"\*\*/[^/\[\]!]+", line)] == []
    assert {"**/app.yml", "**/__pycache__", "**/.env*", "**/.venv"} <= set(patterns)


# --- pip's settings for a build ---------------------------------------------------------------------------------------


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """pip.conf of this machine -> the settings a build would get."""
    for variable in [v for v in os.environ if v.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))

    def given(text: str) -> dict[str, str]:
        file = tmp_path / "pip.conf"
        file.write_text(text)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
        made = configparser.RawConfigParser()
        made.read_string(images.pip_settings())
        return dict(made["global"])

    return given


def test_indexes_and_proxies_reach_the_build(pip: Callable[[str], dict[str, str]]) -> None:
    settings = pip(
        "[global]\n"
        "index-url = https://user:p%40ss@packages.example.com/simple\n"
        "extra-index-url =\n    https://a.example.com/simple\n    https://b.example.com/simple\n"
        "trusted-host = packages.example.com\n"
        "proxy = http://proxy.example.com:3128\n"
        "timeout = 60\n"
    )
    assert settings["index-url"] == "https://user:p%40ss@packages.example.com/simple"
    assert settings["extra-index-url"].split() == ["https://a.example.com/simple", "https://b.example.com/simple"]
    assert settings["trusted-host"] == "packages.example.com"
    assert settings["proxy"] == "http://proxy.example.com:3128"
    assert settings["timeout"] == "60"


def test_paths_of_this_machine_stay_here(pip: Callable[[str], dict[str, str]]) -> None:
    settings = pip(
        "[global]\n"
        "cert = /etc/company.pem\n"
        "client-cert = ~/me.pem\n"
        "cache-dir = /var/cache/pip\n"
        "log = /var/log/pip.log\n"
        "find-links =\n    /srv/wheels\n    file:///srv/wheels\n    https://wheels.example.com/\n"
        "target = here\n"
        "prefix = there\n"
        "user = true\n"
        "no-index = true\n"
    )
    # What else the machine's own files say is not this test's.
    assert {"cert", "client-cert", "cache-dir", "log", "target", "prefix", "user"}.isdisjoint(settings)
    assert settings["find-links"] == "https://wheels.example.com/"
    assert settings["no-index"] == "true"


def test_variables_reach_the_build(pip: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example.com/simple https://b.example.com/simple")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "90")
    monkeypatch.setenv("PIP_CERT", "/etc/company.pem")
    settings = pip("")
    assert settings["extra-index-url"].split() == ["https://a.example.com/simple", "https://b.example.com/simple"]
    assert settings["default-timeout"] == "90"
    assert "cert" not in settings


def test_a_variable_wins_over_a_file_as_it_does_in_pip(
    pip: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example.com/simple")
    settings = pip(
        "[global]\nindex-url = https://file.example.com/simple\ntimeout = 1\n[install]\ntimeout = 2\n[wheel]\ntimeout = 3\n"
    )
    assert settings["index-url"] == "https://variable.example.com/simple"
    assert settings["timeout"] == "2"


def test_secrets_of_a_build_are_gone_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "pip_settings", lambda: "[global]\nindex-url = https://me:hunter2@example.com\n")
    with images.secrets() as arguments:
        pip_conf = next(Path(a.partition("src=")[2]) for a in arguments if a.startswith("id=pip,"))
        assert "hunter2" not in " ".join(arguments)
        assert "hunter2" in pip_conf.read_text()
        assert pip_conf.stat().st_mode & 0o077 == 0
    assert not pip_conf.exists()
