"""The verbs behind the Makefile: `python -m stack VERB`."""

from __future__ import annotations

import base64
import functools
import getpass
import hashlib
import json
import os
import platform
import re
import secrets as random_secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich import box
from rich.markup import escape
from rich.table import Column, Table

from stack import certs, compose, deliver, docker, docs, gateways, images, limits, process, secret_values, sizing
from stack import dev as develop
from stack.compose import Compose
from stack.doctor import examine, findings
from stack.errors import Failed
from stack.load import SiteError, base_url, load_site, unplaced
from stack.new_app import make as make_app
from stack.process import Process
from stack.render import NGINX_IMAGE, render, write
from stack.say import console, ended, say
from stack.source import Problem
from stack.symptoms import Finding

cli = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Root = Annotated[Path, typer.Option(envvar="GATEHOUSE_ROOT", help="Folder that holds apps/ and environments/.")]
Env = Annotated[str, typer.Option(envvar="GATEHOUSE_ENV", help="Environment: a file in environments/, without .yml.")]
AppName = Annotated[str, typer.Argument(help="An app's folder name, or edge.")]

HERE = Path(__file__).resolve().parent.parent


F = TypeVar("F", bound=Callable[..., Any])


def verb(function: F) -> F:
    """A command whose failures end in sentences."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        if code := ended(lambda: function(*args, **kwargs)):
            raise typer.Exit(code)

    return cli.command(function.__name__.removesuffix("_files").removesuffix("_images"))(guarded)  # type: ignore[return-value]


def _without_docker(root: Path, starting: bool = False) -> bool:
    """Whether the process engine (stack/process.py) is meant: it runs, ENGINE=process says so, or there is no other."""
    asked = os.environ.get("GATEHOUSE_ENGINE") or None
    if asked not in (None, "compose", "process"):
        raise Failed(f"ENGINE={asked}: no such engine. Allowed: compose, process")
    if process.running(root) is not None:
        if starting and asked == "compose":
            raise Failed("this site runs without Docker just now. Type: make down, then make up")
        return True
    if asked:
        return asked == "process"
    if not docker.absent():
        return False
    if starting:
        say.line("no Docker engine is here, and none may be installed: running without one (docs/process-engine.md)")
    return True


def _engine(root: Path, env: str, dev: bool = False, starting: bool = False) -> Compose:
    site = load_site(root.resolve(), env)
    if site.environment.engine != "compose":
        raise Failed(
            f"environments/{env}.yml runs on {site.environment.engine}, not on this machine. Type ENV=local for what is here"
        )
    if not _without_docker(site.root, starting):
        return Compose(develop.of(site) if dev else site)
    if dev:
        raise Failed(
            "make dev needs Docker: it mounts the app's folder into its container. Type: make down, then make dev"
        )
    if (other := process.running(site.root) or env) != env:
        raise Failed(
            f"environments/{other}.yml runs here just now, and without Docker one at a time does. Type ENV={other}, or make down"
        )
    if starting and docker.there() and compose.projects(site.root, env):
        raise Failed("this site runs in containers just now. Type: make down, then make up ENGINE=process")
    return Process(site)


@verb
def up(root: Root = HERE, env: Env = "local") -> int:
    """Run the whole chain on this machine; apply what has changed since. Not 0 when an app is not healthy after it."""
    engine = _engine(root, env, starting=True)
    engine.up()
    engine.settle()
    code = _table(engine)
    environment = engine.site.environment
    console.print(f"\nOpen [bold]{base_url(engine.site.environment)}/[/]   (make ps, logs, shell APP=..., load, down)")
    if environment.tls.certificate == "acme":
        console.print("The certificate comes by itself, within a minute where all names lead here: make logs APP=acme")
    if environment.tls.certificate == "local-ca":
        console.print(
            f"HTTPS on port {environment.https_port}: trust .local/ca/ca.pem once, or curl --cacert .local/ca/ca.pem"
        )
    if code:
        console.print("Not all of it is healthy. Why, and how to mend it: [bold]make doctor[/]")
    return code


@verb
def dev(root: Root = HERE, env: Env = "local") -> int:
    """The same chain for whoever edits an app: a change is there with the next request; then the logs."""
    engine = _engine(root, env, dev=True, starting=True)
    engine.up()
    _table(engine)
    for name, port in develop.ports(engine.site).items():
        say.line(
            f"{name}: edit {engine.site.apps[name].folder}; breakpoint() waits at port {port} (nc localhost {port})"
        )
    for plan in engine.site.apps.values():
        if not plan.gateway.reloads:
            say.line(
                f"{plan.name}: {plan.gateway.name} reloads no code. To edit it, set gateway: gunicorn-gthread meanwhile"
            )
    say.line("a changed app.yml or requirement: make dev again. Back to normal: make up. Ctrl-C ends only these logs")
    return engine.logs(None, tail=0)


@verb
def down(root: Root = HERE, env: Env = "local", volumes: bool = False) -> None:
    """Stop and remove the stack; --volumes removes its data, too."""
    if _without_docker(root.resolve()):
        process.down(root.resolve())
        return
    compose.down(root.resolve(), env, load_site(root.resolve(), env).environment.name if volumes else None)


@verb
def ps(root: Root = HERE, env: Env = "local") -> int:
    """Each app: URL, gateway, workers, health."""
    engine = _engine(root, env)
    code = _table(engine)
    if not engine.containers():
        console.print("Nothing of it runs. Type: [bold]make up[/]")
    elif code:
        console.print("What is wrong, and how to mend it: [bold]make doctor[/]")
    return code


@verb
def doctor(root: Root = HERE, env: Env = "local") -> int:
    """What is wrong with the stack, or runs badly: where, and how to mend it."""
    found, checked = [], f"Gatehouse {_version()}, Python {platform.python_version()}"
    try:
        engine = _engine(root, env)
    except SiteError as error:
        found = [Finding(str(problem)) for problem in error.problems]
        checked += ", the configuration; nothing else before that is mended"
    else:
        if not isinstance(engine, Process) and not docker.there():
            said = docker.said(["docker", "info"]) or docker.said(["docker", "compose", "version"])
            why = docker.why_not(said, getpass.getuser(), os.environ.get("DOCKER_HOST"))
            found = [Finding(f"Docker: {why}", tuple(said.strip().splitlines()[-1:]))]
            checked += ", the configuration; nothing else without an engine"
        else:
            if (engine.good / "stack.yml").is_file() and "GATEHOUSE_DEV" in (engine.good / "stack.yml").read_text():
                engine = Compose(develop.of(engine.site))
            facts = examine(engine)
            found = list(findings(facts))
            checked += f", {facts.checked}"
    for finding in sorted(found, key=lambda finding: not finding.wrong):
        word = "[red]wrong:[/]" if finding.wrong else "[yellow]note:[/] "
        console.print(f"{word} {escape(finding.sentence)}")
        for line in finding.log:
            console.print(f"  | {line}", markup=False)
    say.line(f"checked: {checked}")
    wrong = sum(finding.wrong for finding in found)
    console.print(
        f"[red]{wrong} thing{'s' if wrong > 1 else ''} wrong[/]" if wrong else "[green]nothing wrong found[/]"
    )
    return min(wrong, 1)


@verb
def logs(
    app: Annotated[str | None, typer.Argument(help="One service; not given: all.")] = None,
    root: Root = HERE,
    env: Env = "local",
    id: Annotated[
        str | None, typer.Option(help="What all logs say of one request: X-Request-ID of its answer.")
    ] = None,
) -> int:
    """Follow the logs; or what they say of one request."""
    engine = _engine(root, env)
    if not engine.containers():
        raise Failed("the stack is not running. Type: make up")
    if id is None:
        return engine.logs(app)
    if not re.fullmatch("[0-9a-f]{8,32}", id):
        raise Failed(f"{id!r} is no request's id: 32 digits and letters a to f, as X-Request-ID of an answer has it")
    lines = engine.of_request(id, app)
    for service, line in lines:
        say.log(service, line, whole=True)
    if not lines:
        raise Failed(f"no log has {id}. Each keeps its last 30 MB, and those of containers that were replaced are gone")
    return 0


@verb
def restart(app: AppName, root: Root = HERE, env: Env = "local") -> None:
    """Restart one app."""
    _engine(root, env).restart(app)


@verb
def shell(app: AppName, root: Root = HERE, env: Env = "local") -> int:
    """A shell in the app's container."""
    return _engine(root, env).shell(app)


@verb
def load(
    root: Root = HERE,
    env: Env = "local",
    headless: Annotated[bool, typer.Option(help="One run and its summary instead of the web UI.")] = False,
    users: Annotated[int | None, typer.Option(min=1, help="Users at a time.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Users started per second.")] = None,
    time: Annotated[str | None, typer.Option(help="How long a headless run takes: 30s, 2m.")] = None,
    model: Annotated[str | None, typer.Option(help="closed: users wait for answers; open: arrivals a second.")] = None,
    shape: Annotated[str | None, typer.Option(help="steady, smoke, ramp, spike, soak or knee.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Generating processes (default: one a core).")] = None,
    selfcheck: Annotated[bool, typer.Option(help="Find the rate up to which this machine measures rightly.")] = False,
    locust: Annotated[list[str] | None, typer.Argument(help="Any of Locust's own options, after --.")] = None,
) -> None:
    """Locust against the running chain, from inside its network."""
    engine = _engine(root, env)
    if not engine.containers():
        raise Failed("the stack is not running. Type: make up")
    options = {
        "--users": users, "--spawn-rate": rate, "--run-time": time, "--model": model, "--shape": shape,
        "--processes": workers,
    }  # fmt: skip
    arguments = [part for flag, value in options.items() if value is not None for part in (flag, str(value))]
    if selfcheck:
        most = str(250 * (workers or os.cpu_count() or 1))  # of twenty a second each: more than one core can send
        arguments += ["--locustfile", "loadtests/selfcheck.py", "--model", "open", "--shape", "knee", "--users", most]
    if headless or selfcheck:
        arguments.append("--headless")
    else:
        say.line("Locust's web UI: http://localhost:8089   (Ctrl-C ends it)")
    arguments += locust or []
    facts = {
        "GATEHOUSE_PROJECT": engine.project,
        "GATEHOUSE_SITE": str(engine.site.root),
        "GATEHOUSE_ENV": env,
        "GATEHOUSE_VERSION": _version(),
        "GATEHOUSE_LOAD_KEY": key.read_text() if (key := engine.site.root / ".local/load.key").exists() else "",
    }
    if isinstance(engine, Process):
        facts["GATEHOUSE_LOAD_TARGET"] = process.load_target(engine.site)
        facts["GATEHOUSE_LOCUST"] = str(process.load_generator(engine.site.root))
    else:
        facts |= {"GATEHOUSE_LOAD_IMAGE": images.load_generator(), "GATEHOUSE_DOCKER": " ".join(docker.client())}
    # Replaces this process, so that signals reach the run itself.
    os.execve(HERE / "loadtests/run.sh", ["run.sh", *arguments], {**os.environ, **facts})


@verb
def load_bundle(root: Root = HERE, env: Env = "production") -> None:
    """Make the image that generates load on hosts (ansible/load.yml), and an archive for each host that lacks it.

    Reads JSON from standard input: hosts (name -> lines of `docker image inspect` there). The last line that it prints is
    JSON: image, archives (host -> path), and the variables of loadtests/hosts.yml.
    """
    site = load_site(root.resolve(), env)
    there = {host: deliver.images_and_layers(lines) for host, lines in json.load(sys.stdin)["hosts"].items()}
    docker.client(install=True)
    with compose.alone(site.root):
        image = images.load_generator_of(site.root)
    folder = site.root / ".local/deliver"
    archives = {host: str(deliver.pack([image], has, folder)) for host, has in there.items() if image not in has}
    variables = {
        "GATEHOUSE_LOAD_IMAGE": image,
        "GATEHOUSE_LOAD_TARGET": base_url(site.environment),
        "GATEHOUSE_ENV": env,
        "GATEHOUSE_VERSION": _version(),
    }
    print(json.dumps({"image": image, "archives": archives, "variables": variables}))


@verb
def load_key(root: Root = HERE) -> None:
    """The key of load tests against hosts, kept in .local/load.key; and what lets an environment's edges know it."""
    file = root.resolve() / ".local/load.key"
    if not file.exists():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.touch(0o600)
        file.write_text(random_secrets.token_urlsafe(24))
    digest = base64.urlsafe_b64encode(hashlib.md5(file.read_bytes(), usedforsecurity=False).digest())
    say.line("write it into environments/ENV.yml, and deploy:")
    console.print(f"edge:\n  timing: md5:{digest.decode().rstrip('=')}", markup=False, highlight=False)


def _version() -> str:
    """Of this clone, as git names it."""
    try:
        done = subprocess.run(
            ["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


@verb
def check(root: Root = HERE, env: Env = "local") -> None:
    """Check everything that is written, and start nothing."""
    site = load_site(root.resolve(), env)
    render(site)
    say.line(f"environments/{env}.yml and {', '.join(f'apps/{name}' for name in site.apps)}: no problem found")


@verb
def show(root: Root = HERE, env: Env = "local") -> None:
    """Every effective value, where it came from and, for computed ones, why."""
    site = load_site(root.resolve(), env)
    effective = site.environment.model_dump(exclude={"apps"})
    effective["limits"] = limits.of_site(site.environment).model_dump()
    table = Table(
        "environment", "value", "from", title=f"environments/{env}.yml", title_justify="left", box=box.SIMPLE_HEAD
    )
    for key, value in _flatten(effective):
        table.add_row(
            key,
            escape(_shown(value)),
            "environments/" + env + ".yml" if _written(key, site.origins) else "default",
            style=None if _written(key, site.origins) else "dim",
        )
    console.print(table)
    for plan in site.apps.values():
        table = Table(plan.name, "value", "from", title=f"apps/{plan.name}", title_justify="left", box=box.SIMPLE_HEAD)
        for key, value in _flatten(plan.app.model_dump()):
            origin = _written(key, plan.origins)
            if key.startswith("paths.") and origin is None:
                continue  # a path says only what differs from its app
            shown, source = _shown(value), origin or "default"
            if key == "workers":
                shown, source = str(plan.sizing.workers), f"{source}: {plan.sizing.reason}"
            elif key == "max_in_flight":
                bound = limits.in_flight(plan.app, plan.sizing.workers)
                shown, source = str(bound.number or "off"), f"{source}: {bound.reason}"
            elif key.startswith("limits.") and (value is None or limits.not_limited(site.environment)):
                shown, source = str(effective["limits"][key[7:]]), f"limits of environments/{env}.yml"
            elif key == "gateway" and value is None:
                shown, source = plan.gateway.name, f"default for {plan.app.interface}"
            elif key == "route" and value is None:
                shown, source = plan.prefix or "/", "default: its name"
            table.add_row(
                key,
                escape(shown),
                escape(source),
                style=None if origin or key in ("workers", "max_in_flight") else "dim",
            )
        console.print(table)
        for note in (*gateways.notes(plan.app), *sizing.warnings(plan.app)):
            console.print(f"[yellow]note:[/] {escape(note)}")


@verb
def render_files(root: Root = HERE, env: Env = "local") -> None:
    """Write the final files of an environment to build/<env>/, and start nothing."""
    site = load_site(root.resolve(), env)
    with compose.alone(site.root):
        without = site.environment.engine == "compose" and _without_docker(site.root)
        changed = write(Process(site).render() if without else render(site), site.root / "build" / env)
    say.line(f"build/{env}/: {', '.join(changed) if changed else 'nothing changed'}")


@verb
def bundle(root: Root = HERE, env: Env = "production") -> None:
    """Write build/<env>/ and print as JSON what ansible/ deploys.

    Reads JSON from standard input, and checks it: `secrets` (app -> name -> value), `hosts` (name -> its labels). Prints
    `files` (path -> text of build/<env>/), `secrets` (variable of the stack file -> name of the Swarm secret, which changes with its value) and
    `tls` (path in the edge's directory -> PEM).
    """
    site = load_site(root.resolve(), env)
    if site.environment.engine != "swarm":
        raise Failed(
            f"environments/{env}.yml runs on this machine (engine: compose). Type: make up ENV={env}, or deploy another environment"
        )
    given: Any = json.load(sys.stdin)
    values = given["secrets"]
    problems = [Problem("gatehouse_secrets", key, sentence) for key, sentence in secret_values.problems(site, values)]
    problems += [Problem(f"apps/{app}/app.yml", "volumes", said) for app, said in unplaced(site, given["hosts"])]
    if problems:
        raise SiteError(problems)
    files = render(site)
    with compose.alone(site.root):
        write(files, site.root / "build" / env)
    tls = {name: part.decode() for name, part in certs.files(site).items()}
    print(json.dumps({"files": files, "secrets": secret_values.names(site, values), "tls": tls}))


@verb
def deliver_images(root: Root = HERE, env: Env = "production") -> None:
    """Make the images that hosts lack, and an archive for each such host, or push them to the registry.

    Reads JSON from standard input: hosts (name -> lines of `docker image inspect` there), whole, user, password. The last
    line that it prints is JSON: host -> path of its archive.
    """
    site = load_site(root.resolve(), env)
    asked = json.load(sys.stdin)
    registry = site.environment.registry
    wanted = {images.name(plan, registry): plan for plan in site.apps.values()}
    own = [NGINX_IMAGE, *([images.acme()] if site.environment.tls.certificate == "acme" else [])]
    there = {host: deliver.images_and_layers(lines) for host, lines in asked["hosts"].items()}
    missing = {host: [i for i in (*wanted, *own) if i not in has] for host, has in there.items()}
    needed = {image for lacking in missing.values() for image in lacking}
    archives = {}
    if needed:
        docker.client(install=True)
        with compose.alone(site.root):
            built = images.ensure(
                [plan for image, plan in wanted.items() if image in needed],
                [image for image in own if image in needed],
                registry,
            )
            images.remember(site.root / ".local/built", built)
            images.prune(site.root / ".local/built")
        if registry and not asked.get("whole") and (pushed := sorted(needed.difference(own))):
            deliver.push(pushed, asked.get("user"), asked.get("password"))
        folder = site.root / ".local/deliver"
        for host, lacking in missing.items():
            copied = [image for image in lacking if not registry or image in own]
            if copied:
                archives[host] = str(deliver.pack(copied, there[host], folder, asked.get("whole", False)))
    print(json.dumps(archives))


@verb
def new_app(
    name: Annotated[str, typer.Argument(help="Its folder, its service and, unless app.yml says otherwise, its route.")],
    kind: Annotated[str, typer.Argument(help="wsgi or asgi.")],
    root: Root = HERE,
    env: Env = "local",
) -> None:
    """A new app in apps/: it runs, is routed, tested and load-tested as it is."""
    folder = make_app(root.resolve(), env, name, kind)
    for file in sorted(path.name for path in folder.iterdir()):
        say.line(f"apps/{name}/{file}")
    site = load_site(root.resolve(), env)
    edit = "" if _without_docker(site.root, starting=False) else ", or make dev to edit it"
    console.print(f"Type [bold]make up[/]{edit}: {base_url(site.environment)}{site.apps[name].prefix}/")


@verb
def secret(
    app: AppName,
    name: Annotated[str, typer.Argument(help="A name in the app's `secrets`.")],
    root: Root = HERE,
    env: Env = "local",
) -> None:
    """Keep the local value of a secret; it is read from the keyboard or standard input."""
    site = load_site(root.resolve(), env)
    plan = site.apps.get(app)
    if plan is None or name not in plan.app.secrets:
        known = [f"APP={p.name} NAME={n}" for p in site.apps.values() for n in p.app.secrets]
        raise Failed(
            f"no app lists a secret {name} under the name {app}. Allowed: {'; '.join(known) or 'none, until an app.yml has `secrets: [NAME]`'}"
        )
    value = (
        getpass.getpass(f"{app}: {name} (empty: a random one): ")
        if sys.stdin.isatty()
        else sys.stdin.read().rstrip("\n")
    )
    folder = site.root / ".local/secrets" / app
    (site.root / ".local").mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    # Readable for the container's user; .local itself is closed to everybody else.
    (folder / name).write_text(value or random_secrets.token_urlsafe(32))
    (folder / name).chmod(0o644)
    say.line(f".local/secrets/{app}/{name}: {'kept' if value else 'a random value'}. Type: make up")


@verb
def reference() -> None:
    """Write docs/settings.md and the editors' schemas from the models."""
    for path, text in docs.files().items():
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_text(text, "utf-8")
        say.line(path)


def _table(engine: Compose) -> int:
    containers = engine.containers()
    table = Table(
        "app", Column("URL", no_wrap=True), Column("gateway", overflow="fold"), "workers", "health", box=box.SIMPLE_HEAD
    )
    healthy = True
    for plan in engine.site.apps.values():
        mine = [c for c in containers if c.service == plan.name]
        answer = engine.health(plan) if mine else ""
        ready = sum(c.ready for c in mine)
        fine = bool(mine) and ready == len(mine) == plan.app.replicas and answer == "200"
        healthy &= fine
        url = base_url(engine.site.environment, plan.host) + plan.prefix + "/"
        state = f"[green]healthy[/] {ready}/{plan.app.replicas}" if fine else f"[red]{escape(_state(mine, answer))}[/]"
        threads = f" x {plan.app.threads} threads" if plan.gateway.concurrency == "thread" else ""
        table.add_row(plan.name, url, plan.gateway.name, f"{plan.sizing.workers}{threads}", state)
        for beside_it in plan.app.processes:
            beside = [c for c in containers if c.service == f"{plan.name}-{beside_it}"]
            running = bool(beside) and all(c.ready for c in beside)
            healthy &= running
            table.add_row(
                f"{plan.name}-{beside_it}",
                "",
                "",
                "",
                "[green]running[/]" if running else f"[red]{_state(beside, '')}[/]",
            )
    console.print(table)
    return 0 if healthy else 1


def _state(containers: list[Any], answer: str) -> str:
    if not containers:
        return "not running"
    broken = next((c for c in containers if not c.ready), None)
    if broken:
        return broken.failure or f"{broken.state}, {broken.health}"
    return f"answers {answer}" if answer else "incomplete"


def _written(key: str, origins: dict[str, str]) -> str | None:
    """Where a dotted key or the key above it was written."""
    return next((source for name, source in origins.items() if key == name or key.startswith(f"{name}.")), None)


def _shown(value: Any) -> str:
    """A value as people write it in YAML."""
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flatten(data: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, dict) and value and before.count(".") < 2:
            rows += _flatten(value, f"{before}{key}.")
        else:
            rows.append((f"{before}{key}", value))
    return rows
