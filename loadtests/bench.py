"""`make bench`: the speed of every gateway behind the same Nginx, its price in CPU and memory, and what follows from it.

All gateways run at once, one is loaded at a time, and they take turns within each round, so that what the machine does
meanwhile hits them alike: read the ratios, not the rates. CPU per request is steadier than either. The load comes from a
container in the stack's network, because a published loopback port goes through docker-proxy. `ceiling` is Nginx behind
the same Nginx, which no gateway can reach. About 20 minutes; wants Linux with Docker on it, because the CPU time of a
container is read where the kernel keeps it. Writes docs/results/benchmarks.json (raw), docs/benchmarks.md and its plots.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtests import bench_page, kernel
from loadtests.lesson import drained
from stack import compose, docker, gateways, images
from stack.compose import Compose
from stack.errors import Failed
from stack.load import load_site
from stack.render import NGINX_IMAGE
from stack.say import ended, say

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs/results"
PROJECT, PORT = "gatehouse-bench", 18085
SAMPLE = {"wsgi": "flask", "asgi": "fastapi"}
WORKERS, THREADS = 2, 8
KEPT = 64
"""Connections that Nginx keeps to each gateway."""
ROUNDS, SECONDS = 3, 2
STARTS = 3
UPLOAD = f'wrk.method = "POST"\nwrk.body = string.rep("x", {kernel.MIB})\n'
CEILING_CONF = f"""
worker_processes {WORKERS};
pid /tmp/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server {{
        listen 8000;
        location / {{ return 200 "Hello, WSGI!"; }}
        location /ceiling/bytes {{ alias /srv/mib; }}
    }}
}}
"""
CEILING_DOCKERFILE = f"""
FROM {NGINX_IMAGE}
COPY nginx.conf /srv/
RUN head -c {kernel.MIB} /dev/zero > /srv/mib && mkdir -p /venv/bin \\
 && printf '#!/bin/sh\\nexec nginx -c /srv/nginx.conf -g "daemon off;"\\n' > /venv/bin/gunicorn && chmod +x /venv/bin/gunicorn
ENV PATH=/venv/bin:$PATH
USER 10001
"""
ECHO = """
import sys, threading, time, websocket

url, clients, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
times, bad, end = [], [], time.monotonic() + seconds


def talk():
    try:
        peer = websocket.create_connection(url, timeout=30)
        while (start := time.perf_counter()) and time.monotonic() < end:
            peer.send("x" * 32)
            if peer.recv() != "x" * 32:
                raise ValueError("another answer")
            times.append(time.perf_counter() - start)
        peer.close()
    except Exception as error:
        bad.append(error)


threads = [threading.Thread(target=talk) for _ in range(clients)]
[t.start() for t in threads], [t.join() for t in threads]
times.sort()
print(len(times) / seconds, times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000, len(bad))
"""

FIRST = """
import http.client, socket, sys, time, urllib.parse

url, gone, end = urllib.parse.urlsplit(sys.argv[1]), False, time.time() + 60
while time.time() < end:
    try:
        # While nobody has the address, a connection would be tried again after 1 s.
        connection = socket.create_connection((url.hostname, url.port), 0.02)
        connection.settimeout(5)
        asked = http.client.HTTPConnection(url.hostname, url.port)
        asked.sock = connection
        asked.request("GET", url.path)
        if asked.getresponse().status == 200 and gone:
            sys.exit(print(time.time()))
    except (OSError, http.client.HTTPException):
        gone = True
    time.sleep(0.005)
sys.exit(1)
"""
"""When an app that is being restarted answers again, as Unix time."""


@dataclass(frozen=True)
class Load:
    """One kind of request, asked again as soon as it is answered."""

    path: str
    clients: int
    said: str
    via: tuple[str, ...] = ("chain",)
    """chain; direct: at the gateway's own port; unkept: through an Nginx that keeps no connections."""
    ceiling: bool = False
    """Whether Nginx behind Nginx can do it, too."""


LOADS = {
    "hello": Load("/", 32, "hello", ("chain", "direct", "unkept"), ceiling=True),
    "json": Load("/whoami", 32, "JSON with a dozen fields"),
    "wait": Load("/wait?ms=100", 64, "waits 100 ms, 64 clients"),
    "few": Load("/wait?ms=100", 2, "waits 100 ms, 2 clients"),
    "work": Load("/work?ms=5", 16, "computes for 5 ms", ("chain", "direct")),
    "download": Load(f"/bytes?n={kernel.MIB}", 8, "1 MiB down", ceiling=True),
    "upload": Load("/echo", 8, "1 MiB up, and back"),
    "websocket": Load("/ws", 16, "WebSocket echo of 32 bytes"),
}  # a route each of docs/contract.md


def site(root: Path) -> None:
    """An app for each gateway, from the sample of its interface, and the ceiling."""
    for gateway in gateways.GATEWAYS.values():
        folder = root / "apps" / app_of(gateway.name)
        ignored = shutil.ignore_patterns("__pycache__", ".venv", "loadtest.py")
        shutil.copytree(REPOSITORY / "apps" / SAMPLE[gateway.interface], folder, ignore=ignored)
        text = (folder / "app.yml").read_text()
        text = re.sub(r"^gateway: .*$", f"gateway: {gateway.name}", text, flags=re.MULTILINE)
        text = re.sub(r"^workers: .*$", f"workers: {WORKERS}", text, flags=re.MULTILINE)
        (folder / "app.yml").write_text(
            text + cpus() + (f"threads: {THREADS}\n" if gateway.concurrency == "thread" else "")
        )
    ceiling = root / "apps/ceiling"
    ceiling.mkdir()
    (ceiling / "Dockerfile").write_text(CEILING_DOCKERFILE)
    (ceiling / "nginx.conf").write_text(CEILING_CONF)
    (ceiling / "app.yml").write_text(f"interface: wsgi\nentry: none:app\npaths: {{/bytes: {{stream: true}}}}\n{cpus()}")
    (root / "environments").mkdir()


def app_of(gateway: str) -> str:
    return gateway.replace("_", "-")  # a host name


def cpus() -> str:
    return f"\ncpus: {min(2, os.cpu_count() or 1)}\n"


def bring(root: Path, kept: int) -> Compose:
    """The site, with this many kept connections; a change of them reloads the edge alone."""
    (root / "environments/local.yml").write_text(
        f"name: {PROJECT}\nengine: compose\ndomains: [edge, 127.0.0.1]\nhttp_port: {PORT}\ntls: {{certificate: 'off'}}\n"
        f"edge: {{upstream_keepalive: {kept}}}\n"
    )
    stack = Compose(load_site(root, "local"))
    stack.up()
    return stack


# --- what the kernel and the engine know -----------------------------------------------------------------------------


def processes(stack: Compose) -> dict[str, int]:
    """Service -> process id, on this machine, of its container's first process."""
    ids = {c.service: c.id for c in stack.containers()}
    return dict(zip(ids, kernel.processes(list(ids.values())), strict=True))


def start(generator: str, container: str, url: str) -> float:
    """ms from a container's start to its first 200, asked for again and again from the stack's network."""
    asking = subprocess.Popen(
        [*docker.client(), "exec", generator, "python", "/tmp/first.py", url], stdout=subprocess.PIPE, text=True
    )
    with asking:
        docker.run("restart", "--time=10", container)
        answered, _ = asking.communicate()
    began = docker.run("inspect", "--format", "{{.State.StartedAt}}", container).strip()
    if asking.returncode:
        raise Failed(f"{url} did not answer within a minute of its start")
    return (float(answered) - datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", began)).timestamp()) * 1000


# --- loading ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def client(image: str) -> Iterator[str]:
    """A container of the load generator in the stack's network, which ends by itself after an hour."""
    name = f"{PROJECT}-client"
    docker.run(
        "run", "--rm", "--detach", "--name", name, f"--network={PROJECT}_apps", "--entrypoint=sleep", image, "3600"
    )
    try:
        for file, text in (("upload.lua", UPLOAD), ("echo.py", ECHO), ("first.py", FIRST)):
            docker.run("exec", "--interactive", name, "sh", "-c", f"cat > /tmp/{file}", stdin=text)
        yield name
    finally:
        docker.run("rm", "--force", name)


def visit(generator: str, url: str, load: Load) -> dict[str, float]:
    """Requests/s, latency percentiles in ms, and answers that were not 200."""
    if load.path == "/ws":
        said = docker.run(
            "exec", generator, "python", "/tmp/echo.py", url.replace("http", "ws", 1), str(load.clients), str(SECONDS)
        )
        rps, p50, p99, bad = map(float, said.split())
        return {"rps": rps, "p50_ms": p50, "p99_ms": p99, "bad": bad}
    script = ["-s", "/tmp/upload.lua"] if load.path == "/echo" else []
    out = docker.run(
        "exec",
        generator,
        "wrk",
        "-t1",
        f"-c{load.clients}",
        f"-d{SECONDS}s",
        "--timeout=30s",
        "--latency",
        *script,
        url,
    )
    percentiles = {
        p: float(n) * {"us": 1e-3, "ms": 1, "s": 1e3}[u]
        for p, n, u in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)", out, re.MULTILINE)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert rate, out
    broken = re.findall(r"Non-2xx or 3xx responses: (\d+)|Socket errors:.*? read (\d+), write (\d+)", out)
    bad = sum(int(number) for numbers in broken for number in numbers if number)
    return {"rps": float(rate[1]), "p50_ms": percentiles["50"], "p99_ms": percentiles["99"], "bad": bad}


# --- the whole -------------------------------------------------------------------------------------------------------


def targets(load: Load, via: str) -> list[str]:
    """The apps that can be asked this way."""
    able = [g.name for g in gateways.GATEWAYS.values() if load.path != "/ws" or g.interface == "asgi"]
    return able + (["ceiling"] if load.ceiling and via != "direct" else [])


def url(app: str, load: Load, via: str) -> str:
    """Where it is asked, from the stack's network."""
    if via != "direct":
        return f"http://edge:8080/{app_of(app)}{load.path}"
    return f"http://{app_of(app)}:8000{'' if gateways.GATEWAYS[app].strip_prefix else f'/{app_of(app)}'}{load.path}"


def rounds(root: Path, generator: str) -> Iterator[dict[str, float | str]]:
    """Every visit of every round."""
    for number in range(1, ROUNDS + 1):
        for kept in (KEPT, 0) if number % 2 else (0, KEPT):
            pids = processes(bring(root, kept))
            for name, load in LOADS.items():
                for via in load.via:
                    if (via == "unkept") is not (kept == 0):
                        continue
                    said = []
                    for app in targets(load, via):
                        drained(f"http://127.0.0.1:{PORT}/{app_of(app)}/healthz")
                        before = kernel.cpu(pids[app_of(app)]), kernel.cpu(pids["edge"])
                        made = visit(generator, url(app, load, via), load)
                        used = [
                            after - first
                            for after, first in zip(
                                (kernel.cpu(pids[app_of(app)]), kernel.cpu(pids["edge"])), before, strict=True
                            )
                        ]
                        each = max(made["rps"] * SECONDS, 1)
                        price = {"app_us": used[0] / each * 1e6, "edge_us": used[1] / each * 1e6}
                        yield {"round": number, "gateway": app, "load": name, "via": via, **made, **price}
                        said.append(f"{app} {made['rps']:,.0f}")
                    say.line(f"round {number} of {ROUNDS}: {load.said} ({via}), requests/s: {', '.join(said)}")


def main() -> int:
    image = images.load_generator()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        site(root)
        try:
            ids = {c.service: c.id for c in bring(root, KEPT).containers()}
            with client(image) as generator:
                for name in targets(LOADS["hello"], "chain"):  # what is loaded at first use is loaded then
                    visit(generator, url(name, LOADS["hello"], "chain"), LOADS["hello"])
                visits = list(rounds(root, generator))
                sizes = {name: kernel.parts(ids[app_of(name)], WORKERS) for name in gateways.GATEWAYS}
                starts: dict[str, list[float]] = {name: [] for name in gateways.GATEWAYS}
                health = Load("/healthz", 1, "")
                for _ in range(STARTS):
                    for name in gateways.GATEWAYS:
                        starts[name].append(start(generator, ids[app_of(name)], url(name, health, "direct")))
        finally:
            compose.down(root, "local", volumes_of=PROJECT)
    raw = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "method": f"{ROUNDS} rounds of {SECONDS} s a visit, {WORKERS} workers a gateway, {THREADS} threads where it has any",
        "gateways": {
            g.name: {"interface": g.interface, "concurrency": g.concurrency, "versions": versions(g)}
            for g in gateways.GATEWAYS.values()
        },
        "seconds": SECONDS,
        "slots": {"process": WORKERS, "thread": WORKERS * THREADS},
        "loads": {name: {"said": load.said, "clients": load.clients} for name, load in LOADS.items()},
        "visits": visits,
        "memory_mib": sizes,
        "start_ms": starts,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "benchmarks.json").write_text(json.dumps(raw, indent=1) + "\n")
    return bench_page.write(raw, REPOSITORY / "docs")


def versions(gateway: gateways.Gateway) -> str:
    """What its lock file names first: itself."""
    lock = REPOSITORY / "compose/gateways" / gateway.files / "requirements.txt"
    wanted = re.findall(r"^([\w.-]+)", lock.with_suffix(".in").read_text(), re.MULTILINE) if lock.is_file() else []
    found = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock.read_text(), re.MULTILINE)) if wanted else {}
    return ", ".join(f"{name} {found[name]}" for name in wanted if name in found)


if __name__ == "__main__":
    sys.exit(ended(main))
