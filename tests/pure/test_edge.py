"""The edge's versioned directory: the same files are the same release, and switching is one atomic step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stack import edge

FILES = {"nginx.conf": b"events {}\n", "snippets/proxy.conf": b"# proxy\n", "tls/key.pem": b"\x00\xff"}


def test_a_release_holds_its_files_and_says_its_own_version(tmp_path: Path) -> None:
    version = edge.publish(tmp_path, FILES)
    release = tmp_path / "releases" / version
    held = {str(path.relative_to(release)): path.read_bytes() for path in release.rglob("*") if path.is_file()}
    assert held == {**FILES, "version.conf": f'return 200 "{version}";\n'.encode()}


def test_the_same_files_are_the_same_release(tmp_path: Path) -> None:
    version = edge.publish(tmp_path, FILES)
    before = (tmp_path / "releases" / version / "nginx.conf").stat()
    assert edge.publish(tmp_path, dict(reversed(FILES.items()))) == version
    assert (tmp_path / "releases" / version / "nginx.conf").stat() == before
    assert len(list((tmp_path / "releases").iterdir())) == 1


CHANGES = {
    "one byte": {**FILES, "tls/key.pem": b"\x00\xfe"},
    "a newline at the end": {**FILES, "nginx.conf": b"events {}\n\n"},
    "one file less": {name: text for name, text in FILES.items() if name != "tls/key.pem"},
    "an empty file more": {**FILES, "pages/x": b""},
    "another name": {**{n: t for n, t in FILES.items() if n != "tls/key.pem"}, "tls/key2.pem": b"\x00\xff"},
    "contents exchanged": {**FILES, "nginx.conf": FILES["snippets/proxy.conf"], "snippets/proxy.conf": b"events {}\n"},
}


@pytest.mark.parametrize("files", CHANGES.values(), ids=list(CHANGES))
def test_any_change_is_another_release(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert edge.publish(tmp_path, files) != edge.publish(tmp_path, FILES)


def test_what_an_interrupted_run_left_is_not_taken_for_a_release(tmp_path: Path) -> None:
    version = edge.publish(tmp_path, FILES)
    release = tmp_path / "releases" / version
    release.rename(release.with_name(f".{version}"))
    (release.with_name(f".{version}") / "nginx.conf").write_text("half")
    (release.with_name(f".{version}") / "left.over").touch()
    assert edge.publish(tmp_path, FILES) == version
    assert (release / "nginx.conf").read_bytes() == FILES["nginx.conf"]
    assert not (release / "left.over").exists()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_nginxs_user_can_read_a_release_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        version = edge.publish(tmp_path / "edge", FILES)
        edge.switch(tmp_path / "edge", version)
    finally:
        os.umask(before)
    for path in [tmp_path / "edge", *(tmp_path / "edge").rglob("*")]:
        assert path.stat().st_mode & (0o005 if path.is_dir() else 0o004), path


def test_nothing_is_current_until_switched_to(tmp_path: Path) -> None:
    version = edge.publish(tmp_path, FILES)
    assert edge.current(tmp_path) is None
    edge.switch(tmp_path, version)
    assert edge.current(tmp_path) == version
    edge.switch(tmp_path, version)
    assert edge.current(tmp_path) == version


def test_the_link_is_relative_and_works_where_it_is_mounted(tmp_path: Path) -> None:
    edge.switch(tmp_path / "edge", edge.publish(tmp_path / "edge", FILES))
    (tmp_path / "edge").rename(tmp_path / "mounted")
    assert (tmp_path / "mounted/current/nginx.conf").read_bytes() == FILES["nginx.conf"]


def test_current_is_never_absent_while_switching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = edge.publish(tmp_path, FILES)
    second = edge.publish(tmp_path, {**FILES, "site.conf": b""})
    edge.switch(tmp_path, first)
    seen = []
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        seen.append(edge.current(tmp_path))
        done = real(self, target)
        seen.append(edge.current(tmp_path))
        return done

    monkeypatch.setattr(Path, "replace", replace)
    edge.switch(tmp_path, second)
    assert seen == [first, second]


def test_switching_goes_on_where_an_interrupted_one_stopped(tmp_path: Path) -> None:
    version = edge.publish(tmp_path, FILES)
    (tmp_path / ".current").symlink_to("releases/nothing")
    edge.switch(tmp_path, version)
    assert edge.current(tmp_path) == version
    assert not (tmp_path / ".current").is_symlink()


def test_the_five_newest_releases_stay_and_the_current_one_is_among_them(tmp_path: Path) -> None:
    versions = [edge.publish(tmp_path, {**FILES, "site.conf": str(number).encode()}) for number in range(8)]
    for age, version in enumerate(reversed(versions)):
        os.utime(tmp_path / "releases" / version, (1000 - age, 1000 - age))
    edge.switch(tmp_path, versions[0])
    assert {path.name for path in (tmp_path / "releases").iterdir()} == {versions[0], *versions[4:]}


def test_the_release_to_go_back_to_stays_and_one_that_is_gone_is_not_switched_to(tmp_path: Path) -> None:
    versions = [edge.publish(tmp_path, {**FILES, "site.conf": str(number).encode()}) for number in range(8)]
    edge.switch(tmp_path, versions[0])
    os.utime(tmp_path / "releases" / versions[0], (1, 1))
    edge.switch(tmp_path, versions[7])
    assert (tmp_path / "releases" / versions[0]).is_dir()
    with pytest.raises(FileNotFoundError):
        edge.switch(tmp_path, "0123456789ab")
    assert edge.current(tmp_path) == versions[7]
