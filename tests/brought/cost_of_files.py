"""What a file costs that Nginx keeps (`cache` in app.yml), and what it costs when the app serves it each time.

    .venv/bin/python -m tests.brought.cost_of_files

Brings two apps as docs/examples says, asks for their files over eight kept connections, and reads the CPU time of the edge's
and the app's containers. Writes docs/results/files.json and prints the table of docs/bring-your-app.md."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from stack import docker
from tests.brought.conftest import HTTP, URL, Clone, copy_of_the_repository, site_of_its_own, take_down
from tests.conftest import REPOSITORY

SECONDS, CONNECTIONS = 5.0, 8


@dataclass(frozen=True)
class Cost:
    """Of one file, asked for in one way."""

    path: str
    size: int
    """bytes, not compressed"""
    compressed: bool
    kept: bool
    """by Nginx; else a query is added, with which it asks the app each time"""
    per_second: float
    edge_us: float
    """us of CPU an answer"""
    app_us: float


def ask(address: str, request: bytes, seconds: float) -> int:
    """Answers that came within this time; each is 200, or this fails."""
    counts = [0] * CONNECTIONS
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        while time.monotonic() < end:
            with socket.create_connection((address, 8080), timeout=10) as connection:
                answers = connection.makefile("rb", buffering=2**17)
                for _ in range(900):  # Nginx closes after 1000
                    connection.sendall(request)
                    status, length, chunked = answers.readline(), 0, False
                    assert b" 200 " in status, status
                    while (line := answers.readline().lower()) != b"\r\n":
                        assert line
                        name, _, value = line.partition(b":")
                        length = int(value) if name == b"content-length" else length
                        chunked |= name == b"transfer-encoding"
                    while chunked and (length := int(answers.readline(), 16)):
                        answers.read(length + 2)
                    answers.read(2 if chunked else length)
                    counts[number] += 1
                    if time.monotonic() > end:
                        return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(counts), counts
    return sum(counts)


def cpu(container: str) -> float:
    """s of CPU that it has used: cgroup v2, else v1."""
    script = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpuacct/cpuacct.usage"
    said = docker.run("exec", container, "sh", "-c", script)
    found = re.search(r"usage_usec (\d+)", said)
    return int(found[1]) / 1e6 if found else int(said) / 1e9


def measure(address: str, app: str, path: str) -> list[Cost]:
    edge, container = "gatehouse-brought-edge-1", f"gatehouse-brought-{app}-1"
    size = len(httpx.get(URL + path).content)
    costs = []
    for compressed in (False, True):
        for kept in (True, False):
            target = path if kept else f"{path}?x"
            encoding = "Accept-Encoding: gzip\r\n" if compressed else ""
            request = f"GET {target} HTTP/1.1\r\nHost: localhost:{HTTP}\r\n{encoding}\r\n".encode()
            ask(address, request, 1)
            before = cpu(edge), cpu(container), time.monotonic()
            answers = ask(address, request, SECONDS)
            took = [
                after - was for after, was in zip((cpu(edge), cpu(container), time.monotonic()), before, strict=True)
            ]
            edge_us, app_us = (round(s / answers * 1e6) for s in took[:2])
            costs.append(Cost(path, size, compressed, kept, round(answers / took[2]), edge_us, app_us))
    return costs


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder, "clone"))
        copy_of_the_repository(clone.root)
        site_of_its_own(clone.root)
        try:
            for recipe in ("flaskr", "django"):
                clone.follow(f"examples/{recipe}.md")
            page = httpx.get(f"{URL}/mysite/admin/login/").text
            (css,) = re.findall(r'"(/mysite/static/admin/css/base[^"]*)"', page)
            find = "find /app/static/admin/js/vendor/jquery -name 'jquery.????????????.js' -printf %f"
            jquery = docker.run("exec", "gatehouse-brought-mysite-1", "sh", "-c", find)
            networks = json.loads(docker.run("inspect", "gatehouse-brought-edge-1"))[0]["NetworkSettings"]["Networks"]
            address = networks["gatehouse-brought_edge"]["IPAddress"]
            files = (
                ("flaskr", "/flaskr/static/style.css"),
                ("mysite", css),
                ("mysite", f"/mysite/static/admin/js/vendor/jquery/{jquery}"),
            )
            costs = [cost for app, path in files for cost in measure(address, app, path)]
        finally:
            take_down(clone.root)
    text = json.dumps([asdict(cost) for cost in costs], indent=1) + "\n"
    (REPOSITORY / "docs/results/files.json").write_text(text)
    print("| file | CPU an answer, kept | by the app | answers a second, kept | by the app |\n|---|---|---|---|---|")
    for kept, asked in zip(costs[::2], costs[1::2], strict=True):
        name = f"{kept.path.rpartition('/')[2].split('.')[0]}, {kept.size / 1000:.0f} KB"
        print(
            f"| {name}{', compressed' if kept.compressed else ''} | {kept.edge_us + kept.app_us:,.0f} us "
            f"| {asked.edge_us + asked.app_us:,.0f} us | {kept.per_second:,.0f} | {asked.per_second:,.0f} |"
        )


if __name__ == "__main__":
    main()
