"""`make matrix`: every framework on every gateway of its interface, through Nginx: the HTTP contract, prefixes, a stop.

A gateway is a site of its own below build/matrix/, with an app per framework: below /a/b with two replicas, and once more at the
root of a host; on the process engine, where none is asked for and the gateway needs no other. Some sites run at a time, on ports of
their own; what a site installed stays, so that only a first run takes long. All of them asked there: docs/compatibility.md is
written. Ends with 1 where a pair does not pass.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from typing import Any

from ruamel.yaml import YAML

from stack import docker, images, process
from stack.compose import cannot_listen
from stack.gateways import GATEWAYS, Gateway
from stack.load import Site, load_site
from stack.say import say
from tests.conftest import REPOSITORY
from tests.matrix.page import Pair, cell, features_table, locked, outcomes, pairs_table, table

SITES, SOME = REPOSITORY / "build/matrix", REPOSITORY / "build/matrix-some"
"""Where sites are; those of a run of some pairs or of ENGINE=compose apart, because `up` removes virtual environments that it does not need."""
PAGE = REPOSITORY / "docs/compatibility.md"
SUITE = ["tests/chain/test_contract.py", "tests/matrix/test_pair.py"]
FRAMEWORKS = {path.name: path for top in ("apps", "examples") for path in sorted((REPOSITORY / top).glob("*/"))
              if (path / "app.yml").is_file() and path.name in (
                  "flask", "django", "pyramid", "bottle", "fastapi", "starlette", "channels", "quart")}  # fmt: skip
PORTS = range(20000, 32000, 2100)
"""First ports of sites at a time, below those that clients get; a site may take a step of them (stack/process.py: replicas
from http_port + 1000 on, a thousand)."""
SUITE_LIMIT, UP_LIMIT = 240, 900
"""s that one pair's tests, and `up` with all its virtual environments to be made, may take."""
SITE_MEMORY = 1500
"""MiB for one site: 1.2 GB was the most that one took (gunicorn-sync)."""


@dataclass(frozen=True)
class Slot:
    """Ports that one site at a time has, kept from other runs, such as another clone's, as long as `held` is open."""

    http: int
    held: socket.socket | None = None

    @property
    def https(self) -> int:
        return self.http + 500


def facts(framework: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(FRAMEWORKS[framework] / "app.yml")
    return loaded


def write_site(root: Path, gateway: Gateway, frameworks: Iterable[str], slot: Slot) -> None:
    """apps/ and environments/ anew; what .local holds stays."""
    yaml = YAML()
    shutil.rmtree(root / "apps", ignore_errors=True)
    for framework in frameworks:
        app = yaml.load(FRAMEWORKS[framework] / "app.yml")
        # Where one request holds a process, the contract's twenty waits need four of them.
        app |= {"gateway": gateway.name, "workers": 4 if gateway.concurrency == "process" else 2, "replicas": 2}
        app |= {"route": f"/a/b/{framework}", "timeouts": {"start": 180}}
        root_app = {**app, "workers": 1, "replicas": 1, "route": "/", "host": f"{framework}.test"}
        for name, of in ((framework, app), (f"{framework}-root", root_app)):
            folder = root / "apps" / name
            shutil.copytree(FRAMEWORKS[framework], folder, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
            yaml.dump(of, folder / "app.yml")
    local = yaml.load(REPOSITORY / "environments/local.yml")
    # Docker knows a site by its name alone: another clone's is another.
    name = f"matrix-{gateway.name.replace('_', '-')}-{zlib.crc32(bytes(root)):08x}"
    local |= {"name": name, "http_port": slot.http, "https_port": slot.https}
    (root / "environments").mkdir(parents=True, exist_ok=True)
    yaml.dump(local, root / "environments/local.yml")


class Run:
    """One run: its processes, which an interruption ends, and what it found."""

    def __init__(self, sites: Path, suites: int) -> None:
        self.sites = sites
        self.began = time.monotonic()
        self.made = 0
        """Virtual environments and images that were not there."""
        self.stopping = threading.Event()
        self.processes: set[subprocess.Popen[str]] = set()
        self.suites = ThreadPoolExecutor(suites)

    def command(self, arguments: list[str], limit: float, **variables: str) -> tuple[int, str]:
        """Exit code and output; it is ended, and says so, after `limit` s or when the run is."""
        if self.stopping.is_set():
            return 1, "interrupted"
        running = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=REPOSITORY, env={**os.environ, **variables}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", start_new_session=True,
        )  # fmt: skip
        self.processes.add(running)
        try:
            said, _ = running.communicate(timeout=limit)
            return running.returncode, said
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGTERM)
            try:
                said, _ = running.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                said, _ = running.communicate()
            return 1, f"{said}\nerror: was not done after {limit:g} s"
        finally:
            self.processes.discard(running)

    def stop(self) -> None:
        self.stopping.set()
        for running in list(self.processes):
            running.terminate()

    def stack(self, root: Path, gateway: Gateway, *verb: str) -> tuple[int, str]:
        return self.command(["stack", *verb], UP_LIMIT, GATEHOUSE_ROOT=str(root), GATEHOUSE_ENV="local", **engine(gateway))  # fmt: skip

    def site(self, gateway: Gateway, frameworks: list[str], slot: Slot) -> Iterator[Pair]:
        """Brings one gateway's site up, asks all of its pairs, and stops it."""
        root = self.sites / gateway.name
        down(root)  # of a run that was killed
        if engine(gateway)["GATEHOUSE_ENGINE"] == "compose" and not docker.there():
            for framework in frameworks:
                yield Pair(framework, gateway.name, problem="needs Docker, and no engine answers here")
            return
        try:
            for framework, why in self.up(root, gateway, frameworks, slot):
                frameworks = [name for name in frameworks if name != framework]
                yield Pair(framework, gateway.name, problem=why)
            asked = [self.suites.submit(self.suite, root, gateway, framework) for framework in frameworks]
            for done in as_completed(asked):
                yield done.result()
        finally:
            down(root)

    def up(self, root: Path, gateway: Gateway, frameworks: list[str], slot: Slot) -> Iterator[tuple[str, str]]:
        """`up`, without the frameworks that it cannot bring up: each with the reason."""
        while frameworks:
            start = time.monotonic()
            write_site(root, gateway, frameworks, slot)
            code, said = self.stack(root, gateway, "up")
            self.made += len(re.findall(r"installing its packages:|building its image:", said))
            if code == 0:
                say.line(f"{gateway.name}: {', '.join(frameworks)} run after {time.monotonic() - start:.0f} s")
                return
            (root / "up.log").write_text(said)
            wrong = dict(
                re.findall(r"^error: (?:apps/)?([a-z]+)(?:-root)?(?::|/app\.yml:\d*:?) (.*)", said, re.MULTILINE)
            )
            found = {name: wrong[name] for name in frameworks if name in wrong}
            if not found:
                last = next((line for line in reversed(said.splitlines()) if "error" in line.lower()), "up failed")
                found = dict.fromkeys(frameworks, last.strip())
            yield from found.items()
            frameworks = [name for name in frameworks if name not in found]

    def suite(self, root: Path, gateway: Gateway, framework: str) -> Pair:
        """The contract's tests and the matrix's own, of one pair."""
        start, junit = time.monotonic(), root / f"{framework}.xml"
        junit.unlink(missing_ok=True)
        _, said = self.command(
            ["pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={junit}", "--timeout=90", *SUITE], SUITE_LIMIT,
            **engine(gateway), GATEHOUSE_CHAIN=str(root), GATEHOUSE_APPS=framework, GATEHOUSE_PAIR=f"{framework} {gateway.name}",
        )  # fmt: skip
        (root / f"{framework}.log").write_text(said)
        if not junit.is_file():
            last = said.strip().splitlines()[-1:]
            return Pair(framework, gateway.name, problem=f"its tests did not end: {' '.join(last)}")
        pair = Pair(framework, gateway.name, tuple(outcomes(junit.read_text(), framework, gateway.name)))
        passed = sum(outcome.kind == "passed" for outcome in pair.outcomes)
        took = time.monotonic() - start
        say.line(f"{framework} on {gateway.name}: {passed} passed in {took:.0f} s: {cell(pair)}")
        for failed in pair.failed:
            say.line(f"    {failed.test}[{failed.case}]: {failed.message}")
        return pair


def engine(gateway: Gateway) -> dict[str, str]:
    """Variables that choose what the site runs on: what was asked for (ENGINE), as far as the gateway can."""
    return {"GATEHOUSE_ENGINE": "compose" if gateway.needs_docker else os.environ.get("GATEHOUSE_ENGINE") or "process"}


def down(root: Path) -> None:
    """Stops what runs of this site, on either engine; an interruption of the run does not keep it from that."""
    if process.running(root):
        process.down(root)
    elif (root / ".local/edge/current").is_symlink():
        command = [sys.executable, "-m", "stack", "down", "--volumes"]
        environment = {**os.environ, "GATEHOUSE_ROOT": str(root), "GATEHOUSE_ENV": "local"}
        try:
            subprocess.run(
                command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, timeout=300, check=False, start_new_session=True
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            say.line(f"{root.name}: was not stopped within 300 s. GATEHOUSE_ROOT={root} python -m stack down stops it")


def chosen(words: list[str]) -> dict[str, list[str]]:
    """Gateway -> frameworks. Words narrow it: names of either."""
    known = {*GATEWAYS, *FRAMEWORKS}
    if wrong := [word for word in words if word not in known]:
        sys.exit(f"error: ONLY={' '.join(words)}: no such {wrong[0]}. Allowed: {', '.join(sorted(known))}")
    gateways = [name for name in GATEWAYS if name in words] or list(GATEWAYS)
    frameworks = [name for name in FRAMEWORKS if name in words] or list(FRAMEWORKS)
    plan = {g: [f for f in frameworks if facts(f)["interface"] == GATEWAYS[g].interface] for g in gateways}
    return {gateway: of for gateway, of in plan.items() if of}


def slots() -> list[Slot]:
    """One for each site at a time: what memory holds, and no more than cores."""
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    count = max(1, min(os.cpu_count() or 1, int(available[1]) // 1024 // SITE_MEMORY if available else 1, 3))
    found: list[Slot] = []
    for first in PORTS:
        with contextlib.suppress(OSError):
            held = socket.create_server(("127.0.0.1", first + PORTS.step - 1))
            if len(found) < count and not any(cannot_listen("0.0.0.0", first + at) for at in (0, 500, 1000)):
                found.append(Slot(first, held))
            else:
                held.close()
    if not found:
        sys.exit(f"error: ports {', '.join(map(str, PORTS))}: none is free. 'ss -lnpt' says what listens")
    return found


def _interrupt(number: int, frame: object) -> None:
    """A second one, while sites are stopped, would leave them running."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(words: list[str]) -> int:
    plan, whole = chosen(words), not words and os.environ.get("GATEHOUSE_ENGINE") != "compose"
    count = sum(map(len, plan.values()))
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _interrupt)
    of_sites = slots()
    at_a_time = len(of_sites)
    say.line(f"{count} pairs on {len(plan)} gateways, {at_a_time} gateways at a time")
    run, free, pairs = Run(SITES if whole else SOME, suites=4 * at_a_time), Queue[Slot](), []
    for slot in of_sites:
        free.put(slot)

    def site(name: str, frameworks: list[str]) -> list[Pair]:
        slot = free.get()
        try:
            return list(run.site(GATEWAYS[name], frameworks, slot))
        finally:
            free.put(slot)

    pool = ThreadPoolExecutor(at_a_time)
    waiting: list[Future[list[Pair]]] = [pool.submit(site, name, frameworks) for name, frameworks in plan.items()]
    try:
        for done in as_completed(waiting):
            pairs += done.result()
            say.line(f"{len(pairs)} of {count} pairs after {time.monotonic() - run.began:.0f} s")
    except KeyboardInterrupt:
        say.line("stopping: what runs is ended")
        return 130
    finally:
        run.stop()
        pool.shutdown(cancel_futures=True)
        run.suites.shutdown()
    took = time.monotonic() - run.began
    frameworks = [name for name in FRAMEWORKS if any(pair.framework == name for pair in pairs)]
    bad = [pair for pair in pairs if not pair.passes]
    if whole:
        PAGE.write_text(page(pairs, took, run.made))
        say.line(f"written: {PAGE.relative_to(REPOSITORY)}")
    else:
        print(pairs_table(pairs, frameworks, list(plan)), features_table(pairs, list(plan)), sep="\n")
    for pair in bad:
        say.line(f"{pair.framework} on {pair.gateway}: {cell(pair)}")
    say.line(f"{len(pairs) - len(bad)} of {len(pairs)} pairs pass, in {took:.0f} s")
    return 1 if bad or len(pairs) < count else 0


# --- the page ---------------------------------------------------------------------------------------------------------


def versions(pairs: list[Pair]) -> list[tuple[str, str]]:
    """What ran, and its version."""
    found = [("Python", platform.python_version()), ("Nginx", nginx()), ("Linux", platform.release())]
    for framework in dict.fromkeys(pair.framework for pair in pairs):
        folder = FRAMEWORKS[framework]
        found += locked((folder / "requirements.in").read_text(), (folder / "requirements.txt").read_text()).items()
    for files in dict.fromkeys(GATEWAYS[pair.gateway].files for pair in pairs):
        folder = REPOSITORY / "compose/gateways" / files
        if (folder / "requirements.in").is_file():
            found += locked((folder / "requirements.in").read_text(), (folder / "requirements.txt").read_text()).items()
    for name in dict.fromkeys(pair.gateway for pair in pairs if pair.outcomes and GATEWAYS[pair.gateway].needs_docker):
        found += debian(load_site(SITES / name, "local"))
    return sorted(set(found), key=lambda of: of[0].lower())


def debian(site: Site) -> list[tuple[str, str]]:
    """Versions of the Debian packages that stand in a gateway's place."""
    image = images.name(next(iter(site.apps.values())))
    asked = ["dpkg-query", image, "--show", "--showformat", "${Package} (Debian)=${Version}\n"]
    told = docker.run("run", "--rm", "--entrypoint", *asked, "apache2-bin", "libapache2-mod-wsgi-py3", "python3")
    return [(name, version) for name, _, version in (line.partition("=") for line in told.splitlines())]


def nginx() -> str:
    """Version of the one that the sites had."""
    for script in sorted(SITES.glob("*/.local/process/running/edge.1.sh")):
        program = script.read_text().removeprefix("exec ").split()[0]
        told = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
        if version := re.search(r"nginx/(\S+)", told):
            return version[1]
    return "?"


def page(pairs: list[Pair], took: float, made: int) -> str:
    """docs/compatibility.md."""
    frameworks = [name for name in FRAMEWORKS if any(pair.framework == name for pair in pairs)]
    gateways = [name for name in GATEWAYS if any(pair.gateway == name for pair in pairs)]
    parts = []
    for interface in ("wsgi", "asgi"):
        of = [name for name in gateways if GATEWAYS[name].interface == interface]
        fitting = [name for name in frameworks if facts(name)["interface"] == interface]
        parts += [f"### {interface.upper()}\n", pairs_table(pairs, fitting, of)]
    text = (REPOSITORY / "tests/matrix/compatibility.md").read_text()
    values = {
        "PAIRS": "\n".join(parts),
        "FEATURES": features_table(pairs, gateways),
        "VERSIONS": table(["", "version"], versions(pairs)),
        "DATE": f"{datetime.now(UTC):%Y-%m-%d}",
        "TESTS": f"{sum(o.kind != 'skipped' for pair in pairs for o in pair.outcomes):,}",
        "TOOK": f"{took:.0f}",
        "PASSING": f"{sum(pair.passes for pair in pairs)} of {len(pairs)}",
        "CORES": str(os.cpu_count()),
        "MADE": f"{made} virtual environments and images had to be made"
        if made
        else "with all virtual environments there",
    }
    return re.sub(r"\{([A-Z]+)\}", lambda name: values[name[1]], text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
