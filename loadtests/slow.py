"""Slow clients against the whole chain: slowhttptest's slow headers, bodies and reads from one address, and what another
client sees meanwhile. Needs slowhttptest (Debian's package of that name) and Docker.

    python -m loadtests.slow

On a site of its own with the limits that hosts have. Prints docs/results/slow.md's table, one row an attack.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from stack import docker
from stack.compose import Compose, down
from stack.load import load_site
from stack.say import say

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT, PORT = "gatehouse-slow", 18581
CONNECTIONS, SECONDS = 300, 20

ATTACKS = {
    "none": [],
    "headers (-H)": ["-H", "-i", "2", "-u", "/flask/"],
    "bodies (-B)": ["-B", "-i", "2", "-s", "8192", "-u", "/flask/whoami"],
    "bodies to a thread (-B, stream: true)": ["-B", "-i", "2", "-s", "8192", "-u", "/flask/echo"],
    "reads (-X)": ["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "1", "-u", "/fastapi/openapi.json"],
}
"""Name -> slowhttptest's options, but for the URL's beginning."""

OTHER = """
import http.client, json, sys, time
took, bad, end = [], 0, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    begin = time.monotonic()
    try:
        connection = http.client.HTTPConnection("edge", 8080, timeout=5)
        connection.request("GET", "/flask/")
        answer = connection.getresponse()
        answer.read()
        bad += answer.status != 200
    except OSError:
        bad += 1
    took.append(time.monotonic() - begin)
    connection.close()
    time.sleep(0.02)
took.sort()
print(json.dumps({"requests": len(took), "bad": bad, "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}))
"""
"""The other client: a new connection for each request, from a container with an address of its own."""


def attack(options: list[str], folder: Path) -> dict[str, str]:
    """Row of the table: seconds in which the attacked service answered slowhttptest's own probe, and those measured by `OTHER`."""
    other = subprocess.Popen(
        [*docker.client(), "exec", f"{PROJECT}-fastapi-1", "python", "-c", OTHER, str(SECONDS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    available = "-"
    if options:
        *flags, path = options
        subprocess.run(
            ["slowhttptest", *flags, f"http://localhost:{PORT}{path}", "-c", str(CONNECTIONS), "-r", "200",
             "-l", str(SECONDS), "-p", "3", "-g", "-o", str(folder / "out")],
            check=False, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with (folder / "out.csv").open() as file:
            rows = [{key.strip(): value for key, value in row.items() if key} for row in csv.DictReader(file)]
        up = sum(int(row["Service Available"]) > 0 for row in rows)
        most = max(int(row["Connected"]) for row in rows)
        available = f"{up} of {len(rows)} s, {most} connected at most"
    seen = json.loads(other.communicate()[0])
    return {
        "slowhttptest's probe": available,
        "another client: answered": f"{seen['requests'] - seen['bad']} of {seen['requests']}",
        "p50 ms": f"{seen['p50'] * 1000:.1f}",
        "p99 ms": f"{seen['p99'] * 1000:.1f}",
    }


def main() -> int:
    if not shutil.which("slowhttptest"):
        say.line("slowhttptest is missing. Type: apt-get install slowhttptest")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(REPOSITORY / "apps", root / "apps", ignore=shutil.ignore_patterns("__pycache__", ".venv"))
        (root / "environments").mkdir()
        (root / "environments/local.yml").write_text(
            f"name: {PROJECT}\nengine: compose\ndomains: [edge, localhost]\nhttp_port: {PORT}\n"
            "tls: {certificate: 'off'}\nlimits: {} # as on hosts\n"
        )
        try:
            Compose(load_site(root, "local")).up()
            for number, (name, options) in enumerate([*ATTACKS.items(), ("none, again", [])]):
                row = {"attack": name, **attack(options, root)}
                if not number:
                    print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
                print(f"| {' | '.join(row.values())} |", flush=True)
        finally:
            down(root, "local", volumes_of=PROJECT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
