"""Every setting's meaning, unit, default and limits: the one home of each.

From these models come the checks on what people write, the JSON Schemas that editors use, docs/settings.md and the
texts of errors. A value has at most three layers, each replacing the one before it as a whole:
model default <- apps/<name>/app.yml <- environments/<env>.yml, key `apps.<name>`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from stack import gateways

# --- kinds of value ---------------------------------------------------------------------------------------------------

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}[KMG]$")]
"""A number of binary units, as Docker and Nginx write it: 64K, 512M, 2G."""

UrlPath = Annotated[
    str, StringConstraints(pattern=r"^/(\.?[A-Za-z0-9_~-][A-Za-z0-9._~-]*(/\.?[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?)?$")
]
"""An absolute URL path of unreserved characters, without . and .. as its parts: /, /shop, /api/v2, /.well-known."""

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")]
HostName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$", max_length=253)
]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]*$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
Seconds = Annotated[float, Field(ge=0.001, le=86400)]
WholeSeconds = Annotated[int, Field(ge=1, le=86400)]
"""Where a gateway or Nginx takes whole seconds only."""


def size_bytes(size: str) -> int:
    """Bytes in a `Size`: size_bytes("2M") == 2097152."""
    return int(size[:-1]) * _UNITS[size[-1]]


def _scalar_text(value: object) -> object:
    """YAML's whole numbers and booleans as the text an environment variable holds; true becomes "true"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        raise ValueError("a number with a point needs quotes, else 3.10 would arrive as 3.1")
    return str(value) if isinstance(value, int) else value


VariableValue = Annotated[str, BeforeValidator(_scalar_text, json_schema_input_type=str | int | bool)]


def _number_text(value: object) -> object:
    """A whole number of YAML as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ConnectionLimit = Annotated[
    str,
    BeforeValidator(_number_text, json_schema_input_type=str | int),
    StringConstraints(pattern=r"^(off|(observe )?[1-9][0-9]{0,4})$"),
]
"""128, `observe 128` or off."""

RateLimit = Annotated[
    str,
    BeforeValidator(_number_text, json_schema_input_type=str),
    StringConstraints(pattern=r"^(off|(observe )?[1-9][0-9]{0,4}/(s|min))$"),
]
"""20/s, 10/min, `observe 20/s` or off."""


class Strict(BaseModel):
    """Refuses keys it does not know and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


# --- apps/<name>/app.yml ----------------------------------------------------------------------------------------------


class Timeouts(Strict):
    """The app's part of the chain's timeout contract, in seconds. `stack check` holds the inequalities between these and
    the edge's (stack/timeouts.py says each in a sentence)."""

    connect: Seconds = 0.5
    """s. Nginx gives up connecting to a replica after this and tries the next one; a lost host costs this much once."""
    request: Seconds = 30
    """s. Nginx waits this long for the gateway to send something, then answers 504. It is the request timeout of the
    chain: threads and event loops have none of their own. `paths` can set another one."""
    gateway: WholeSeconds = 25
    """s. A worker busy for longer is killed and replaced, where the gateway can do that (gunicorn-sync); elsewhere it is
    a heartbeat that one slow request does not miss."""
    keep_alive: WholeSeconds = 75
    """s. The gateway keeps an idle connection open this long. Must exceed Nginx's own limit, else the gateway closes a
    connection just as Nginx sends a POST on it: 6.3 % of them answered 502 where the two met."""
    graceful: WholeSeconds = 30
    """s. After SIGTERM the gateway finishes requests in flight for this long, then cuts them."""
    stop_grace: Seconds = 40
    """s. After SIGTERM the engine waits this long, then kills the container."""
    start: Seconds = 60
    """s. A new container may take this long until its health path answers 200; more for apps that load models."""
    ping: Seconds = 20
    """s. Interval of WebSocket pings, where the gateway sends them; they keep a silent socket from timing out at Nginx."""
    release: Seconds = 600
    """s. `release_command` may take this long; then it is stopped and the release with it."""


class Limits(Strict):
    """What one client address may ask at a time and in a time; more is answered 429 by the edge, with Retry-After. The first
    64 bits of an IPv6 address count. Off is `off`; with `observe` in front of a limit nobody is refused: the access log
    says who would have been (`REJECTED_DRY_RUN`). A key that is not set is that of the place around: a path's is the app's,
    an app's the environment's."""

    connections: ConnectionLimit | None = None
    """Requests in progress at a time, WebSockets and slow bodies included. A browser sends up to 128 at a time over HTTP/2, and
    an office may have one address. They are counted where the key stands: on the whole site, in this app, on this path. It is
    what a client that sends its bodies a byte at a time runs into: `client_body_timeout` only runs between two of them."""
    requests: RateLimit | None = None
    """Requests in a second or minute; as many more are let through at once. Counted as `connections` are."""


class Path(Strict):
    """HTTP behaviour of the URLs that start with this path; everything else of the app keeps the app's own."""

    websocket: bool = False
    """Let clients upgrade to WebSocket here. Everywhere else the edge removes the request to upgrade."""
    stream: bool = False
    """Pass bytes on as they come, in both directions: server-sent events, long downloads, large uploads. Elsewhere Nginx
    reads the whole request first, so that slow clients never occupy a worker."""
    timeout: Seconds | None = None
    """s. Replaces `timeouts.request` here: longer for long polls and quiet streams."""
    body_limit: Size | None = None
    """Replaces the app's `body_limit` here."""
    limits: Limits = Limits()
    """What one client address may ask here, such as `{requests: 10/min}` of a login. With `stream`, a slow client occupies a
    worker or thread of a gateway that has no event loop: not set, its streams have half of a replica's at most."""
    cache: Literal["revalidate", "immutable"] | None = None
    """Let Nginx keep answers here: files that are the same for everybody. The app gets GET and HEAD alone, and of the client
    no header and no cookie. revalidate: after 1 to 2 s Nginx asks the app again (ETag, 304), browsers do as the app says, so a
    release is seen at once. immutable: names change with the content (style.3f2a9c.css): browsers keep them for a year,
    Nginx asks again after 10 s, and files that only the release before has are served on."""


class Process(Strict):
    """A background process: the app's image with another command, and no route."""

    command: Annotated[list[str], Field(min_length=1)]
    """The program and its arguments, as a list; no shell reads it."""
    cpus: Annotated[float, Field(gt=0, le=256)] = 0.5
    """CPUs it may use at most."""
    memory: Size = "256M"
    """Memory at most; beyond it the process is killed and restarted."""
    stop_grace: Seconds = 40
    """s. After SIGTERM the engine waits this long, then kills it."""


def _those(interface: str, can: str) -> str:
    """The interface's gateways that can do it, for people."""
    found = [g.name for g in gateways.GATEWAYS.values() if g.interface == interface and getattr(g, can)]
    return " or ".join(found)


class App(Strict):
    """One web app: the folder's name is the app's name."""

    interface: Literal["wsgi", "asgi"]
    """What the app speaks: wsgi (Flask, Django, ...) or asgi (FastAPI, Starlette, ...)."""
    entry: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(\))?$")]
    """`module:attribute` of the application object, as every gateway writes it: app:app."""
    gateway: Literal[tuple(gateways.GATEWAYS)] | None = None  # type: ignore[valid-type]
    """The WSGI or ASGI server in front of the code. Not set: gunicorn-gthread for wsgi, uvicorn for asgi."""
    route: UrlPath | None = None
    """URL path the app answers under. Not set: /<name>, or / where `host` is set. The app sees it as its prefix
    (SCRIPT_NAME, root_path) and builds right links by itself."""
    host: HostName | None = None
    """Answer under this host name only, for example shop.example.com. Not set: the environment's domains."""

    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    """Worker processes in each replica. auto: from this app's cpus and memory and the kind of gateway, never from the
    number of cores of the host; `make show` prints the reason."""
    threads: Annotated[int, Field(ge=1, le=256)] = 8
    """Threads in each worker, where the gateway uses threads (gunicorn-gthread, uwsgi, granian-wsgi): one request each at a time."""
    preload: bool = False
    """Load the code once, before the workers are forked: 30-44 % less memory, and code that opens connections or starts
    threads on import breaks. Gunicorn and uWSGI only."""
    max_requests: Annotated[int, Field(ge=0)] = 0
    """Replace a worker after about this many requests; 0: never. A cure for leaks, at a price on uvicorn and
    gunicorn-asgi: requests in flight on a recycled worker's kept connections are lost (148 of 26,000 measured). Granian
    has no such thing."""
    max_requests_jitter: Annotated[int, Field(ge=0)] = 0
    """Spread `max_requests` by up to this many, so that workers are not replaced all at once."""
    timeouts: Timeouts = Timeouts()

    waits: Annotated[float, Field(ge=0, le=0.99)] | None = None
    """Part of its time in the app that a request waits, for a database or another service, and uses no CPU: 0.9 of one that
    computes for 10 ms and takes 100. With it `workers: auto` knows how many processes that do one
    thing at a time keep the cpus busy, and a number of workers or threads that cannot is warned of."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    """Containers of this app. More than one makes a crash invisible; usually set by the environment."""
    placement: dict[LabelName, LabelValue] = {}
    """Run only on hosts with these labels (`swarm_labels` in the inventory): `{disk: ssd}`. An app with `volumes` needs
    one that a single host has, because a volume stays on its host. Means nothing on one machine."""
    cpus: Annotated[float, Field(gt=0, le=256)] = 1.0
    """CPUs each replica may use at most."""
    memory: Size = "512M"
    """Memory of each replica at most; beyond it the container is killed and restarted."""
    worker_memory: Size = "96M"
    """What one worker needs at its peak. `workers: auto` stays within 80 % of `memory`."""

    health: UrlPath = "/healthz"
    """Path below the app's prefix that answers 200 when the app can serve. Nothing is sent to a replica before it does."""
    body_limit: Size = "1M"
    """Largest request body; a larger one gets 413 from Nginx and never reaches the app."""
    limits: Limits = Limits()
    """What one client address may ask of this app, such as `{requests: 20/s}`; otherwise the environment's `limits` hold."""
    max_in_flight: Annotated[int, Field(ge=1, le=65535)] | Literal["auto", "off"] = "auto"
    """Requests that an edge has at each replica at a time at most, those that wait there and WebSockets included. What comes
    beyond is answered 503 at once, with Retry-After, instead of waiting until nobody wants the answer any more. auto: by the
    kind of gateway; `make show` prints the reason. off: no limit."""
    paths: dict[UrlPath, Path] = {}
    """Paths below the app's prefix that need other HTTP behaviour: `/ws: {websocket: true}`."""

    env: dict[VariableName, VariableValue] = {}
    """Plain environment variables. Not for secrets: everybody who may look at the container sees them."""
    secrets: list[VariableName] = []
    """Names of secrets. Each is a file /run/secrets/<NAME> in the container, and <NAME>_FILE says where. Values stand
    nowhere in this repository: `make secret APP=<name> NAME=<NAME>` keeps local ones in an ignored folder."""
    secrets_as_env: bool = False
    """Also put each secret into the environment variable of its name, for code that reads it there. Whatever the app
    starts inherits them, and a debug page may print them: better read the file where you can."""
    volumes: dict[ServiceName, AbsolutePath] = {}
    """Directories that outlive the container: volume name -> path inside."""
    packages: list[PackageName] = []
    """Debian packages the app needs at run time: libpq5, libmagic1."""
    build_command: list[str] = []
    """A program and its arguments that run once while the image is built, on the whole app: to collect static files, to
    compile translations. It has no secrets and none of `env`, because one image serves every environment."""
    processes: dict[ServiceName, Process] = {}
    """Background processes beside the web app, from the same image: queue workers, schedulers."""
    egress: bool = True
    """May open connections to the outside. false: only the edge and the other apps are in reach."""
    release_command: list[str] = []
    """A program and its arguments that run once before a new version of the app gets requests, in its own image: database
    migrations. If it fails, the old version goes on. The old version still runs meanwhile, and a rollback undoes nothing
    that the command did, so let it only add what the old version does not mind."""
    contract: Literal["full", "health"] = "health"
    """What the test suite asks of it: the health path, or every route of the HTTP contract (docs/contract.md)."""

    @model_validator(mode="after")
    def _fits_its_gateway(self) -> App:
        chosen = self.chosen_gateway
        if chosen.interface != self.interface:
            fitting = ", ".join(g.name for g in gateways.GATEWAYS.values() if g.interface == self.interface)
            raise ValueError(
                f"gateway: {chosen.name} serves {chosen.interface} apps and this one is {self.interface}. Allowed: {fitting}"
            )
        if self.preload and not chosen.preloads:
            raise ValueError(
                f"preload: {chosen.name} cannot load the code before it starts workers. Remove the key, or choose {_those(self.interface, 'preloads')}"
            )
        if self.max_requests and not chosen.recycles:
            raise ValueError(
                f"max_requests: {chosen.name} replaces no worker after a number of requests. Remove the key, or choose {_those(self.interface, 'recycles')}"
            )
        if self.max_requests_jitter and not chosen.jitters:
            raise ValueError(
                f"max_requests_jitter: {chosen.name} replaces a worker after exactly `max_requests`. Remove the key"
            )
        if (least := chosen.shortest_ping) and (self.timeouts.ping < least or self.timeouts.ping % 1):
            raise ValueError(
                f"timeouts.ping: {chosen.name} takes whole seconds, at least {least}, not {self.timeouts.ping:g}"
            )
        if self.interface == "wsgi" and (paths := [p for p, v in self.paths.items() if v.websocket]):
            raise ValueError(
                f"paths.{paths[0]}.websocket: a WSGI app cannot speak WebSocket. Remove the key, or make it an asgi app"
            )
        for path, behaviour in self.paths.items():
            if behaviour.cache and (behaviour.websocket or behaviour.stream):
                raise ValueError(f"paths.{path}.cache: what is kept is neither streamed nor a WebSocket. Remove one")
            if behaviour.cache and not path.endswith("/") and "." not in path.rpartition("/")[2]:
                raise ValueError(
                    f"paths.{path}.cache: would hold for every URL that starts so, {path}-of-mine as well. Write {path}/"
                )
        if chosen.name == "gunicorn-gevent" and any(v.websocket for v in self.paths.values()):
            raise ValueError("paths: gunicorn-gevent does not speak WebSocket")
        return self

    @model_validator(mode="after")
    def _names_and_mounts_are_its_own(self) -> App:
        for name in self.env:
            if name in STACK_VARIABLES or name.startswith("GATEHOUSE_"):
                raise ValueError(f"env.{name}: is set by the stack or the image. Remove it")
        for name in self.secrets:
            if self.secrets.count(name) > 1:
                raise ValueError(f"secrets: {name} is there twice. Remove one")
            if f"{name}_FILE" in self.env:
                raise ValueError(
                    f"env.{name}_FILE: says where the secret {name} is, and is set by the stack. Remove it"
                )
            if self.secrets_as_env and (name in self.env or name in STACK_VARIABLES or name.startswith("GATEHOUSE_")):
                raise ValueError(f"secrets_as_env: there is a variable {name} already. Rename the secret {name}")
        paths = list(self.volumes.values())
        for name, path in self.volumes.items():
            if path in STACK_PATHS or paths.count(path) > 1:
                raise ValueError(f"volumes.{name}: something is mounted at {path} already. Choose another path")
        return self

    @property
    def chosen_gateway(self) -> gateways.Gateway:
        """The gateway named by `gateway`, or the interface's default."""
        return gateways.GATEWAYS[self.gateway or gateways.DEFAULT[self.interface]]


# --- environments/<env>.yml -------------------------------------------------------------------------------------------


class Acme(Strict):
    """Where `tls.certificate: acme` gets certificates."""

    directory: Annotated[str, StringConstraints(pattern=r"^https://[!-~]+$")] = (
        "https://acme-v02.api.letsencrypt.org/directory"
    )
    """URL of the ACME server's directory. With another one, a certificate is asked for anew: try with your authority's
    staging directory first, whose certificates no browser trusts."""
    email: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    """Where the authority may write to, if it does so."""
    ca: str | None = None
    """Path of a PEM file with the authority that the directory's own certificate is from, if that is no public one."""


class Tls(Strict):
    """HTTPS at the edge."""

    certificate: Annotated[str, StringConstraints(min_length=1)] = "local-ca"
    """local-ca: a certificate for this environment's names from a certificate authority made once on this machine;
    acme: one from a public authority (Let's Encrypt, unless `acme` says otherwise), whose terms you agree to by this,
    issued and renewed by itself; off: plain HTTP only; else the path of a PEM file with the certificate and its chain."""
    key: str | None = None
    """Path of the PEM file with the certificate's private key; goes with a certificate file. With acme, not set: made once
    in .local/acme; set it where more than one clone deploys, because each would have a key of its own."""
    acme: Acme = Acme()
    profile: Literal["intermediate", "modern"] = "intermediate"
    """Mozilla's profiles: intermediate (TLS 1.2 and 1.3) or modern (TLS 1.3 alone)."""
    http3: bool = False
    """Offer HTTP/3 (QUIC) as well, on UDP port `https_port`, which your firewall has to let in. A reload may cut what is
    open over it; clients fall back to HTTP/2. Not on the process engine."""
    redirect: bool = True
    """Answer plain HTTP with a redirect to HTTPS."""
    hsts: Annotated[int, Field(ge=0)] = 63072000
    """s. Tell browsers to use only HTTPS for this long (Strict-Transport-Security); 0: not at all. It holds for every
    port of the name, so leave it 0 for localhost."""

    @model_validator(mode="after")
    def _files_come_in_pairs(self) -> Tls:
        own = self.certificate not in ("local-ca", "acme", "off")
        if own != (self.key is not None) and self.certificate != "acme":
            raise ValueError(
                "key: a certificate file and its key go together. Allowed: certificate: local-ca | acme | off, or both paths"
            )
        if "acme" in self.model_fields_set and self.certificate != "acme":
            raise ValueError("acme: means nothing without certificate: acme. Remove it, or set that")
        if self.http3 and self.certificate == "off":
            raise ValueError("http3: there is none without HTTPS. Remove it, or set certificate")
        return self


class EdgeTimeouts(Strict):
    """The edge's part of the chain's timeout contract, in seconds. What concerns clients alone stands in
    nginx/snippets/timeouts.conf."""

    upstream_keep_alive: Seconds = 1
    """s. An idle connection to a gateway stays open this long: less than every gateway's own `timeouts.keep_alive`, and
    short, because it may lead to a host that has been lost since. An app that is asked more often than this keeps its own."""
    resolver_valid: WholeSeconds = 1
    """s. Nginx asks the engine's DNS again after this: below the 2 s that Swarm waits between taking a stopping task out
    of DNS and sending it SIGTERM."""
    leave: WholeSeconds = 10
    """s. An edge that is told to stop, and is not the only one, serves on for so long while its `/healthz` answers 503: at
    least what your balancer takes to notice (interval x failures)."""


class Edge(Strict):
    """Nginx."""

    upstream_keepalive: Annotated[int, Field(ge=0, le=4096)] = 64
    """Idle connections that each Nginx worker keeps to each app: at least the requests in flight per worker. 0 costs
    two thirds of the throughput of a fast app."""
    memory: Size = "512M"
    """Memory at most. Half of it is the place where larger request bodies wait until they are whole, and answers until slow
    clients have read them, 1 MB of each at most: so one client address, with its 128 `connections`, does not fill it by
    bodies of 1M. Where it is full, a body of more than 16 KB gets 500, and everything else goes on."""
    timing: Annotated[str, StringConstraints(pattern=r"^(open|off|md5:[A-Za-z0-9_-]{22})$")] = "off"
    """Who gets `Server-Timing` on answers (how long edge, gateway and app took): off (nobody), open (everybody) or
    md5:... (a load test that knows the key of this hash; `make load-key` makes both)."""
    index: bool = False
    """Show a small page of what runs here at /, where no app has that route. With `timing: open` it has a button that sends
    waiting requests to one WSGI and one ASGI app of the full contract, and draws where each waited. For that, an edge on
    localhost also answers *.demo.localhost over plain HTTP, where browsers open more connections than to one name: /wait of
    these apps, and nothing else."""
    timeouts: EdgeTimeouts = EdgeTimeouts()


def _range(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no range of addresses. Allowed: the addresses your balancers have, such as 10.0.0.0/8 or 192.0.2.7"
        ) from None
    if not network.prefixlen:
        raise ValueError(
            f"{text} is everybody, whose claims would be believed. Write the addresses your balancers have"
        )
    return str(network)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(
            f"{text!r} is no IP address. Allowed: 127.0.0.1, 0.0.0.0 or another address of this machine"
        ) from None


class Environment(Strict):
    """Where apps run; only what differs from place to place."""

    name: ServiceName = "gatehouse"
    """Name of the project: prefix of its containers, networks and volumes."""
    engine: Literal["compose", "swarm"] = "swarm"
    """compose: this machine. swarm: 1..N hosts."""
    domains: Annotated[list[HostName], Field(min_length=1)]
    """Host names of the site, the canonical one first. Requests for any other name are closed without an answer."""
    bind: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    """Address that local ports are published on (compose only): 127.0.0.1 keeps them on this machine."""
    http_port: Annotated[int, Field(ge=1, le=65535)] = 80
    """Published port of plain HTTP."""
    https_port: Annotated[int, Field(ge=1, le=65535)] = 443
    """Published port of HTTPS."""
    tls: Tls = Tls()
    edge: Edge = Edge()
    trusted_proxies: list[Annotated[str, AfterValidator(_range)]] = []
    """Addresses and ranges of the balancers or CDN in front of the edge: `[10.0.0.0/8]`. From them alone the client's address
    (the last one in X-Forwarded-For that is not in this list) and scheme (X-Forwarded-Proto) are believed, for limits, logs,
    redirects and apps. None: what the edge sees itself counts, and nothing that anybody claims."""
    limits: Limits | None = None
    """What one client address may ask of the whole site, such as `{connections: 64, requests: observe 50/s}`. Not set: `{connections: 128, requests: observe 100/s}` on hosts. With engine:
    compose nothing is limited unless this is set, apps' own limits included, because Docker shows every client under one
    address there; `limits: {}` is what hosts have. A load test that sends the key of `edge.timing` is never limited."""
    registry: (
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*$")] | None
    ) = None
    """Image registry that images go through (swarm only): `registry.example.com/team`. Not set: they go to the hosts over
    SSH, and only the layers that a host lacks."""
    encrypted: bool = False
    """Encrypt the traffic between containers of different hosts (swarm only; IPsec). For hosts on a network that others
    use, too; costs throughput, and needs ESP in every host's kernel."""
    apps: dict[ServiceName, dict[str, Any]] = {}
    """Per app, keys of its app.yml that differ here: `shop: {replicas: 3}`. Each replaces the whole value."""

    @model_validator(mode="after")
    def _names_and_ports_differ(self) -> Environment:
        for domain in self.domains:
            if self.domains.count(domain) > 1:
                raise ValueError(f"domains: {domain} is there twice. Remove one")
        if self.tls.certificate == "acme":
            for domain in self.domains:
                if "." not in domain or re.fullmatch(r"[0-9.]+", domain):
                    raise ValueError(
                        f"domains: no authority gives a certificate for {domain}. Remove it, or set tls.certificate: local-ca"
                    )
        if self.tls.certificate != "off" and self.http_port == self.https_port:
            raise ValueError(f"https_port: {self.https_port} is http_port, too. Give one of them another number")
        return self


def cache_size(environment: Environment, apps: list[App]) -> int:
    """Bytes that the edge keeps of paths with `cache`, an eighth of its memory; 0 where no path has it."""
    kept = any(path.cache for app in apps for path in app.paths.values())
    return size_bytes(environment.edge.memory) // 8 if kept else 0


STACK_VARIABLES = frozenset({"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "SCRIPT_NAME"})
"""Environment variables that an app cannot set: its image or its gateway's command does."""

STACK_PATHS = frozenset({"/app", "/dev/shm", "/gateway", "/run/secrets", "/tmp", "/venv"})
"""Where an app's container has something already."""

RESERVED_NAMES = frozenset({"acme", "edge", "load", "localhost"})
"""Service names an app cannot take: the stack has its own under them."""

PLACEHOLDERS = re.compile(r"^\s*(change.?me|changethis|secret|password|todo|xxx+|placeholder|<.*>)?\s*$", re.IGNORECASE)
"""Values a secret is not: what examples put there to be replaced."""
