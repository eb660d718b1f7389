"""Releases of a site on a Swarm: what ansible/library/gatehouse_release.py does on a manager, one function a step.

The Swarm's own replicated store keeps the history and the lock, as configs with labels, so every manager knows them and
every controller sees the same. It runs on hosts: the standard library of Python 3.11 and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import select
import socket
import subprocess
import time
import urllib.parse
import zlib
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.gatehouse.logs import without_library_frames

KEEP_RECORDS = 20
KEEP_GOOD = 5
"""Good releases whose images and secrets stay, so that a rollback needs nothing but the hosts."""

ALIVE = ("preparing", "ready", "starting", "running")
"""States of a task that has, or will have, a container."""

LARGEST = 1000 * 1024
"""bytes. What a Swarm config holds."""


class Failed(Exception):
    """A step cannot go on: one sentence for people, and the services that are to blame."""

    def __init__(self, sentence: str, services: list[str] | None = None) -> None:
        super().__init__(sentence)
        self.services = services or []


class Gone(Exception):
    """Whoever started this step is not there any more."""


# --- the engine -------------------------------------------------------------------------------------------------------


class _Socket(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")


class ApiError(Exception):
    """An answer of the engine that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Engine:
    """The host's Docker engine, by its HTTP API; for what the client cannot do, or only line by line."""

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The decoded answer; ApiError where it is no success."""
        encoded = {k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in query.items()}
        connection = _Socket("docker", timeout=60)
        try:
            connection.request(
                method,
                f"{path}?{urllib.parse.urlencode(encoded)}",
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the Docker engine of {socket.gethostname()} does not answer: {error}") from None
        finally:
            connection.close()
        content = json.loads(text) if text.strip() else None
        if answer.status >= 400:
            raise ApiError(answer.status, str((content or {}).get("message", text)))
        return content

    def services(self, site: str) -> dict[str, Any]:
        """The site's services by their names in the stack file."""
        found = self.call("GET", "/services", filters={"label": [f"com.docker.stack.namespace={site}"]}) or []
        return {service["Spec"]["Name"].removeprefix(f"{site}_"): service for service in found}

    def tasks(self, service: str) -> list[Any]:
        """A service's tasks, those that have ended included."""
        return self.call("GET", "/tasks", filters={"service": [service]}) or []

    def nodes(self) -> list[Any]:
        """The Swarm's hosts."""
        return self.call("GET", "/nodes") or []

    def configs(self, *labels: str) -> list[Any]:
        """Configs that have these labels."""
        return self.call("GET", "/configs", filters={"label": list(labels)}) or []


def docker(*arguments: str, stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    """Output of the docker client; Failed with its last lines when it exits non-zero."""
    done = subprocess.run(
        ["docker", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if done.returncode:
        raise Failed("\n".join((done.stderr or done.stdout).strip().splitlines()[-15:]))
    return done.stdout


# --- the lock ---------------------------------------------------------------------------------------------------------


class Lock:
    """One release at a time, whoever starts it. A name in the Swarm's store is unique, which makes it a lock; a holder
    renews it, and one that has not been renewed for `lease` seconds was left by a run that died."""

    def __init__(self, engine: Engine, site: str, token: str, lease: float) -> None:
        self.engine, self.name, self.token, self.lease = engine, f"{site}-lock", token, lease
        self._renewed = 0.0

    def take(self, by: str) -> None:
        """Takes it, or waits until a dead run's is known to be dead; Failed when somebody alive has it."""
        labels = {"gatehouse.lock": self.token, "gatehouse.by": by, "gatehouse.at": now(), "gatehouse.beat": "0"}
        seen, since = None, time.monotonic()
        while True:
            try:
                self.engine.call("POST", "/configs/create", {"Name": self.name, "Data": "", "Labels": labels} | _DATA)
                return
            except ApiError as error:
                if error.status != 409:
                    raise Failed(str(error)) from None
            held = self._held()
            if held is None:
                continue
            if seen not in (None, held["Version"]["Index"]):
                said = held["Spec"]["Labels"]
                raise Failed(
                    f"another release is under way: {said['gatehouse.by']} since {said['gatehouse.at']}. Wait until it ends, then run this again"
                )
            seen = held["Version"]["Index"]
            if time.monotonic() - since > self.lease:
                self._remove(held)
            stop_if_alone()
            time.sleep(0.5)

    def renew(self) -> None:
        """Says that its holder is alive, every few seconds at most; Failed when somebody else has taken it over."""
        if time.monotonic() - self._renewed < self.lease / 6:
            return
        held = self._held()
        if held is None or held["Spec"]["Labels"]["gatehouse.lock"] != self.token:
            raise Failed(
                "this run was taken for dead, and another release has begun. Look at its result: make releases"
            )
        labels = held["Spec"]["Labels"]
        labels["gatehouse.beat"] = str(int(labels["gatehouse.beat"]) + 1)
        _relabel(self.engine, held, labels)
        self._renewed = time.monotonic()

    def release(self) -> None:
        """Gives it back."""
        held = self._held()
        if held and held["Spec"]["Labels"]["gatehouse.lock"] == self.token:
            self._remove(held)

    def _held(self) -> Any:
        return next(iter(self.engine.call("GET", "/configs", filters={"name": [self.name]}) or []), None)

    def _remove(self, config: Any) -> None:
        try:
            self.engine.call("DELETE", f"/configs/{config['ID']}")
        except ApiError as error:
            if error.status != 404:
                raise Failed(str(error)) from None


_DATA = {"Data": base64.b64encode(b"{}").decode()}


def _relabel(engine: Engine, config: Any, labels: dict[str, str]) -> None:
    """Labels are the one thing of a config that can change."""
    engine.call(
        "POST",
        f"/configs/{config['ID']}/update",
        {**config["Spec"], "Labels": labels},
        version=config["Version"]["Index"],
    )


def stop_if_alone() -> None:
    """Raises Gone when the SSH connection that this step came through has ended, so that a run that was broken off does
    not go on watching, and its lock can be taken."""
    ends = select.poll()
    ends.register(1, 0)
    if ends.poll(0):
        raise Gone


def now() -> str:
    """The time in UTC, as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


# --- the history ------------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """One release: the bytes of build/<env>/, the names of its secrets, and what came of it."""

    id: str
    content: str
    """Hash of files and secrets: two releases with the same one are the same."""
    labels: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    """Variable of the stack file -> name of the Swarm secret."""

    @property
    def result(self) -> str:
        """started, good, failed or interrupted."""
        return self.labels["gatehouse.result"]

    def shown(self) -> dict[str, str]:
        """What people want to know of it."""
        keys = ("result", "action", "at", "by", "git", "reason")
        return {"release": self.id, "content": self.content, **{k: self.labels.get(f"gatehouse.{k}", "") for k in keys}}


def plan(files: dict[str, str]) -> dict[str, Any]:
    """A release's release.json: what it has to know besides the stack file."""
    found: dict[str, Any] = json.loads(files["release.json"])
    return found


def with_images(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a release that have an image of ours: apps, and what asks for certificates."""
    return [*plan["apps"].values(), *([plan["acme"]] if "acme" in plan else [])]


def content(files: dict[str, str], secrets: dict[str, str]) -> str:
    """The hash that says whether two releases are the same."""
    return hashlib.sha256(json.dumps([files, secrets], sort_keys=True).encode()).hexdigest()[:8]


def history(engine: Engine, site: str) -> list[Record]:
    """Every record, the newest first."""
    found = []
    for config in engine.configs("gatehouse.release", f"gatehouse.site={site}"):
        labels = config["Spec"]["Labels"]
        data = json.loads(zlib.decompress(base64.b64decode(config["Spec"]["Data"])))
        release, digest = labels["gatehouse.release"], labels["gatehouse.content"]
        found.append((config["CreatedAt"], Record(release, digest, labels, data["files"], data["secrets"])))
    # By the Swarm's clock: those of controllers and managers differ.
    return [record for _, record in sorted(found, key=lambda pair: pair[0], reverse=True)]


def current(records: list[Record]) -> Record | None:
    """The release that the fleet should be running: the newest good one."""
    return next((record for record in records if record.result == "good"), None)


def target(records: list[Record], wanted: str | None) -> Record:
    """The release that a rollback goes to: the wanted one (its id, or a part of it that no other good one has), or the
    good one before the current one.

    A rollback's record points to the release that it went back to, so a second rollback goes further back, not forward.
    """
    keep = {record.content for record in kept(records)[0]}
    good = [record for record in records if record.result == "good" and record.content in keep]
    if wanted:
        matching = {r.content: r for r in reversed(good) if wanted in (r.id, r.content) or wanted in r.id}
        if len(matching) == 1:
            return next(iter(matching.values()))
        said = "is no good release" if not matching else "is more than one release"
        raise Failed(f"{wanted} {said}. Good ones: {', '.join(r.id for r in good) or 'none yet'}")
    if not good:
        raise Failed("there is no good release yet, so none to go back to")
    here = good[0]
    if went := here.labels.get("gatehouse.of"):
        here = next((record for record in good if record.id == went), here)
    before = [r for r in good[good.index(here) :] if r.content != here.content and "gatehouse.of" not in r.labels]
    if not before:
        raise Failed(f"{here.id} is the oldest good release that is kept, so there is none to go back to")
    return before[0]


def record(engine: Engine, site: str, files: dict[str, str], secrets: dict[str, str], facts: dict[str, str]) -> Record:
    """Writes down that a release begins."""
    digest = content(files, secrets)
    made = Record(f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{digest}", digest, {}, files, secrets)
    made.labels = {
        "gatehouse.site": site,
        "gatehouse.release": made.id,
        "gatehouse.content": digest,
        "gatehouse.result": "started",
        "gatehouse.at": now(),
        **{f"gatehouse.{key}": value for key, value in facts.items() if value},
    }
    data = zlib.compress(json.dumps({"files": files, "secrets": secrets}).encode(), 9)
    if len(data) > LARGEST:
        raise Failed(f"build/ is {len(data) // 1024} KB compressed, and the Swarm keeps {LARGEST // 1024} of a release")
    spec = {"Name": f"{site}-{made.id}", "Labels": made.labels, "Data": base64.b64encode(data).decode()}
    engine.call("POST", "/configs/create", spec)
    return made


def close(engine: Engine, site: str, release: str, result: str, reason: str = "") -> None:
    """Writes down what came of a release."""
    for config in engine.configs(f"gatehouse.release={release}", f"gatehouse.site={site}"):
        labels = {**config["Spec"]["Labels"], "gatehouse.result": result, "gatehouse.ended": now()}
        _relabel(engine, config, labels | ({"gatehouse.reason": reason[:300]} if reason else {}))


# --- the services -----------------------------------------------------------------------------------------------------


def apply(
    engine: Engine, site: str, files: dict[str, str], secrets: dict[str, str], file: str = "stack.yml"
) -> dict[str, bool]:
    """`docker stack deploy` of one file of a release; service -> whether its definition changed."""
    before = engine.services(site)
    # never: the hosts have the images, and what is not there is not to be looked for.
    arguments = ("stack", "deploy", "--detach=true", "--resolve-image=never", "--compose-file=-", site)
    for again in (*range(20), None):
        try:
            docker(*arguments, stdin=files[file], env=secrets)
            break
        except Failed as failure:
            # Somebody changed a service at this moment: what a run that died had begun goes on by itself for a while.
            if again is None or "update out of sequence" not in str(failure):
                raise
            time.sleep(0.5)
    after = engine.services(site)
    return {name: name not in before or before[name]["Spec"] != service["Spec"] for name, service in after.items()}


def judge(service: dict[str, Any], tasks: list[Any], nodes: list[Any], watch: bool = True) -> tuple[str, str]:
    """("done" | "going" | "failed", a sentence) for a service after `apply`. Pure.

    watch: not done before Swarm has watched the last new task for its `monitor` time.

    Swarm's own word counts first; but it says nothing of a service's first tasks, nor of an update that no task needs.
    """
    template, status = service["Spec"]["TaskTemplate"], service.get("UpdateStatus") or {}
    state = status.get("State", "")
    fresh = [t for t in tasks if same(t["Spec"], template)]
    ended = sorted((t for t in tasks if t["Status"]["State"] in ("failed", "rejected")), key=lambda t: t["CreatedAt"])
    # A service is marked anew by every `apply`; what failed before that is of an earlier day.
    failed = [t for t in ended if t in fresh and t["CreatedAt"] >= service["UpdatedAt"][:19]]
    reason = next((t["Status"]["Err"] for t in reversed(ended) if t["Status"].get("Err")), "")
    if state.startswith("rollback") or state == "paused":
        return "failed", f"Swarm has given up its update{f' ({reason})' if reason else ''}"
    wanted = _wanted(service, nodes)
    up = [t for t in fresh if t["DesiredState"] == t["Status"]["State"] == "running"]
    # One that is told to stop still answers for a moment; of a host that is lost nobody will ever say that it has.
    here = {node["ID"] for node in nodes if node["Status"]["State"] == "ready"}
    old = [
        t
        for t in tasks
        if t not in fresh
        and (t["DesiredState"] == "running" or (t["Status"]["State"] in ALIVE and t.get("NodeID") in here))
    ]
    if (state != "updating" or not watch) and len(up) >= wanted and not old:
        return "done", f"{len(up)} of {wanted} run"
    if state == "" and (any("unhealthy" in t["Status"].get("Err", "") for t in failed) or len(failed) >= 3):
        return "failed", f"its tasks fail ({reason})"
    waiting = next(
        (t["Status"]["Err"] for t in tasks if t["Status"]["State"] == "pending" and t["Status"].get("Err")), ""
    )
    return "going", f"{len(up)} of {wanted} run" + (f"; {waiting}" if waiting else "")


def same(spec: dict[str, Any], template: dict[str, Any]) -> bool:
    """Whether a task was made from this template. A placement that a task already meets replaces nothing."""
    left, right = ({k: v for k, v in part.items() if k not in ("Runtime", "Placement")} for part in (spec, template))
    return left == right


def _wanted(service: dict[str, Any], nodes: list[Any]) -> int:
    mode = service["Spec"]["Mode"]
    if "Replicated" in mode:
        return int(mode["Replicated"].get("Replicas", 1))
    wanted = service["Spec"]["TaskTemplate"].get("Placement", {}).get("Constraints", [])
    labels = [c.removeprefix("node.labels.").split(" == ") for c in wanted]
    return sum(
        node["Spec"]["Availability"] == "active"
        and node["Status"]["State"] == "ready"
        and all(node["Spec"].get("Labels", {}).get(key) == value for key, value in labels)
        for node in nodes
    )


def judged(engine: Engine, site: str, watch: bool = True) -> dict[str, tuple[str, str]]:
    """Service -> what `judge` says of it; jobs have no such state."""
    nodes = engine.nodes()
    return {
        name: judge(service, engine.tasks(service["ID"]), nodes, watch)
        for name, service in engine.services(site).items()
        if "Job" not in str(service["Spec"]["Mode"])
    }


def troubled(engine: Engine, site: str) -> dict[str, str]:
    """Service -> what is wrong with it, of those that are as the current release has them and do not run all the same: an
    app without its database. One that a broken-off release has begun to update is none of them."""
    here = current(history(engine, site))
    good = {app["release"] for app in plan(here.files)["apps"].values()} if here else set()
    served, services = releases_served(engine, site), engine.services(site)
    return {
        name: said
        for name, (state, said) in judged(engine, site).items()
        if state != "done"
        and served.get(name) in good
        and (services[name].get("UpdateStatus") or {}).get("State") not in ("updating", "rollback_started")
    }


def wait(engine: Engine, site: str, wanted: list[str], name: str, patience: float, lock: Lock, watch: bool) -> str:
    """Until one of the wanted services runs as it is written, or all of them where `name` is none of them; Failed as soon
    as any of them will not."""
    end = time.monotonic() + patience
    while True:
        found = judged(engine, site, watch)
        found = {n: found.get(n, ("going", "it is not there")) for n in wanted}
        broken = {n: sentence for n, (state, sentence) in found.items() if state == "failed"}
        if broken:
            raise Failed("\n".join(f"{n}: {sentence}" for n, sentence in sorted(broken.items())), sorted(broken))
        asked = {name: found[name]} if name in found else found
        late = {n: sentence for n, (state, sentence) in asked.items() if state != "done"}
        if not late:
            return ", ".join(f"{n}: {sentence}" for n, (_, sentence) in sorted(asked.items()))
        if time.monotonic() > end:
            raise Failed(
                "\n".join(
                    f"{n}: not running after {patience:.0f} s ({sentence})" for n, sentence in sorted(late.items())
                ),
                sorted(late),
            )
        stop_if_alone()
        lock.renew()
        time.sleep(0.5)


def label(engine: Engine, node: Any, labels: dict[str, str]) -> None:
    """Replaces a host's labels."""
    spec = {**node["Spec"], "Labels": labels}
    engine.call("POST", f"/nodes/{node['ID']}/update", spec, version=node["Version"]["Index"])


def left_out(nodes: list[Any], hosts: list[str]) -> list[str]:
    """Hosts that are up and take tasks, but are not of this run."""
    return sorted(
        name
        for node in nodes
        if node["Status"]["State"] == "ready"
        and node["Spec"]["Availability"] == "active"
        and (name := (node["Spec"].get("Labels") or {}).get("gatehouse.host", node["Description"]["Hostname"]))
        not in hosts
    )


def run_job(
    engine: Engine, site: str, app: str, files: dict[str, str], secrets: dict[str, str], patience: float, lock: Lock
) -> None:
    """An app's release_command, once, to its end. Its service stays when it fails, for its log."""
    name = f"{app}-release"
    remove(engine, site, [name])
    apply(engine, site, files, secrets, f"jobs/{app}.yml")
    end = time.monotonic() + patience
    while True:
        service = engine.services(site)[name]
        tasks = engine.tasks(service["ID"])
        states = {t["Status"]["State"] for t in tasks}
        if "complete" in states:
            remove(engine, site, [name])
            return
        if states & {"failed", "rejected"}:
            said = next((t["Status"].get("Err") for t in tasks if t["Status"].get("Err")), "it failed")
            raise Failed(f"{name}: release_command failed ({said})", [name])
        if time.monotonic() > end:
            waiting = next((t["Status"]["Err"] for t in tasks if t["Status"].get("Err")), "")
            if waiting:
                raise Failed(f"{name}: no host could run release_command ({waiting})", [name])
            raise Failed(
                f"{name}: release_command was not done after {patience:.0f} s (app.yml: timeouts.release)", [name]
            )
        stop_if_alone()
        lock.renew()
        time.sleep(0.5)


def remove(engine: Engine, site: str, names: list[str]) -> list[str]:
    """Removes services, and waits until their containers have gone; returns those that were there."""
    services = {name: service for name, service in engine.services(site).items() if name in names}
    for service in services.values():
        engine.call("DELETE", f"/services/{service['ID']}")
    end = time.monotonic() + 60
    while services and time.monotonic() < end:
        # Not by a filter: that wants a service which is still there.
        ids = {service["ID"] for service in services.values()}
        if not any(task["ServiceID"] in ids for task in engine.call("GET", "/tasks") or []):
            break
        time.sleep(0.5)
    return sorted(services)


def releases_served(engine: Engine, site: str) -> dict[str, str]:
    """App -> what its service answers to "which release is this?"."""
    found = {}
    for name, service in engine.services(site).items():
        for variable in service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Env", []):
            if variable.startswith("GATEHOUSE_RELEASE="):
                found[name] = variable.partition("=")[2]
    return found


# --- what stays -------------------------------------------------------------------------------------------------------


def kept(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """(releases that a rollback can go to, records that are dropped). Pure. `records` are the newest first.

    Only the first have all their images and secrets; other good ones stay for a while as history."""
    good: dict[str, Record] = {}
    for found in records:
        if found.result == "good" and len(good) < KEEP_GOOD:
            good.setdefault(found.content, found)
    drop = [r for n, r in enumerate(records) if n >= KEEP_RECORDS and r.content not in good]
    return list(good.values()), drop


def prune(engine: Engine, site: str) -> dict[str, list[str]]:
    """Drops old records, secrets that no kept release names, and labels of images that none has; returns those images,
    as app:tag, by host."""
    keep, drop = kept(history(engine, site))
    for old in drop:
        for config in engine.configs(f"gatehouse.release={old.id}", f"gatehouse.site={site}"):
            engine.call("DELETE", f"/configs/{config['ID']}")
    named = {name for found in keep for name in found.secrets.values()}
    for secret in engine.call("GET", "/secrets", filters={"label": [f"gatehouse.site={site}"]}) or []:
        if secret["Spec"]["Name"] not in named:
            try:
                engine.call("DELETE", f"/secrets/{secret['ID']}")
            except ApiError:  # a task of a service that is just going still has it
                continue
    labels = {app["label"] for found in keep for app in with_images(plan(found.files))}
    ours, gone = f"gatehouse.image.{site}.", {}
    for node in engine.nodes():
        have = node["Spec"].get("Labels") or {}
        unneeded = [label for label in have if label.startswith(ours) and label not in labels]
        if unneeded:
            label(engine, node, {k: v for k, v in have.items() if k not in unneeded})
            gone[have.get("gatehouse.host", "")] = [label.removeprefix(ours).replace(".", ":") for label in unneeded]
    return gone


# --- why it failed ----------------------------------------------------------------------------------------------------


def why(engine: Engine, site: str, services: list[str], releases: list[str]) -> list[str]:
    """What this host's newest container of each of these services has to say, if it has failed and is of this release.

    releases: the apps' answers to "which release is this?"
    """
    lines: list[str] = []
    for name in services:
        label = f"com.docker.swarm.service.name={site}_{name}"
        found = engine.call("GET", "/containers/json", all="true", filters={"label": [label]}) or []
        for short in sorted(found, key=lambda c: c["Created"], reverse=True):
            container = engine.call("GET", f"/containers/{short['Id']}/json")
            said = [v.partition("=")[2] for v in container["Config"]["Env"] if v.startswith("GATEHOUSE_RELEASE=")]
            if (not said or said[0] in releases) and (sentence := failure(container["State"])):
                log = subprocess.run(
                    ["docker", "logs", "--tail", "500", short["Id"]],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                    errors="replace",
                ).stdout
                lines.append(f"{name} on {socket.gethostname()}: {sentence}. Its log ends:")
                lines += [f"  | {line}" for line in without_library_frames(log.splitlines())[-20:]]
                break
    return lines


def failure(state: dict[str, Any]) -> str:
    """A sentence when a container in this state is no good. Pure."""
    checks = (state.get("Health") or {}).get("Log") or []
    answers = [check["Output"].strip() for check in checks if check["ExitCode"]]
    if state["Status"] == "created" or (state["Status"] == "running" and not answers):
        return ""  # it has not failed, or has nothing to say of it yet
    sentence = f"exit code {state['ExitCode']}" if state["Status"] == "exited" else state["Status"]
    if state["OOMKilled"]:
        sentence += ", out of memory (app.yml: memory)"
    if answers:
        answer = f"answers {answers[-1]}" if answers[-1].isdigit() else "does not answer"
        sentence += f"; its health path {answer} (app.yml: health)"
    return sentence
