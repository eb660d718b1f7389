"""Writing build/<env>/: the directory holds exactly the given files, and what is equal is not touched."""

from __future__ import annotations

from pathlib import Path

from stack.render import write

FILES = {"stack.yml": "services: {}\n", "nginx/snippets/proxy.conf": "# proxy\n"}


def test_a_first_run_writes_everything(tmp_path: Path) -> None:
    assert write(FILES, tmp_path / "build/test") == ["stack.yml", "nginx/snippets/proxy.conf"]
    assert held(tmp_path / "build/test") == FILES


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    write(FILES, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write(FILES, tmp_path) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_what_changed_is_written_and_named(tmp_path: Path) -> None:
    write(FILES, tmp_path)
    kept = (tmp_path / "stack.yml").stat().st_mtime_ns
    assert write({**FILES, "nginx/snippets/proxy.conf": "# other\n"}, tmp_path) == ["nginx/snippets/proxy.conf"]
    assert (tmp_path / "nginx/snippets/proxy.conf").read_text() == "# other\n"
    assert (tmp_path / "stack.yml").stat().st_mtime_ns == kept


def test_what_does_not_belong_there_goes_and_is_named(tmp_path: Path) -> None:
    write({**FILES, "nginx/pages/index.html": "", "local.yml": ""}, tmp_path)
    assert sorted(write(FILES, tmp_path)) == ["local.yml", "nginx/pages/index.html"]
    assert held(tmp_path) == FILES
    assert not (tmp_path / "nginx/pages").exists()


def test_text_of_every_language_survives(tmp_path: Path) -> None:
    files = {"stack.yml": "größe: 😀\n"}
    write(files, tmp_path)
    assert (tmp_path / "stack.yml").read_bytes() == "größe: 😀\n".encode()
    assert write(files, tmp_path) == []


def held(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()}
