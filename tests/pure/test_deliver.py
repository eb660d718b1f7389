"""Which layers of an image travel to a host, and that the archive has just those."""

from __future__ import annotations

import io
import tarfile

import pytest

from stack import deliver
from tests.conftest import REPOSITORY

BASE, VENV, CODE, CODE2 = (f"sha256:{c * 64}" for c in "abcd")


@pytest.mark.parametrize(
    ("there", "present"),
    [
        ([], set()),
        ([[BASE, VENV, CODE]], {BASE, VENV}),
        ([[BASE], [BASE, VENV]], {BASE, VENV}),
        ([[VENV, BASE, CODE2]], set()),  # the same layers on top of something else are others
        ([[BASE, VENV, CODE2, CODE]], {BASE, VENV, CODE2}),
    ],
)
def test_a_common_beginning_stays_at_home(there: list[list[str]], present: set[str]) -> None:
    assert deliver.present([BASE, VENV, CODE2], there) == present


def test_lines_of_a_host_are_read() -> None:
    lines = [
        f'["gatehouse/shop:1","gatehouse/shop:old"] ["{BASE}","{VENV}"]',
        f'[] ["{BASE}"]',
        "",
    ]
    found = deliver.images_and_layers(lines)
    assert found["gatehouse/shop:1"] == found["gatehouse/shop:old"] == [BASE, VENV]
    assert [BASE] in found.values()


def test_hosts_are_asked_in_the_format_that_is_read() -> None:
    tasks = (REPOSITORY / "ansible/roles/release/tasks/there.yml").read_text()
    assert f"--format '{{% raw %}}{deliver.FORMAT}{{% endraw %}}'" in tasks


def archive(*names: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return target.getvalue()


def test_an_archive_loses_the_blobs_of_those_layers_and_nothing_else() -> None:
    def blob(digest: str) -> str:
        return f"blobs/sha256/{digest.removeprefix('sha256:')}"

    names = [blob(BASE), blob(VENV), blob(CODE), "index.json", "manifest.json"]
    target = io.BytesIO()
    deliver.without(io.BytesIO(archive(*names)), target, {BASE, VENV})
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        kept = {member.name: tar.extractfile(member) for member in tar}
        assert {name: file.read().decode() for name, file in kept.items() if file} == {n: n for n in names[2:]}


def test_an_older_engines_archive_is_copied_whole() -> None:
    names = ["1f3a/layer.tar", "1f3a/json", "manifest.json"]
    target = io.BytesIO()
    deliver.without(io.BytesIO(archive(*names)), target, {BASE})
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        assert tar.getnames() == names
