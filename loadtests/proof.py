"""`make proof`: runs a command under load, and fails if one single request failed.

    python -m loadtests.proof --edge 192.0.2.10 --edge 192.0.2.11 --host shop.example.com \\
        --app /flask=wsgi --app /fastapi=asgi --health /shop/healthz -- ansible-playbook deploy.yml

The load starts first, goes on for a while after the command has ended, and stops by itself. It writes
build/proof/NAME/: proof.html for people, proof.json, and every request in requests.csv.gz. Exit codes:

    0    no request failed, no effect was lost or doubled, and the command ended as it had to
    1    a request failed, or an effect was lost or doubled
    2    the command ended otherwise than it had to, or it could not be started
    3    nothing is proven: this machine was too slow to send on time, or the load ended before the command
    130  interrupted
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtests import machine
from loadtests.http1 import Edge
from loadtests.openmodel import Effects, effects
from loadtests.proof_load import Load
from loadtests.proof_report import INTERRUPTED, Proof, table, write
from stack.errors import Failed
from stack.say import console, errors, say

REPOSITORY = Path(__file__).resolve().parent.parent
GRACE = 2.0
"""s that an interrupted load waits for answers."""


async def prove(options: argparse.Namespace, edges: list[Edge]) -> Proof:
    """Runs the command under load."""
    load = Load(options, edges)
    await load.look()
    interrupted = False
    process: asyncio.subprocess.Process | None = None

    def interrupt(number: int) -> None:
        """Ends the load at once, and the command as it wishes. A terminal has told the command, too; nobody else has. Asked
        again, it is told to end."""
        nonlocal interrupted
        if (
            process
            and process.returncode is None
            and (interrupted or number != signal.SIGINT or not sys.stdin.isatty())
        ):
            process.send_signal(signal.SIGTERM if interrupted else number)
        interrupted = True
        load.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    say.line(f"{options.rate:g} requests a second through {len(edges)} {'edges' if len(edges) > 1 else 'edge'}")
    began, cpu, busy = load.now(), time.process_time(), os.getloadavg()[0]
    running = asyncio.create_task(load.run())
    start = end = load.now() + options.warm
    code: int | None = None
    cores: float | None = None
    if not await load.wait(options.warm):
        start, before = load.now(), machine.ticks()
        say.line(f"$ {' '.join(options.command)}")
        process = await asyncio.create_subprocess_exec(*options.command)
        code = await process.wait()
        end, cores = load.now(), machine.share(before, machine.ticks())
        say.line(f"ended with {code} after {end - start:.1f} s")
        code = None if load.stop.is_set() else code  # then its end was not under load
        await load.wait(options.cool)
        while load.sent() < options.requests and not await load.wait(0.1):
            pass
    load.stop.set()
    try:
        async with asyncio.timeout(GRACE if interrupted else None):
            await running
    except TimeoutError:
        pass  # run() and what it waits for is cancelled
    took, cpu = load.now() - began, time.process_time() - cpu
    counted: Effects | None = None
    trouble = ""
    if options.effects and not interrupted:
        try:
            counted = effects(load.outcomes, await load.rows())
        except (Failed, ValueError) as failed:
            trouble = str(failed)
    load.close()
    sent = len(load.outcomes)
    conditions = {
        "date": datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "edges": ", ".join(f"{edge.address}:{edge.port}" for edge in edges) + (" (TLS)" if edges[0].tls else ""),
        "host": edges[0].host,
        "apps": ", ".join(
            [
                *(f"{p} ({i})" for p, i in options.app.items()),
                *options.health,
                *([options.effects] * bool(options.effects)),
            ]
        ),
        "rate": f"{options.rate:g}/s, Poisson (seed {options.seed}), shares: "
        + ", ".join(f"{kind} {share}" for kind, share in load.weights.items()),
        "sent": f"{sent:,} in {took:.0f} s",
        "generator_cpu": f"{cpu / took:.0%} of a core, {cpu / max(sent, 1) * 1000:.2f} ms a request",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, load average {busy:.1f} before, {os.getloadavg()[0]:.1f} after",
    }
    if cores is not None:
        conditions["cpu"] = f"{cores:.0%} of this machine's cores were busy while the command ran"
    return Proof(
        options.name, options.command, start, end, code, options.expect_failure,
        sorted(load.outcomes, key=lambda o: o.due), load.events, counted, trouble, interrupted, conditions,
    )  # fmt: skip


def _app(text: str) -> tuple[str, str]:
    prefix, _, interface = text.partition("=")
    if not prefix.startswith("/") or interface not in ("wsgi", "asgi"):
        raise argparse.ArgumentTypeError(f"{text!r}: write a path and its interface, such as /shop=wsgi or /shop=asgi")
    return prefix.rstrip("/"), interface


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r}: begin with a slash")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, - and _ only, it names a folder")
    return text


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: a number from {least:g} to {most:g}")
        return value

    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; what is after `--` is the command."""
    own, command = arguments, []
    if "--" in arguments:
        own, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.proof", usage="%(prog)s --edge ADDRESS [options] -- COMMAND...", allow_abbrev=False,
        description=(__doc__ or "").partition("\n")[0],
    )  # fmt: skip
    add = parser.add_argument
    add("--edge", action="append", required=True, metavar="ADDRESS", help="of an edge; repeat it for each")
    add("--host", default="localhost", help="name to ask them for: Host header and TLS (default: localhost)")
    add("--port", type=int, help="default: 443, with --plain 80")
    add("--plain", action="store_true", help="HTTP, not HTTPS")
    add("--ca", type=Path, metavar="FILE", help="PEM of the authority to trust (default: this machine's own)")
    add(
        "--app",
        action="append",
        type=_app,
        default=[],
        metavar="PREFIX=INTERFACE",
        help="an app with the full contract; interface: wsgi or asgi",
    )
    add(
        "--health",
        action="append",
        type=_path,
        default=[],
        metavar="PATH",
        help="health path of an app that has no more",
    )
    add(
        "--effects",
        type=_path,
        default=None,
        metavar="PREFIX",
        help="app that counts: POST PREFIX/effect?key=K, GET PREFIX/rows",
    )
    add(
        "--rotation",
        type=int,
        metavar="PORT",
        help="go to an edge only while its /healthz on this plain port answers 2xx, as a balancer does",
    )
    add("--rate", type=_number(1, 1000), default=120.0, help="requests a second (default: 120)")
    add("--warm", type=_number(0, 600), default=5.0, help="s of load before the command (default: 5)")
    add("--cool", type=_number(0, 600), default=8.0, help="s of load after it (default: 8)")
    add("--requests", type=int, default=0, help="go on until so many were sent in all")
    add("--at-most", type=_number(1, 7200), default=900.0, metavar="SECONDS", help="of load in all (default: 900)")
    add("--expect-failure", action="store_true", help="the command must not end with 0: a bad release")
    add(
        "--events",
        type=Path,
        metavar="FILE",
        help='marks for the page, read at the end: {"at": epoch s, "host": ..., "service": ..., "what": ...} a line',
    )
    add(
        "--name",
        type=_name,
        default=f"{datetime.now():%Y%m%d-%H%M%S}",
        help="of the results' folder (default: the time)",
    )
    add(
        "--out",
        type=Path,
        default=REPOSITORY / "build/proof",
        metavar="DIR",
        help="where that folder is made (default: build/proof)",
    )
    add("--seed", type=int, default=1, help="of the arrivals (default: 1)")
    options = parser.parse_args(own)
    options.command = command
    options.app = dict(options.app)
    options.effects = (options.effects or "").rstrip("/")
    if not command:
        parser.error("say what to prove, after --: ... -- ansible-playbook deploy.yml")
    if not shutil.which(command[0]):
        parser.error(f"{command[0]}: no such command")
    if not (options.app or options.health or options.effects):
        parser.error("say what to ask for: --app /shop=wsgi, or --health /shop/healthz")
    return options


def the_edges(options: argparse.Namespace) -> list[Edge]:
    """One for each address."""
    context = None
    if not options.plain:
        try:
            context = ssl.create_default_context(cafile=options.ca)
        except (OSError, ssl.SSLError) as error:
            raise Failed(f"--ca {options.ca}: {error}") from None
    port = options.port or (80 if options.plain else 443)
    return [Edge(address, port, options.host, context) for address in options.edge]


def the_events(file: Path | None) -> list[dict[str, Any]]:
    """What happened on the hosts; a line that is no event is left out, because the page is no proof."""
    events = []
    for line in file.read_text().splitlines() if file and file.is_file() else []:
        try:
            event = json.loads(line)
            events.append({**event, "at": float(event["at"])})
        except (ValueError, TypeError, KeyError):
            errors.print(f"{file}: this is no event: {line[:100]}", markup=False)
    return events


def main(arguments: list[str], fetch: Callable[[], object] = lambda: None) -> int:
    """`fetch` is called once the load has ended, to bring the events."""
    options = parse(arguments)
    try:
        proof = asyncio.run(prove(options, the_edges(options)))
    except Failed as failure:
        errors.print(f"error: {failure}.", markup=False)
        return 2
    except KeyboardInterrupt:  # before the load began
        return INTERRUPTED
    fetch()
    folder = options.out / options.name
    proof.events.extend(the_events(options.events))
    write(proof, folder)
    table(proof, console)
    code, sentence = proof.verdict
    console.print(sentence, style="red" if code else "green", markup=False)
    console.print(str(folder / "proof.html"), markup=False)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
