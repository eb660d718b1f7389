"""A new user's path, in a clone of its own, by the verbs that the README names: up, new-app, edit, test, load, down."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY

HTTP, HTTPS = 18094, 18457
URL = f"http://localhost:{HTTP}"


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """What git would bring of this folder as it is now, under another name and with other ports."""
    listed = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    root = tmp_path / "clone"
    for name in filter(None, files):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)
    (root / ".venv").symlink_to(REPOSITORY / ".venv")
    local = root / "environments/local.yml"
    kept = re.sub(r"^(name|http_port|https_port):.*\n", "", local.read_text(), flags=re.MULTILINE)
    local.write_text(f"{kept}\nname: gatehouse-clone\nhttp_port: {HTTP}\nhttps_port: {HTTPS}\n")
    try:
        yield root
    finally:
        make(root, "down", "VOLUMES=yes")


def make(root: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GATEHOUSE_", "MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words], cwd=root, env=kept | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip


def done(root: Path, *words: str, **variables: str) -> str:
    made = make(root, *words, **variables)
    assert made.returncode == 0, made.stdout
    return made.stdout


@pytest.mark.parametrize(
    ("kind", "code"), [("asgi", "main.py"), pytest.param("wsgi", "app.py", marks=pytest.mark.long)]
)
def test_from_clone_to_load_with_an_app_of_ones_own(clone: Path, kind: str, code: str) -> None:
    assert "make up" in done(clone, "new-app", "NAME=orders", f"KIND={kind}")
    assert f"{URL}/orders/" in done(clone, "up")
    assert httpx.get(f"{URL}/orders/").json() == {"message": "Hello from orders"}
    assert httpx.get(f"{URL}/orders/items/7").json() == {"number": 7}

    file = clone / "apps/orders" / code
    file.write_text(file.read_text().replace("Hello from", "Welcome to"))
    assert "applied: orders (its files)" in done(clone, "up")
    assert httpx.get(f"{URL}/orders/").json() == {"message": "Welcome to orders"}

    # Nobody listed it, and it is under test and under load.
    tested = done(clone, "test", "T=tests/chain/test_contract.py -v -k orders", GATEHOUSE_CHAIN=str(clone))
    assert re.search(r"test_the_health_path_answers_200\[http-orders\] PASSED", tested), tested
    loaded = make(clone, "load-headless", "USERS=15", "RATE=15", "TIME=5s").stdout
    (row,) = re.findall(r"^OrdersReader +(\d+) +(\d+)$", loaded, re.MULTILINE)
    assert int(row[0]) > 0, loaded
    assert row[1] == "0", loaded
