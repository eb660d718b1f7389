"""The Compose engine: this machine. Another engine offers the same few functions."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stack import certs, changes, dev, docker, edge, gateways, images, sizing
from stack.errors import Failed
from stack.load import AppPlan, Site
from stack.logs import of_request, without_library_frames
from stack.model import PLACEHOLDERS
from stack.render import NGINX_IMAGE, SECRETS_AS_ENV, render, write
from stack.say import say
from stack.source import Source

READY_MARGIN = 30.0
"""s. What `up` allows beyond the slowest app's `timeouts.start`, for the health check's own retries."""

SETTLE = 20.0
"""s. So long `up` waits at its end for what it has not changed, before it says how everything is."""

OLDEST_ENGINE = 25
"""Major version: the first that checks a starting container's health more often than a running one's."""

ENDED = ("created", "exited", "dead")
"""States of a container that holds no port and answers nobody, and that nobody but us will start."""

FREE_SPACE = 3 * 2**30
"""bytes. Images and their build cache need about this much."""


@dataclass(frozen=True)
class Container:
    """One container of the stack, as the engine sees it."""

    service: str
    id: str
    state: str
    health: str
    restarts: int
    exit_code: int
    out_of_memory: bool
    age: float
    """s since it was started."""
    ports: frozenset[int]
    """Ports of this machine that it publishes."""
    answers: tuple[str, ...]
    """Status codes that its health path answered, oldest first; empty text where nothing answered."""

    @property
    def ready(self) -> bool:
        """Running, and healthy; where it has no health check, for two seconds without ending."""
        return self.state == "running" and (self.health == "healthy" or (self.health == "none" and self.age > 2))

    @property
    def failure(self) -> str | None:
        """A sentence when it will not become ready by waiting."""
        if self.ready:
            return None
        if self.out_of_memory:
            return "needs more memory than its limit (app.yml: memory)"
        if self.restarts >= 2:
            return "crashes on start" + (f" (exit code {self.exit_code})" if self.exit_code else "")
        if self.state in ("exited", "dead"):
            return f"has ended (exit code {self.exit_code}), and has to keep running"
        # A container that has just crashed for the first time is "unhealthy", too: its next start decides.
        if self.health == "unhealthy" and self.state == "running" and not self.restarts:
            last = self.answers[-1] if self.answers else ""
            return f"runs, but its health path {f'answers {last}' if last else 'does not answer'} (app.yml: health)"
        # An app that is still starting refuses connections or answers 503; a 4xx will not change by waiting.
        if self.health == "starting" and len(self.answers) >= 3 and all(a.startswith("4") for a in self.answers[-3:]):
            return f"runs, but its health path answers {self.answers[-1]} (app.yml: health)"
        return None


class Compose:
    """The stack of one site on this machine, in one Compose project."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.project = site.environment.name
        self.local = site.root / ".local"
        self.build = site.root / "build" / site.env
        self.good = self.local / "good" / site.env
        self.edge = self.local / "edge"
        self._undisturbed = False

    # --- verbs ---

    def up(self) -> None:
        """Brings the site as it is written now into service; on failure, what ran before runs again."""
        with alone(self.site.root):
            self._preflight()
            for plan in self.site.apps.values():
                for note in (*gateways.notes(plan.app), *sizing.warnings(plan.app)):
                    say.line(f"{plan.name}: {note}")
            files = self.render()
            built = self._prepare()
            there = self.containers()
            stopped = {c.service for c in there if c.state in ENDED}
            before = {c.id for c in there if c.state not in ENDED}
            version = self._publish(files)
            changed = write(files, self.build)
            try:
                self._switch(version, before)
            except (Failed, KeyboardInterrupt) as why:
                self._restore(bool(there), interrupted=isinstance(why, KeyboardInterrupt))
                raise
            why_restarted = self._changes(self.build)
            shutil.rmtree(self.good, ignore_errors=True)
            shutil.copytree(self.build, self.good)
            (self.good / ".edge").write_text(version)
            self._tidy()
            after = self.containers()
            removed = sorted({c.service for c in there} - {c.service for c in after})
            fresh = sorted({c.service for c in after if c.id not in before})
            if not before:
                say.line(f"started: {', '.join(fresh)}")
            elif built or fresh or changed or removed:
                edges = [name for name in changed if name.startswith("nginx/")]
                because = {
                    name: why_restarted.get(name) or ("was stopped" if name in stopped else "") for name in fresh
                }
                said = [f"{name} ({why})" if why else name for name, why in because.items()]
                said += [f"{name} (removed)" for name in removed]
                said += [f"edge's {', '.join(edges)}"] if edges else []
                say.line(f"applied: {'; '.join(said) or 'settings that concern nothing that runs'}")
            else:
                say.line("nothing has changed, nothing was restarted")

    def settle(self) -> None:
        """Waits for what began to start before `up`, or has just crashed, and is not this change's."""
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            undecided = [c for c in self.containers() if not c.ready and c.state in ("running", "restarting")]
            if not [c for c in undecided if c.health != "unhealthy"]:
                return
            time.sleep(0.3)

    def logs(self, app: str | None, tail: int = 100) -> int:
        """Follows the log of one service or of all, from each one's last lines on."""
        only = [self._service(app)] if app else []
        follow = [*docker.client(), *self._files(), "--ansi=never", "logs", "--follow", f"--tail={tail}", *only]
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        # Ctrl-C is how one ends it. Where it reached us alone, and not the whole terminal, the client would go on.
        with contextlib.suppress(KeyboardInterrupt), subprocess.Popen(follow, **pipe, errors="replace") as log:
            try:
                for line in log.stdout or ():
                    service, _, text = line.rstrip("\n").partition("|")  # flask-1  | text
                    # Compose erases its own terminal's line with each, also where there is none.
                    service = service.replace("\x1b[2K", "").strip()
                    say.log(re.sub(r"-\d+$", "", service), text[1:])
                return log.wait()
            finally:
                with contextlib.suppress(PermissionError):  # sudo's
                    log.terminate()
        return 0

    def of_request(self, request_id: str, app: str | None) -> list[tuple[str, str]]:
        """Service and line of what logs say of one request, on its way: the edge's first."""
        services = [self._service(app)] if app else self._services()
        there = sorted(self.containers(), key=lambda container: container.service != "edge")
        return [
            (container.service, line)
            for container in there
            if container.service in services
            for line in of_request(self.log(container.id, 10**9), request_id)
        ]

    def restart(self, app: str) -> None:
        """Restarts one app's containers."""
        service = self._service(app)
        with alone(self.site.root):
            self._require(service)
            with say.step(f"{app}: restarting"):
                others = {c.id for c in self.containers() if c.service != service}
                self._restart(service)
                self._wait(others)

    def shell(self, app: str) -> int:
        """A shell in one running container of the app; its commands may come from a pipe, too."""
        self._require(self._service(app), running=True)
        plan = self.site.apps.get(app)
        secrets = ["bash", "-c", SECRETS_AS_ENV, "secrets"] if plan and plan.app.secrets_as_env else []
        terminal = [] if sys.stdin.isatty() else ["-T"]
        return docker.attach(*self._files(), "exec", *terminal, app, *secrets, "bash")

    def containers(self) -> list[Container]:
        """Every container of the project, stopped ones included."""
        ids = self._ids(all_states=True)
        if not ids:
            return []
        try:
            found = json.loads(docker.run("inspect", *ids))
        except Failed:  # one vanished between the two calls
            return self.containers()
        return [_container(c) for c in found if _label(c, "com.docker.compose.oneoff") != "True"]

    def render(self) -> dict[str, str]:
        """Relative path -> text of every file in build/<env>/."""
        return render(self.site, self._secret_versions())

    def _restart(self, service: str) -> None:
        self._compose("restart", service)

    def log(self, container: str, lines: int, since: float = 0) -> list[str]:
        """The last lines of a container's log; since: and none older than that, s."""
        options = [f"--tail={lines}", *([f"--since={since:.0f}s"] if since else [])]
        done = subprocess.run(
            [*docker.client(), "logs", *options, container],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.stdout.decode(errors="replace").splitlines()

    def unapplied(self) -> dict[str, str]:
        """Service, or file of the edge -> what is written otherwise than when `up` was last good."""
        if not self.good.is_dir():
            return {}
        files, pem = self.render(), self.edge / "current/tls/certificate.pem"
        with tempfile.TemporaryDirectory() as folder:
            write(files, Path(folder))
            changed = {name: what for name, what in self._changes(Path(folder)).items() if what}
        own = self._own_certificate()
        if own and own.is_file() and pem.is_file() and own.read_bytes() != pem.read_bytes():
            changed[self.site.environment.tls.certificate] = ""
        return changed | {
            name: ""
            for name, text in files.items()
            if name.startswith("nginx/")
            and not ((was := self.good / name).is_file() and was.read_text("utf-8") == text)
        }

    # --- parts of up ---

    def _prepare(self) -> list[str]:
        """Makes what the services run from; returns what was missing."""
        own = [NGINX_IMAGE, *([images.acme()] if self.site.environment.tls.certificate == "acme" else [])]
        built = images.ensure(list(self.site.apps.values()), own)
        images.remember(self.local / "built", built)
        return built

    def _tidy(self) -> None:
        """Removes what nothing runs from any more."""
        images.prune(self.local / "built")

    def _preflight(self) -> None:
        """Everything that can be known to fail before anything is touched, all at once."""
        docker.client(install=True)
        if problems := self.problems():
            raise Failed("\n".join(problems))

    def problems(self) -> list[str]:
        """A sentence for each thing on this machine that `up` would fail at."""
        environment, problems = self.site.environment, []
        engine = about()
        if int(engine["ServerVersion"].split(".")[0]) < OLDEST_ENGINE:
            problems.append(
                f"the Docker engine here is {engine['ServerVersion']} and Gatehouse needs {OLDEST_ENGINE} or newer. Upgrade it"
            )
        cpus = engine["NCPU"]
        for plan in self.site.apps.values():
            if plan.app.cpus > cpus:
                problems.append(
                    f"apps/{plan.name}/app.yml: cpus: {plan.app.cpus:g} is more than the {cpus} of this machine. For here, set apps.{plan.name}.cpus in environments/{self.site.env}.yml"
                )
        problems += self._key_problems()
        ports = {"http_port": environment.http_port}
        if environment.tls.certificate != "off":
            ports["https_port"] = environment.https_port
        if self.site.dev:
            ports |= {f"make dev: the debugger's port of {name}": port for name, port in dev.ports(self.site).items()}
            problems += [sentence for plan in dev.edited(self.site) for sentence in dev.unreadable(plan)]
        holding = [c for c in self.containers() if c.state not in ENDED]
        ours = {port for container in holding for port in container.ports}
        for key, port in ports.items():
            kinds = (
                socket.SOCK_STREAM,
                *([socket.SOCK_DGRAM] if key == "https_port" and environment.tls.http3 else []),
            )
            found = [
                said for kind in kinds if port not in ours and (said := cannot_listen(environment.bind, port, kind))
            ]
            for reason in found:
                problems.append(f"environments/{self.site.env}.yml: {key}: {port} cannot be published: {reason}")
        for other in sorted(set(projects(self.site.root, self.site.env)) - {self.project}):
            problems.append(f"this site still runs under the name {other}. Type: make down")
        # Docker's own disk counts, too, where it is another one.
        places = {Path(engine["DockerRootDir"]): f"for Docker ({engine['DockerRootDir']})", self.site.root: "here"}
        return problems + short_of_disk(places, FREE_SPACE, "images", "docker system prune")

    def _key_problems(self) -> list[str]:
        """A sentence for each secret without a value on this machine, and for a certificate that cannot serve."""
        problems = []
        if self.site.environment.tls.key:
            try:
                certs.files(self.site)
            except Failed as failure:
                problems.append(str(failure))
        for plan in self.site.apps.values():
            for name in plan.app.secrets:
                file = self.local / "secrets" / plan.name / name
                if not file.is_file():
                    problems.append(
                        f"apps/{plan.name}/app.yml: secrets: {name} has no value on this machine. Type: make secret APP={plan.name} NAME={name}"
                    )
                elif PLACEHOLDERS.match(file.read_text(errors="replace")):
                    problems.append(
                        f"the secret {name} of {plan.name} is still a placeholder. Type: make secret APP={plan.name} NAME={name}"
                    )
        return problems

    def _own_certificate(self) -> Path | None:
        """The environment's own certificate, where it has one."""
        written = self.site.environment.tls.certificate
        return None if written in ("local-ca", "acme", "off") else self.site.root / written

    def _secret_versions(self) -> dict[str, str]:
        """App -> when its local secrets were last written: a time says nothing about a value."""
        return {
            plan.name: str(max(file.stat().st_mtime_ns for file in files))
            for plan in self.site.apps.values()
            if (files := [f for name in plan.app.secrets if (f := self.local / "secrets" / plan.name / name).is_file()])
        }

    def _publish(self, files: dict[str, str]) -> str:
        """Writes the edge's release of these files, tested by Nginx itself; returns its hash."""
        content = {
            name.removeprefix("nginx/"): text.encode() for name, text in files.items() if name.startswith("nginx/")
        }
        content |= certs.files(self.site)
        directory = self.edge
        version = edge.publish(directory, content)
        if version != edge.current(directory):
            try:
                self._test_edge(version)
            except Failed as failure:
                edge.discard(directory, version)
                raise Failed("Nginx refuses this configuration; the running one was not touched", failure.log) from None
        return version

    def _test_edge(self, version: str) -> None:
        docker.run(*edge.test(self.edge, version, NGINX_IMAGE))

    def _switch(self, version: str, before: set[str]) -> None:
        """New services first, then the edge's new routes to them, then what is no longer routed to goes."""
        directory = self.edge
        previous = edge.current(directory)
        if previous is None or not any(c.service == "edge" for c in self.containers()):
            edge.switch(directory, version)
        self._sweep()
        self._release_commands()
        self._apply("--quiet-pull")
        self._wait(before)
        if edge.current(directory) != version:
            edge.switch(directory, version)
        self._reload(version)
        self._apply("--remove-orphans")
        self._verify()

    def _apply(self, *more: str) -> None:
        """Has run what stands in build/<env>/, and leaves alone what runs so already."""
        self._compose("up", "--detach", "--no-build", "--pull=never", *more)

    def _stop(self) -> None:
        """Stops and removes everything."""
        self._compose("down", "--remove-orphans", "--timeout=5")

    def _release_commands(self) -> None:
        """Runs the release_command of every app that is new or has changed, in its new image, before it is switched to."""
        ran = self._release_answers(self.good)
        now = self._release_answers(self.build)
        present = {c.service for c in self.containers()}
        for plan in self.site.apps.values():
            command = plan.app.release_command
            if not command or (plan.name in present and ran.get(plan.name) == now[plan.name]):
                continue
            with say.step(f"{plan.name}: release_command"):
                self._release_command(plan, command)

    def _release_command(self, plan: AppPlan, command: list[str]) -> None:
        container = f"{self.project}-{plan.name}-release"
        try:
            docker.run("rm", "--force", container)
            self._compose(
                "run", "--no-deps", "-T", "--name", container, plan.name, *command,
                timeout=plan.app.timeouts.release,
            )  # fmt: skip
        except Failed as failure:
            raise Failed(f"{plan.name}: release_command: {failure}", self._tail(container)) from None
        finally:
            docker.run("rm", "--force", container)

    def _release_answers(self, folder: Path) -> dict[str, str]:
        """Service -> what it answers to "which release is this?", in a folder of rendered files."""
        stack = folder / "stack.yml"
        if not stack.is_file():
            return {}
        services = Source(stack, self.site.root).data.get("services", {})
        return {
            name: variable.partition("=")[2]
            for name, service in services.items()
            for variable in service.get("environment", [])
            if variable.startswith("GATEHOUSE_RELEASE=")
        }

    def _sweep(self) -> None:
        """An interrupted Compose leaves renamed containers that never ran; their names are in the way of the next one."""
        for container in self.containers():
            if container.state == "created":
                docker.run("rm", container.id)

    def _reload(self, version: str) -> None:
        if self.edge_version() == version:
            return
        self._compose("exec", "-T", "edge", "nginx", *edge.arguments("current", "-s", "reload"))
        self._until(lambda: self.edge_version() == version, 10, "the edge did not take its new configuration", ["edge"])
        say.line(f"edge: reloaded with configuration {version}")

    def edge_version(self) -> str:
        """Of the configuration that the edge runs; empty where it does not say."""
        try:
            return self._compose("exec", "-T", "edge", *edge.VERSION).strip()
        except Failed:
            return ""

    def _wait(self, before: set[str]) -> None:
        """Until every container is ready that was not there before; Failed, with its log, as soon as one will not be.

        What was unhealthy before is not this change's doing, and no reason to undo it.
        """
        start, said = time.monotonic(), ""
        patience = READY_MARGIN + max((p.app.timeouts.start for p in self.site.apps.values()), default=0)
        while True:
            # Services that are no longer written are not waited for: `up` removes them last.
            found = [c for c in self.containers() if c.service in self._services() and c.id not in before]
            for container in found:
                if reason := container.failure:
                    raise Failed(f"{container.service}: {reason}", self._tail(container.id))
            slow = [c for c in found if not c.ready]
            if not slow:
                return
            if (text := ", ".join(sorted({c.service for c in slow}))) != said:
                say.line(f"waiting for {text}")
                said = text
            if time.monotonic() - start > patience:
                raise Failed(
                    f"{slow[0].service}: not healthy after {patience:.0f} s (app.yml: timeouts.start)",
                    self._tail(slow[0].id),
                )
            time.sleep(0.3)

    def _verify(self) -> None:
        """Every app's health path answers 200 through the edge; of apps that were unhealthy before, it is said."""
        unready = {c.service: c for c in self.containers() if not c.ready}
        for plan in self.site.apps.values():
            if broken := unready.get(plan.name):
                say.line(f"{plan.name}: was not healthy before and is not now: {broken.failure or broken.health}")
                continue
            answer = ""

            def healthy(plan: AppPlan = plan) -> bool:
                nonlocal answer
                answer = self.health(plan)
                return answer == "200"

            try:
                self._until(
                    healthy,
                    15,
                    f"{plan.name}: healthy, but {plan.health_url} through the edge is not",
                    [plan.name, "edge"],
                )
            except Failed as failure:
                raise Failed(f"{failure} (it answered {answer})", failure.log) from None

    def health(self, plan: AppPlan) -> str:
        """The status that the app's health path answers through the edge, or the reason why none came."""
        environment = self.site.environment
        secure = environment.tls.certificate != "off" and environment.tls.redirect
        port = environment.https_port if secure else environment.http_port
        address = "127.0.0.1" if environment.bind == "0.0.0.0" else environment.bind
        host = plan.host or environment.domains[0]
        return edge.ask(address, port, secure, host, plan.health_url)

    def _restore(self, ran_before: bool, interrupted: bool) -> None:
        """After a failed up: the last good state again, or nothing where there was none. Not to be interrupted."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._undisturbed = True
        if not ran_before:
            with contextlib.suppress(Failed):
                self._stop()
            (self.edge / "current").unlink(missing_ok=True)
            say.line("stopped again; nothing is left running")
            return
        say.line("bringing back what ran before")
        try:
            version = (self.good / ".edge").read_text()
            good, failed = self._definitions(self.good), self._definitions(self.build)
            shutil.rmtree(self.build)
            shutil.copytree(self.good, self.build, ignore=shutil.ignore_patterns(".edge"))
            edge.switch(self.edge, version)
            running = {c.id for c in self.containers()}
            self._sweep()
            # Compose was cut short: a container that it had told to stop runs still, and soon does not.
            touched = [name for name, service in good.items() if service != failed.get(name)]
            if interrupted and touched:
                self._apply("--no-deps", "--force-recreate", *touched)
            self._apply("--remove-orphans")
            self._wait(running)
            self._reload(version)
            # Only then Nginx knows the containers that came back, and has forgiven the addresses that failed (1 s).
            time.sleep(self.site.environment.edge.timeouts.resolver_valid + 1)
        except (Failed, OSError) as failure:
            say.line(f"that failed: {failure}. What still runs was left alone; look with make ps")
        else:
            say.line("what ran before runs again; nothing of the failed change is left")

    # --- small helpers ---

    def _until(self, done: Callable[[], bool], within: float, sentence: str, services: list[str]) -> None:
        end = time.monotonic() + within
        while not done():
            if time.monotonic() > end:
                log = [line for c in self.containers() if c.service in services for line in self._tail(c.id)]
                raise Failed(sentence, log)
            time.sleep(0.2)

    def _files(self) -> list[str]:
        return [
            "compose",
            "--project-name",
            self.project,
            "--file",
            str(self.build / "stack.yml"),
            "--file",
            str(self.build / "local.yml"),
        ]

    def _compose(self, *arguments: str, timeout: float | None = None) -> str:
        return docker.run(*self._files(), *arguments, undisturbed=self._undisturbed, timeout=timeout)

    def _ids(self, all_states: bool) -> list[str]:
        return docker.run(
            "ps",
            "--quiet",
            "--no-trunc",
            *(["--all"] if all_states else []),
            "--filter",
            f"label=com.docker.compose.project={self.project}",
            "--filter",
            f"label=com.docker.compose.project.working_dir={self.build}",
        ).split()

    def _tail(self, container: str) -> list[str]:
        return without_library_frames(self.log(container, 500))[-20:]

    def _require(self, service: str, running: bool = False) -> None:
        if not any(c.service == service and (c.state == "running" or not running) for c in self.containers()):
            raise Failed(f"{service} is not running. Type: make up")

    def _changes(self, folder: Path) -> dict[str, str]:
        """Service -> what a folder of rendered files has otherwise than when it was last good."""
        was, now = self._definitions(self.good), self._definitions(folder)
        return {name: changes.of(was[name], service) if name in was else "new" for name, service in now.items()}

    def _definitions(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Service -> its definition in both files of a folder."""
        found: dict[str, dict[str, Any]] = {}
        for name in ("stack.yml", "local.yml"):
            if (folder / name).is_file():
                for service, of in YAML(typ="safe").load(folder / name)["services"].items():
                    kept = found.setdefault(service, {})
                    more = {key: [*kept.get(key, []), *value] for key, value in of.items() if key == "environment"}
                    kept |= of | more
        return found

    def _services(self) -> list[str]:
        apps = self.site.apps.values()
        own = ["edge", *(["acme"] if self.site.environment.tls.certificate == "acme" else [])]
        return [*own, *self.site.apps, *(f"{plan.name}-{process}" for plan in apps for process in plan.app.processes)]

    def _service(self, name: str) -> str:
        if name not in self._services():
            raise Failed(f"no service {name!r} here. Allowed: {', '.join(self._services())}")
        return name


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One verb at a time changes what this site runs."""
    (root / ".local").mkdir(mode=0o700, exist_ok=True)
    with (root / ".local/lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failed(
                "another make is changing this stack right now. Wait for it to end, then type it again"
            ) from None
        yield


def about() -> dict[str, Any]:
    """What the engine says of itself and of its machine."""
    said: dict[str, Any] = json.loads(docker.run("info", "--format", "{{json .}}"))
    return said


def short_of_disk(places: dict[Path, str], needed: int, by: str, cure: str) -> list[str]:
    """A sentence for each disk under these places, which are called so, with less than `needed` bytes left."""
    disks = {}
    for place, where in places.items():
        with contextlib.suppress(OSError):  # on another machine, or not for us to see
            disks[place.stat().st_dev] = place, where
    return [
        f"only {free / 2**30:.1f} GB of disk are free {where} and {by} need about {needed / 2**30:.0f}. Type: {cure}"
        for place, where in disks.values()
        if (free := shutil.disk_usage(place).free) < needed
    ]


def projects(root: Path, env: str) -> list[str]:
    """The Compose project of every container that came from build/<env>/, one entry a container."""
    return docker.run(
        "ps", "--all", "--filter", f"label=com.docker.compose.project.working_dir={root / 'build' / env}",
        "--format", '{{.Label "com.docker.compose.project"}}',
    ).split()  # fmt: skip


def down(root: Path, env: str, volumes_of: str | None = None) -> None:
    """Stops and removes what runs from build/<env>/; the volumes of the project `volumes_of` too.

    Goes by the containers' labels alone: what is written in the site's files may be broken just now.
    """
    with alone(root):
        found = projects(root, env)
        for project in sorted({*found, *([volumes_of] if volumes_of else [])}):
            options = ["--volumes"] if project == volumes_of else []
            docker.run("compose", "--project-name", project, "down", "--remove-orphans", *options)
            data = ", with their volumes" if options else ""
            say.line(f"{project}: {found.count(project)} containers stopped and removed{data}")
        if not found and not volumes_of:
            say.line("nothing was running")


def _label(inspected: dict[str, Any], name: str) -> str:
    return str(inspected["Config"]["Labels"].get(name, ""))


def _container(inspected: dict[str, Any]) -> Container:
    state = inspected["State"]
    return Container(
        service=_label(inspected, "com.docker.compose.service"),
        id=inspected["Id"],
        state=state["Status"],
        health=state.get("Health", {}).get("Status", "none"),
        restarts=inspected["RestartCount"],
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        age=time.time() - datetime.fromisoformat(state["StartedAt"]).timestamp(),
        ports=frozenset(
            int(binding["HostPort"])
            for bindings in inspected["HostConfig"]["PortBindings"].values()
            for binding in bindings
        ),
        answers=tuple(check["Output"].strip() for check in state.get("Health", {}).get("Log") or []),
    )


def cannot_listen(address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> str | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:  # over UDP it would share the port with its owner
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError:
            return None  # a port below 1024, which the engine may publish though we may not
        except OSError as error:
            return f"{os.strerror(error.errno or 0).lower()}. Stop what listens there ('ss -lnp{'t' if kind == socket.SOCK_STREAM else 'u'} | grep :{port}'), or choose another number"
    return None
