"""`make check`: configuration, format, lint and types. Starts nothing; one line a check, and what a failed one said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from stack.load import SiteError, environments, load_site
from stack.render import render, write

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SITES = (REPOSITORY, REPOSITORY / "tests/rendered/site")
NOT_OURS = {".git", ".local", ".venv", "build", "node_modules"}

# What gixy warns of and we mean: (check, part of its reason) -> why. Anything else of medium or high severity fails.
ACCEPTED = {
    ("ssl_ecdh_curve", "X25519MLKEM768"): "left out where OpenSSL is older (?); Nginx's image has 3.5",
    ("ssrf", '"$uri_of_'): "made by a map that gives a path or nothing, and nothing is refused (tests/rendered/test_nginx.py)",
    ("try_files_is_evil_too", "open_file_cache"): "one static page, for people",
}  # fmt: skip


def ours(*patterns: str) -> list[str]:
    """The repository's own files of these names, relative to it."""
    found: list[Path] = []
    for directory, folders, names in os.walk(REPOSITORY):
        folders[:] = [f for f in folders if f not in NOT_OURS]
        found += [p for n in names if any((p := Path(directory, n)).match(pattern) for pattern in patterns)]
    return sorted(str(path.relative_to(REPOSITORY)) for path in found)


def run(*command: str) -> str | None:
    """What a failing command says; None when it passes."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    return None if done.returncode == 0 else done.stdout.strip() or f"exit code {done.returncode}"


def configuration(root: Path, env: str) -> str | None:
    """Problems of one environment and its apps."""
    try:
        render(load_site(root, env))
    except SiteError as error:
        return str(error)
    return None


def gixy(root: Path, env: str) -> str | None:
    """Findings in the rendered Nginx configuration that nobody has accepted."""
    try:
        rendered = render(load_site(root, env))
    except SiteError:
        return "not rendered: its configuration has problems (above)"
    with tempfile.TemporaryDirectory() as folder:
        files = {name.removeprefix("nginx/"): text for name, text in rendered.items() if name.startswith("nginx/")}
        write({**files, "version.conf": 'return 200 "x";\n'}, Path(folder))
        # The check `origins` of gixy-ng 0.2.59 ends with an IndexError on a regex with a group: try without the skip
        # when it is newer.
        said = run("gixy", "-ll", "-f", "json", "--nginx-version=1.30.6", "--skips=origins", f"{folder}/nginx.conf")
    if said and not said.startswith("["):
        return said
    open_ = [
        f"{f['severity']} {f['plugin']}: {f['reason']}"
        for f in json.loads(said or "[]")
        if not any(f["plugin"] == check and part in f["reason"] for check, part in ACCEPTED)
    ]
    return "\n".join(open_) or None


def checks() -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Every check: its name, and the function that does it."""
    places = [(root, env) for root in SITES for env in environments(root)]
    for root, env in places:
        yield f"configuration {_name(root, env)}", partial(configuration, root, env)
    yield "ruff check", partial(run, "ruff", "check", "--no-cache")
    yield "ruff format", partial(run, "ruff", "format", "--no-cache", "--diff", "--quiet")
    yield "mypy", partial(run, "mypy")
    yield "yamllint", partial(run, "yamllint", "--strict", ".")
    yield "shellcheck", partial(run, "shellcheck", "--external-sources", *ours("*.sh"), ".ci/run")
    yield "hadolint", partial(run, "hadolint", "--no-color", *ours("Dockerfile", "*.Dockerfile"))
    for root, env in places:
        yield f"gixy {_name(root, env)}", partial(gixy, root, env)


def _name(root: Path, env: str) -> str:
    return str((root / "environments" / f"{env}.yml").relative_to(REPOSITORY))


def main() -> int:
    """Runs them all, two at a time; 1 if one failed."""
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for name, said in [(name, pool.submit(check)) for name, check in checks()]:
            output = said.result()
            failed += output is not None
            print(f"  {name}: {'OK' if output is None else 'FAILED'}", flush=True)
            if output is not None:
                print("    " + output.replace("\n", "\n    "), flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
