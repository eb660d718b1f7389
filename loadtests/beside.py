"""Configurations of one app, beside the stack that runs: services of another Compose project, from the app's own image, with its
limits. The stack itself is not touched."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from loadtests import kernel, mix, tuner
from loadtests.drive import Load
from loadtests.http1 import Edge
from loadtests.tuner import Candidate
from stack import docker, gateways, images, sizing
from stack.compose import Compose
from stack.errors import Failed
from stack.load import AppPlan, Site
from stack.model import Tls
from stack.render import NGINX_IMAGE
from stack.say import errors, say


class DidNotStart(Failed):
    """One of the configurations; the others may run."""

    def __init__(self, candidate: Candidate, failure: Failed) -> None:
        super().__init__(str(failure), failure.log)
        self.candidate = candidate


class Quiet(Compose):
    """Is asked once a second whether it is healthy until it is, and then no more: checks of many containers would be part of
    what is measured."""

    def _files(self) -> list[str]:
        often = {"services": {name: {"healthcheck": {"interval": "1h"}} for name in (*self.site.apps, "edge")}}
        (file := self.site.root / "quiet.json").write_text(json.dumps(often))
        return [*super()._files(), "--file", str(file)]


class Beside:
    """Candidates of one app beside the stack that runs, as services of another Compose project."""

    def __init__(self, site: Site, plan: AppPlan) -> None:
        self.plan, self._tags = plan, set[str]()
        self.root = site.root / ".local/tune"
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = site.environment.model_copy(
            update={
                "name": f"{site.environment.name[:24].rstrip('-')}-tune", "http_port": port, "bind": "127.0.0.1",
                "tls": Tls(certificate="off"), "limits": None, "trusted_proxies": [], "apps": {},
                "edge": site.environment.edge.model_copy(update={"timing": "open", "index": False}),
            }
        )  # fmt: skip
        self.site = replace(site, root=self.root, environment=environment, apps={})
        self.secrets = site.root / ".local/secrets" / plan.name
        self._pids: dict[str, list[int]] = {}
        self._ids: dict[str, list[str]] = {}
        self._names: dict[Candidate, str] = {}
        self._edge = Edge("", 0, "", None)
        self._stack = Quiet(self.site)

    def bring(self, candidates: Sequence[Candidate], replicas: int = 1) -> None:
        """Has these run, healthy, and no other. Raises DidNotStart where one does not come up."""
        self._names = {c: self.plan.name + (f"-{n}" if n else "") for n, c in enumerate(candidates)}
        apps = {}
        for c, name in self._names.items():
            apps[name] = self._plan(name, c, replicas)
            try:
                self._image(apps[name])
            except Failed as failure:
                raise DidNotStart(c, failure) from None
            link = self.root / ".local/secrets" / name
            if self.secrets.is_dir() and not link.is_symlink():
                link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                link.symlink_to(self.secrets, target_is_directory=True)
        self._stack = stack = Quiet(replace(self.site, apps=apps))
        say.line(f"starting {len(apps)} configuration{'s' * (len(apps) > 1)} beside the stack ...")
        try:
            with contextlib.redirect_stdout(None):  # what `make up` says is of no interest here
                stack.up()
        except Failed as failure:
            if of := next((c for c, name in self._names.items() if str(failure).startswith(f"{name}: ")), None):
                raise DidNotStart(of, failure) from None
            raise
        found = stack.containers()
        self._ids = {service: [c.id for c in found if c.service == service] for service in {c.service for c in found}}
        self._pids = {service: kernel.processes(ids) for service, ids in self._ids.items()}
        networks = json.loads(
            docker.run("inspect", "--format", "{{json .NetworkSettings.Networks}}", self._ids["edge"][0])
        )
        # Not the published port: it goes through docker-proxy, and most of the time would be spent there.
        address = networks[f"{stack.project}_edge"]["IPAddress"]
        self._edge = Edge(address, 8080, self.site.environment.domains[0], None)

    def restart(self, c: Candidate) -> None:
        """Ends what an overload has left in its queues, which would be in the way of later visits. Raises DidNotStart."""
        name = self._names[c]
        docker.run("restart", "--time", "0", *self._ids[name])
        self._pids[name] = kernel.processes(self._ids[name])
        plan = self._stack.site.apps[name]
        end = time.monotonic() + plan.app.timeouts.start
        while (said := self._stack.health(plan)) != "200":
            if time.monotonic() > end:
                raise DidNotStart(c, Failed(f"{c} does not start again: {said}"))
            time.sleep(0.1)

    def _plan(self, name: str, c: Candidate, replicas: int) -> AppPlan:
        """The app as the candidate, under a route of its own; what it runs besides requests does not."""
        app, gateway = self.plan.app, gateways.GATEWAYS[c.gateway]
        changed = app.model_copy(
            update={
                "gateway": c.gateway, "workers": c.workers, **({"threads": c.threads} if tuner.threaded(c.gateway) else {}),
                "route": None, "host": None, "processes": {}, "replicas": replicas, "placement": {},
                "worker_memory": "1M",  # what is measured counts, and no estimate
                # The running stack's has been run for the same data; volumes are the candidates' own, and empty.
                "release_command": app.release_command if app.volumes else [],
            }
        )  # fmt: skip
        if not tuner.threaded(c.gateway):  # else a note says that they mean nothing
            changed.model_fields_set.discard("threads")
        return AppPlan(name, self.plan.folder, changed, gateway, sizing.workers(changed))

    def _image(self, plan: AppPlan) -> None:
        """The app's own image, under the candidate's name too."""
        own, name = replace(plan, name=self.plan.name), images.name(plan)
        images.ensure([own], [NGINX_IMAGE])
        if plan.name != self.plan.name and not images.exists(name):
            docker.run("tag", images.name(own), name)
        if plan.name != self.plan.name:
            self._tags.add(name)

    def load(self, c: Candidate, requests: Sequence[mix.Request], patience: float) -> Load:
        return Load(self._edge, f"/{self._names[c]}", requests, patience)

    def cpu(self, service: Candidate | None) -> float:
        """s of CPU time of all its containers so far; None: the edge's."""
        return sum(map(kernel.cpu, self._pids[self._names[service] if service else "edge"]))

    def memory(self, c: Candidate) -> float:
        """MiB of the replica that holds most."""
        return max(map(kernel.memory, self._pids[self._names[c]]))

    def parts(self, c: Candidate) -> dict[str, float]:
        return kernel.parts(self._ids[self._names[c]][0], c.workers)

    def clear(self) -> None:
        """Removes all of it. Not to be interrupted."""
        before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        project = ("--project-name", self.site.environment.name)
        try:
            docker.run("compose", *project, "down", "--remove-orphans", "--volumes", "--timeout=3", undisturbed=True)
            for tag in self._tags:
                docker.run("image", "rm", "--no-prune", tag)
            shutil.rmtree(self.root, ignore_errors=True)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def beside(site: Site, plan: AppPlan) -> Iterator[Beside]:
    """One at a time; gone at the end, whatever happens."""
    (site.root / ".local").mkdir(mode=0o700, exist_ok=True)
    with (site.root / ".local/tune.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failed("an app of this site is being measured already. Wait for that to end") from None
        stand = Beside(site, plan)
        try:
            yield stand
        except (Failed, KeyboardInterrupt):
            errors.print("  removing what ran beside the stack; the stack and app.yml are as they were", markup=False)
            raise
        finally:
            stand.clear()
