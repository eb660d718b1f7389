"""`make bench`: hello through the whole chain for every gateway, with Nginx's kept connections and without.

All gateways run at once, one is loaded at a time, and the variants take turns (A B, then A B again), so that what the
machine does meanwhile hits them alike: read the ratios, not the rates. wrk runs in the Compose network, because a
published loopback port goes through docker-proxy. Writes docs/results/hello.json (raw) and hello.md.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from stack import compose, docker, gateways, images
from stack.compose import Compose
from stack.errors import Failed
from stack.load import load_site
from stack.say import say

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs/results"
PROJECT = "gatehouse-bench"
SAMPLE = {"wsgi": "flask", "asgi": "fastapi"}
WORKERS = 2
CONNECTIONS, SECONDS, ROUNDS = 8, 4, 3
P50_LIMIT = 20.0
"""ms. A hello that takes longer waits for a timer somewhere: 44 ms is Nagle's algorithm meeting delayed ACKs."""


def site(root: Path) -> None:
    """An app per gateway, from the sample of its interface."""
    for gateway in gateways.GATEWAYS.values():
        folder = root / "apps" / gateway.name
        shutil.copytree(
            REPOSITORY / "apps" / SAMPLE[gateway.interface],
            folder,
            ignore=shutil.ignore_patterns("__pycache__", ".venv"),
        )
        text = (folder / "app.yml").read_text()
        text = re.sub(r"^gateway: .*$", f"gateway: {gateway.name}", text, flags=re.MULTILINE)
        text = re.sub(r"^workers: .*$", f"workers: {WORKERS}", text, flags=re.MULTILINE)
        (folder / "app.yml").write_text(f"{text}\ncpus: {min(2, os.cpu_count() or 1)}\n")
    (root / "environments").mkdir()


def environment(root: Path, upstream_keepalive: int) -> Compose:
    """The site on ports of its own, with this many kept connections."""
    (root / "environments/local.yml").write_text(
        f"name: {PROJECT}\nengine: compose\ndomains: [edge]\nhttp_port: 18085\ntls: {{certificate: 'off'}}\n"
        f"edge: {{upstream_keepalive: {upstream_keepalive}}}\n"
    )
    return Compose(load_site(root, "local"))


def wrk(image: str, gateway: str) -> dict[str, float]:
    """One visit: requests/s, latency percentiles in ms, and answers that were not 200."""
    out = docker.run(
        "run", "--rm", f"--network={PROJECT}_apps", "--entrypoint=wrk", image,
        "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", f"http://edge:8080/{gateway}/",
    )  # fmt: skip
    percentiles = {
        p: float(n) * {"us": 1e-3, "ms": 1, "s": 1e3}[u]
        for p, n, u in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)", out, re.MULTILINE)
    }
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    assert rate
    return {
        "rps": float(rate[1]),
        "p50_ms": percentiles["50"],
        "p99_ms": percentiles["99"],
        "bad": int(bad[1]) if bad else 0,
    }


def main() -> int:
    visits = []
    load_image = images.load_generator()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        site(root)
        try:
            for number in range(ROUNDS):
                for kept in (64, 0) if number % 2 == 0 else (0, 64):
                    environment(root, kept).up()
                    for gateway in gateways.GATEWAYS:
                        wrk(load_image, gateway) if number == 0 else None  # warm-up
                        visit = {
                            "round": number + 1,
                            "gateway": gateway,
                            "upstream_keepalive": kept,
                            **wrk(load_image, gateway),
                        }
                        say.line(
                            f"round {number + 1} of {ROUNDS}: {gateway}, keepalive {kept}: {visit['rps']:,.0f}/s, p50 {visit['p50_ms']:.1f} ms"
                        )
                        visits.append(visit)
        finally:
            compose.down(root, "local", volumes_of=PROJECT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result: dict[str, object] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "method": f"wrk -t1 -c{CONNECTIONS} -d{SECONDS}s, {ROUNDS} rounds, {WORKERS} workers a gateway",
        "visits": visits,
    }
    (RESULTS / "hello.json").write_text(json.dumps(result, indent=1) + "\n")
    page, slow = report(result)
    (RESULTS / "hello.md").write_text(page)
    print(page)
    if slow:
        print(f"p50 is not under {P50_LIMIT:g} ms: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


def report(result: dict[str, object]) -> tuple[str, list[str]]:
    """The page, and the gateways whose median p50 is over the limit."""
    visits: list[dict[str, float | str]] = result["visits"]  # type: ignore[assignment]
    page = (
        f"# Hello through the chain\n\n{result['date']}, {result['machine']}; client, Nginx and gateway share the cores. "
        f"{result['method']}; medians over rounds, and the ratio is the median of same-round ratios (smallest to largest). "
        f"Raw: [hello.json](hello.json). Again: `make bench`.\n\n"
        "| gateway | p50 ms | p99 ms | requests/s | with kept connections / without | failed |\n|---|---:|---:|---:|---:|---:|\n"
    )
    slow = []
    for gateway in gateways.GATEWAYS:
        on, off = (
            [v for v in visits if v["gateway"] == gateway and bool(v["upstream_keepalive"]) is kept]
            for kept in (True, False)
        )

        def median(key: str, of: list[dict[str, float | str]]) -> float:
            return statistics.median(float(v[key]) for v in of)

        ratios = sorted(float(a["rps"]) / float(b["rps"]) for a, b in zip(on, off, strict=True))
        p50 = median("p50_ms", on)
        if p50 >= P50_LIMIT:
            slow.append(gateway)
        page += (
            f"| {gateway} | {p50:.1f} | {median('p99_ms', on):.0f} | {median('rps', on):,.0f} "
            f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {sum(int(v['bad']) for v in on + off)} |\n"
        )
    return page, slow


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit("\n".join([*failure.log, f"error: {failure}"]))
