"""The rendered files, byte for byte, as somebody has read and approved them in golden/<env>/.

After a change that is meant, write them anew and read the difference:

    GOLDEN=1 .venv/bin/python -m pytest tests/rendered/test_golden.py; git diff tests/rendered/golden

Hashes of content stand there as <content>: they change with every new lock, and tests/pure/test_images.py holds them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from stack.load import load_site
from stack.render import render
from tests.conftest import REPOSITORY
from tests.rendered.conftest import ENVIRONMENTS, HERE, Rendered

FILES = ("stack.yml", "local.yml", "nginx/site.conf", "nginx/pages/index.html")


def approved(text: str) -> str:
    """As golden files have it: without hashes of content."""
    hashed = r"(gatehouse/[a-z0-9-]+:|GATEHOUSE_RELEASE=|node\.labels\.gatehouse\.image\.[a-z0-9.-]+\.)[0-9a-f]{12}\b"
    return re.sub(hashed, r"\1<content>", text)


def test_the_rendered_files_are_the_approved_ones(rendered: Rendered) -> None:
    golden = HERE / "golden" / rendered.site.env
    now = {name: approved(rendered.files[name]) for name in FILES if name in rendered.files}
    if os.environ.get("GOLDEN"):
        for name, text in now.items():
            (golden / name).parent.mkdir(parents=True, exist_ok=True)
            (golden / name).write_text(text, "utf-8")
    kept = {str(p.relative_to(golden)): p.read_text("utf-8") for p in golden.rglob("*") if p.is_file()}
    assert sorted(kept) == sorted(now)
    for name, text in now.items():
        assert text == kept[name], f"golden/{rendered.site.env}/{name}; meant? GOLDEN=1 writes it anew"


def test_only_a_hash_of_content_is_left_out() -> None:
    assert approved("image: gatehouse/old-reports:0123456789ab") == "image: gatehouse/old-reports:<content>"
    assert approved("nginx:1.30 0123456789ab") == "nginx:1.30 0123456789ab"


def test_every_image_and_release_is_named_by_its_content(rendered: Rendered) -> None:
    for name, service in rendered.stack["services"].items():
        if name != "edge":
            assert re.fullmatch(r"gatehouse/[a-z-]+:[0-9a-f]{12}", service["image"])
        if name not in ("edge", "acme"):
            assert re.search(r"\bGATEHOUSE_RELEASE=[0-9a-f]{12}\b", " ".join(service["environment"]))


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_same_facts_are_the_same_bytes_in_another_process(env: str) -> None:
    script = (
        "import hashlib, sys; from pathlib import Path; from stack.load import load_site; from stack.render import render\n"
        "files = render(load_site(Path(sys.argv[1]), sys.argv[2]))\n"
        "print(hashlib.sha256(repr(files).encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script, str(HERE / "site"), env],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1
    assert render(load_site(HERE / "site", env)) == render(load_site(HERE / "site", env))
