"""`make doctor`: what is wrong with the stack on this machine, or runs badly, where, and how to mend it.

`examine` collects facts and changes nothing; `findings` is a pure function of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from stack import compose, edge, symptoms
from stack.compose import Compose, Container
from stack.load import AppPlan, Site, base_url
from stack.logs import without_library_frames
from stack.model import size_bytes
from stack.process import Process
from stack.render import ACME_MEMORY
from stack.symptoms import Finding

HOUR = 3600.0
"""s. How far back logs are read."""
LINES = 50_000
"""Of each log, at most."""
DRIFT = 2.0
"""s by which the engine's clock may differ from ours."""
SHORT_OF_MEMORY = 0.05
"""Share of the machine's memory; with less left, the kernel soon ends processes."""
END = timedelta(days=14)
"""Before a certificate's end, from which on it is said."""


@dataclass(frozen=True)
class Facts:
    """What there is to know about a site on this machine."""

    site: Site
    now: float
    """Unix time."""
    problems: list[str] = field(default_factory=list)
    """What `up` would fail at."""
    containers: list[Container] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    """Container id -> its lines of the last hour."""
    tails: dict[str, list[str]] = field(default_factory=dict)
    """Container id -> the end of its log without frames of libraries, where it is not ready or was restarted."""
    answers: dict[str, str] = field(default_factory=dict)
    """App -> what its health path answers through the edge."""
    written: str | None = None
    """Version of the edge's configuration that was switched to last."""
    running: str = ""
    """The one that the edge runs; empty: it does not say."""
    switched: float = 0
    """Unix time of that switch."""
    unapplied: dict[str, str] = field(default_factory=dict)
    """Service or file -> what is written otherwise than what runs."""
    memory: int = 0
    """bytes of the engine's machine; 0: nothing limits what apps use."""
    available: float = 1
    """Share of this machine's memory that is left."""
    drift: float = 0
    """s by which the engine's clock is ahead of ours."""
    certificate: bytes | None = None
    """PEM that the edge serves."""

    engine: str = ""
    """What runs it, and its version."""

    @property
    def checked(self) -> str:
        """What was looked at, for people."""
        environment = self.site.environment
        ports = f"{environment.http_port}" + (
            f" and {environment.https_port}" if environment.tls.certificate != "off" else ""
        )
        clock = "clock, " if self.memory else ""  # the engine's is another one
        said = f"{self.engine}, configuration, secrets, ports {ports}, disk, memory, {clock}certificate"
        if self.containers:
            services, lines = len({c.service for c in self.containers}), sum(map(len, self.logs.values()))
            said += f", {services} services, what is applied, {lines} lines of logs"
        return said


def findings(facts: Facts) -> Iterator[Finding]:
    """Everything that is wrong or worth knowing, gravest first."""
    yield from map(Finding, facts.problems)
    yield from _machine(facts)
    yield from _certificate(facts)
    if not facts.containers:
        yield Finding(f"{facts.site.environment.name}: nothing of it runs. Type: make up")
        return
    yield from _services(facts)
    yield from _edge(facts)
    yield from _traffic(facts)
    if facts.unapplied:
        said = "; ".join(f"{name} ({what})" if what else name for name, what in facts.unapplied.items())
        up = "make dev" if facts.site.dev else "make up"
        yield Finding(f"written, and not applied yet: {said}. Type: {up}", wrong=False)


def _machine(facts: Facts) -> Iterator[Finding]:
    if facts.available < SHORT_OF_MEMORY:
        yield Finding(
            f"this machine: {facts.available:.0%} of its memory is left, and soon the kernel ends processes. Stop what you do not need (ps aux --sort=-rss | head)"
        )
    most = sum(limits(facts.site).values())
    if facts.memory and most > facts.memory:
        yield Finding(
            f"this machine: it has {_gib(facts.memory)} of memory, and the services together may use {_gib(most)}. Lower `memory` of apps that need less, or under apps.NAME in environments/{facts.site.env}.yml",
            wrong=False,
        )
    if abs(facts.drift) > DRIFT:
        yield Finding(
            f"Docker's machine: its clock is {abs(facts.drift):.0f} s {'ahead' if facts.drift > 0 else 'behind'}, and so are tokens, cookies and certificates. Restart Docker Desktop, or set the clock there (timedatectl set-ntp true)"
        )


def limits(site: Site) -> dict[str, int]:
    """Service -> bytes that it may use, all its replicas together."""
    found = {"edge": size_bytes(site.environment.edge.memory)}
    if site.environment.tls.certificate == "acme":
        found["acme"] = size_bytes(ACME_MEMORY)
    for plan in site.apps.values():
        found[plan.name] = plan.app.replicas * size_bytes(plan.app.memory)
        found |= {f"{plan.name}-{name}": size_bytes(process.memory) for name, process in plan.app.processes.items()}
    return found


def _certificate(facts: Facts) -> Iterator[Finding]:
    tls, file = facts.site.environment.tls, f"environments/{facts.site.env}.yml: tls"
    if facts.certificate is None or tls.certificate == "off":
        return
    first, now = x509.load_pem_x509_certificates(facts.certificate)[0], datetime.fromtimestamp(facts.now, UTC)
    # ACME's is renewed when a third of its life is left, which may be days: half of that is late.
    life = first.not_valid_after_utc - first.not_valid_before_utc
    end = min(END, life / 6) if tls.certificate == "acme" else END
    until = f"{first.not_valid_after_utc:%Y-%m-%d}"
    cure = {
        "local-ca": "Type: make up, which makes another one",
        "acme": "What asks for another one says why there is none: make logs APP=acme",
    }.get(tls.certificate, f"Put a new one into {tls.certificate}, and type: make up")
    if tls.certificate == "acme":
        log = [line for c in facts.containers if c.service == "acme" for line in facts.logs.get(c.id, ())]
        if log and "trying again in" in log[-1]:
            yield Finding(f"{file}: no certificate from {tls.acme.directory}: {log[-1].removeprefix('acme: ')}")
        elif first.issuer == first.subject:
            yield Finding(
                f"{file}: the edge has no certificate yet, and browsers refuse its stand-in. {cure}", wrong=False
            )
    if now < first.not_valid_before_utc:
        yield Finding(
            f"this machine: its clock says {now:%Y-%m-%d %H:%M}, when the edge's certificate was not yet made. Set the clock (timedatectl set-ntp true)"
        )
    elif now > first.not_valid_after_utc:
        yield Finding(f"{file}: the edge's certificate ended on {until}, and browsers refuse it. {cure}")
    elif now + end > first.not_valid_after_utc:
        yield Finding(f"{file}: the edge's certificate ends on {until}. {cure}", wrong=False)


def _services(facts: Facts) -> Iterator[Finding]:
    site = facts.site
    wanted = {"edge": 1} | ({"acme": 1} if site.environment.tls.certificate == "acme" else {})
    wanted |= {p.name: p.app.replicas for p in site.apps.values()}
    wanted |= {f"{p.name}-{process}": 1 for p in site.apps.values() for process in p.app.processes}
    for service, replicas in wanted.items():
        if facts.unapplied.get(service) == "new":
            continue
        mine = [c for c in facts.containers if c.service == service]
        plan = site.apps.get(service)
        for container in mine:
            if (sentence := _container(container, plan, service)) is not None:
                text, wrong = sentence
                yield Finding(f"{service}: {text}", tuple(facts.tails.get(container.id, ())) if wrong else (), wrong)
        if len(mine) < replicas:
            there = "not running" if not mine else f"{len(mine)} of {replicas} replicas there"
            yield Finding(f"{service}: {there}. Type: make up")
    for service in sorted({c.service for c in facts.containers} - set(wanted)):
        yield Finding(f"{service}: runs, and no app is written for it any more. Type: make up", wrong=False)


def _container(of: Container, plan: AppPlan | None, service: str) -> tuple[str, bool] | None:
    """What is to be said of a container, and whether it is wrong."""
    start = plan.app.timeouts.start if plan else 30.0
    file = f"apps/{plan.name}/app.yml" if plan else "its app.yml"
    memory = f"Raise `memory` in {file}, or lower `workers`; then type: make up"
    log = f"Its log: make logs APP={service}"
    if of.state == "paused":
        return f"is paused, and its requests wait. Type: docker unpause {of.id[:12]}", True
    if reason := of.failure:
        cures = {
            "memory": memory,
            "crashes": "Mend what its log says, and type: make up",
            "ended": "Type: make up",
            "health path": f"Have it answer 200 there, or name the right path in {file}",
        }
        cure = next((text for word, text in cures.items() if word in reason), log)
        return f"{reason}. {cure}", True
    if of.out_of_memory:
        return f"the kernel has ended processes in it, because it reached its limit of memory. {memory}", True
    if not of.ready:
        if of.age < start:
            return f"is starting, for {of.age:.0f} s; it may take {start:g} (timeouts.start)", False
        return f"is not ready, {of.age:.0f} s after its start ({of.state}, {of.health}). {log}", True
    if of.restarts and of.age < HOUR:
        how_often = "once" if of.restarts == 1 else f"{of.restarts} times"
        return f"was restarted {how_often} because it ended, {_ago(of.age)} for the last time. {log}", True
    return None


def _edge(facts: Facts) -> Iterator[Finding]:
    edges = [c for c in facts.containers if c.service == "edge"]
    if not any(c.ready for c in edges):
        return
    if facts.running != facts.written:
        runs = f"runs configuration {facts.running}" if facts.running else "does not say which configuration it runs"
        yield Finding(
            f"edge: {runs}, and {facts.written or 'none'} was switched to last. Type: make up, which reloads it"
        )
        return
    for plan in facts.site.apps.values():
        mine = [c for c in facts.containers if c.service == plan.name]
        answer = facts.answers.get(plan.name, "")
        if any(c.ready for c in mine) and answer != "200":
            url = f"{base_url(facts.site.environment, plan.host)}{plan.health_url}"
            cure = {
                "400": "An app that knows its host names (Django: ALLOWED_HOSTS) has to know this one",
                "404": "Look whether its route in app.yml is what the app thinks; then type: make up",
            }.get(answer, "Its log and the edge's say why: make logs")
            said = f"answers {answer}" if answer.isdigit() else f"gives no answer ({answer})"
            yield Finding(f"{plan.name}: healthy, but {url} {said}. {cure}")


def _traffic(facts: Facts) -> Iterator[Finding]:
    log = [line for c in facts.containers if c.service == "edge" for line in facts.logs.get(c.id, ())]
    everybodys = symptoms.requests(log, facts.site)
    recent = facts.now - HOUR
    yield from symptoms.of_edge(everybodys, max(recent, facts.switched))
    for plan in facts.site.apps.values():
        mine = [c for c in facts.containers if c.service == plan.name]
        # What was before the app or the edge's configuration became what they are now may be mended. A container that
        # has crashed is the same one.
        started = max((facts.now - c.age for c in mine if not c.restarts), default=0.0)
        yield from symptoms.of_requests(plan, everybodys, max(recent, facts.switched, started))
        yield from symptoms.of_log(plan, [line for c in mine for line in facts.logs.get(c.id, ())], bool(facts.memory))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GB"


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


# --- collecting -------------------------------------------------------------------------------------------------------


def examine(engine: Compose) -> Facts:
    """The facts about a site's stack, as they are now."""
    site, now = engine.site, time.time()
    about = {} if isinstance(engine, Process) else compose.about()
    drift = _drift(about["SystemTime"]) if about else 0
    containers = engine.containers()
    logs, tails = {}, {}
    for container in containers:
        # What a container wrote before it was restarted by hand counts no more.
        age = HOUR if container.restarts or container.service == "edge" else min(HOUR, container.age + 1)
        logs[container.id] = engine.log(container.id, LINES, age)
        if container.state != "paused" and (container.restarts or not container.ready):
            tails[container.id] = _telling(engine.log(container.id, 500))
    current = engine.edge / "current"
    ready = {c.service for c in containers if c.ready}
    running = "edge" in ready
    return Facts(
        site,
        now,
        problems=engine.problems(),
        engine=f"Docker {about['ServerVersion']}" if about else "no Docker (ENGINE=process)",
        containers=containers,
        logs=logs,
        tails=tails,
        answers={n: engine.health(plan) for n, plan in site.apps.items() if running and n in ready},
        written=edge.current(engine.edge),
        running=engine.edge_version() if running else "",
        switched=current.stat().st_mtime if current.exists() else 0,
        unapplied=engine.unapplied() if containers else {},
        memory=about.get("MemTotal", 0),
        available=_available(Path("/proc/meminfo")),
        drift=drift,
        certificate=pem.read_bytes() if (pem := current / "tls/certificate.pem").is_file() else None,
    )


def _telling(log: list[str]) -> list[str]:
    """The last lines of a log that may say what went wrong: a restart's own lines have come after them."""
    kept = without_library_frames(log)
    return [line for line in kept if not re.search(r"\[INFO\]|^INFO:", line)][-8:] or kept[-3:]


def _available(meminfo: Path) -> float:
    """Share of this machine's memory that a new process could have; 1 where nothing says."""
    if not meminfo.is_file():
        return 1
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB", meminfo.read_text(), re.MULTILINE))
    return int(sizes["MemAvailable"]) / int(sizes["MemTotal"])


def _drift(said: str) -> float:
    """s by which a time that was just asked for is ahead of ours."""
    return datetime.fromisoformat(said).timestamp() - time.time()
