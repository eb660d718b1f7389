"""Bad input ends in sentences: which file, line and key, what is allowed, and what was probably meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stack.cli import cli
from stack.gateways import GATEWAYS
from stack.load import unplaced
from stack.model import App, Environment, Process, Timeouts
from stack.model import Path as UrlBehaviour
from tests.conftest import new_checkout
from tests.pure.conftest import ASGI, LOCAL, WSGI, Draft

APP_KEYS = ", ".join(App.model_fields)
ENVIRONMENT_KEYS = ", ".join(Environment.model_fields)
TIMEOUT_KEYS = ", ".join(Timeouts.model_fields)
NAME = "small letters, digits and -, at most 32, a letter first, such as worker-2"
SIZE = "a whole number and K, M or G, such as 512M"
URL_PATH = "a path of letters, digits, - . _ ~ that starts with /, such as /api/v2"
VARIABLE = "letters, digits and _, not a digit first, such as API_KEY"
HOST = "small letters, digits, - and dots, such as shop.example.com"
*FIRST, LAST = GATEWAYS
GATEWAY_NAMES = f"{', '.join(FIRST)} or {LAST}"
WSGI_NAMES = ", ".join(name for name, gateway in GATEWAYS.items() if gateway.interface == "wsgi")

# The app.yml of each begins with two good lines, so that what is wrong stands in line 3.
ONE_WRONG_SETTING = {
    # --- a key nobody knows, at every depth
    "memroy: 1G": f"memroy: unknown key. Did you mean 'memory'? Allowed: {APP_KEYS}",
    "kubernetes: {}": f"kubernetes: unknown key. Allowed: {APP_KEYS}",
    "1: 2": f"1: unknown key. Allowed: {APP_KEYS}",
    "null: 2": f"null: unknown key. Allowed: {APP_KEYS}",
    "timeouts: {requests: 30}": f"timeouts.requests: unknown key. Did you mean 'request'? Allowed: {TIMEOUT_KEYS}",
    "paths: {/x: {streem: true}}": "paths./x.streem: unknown key. Did you mean 'stream'? "
    f"Allowed: {', '.join(UrlBehaviour.model_fields)}",
    "processes: {w: {command: [a], cpu: 1}}": "processes.w.cpu: unknown key. Did you mean 'cpus'? "
    f"Allowed: {', '.join(Process.model_fields)}",
    # --- a word that is not one of the few
    "gateway: gunicorn": "gateway: 'gunicorn' is not one of these. Did you mean 'gunicorn-sync'? "
    f"Allowed: {GATEWAY_NAMES}",
    "gateway: Tomcat": f"gateway: 'Tomcat' is not one of these. Allowed: {GATEWAY_NAMES}",
    "gateway: [uvicorn]": "gateway: [\"uvicorn\"] is not one of these. Did you mean 'uvicorn'? "
    f"Allowed: {GATEWAY_NAMES}",
    "contract: Full": "contract: 'Full' is not one of these. Did you mean 'full'? Allowed: full or health",
    # --- another kind of value
    "cpus: two": "cpus: should be a number, not 'two'. CPUs each replica may use at most.",
    "cpus: true": "cpus: should be a number, not true. CPUs each replica may use at most.",
    "cpus: null": "cpus: should be a number, not null. CPUs each replica may use at most.",
    "cpus: -1": "cpus: should be greater than 0, not -1. CPUs each replica may use at most.",
    "cpus: .nan": "cpus: should be less than or equal to 256, not NaN. CPUs each replica may use at most.",
    "cpus: 1e400": "cpus: should be less than or equal to 256, not Infinity. CPUs each replica may use at most.",
    "replicas: 2.5": "replicas: should be a whole number, not 2.5. Containers of this app.",
    "replicas: '2'": "replicas: should be a whole number, not '2'. Containers of this app.",
    "workers: many": "workers: should be a whole number, or auto, not 'many'. Worker processes in each replica.",
    "workers: 0": "workers: should be greater than or equal to 1, or auto, not 0. Worker processes in each replica.",
    "workers: 99999999999999999999": "workers: should be less than or equal to 256, or auto, not 99999999999999999999. "
    "Worker processes in each replica.",
    "egress: yes": "egress: should be true or false, not 'yes'. May open connections to the outside.",
    "secrets: TOKEN": "secrets: should be a list, not 'TOKEN'. Names of secrets.",
    "timeouts: 30": "timeouts: should be a mapping of keys to values, not 30.",
    "timeouts: {request: 30s}": "timeouts.request: should be a number, not '30s'. "
    "Seconds: Nginx waits this long for the gateway to send something, then answers 504.",
    "timeouts: {gateway: 2.5}": "timeouts.gateway: should be a whole number, not 2.5. "
    "Seconds: A worker busy for longer is killed and replaced, where the gateway can do that (gunicorn-sync); "
    "elsewhere it is a heartbeat that one slow request does not miss.",
    "paths: {/ws: yes}": "paths./ws: should be a mapping of keys to values, not 'yes'. "
    "Paths below the app's prefix that need other HTTP behaviour: `/ws: {websocket: true}`.",
    "env: [A=b]": 'env: should be a mapping of keys to values, not ["A=b"]. Plain environment variables.',
    "env: {A: {b: c}}": 'env.A: should be text, not {"b": "c"}. Plain environment variables.',
    "env: {SINCE: 2020-01-01}": 'env.SINCE: should be text, not "2020-01-01": put it in quotes. '
    "Plain environment variables.",
    "processes: {w: {command: [sleep, 1]}}": "processes.w.command.1: should be text, not 1: put it in quotes. "
    "The program and its arguments, as a list; no shell reads it.",
    "processes: {w: {command: []}}": "processes.w.command: should not be empty. "
    "The program and its arguments, as a list; no shell reads it.",
    "processes: {w: {}}": "processes.w.command: missing, and it has no default. "
    "The program and its arguments, as a list; no shell reads it.",
    # --- text of another form
    "memory: 512": f"memory: 512 does not fit. Allowed: {SIZE}",
    "memory: 512MB": f"memory: '512MB' does not fit. Allowed: {SIZE}",
    "body_limit: 1m": f"body_limit: '1m' does not fit. Allowed: {SIZE}",
    "paths: {/up: {body_limit: big}}": f"paths./up.body_limit: 'big' does not fit. Allowed: {SIZE}",
    "route: shop": f"route: 'shop' does not fit. Allowed: {URL_PATH}",
    "route: /../etc": f"route: '/../etc' does not fit. Allowed: {URL_PATH}",
    "memory: 99999999999G": f"memory: '99999999999G' does not fit. Allowed: {SIZE}",
    "volumes: {media: /srv/../etc}": "volumes.media: '/srv/../etc' does not fit. "
    "Allowed: an absolute path of letters, digits, - . _ such as /var/data",
    "route: /café": f"route: '/café' does not fit. Allowed: {URL_PATH}",
    "health: /healthz?deep=1": f"health: '/healthz?deep=1' does not fit. Allowed: {URL_PATH}",
    "paths: {ws: {}}": f"paths.ws: 'ws' does not fit. Allowed: {URL_PATH}",
    "host: Shop.example.com": f"host: 'Shop.example.com' does not fit. Allowed: {HOST}",
    "env: {A-B: c}": f"env.A-B: 'A-B' does not fit. Allowed: {VARIABLE}",
    "secrets: [TOKEN, api-key]": f"secrets.1: 'api-key' does not fit. Allowed: {VARIABLE}",
    "volumes: {Media: /media}": f"volumes.Media: 'Media' does not fit. Allowed: {NAME}",
    "volumes: {media: media}": "volumes.media: 'media' does not fit. "
    "Allowed: an absolute path of letters, digits, - . _ such as /var/data",
    "processes: {Mail_1: {command: [a]}}": f"processes.Mail_1: 'Mail_1' does not fit. Allowed: {NAME}",
    "packages: [libpq5, 'x; reboot']": "packages.1: 'x; reboot' does not fit. "
    "Allowed: the name of a Debian package, such as libpq5",
    # --- settings that do not go together
    "gateway: uvicorn": f"gateway: uvicorn serves asgi apps and this one is wsgi. Allowed: {WSGI_NAMES}",
    "paths: {/big.iso: {cache: immutable, stream: true}}": "paths./big.iso.cache: what is kept is neither streamed nor a WebSocket. Remove one",
    "paths: {/static: {cache: revalidate}}": "paths./static.cache: would hold for every URL that starts so, "
    "/static-of-mine as well. Write /static/",
    "paths: {/static/: {cache: yes}}": "paths./static/.cache: 'yes' is not one of these. Allowed: revalidate or immutable",
    "paths: {/ws.v1: {websocket: true}}": "paths./ws.v1.websocket: a WSGI app cannot speak WebSocket. "
    "Remove the key, or make it an asgi app",
    "worker_memory: 1G": "worker_memory: memory 512M does not hold one worker of worker_memory 1G "
    "(workers may fill 80% of it). Raise memory or lower worker_memory",
    "secrets: [TOKEN, KEY, TOKEN]": "secrets: TOKEN is there twice. Remove one",
    "env: {TOKEN_FILE: /x}\nsecrets: [TOKEN]": "env.TOKEN_FILE: says where the secret TOKEN is, "
    "and is set by the stack. Remove it",
    "volumes: {a: /data, b: /data}": "volumes.a: something is mounted at /data already. Choose another path",
    "volumes: {a: /tmp}": "volumes.a: something is mounted at /tmp already. Choose another path",
    "host: localhost": "host: localhost is one of the environment's domains, which apps share by path. "
    "Remove the key and set route",
}


@pytest.mark.parametrize(("line", "problem"), ONE_WRONG_SETTING.items(), ids=list(ONE_WRONG_SETTING))
def test_a_wrong_setting_is_one_problem_with_its_line_and_its_cure(draft: Draft, line: str, problem: str) -> None:
    draft.app(WSGI + line + "\n")
    assert draft.problems() == [f"apps/shop/app.yml:3: {problem}"]


def test_an_asgi_app_cannot_be_preloaded_by_uvicorn(draft: Draft) -> None:
    draft.app(ASGI + "preload: true\n")
    assert draft.problems() == [
        "apps/shop/app.yml:3: preload: uvicorn cannot load the code before it starts workers. "
        "Remove the key, or choose gunicorn-asgi"
    ]


@pytest.mark.parametrize("interface", [WSGI, ASGI])
def test_granian_recycles_no_workers(draft: Draft, interface: str) -> None:
    name = "granian-wsgi" if interface == WSGI else "granian-asgi"
    draft.app(interface + f"gateway: {name}\nmax_requests: 1000\n")
    (problem,) = draft.problems()
    assert problem.startswith(
        f"apps/shop/app.yml:4: max_requests: {name} replaces no worker after a number of requests."
    )
    assert ("gunicorn-gthread" if interface == WSGI else "gunicorn-asgi or uvicorn") in problem


ONE_WRONG_ENTRY = {
    "shop:app": "no module 'shop' in apps/shop/. Write module:attribute, for example app:app",
    "ap:app": "no module 'ap' in apps/shop/. Did you mean 'app'? Write module:attribute, for example app:app",
    "app": "'app' does not fit. `module:attribute` of the application object, as every gateway writes it: app:app.",
}


@pytest.mark.parametrize(("entry", "problem"), ONE_WRONG_ENTRY.items())
def test_an_entry_names_a_module_that_is_there(draft: Draft, entry: str, problem: str) -> None:
    draft.app(f"interface: wsgi\nentry: {entry}\n")
    assert draft.problems() == [f"apps/shop/app.yml:2: entry: {problem}"]


ONE_WRONG_ENVIRONMENT_SETTING = {
    "engine: docker": "engine: 'docker' is not one of these. Allowed: compose or swarm",
    "domain: x": f"domain: unknown key. Did you mean 'domains'? Allowed: {ENVIRONMENT_KEYS}",
    "tls: {certifcate: a}": "tls.certifcate: unknown key. Did you mean 'certificate'? "
    "Allowed: certificate, key, acme, profile, http3, redirect, hsts",
    "tls: {certificate: a.pem}": "tls.key: a certificate file and its key go together. "
    "Allowed: certificate: local-ca | acme | off, or both paths",
    "tls: {acme: {email: a@example.com}}": "tls.acme: means nothing without certificate: acme. Remove it, or set that",
    "tls: {certificate: off, http3: true}": "tls.http3: there is none without HTTPS. Remove it, or set certificate",
    "tls: off": "tls: should be a mapping of keys to values, not 'off'.",
    "edge: {timeouts: {resolver: 1}}": "edge.timeouts.resolver: unknown key. Did you mean 'resolver_valid'? "
    "Allowed: upstream_keep_alive, resolver_valid, leave",
    "http_port: 70000": "http_port: should be less than or equal to 65535, not 70000. Published port of plain HTTP.",
    "bind: localhost": "bind: 'localhost' is no IP address. "
    "Allowed: 127.0.0.1, 0.0.0.0 or another address of this machine",
    "bind: 999.0.0.1": "bind: '999.0.0.1' is no IP address. "
    "Allowed: 127.0.0.1, 0.0.0.0 or another address of this machine",
    "https_port: 80": "https_port: 80 is http_port, too. Give one of them another number",
    "edge: {timeouts: {resolver_valid: 0.5}}": "edge.timeouts.resolver_valid: should be a whole number, not 0.5. "
    "Seconds: Nginx asks the engine's DNS again after this: below the 2 s that Swarm waits between taking a stopping "
    "task out of DNS and sending it SIGTERM.",
    "name: Gate House": f"name: 'Gate House' does not fit. Allowed: {NAME}",
    # --- one app's own settings here
    "apps: {shp: {replicas: 2}}": "apps.shp: no such app. Did you mean 'shop'?",
    "apps: {shop: 3}": "apps.shop: should be a mapping of keys to values, not 3. "
    "Per app, keys of its app.yml that differ here: `shop: {replicas: 3}`.",
    "apps: {shop: {replica: 2}}": f"apps.shop.replica: unknown key. Did you mean 'replicas'? Allowed: {APP_KEYS}",
    "apps: {shop: {timeouts: {reqest: 3}}}": "apps.shop.timeouts.reqest: unknown key. Did you mean 'request'? "
    f"Allowed: {TIMEOUT_KEYS}",
    "apps: {shop: {paths: {/x: {streem: true}}}}": "apps.shop.paths./x.streem: unknown key. Did you mean 'stream'? "
    f"Allowed: {', '.join(UrlBehaviour.model_fields)}",
    "apps: {shop: {replicas: two}}": "apps.shop.replicas: should be a whole number, not 'two'. Containers of this app.",
    "apps: {shop: {gateway: uvicorn}}": "apps.shop.gateway: uvicorn serves asgi apps and this one is wsgi. "
    f"Allowed: {WSGI_NAMES}",
    "apps: {shop: {entry: other:app}}": "apps.shop.entry: no module 'other' in apps/shop/. "
    "Write module:attribute, for example app:app",
    "apps: {shop: {memory: 64M}}": "apps.shop.memory: memory 64M does not hold one worker of worker_memory 96M "
    "(workers may fill 80% of it). Raise memory or lower worker_memory",
    "apps: {shop: {host: localhost}}": "apps.shop.host: localhost is one of the environment's domains, "
    "which apps share by path. Remove the key and set route",
    "apps: {shop: {timeouts: {graceful: 20}}}": "apps.shop.timeouts.graceful: a deploy cuts requests 20 s after "
    "SIGTERM, but a request may take 30 s (timeouts.request). Set it to at least 30",
}


@pytest.mark.parametrize(
    ("line", "problem"), ONE_WRONG_ENVIRONMENT_SETTING.items(), ids=list(ONE_WRONG_ENVIRONMENT_SETTING)
)
def test_a_wrong_setting_of_an_environment_is_one_problem_there(draft: Draft, line: str, problem: str) -> None:
    draft.environment(f"domains: [localhost]\n\n{line}\n")
    assert draft.problems() == [f"environments/local.yml:3: {problem}"]


def test_a_domain_that_is_there_twice_is_told(draft: Draft) -> None:
    draft.environment("domains: [localhost, edge, localhost]\n")
    assert draft.problems() == ["environments/local.yml:1: domains: localhost is there twice. Remove one"]


def test_a_domain_of_another_form_is_named_by_its_place(draft: Draft) -> None:
    draft.environment("domains:\n  - localhost\n  - '*.example.com'\n")
    assert draft.problems() == [f"environments/local.yml:3: domains.1: '*.example.com' does not fit. Allowed: {HOST}"]


UNREADABLE = {
    "a duplicate key": (
        b"entry: other:app",
        ':3: not valid YAML: while constructing a mapping found duplicate key "entry" '
        'with value "other:app" (original value: "app:app")',
    ),
    "a bracket left open": (b"env: {A: b", ":3: not valid YAML: while parsing a flow mapping expected ',' or '}', "),
    "a tab for indentation": (b"env:\n\tA: b", ":4: not valid YAML: while scanning for the next token found character"),
    "an alias of nothing": (b"env: *none", ":3: not valid YAML: found undefined alias 'none'"),
    "two documents": (b"---\na: b", ":3: not valid YAML: expected a single document in the stream but found another"),
    "a control character": (b'env: {A: "\x07"}', ":3: not valid YAML: the character U+0007 may not stand in it"),
    "a date that is none": (b"env: {A: 2020-13-45}", ": not valid YAML: month must be in 1..12"),
    "a tag that does not fit": (b"cpus: !!int two", ": not valid YAML: invalid literal for int()"),
    "Latin-1": ("# Café".encode("latin-1"), ":3: not UTF-8 text: unexpected end of data"),
}


@pytest.mark.parametrize(("content", "problem"), UNREADABLE.values(), ids=list(UNREADABLE))
@pytest.mark.parametrize("file", ["apps/shop/app.yml", "environments/local.yml"])
def test_a_file_that_is_no_yaml_is_one_problem(draft: Draft, file: str, content: bytes, problem: str) -> None:
    path = draft.root / file
    path.write_bytes(b"entry: app:app\ninterface: wsgi\n" + content)
    (said,) = draft.problems()
    assert said.startswith(f"{file}{problem}")


@pytest.mark.parametrize("content", ["- interface: wsgi", "wsgi", "3"])
def test_an_app_file_is_a_mapping(draft: Draft, content: str) -> None:
    draft.app(content)
    assert draft.problems() == ["apps/shop/app.yml: must be a mapping of keys to values"]


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "---\n", "null\n", "{}\n"])
def test_an_empty_app_file_lacks_what_has_no_default(draft: Draft, content: str) -> None:
    draft.app(content)
    assert draft.problems() == [
        "apps/shop/app.yml: interface: missing, and it has no default. "
        "What the app speaks: wsgi (Flask, Django, ...) or asgi (FastAPI, Starlette, ...).",
        "apps/shop/app.yml: entry: missing, and it has no default. "
        "`module:attribute` of the application object, as every gateway writes it: app:app.",
    ]


def test_an_empty_environment_lacks_its_domains(draft: Draft) -> None:
    draft.environment("")
    assert draft.problems() == [
        "environments/local.yml: domains: missing, and it has no default. "
        "Host names of the site, the canonical one first."
    ]


@pytest.mark.parametrize("written", ["\ufeff" + WSGI, WSGI.replace("\n", "\r\n"), "%YAML 1.2\n---\n" + WSGI])
def test_what_editors_of_other_systems_write_is_read(draft: Draft, written: str) -> None:
    draft.app(written)
    assert draft.plan().app.entry == "app:app"


def test_anchors_and_merges_are_read_and_their_problems_told(draft: Draft) -> None:
    draft.app(WSGI + "env: &shared {A: b}\nprocesses: {w: {command: [a], <<: *shared}}\n")
    assert draft.problems() == [
        "apps/shop/app.yml:4: processes.w.A: unknown key. Allowed: command, cpus, memory, stop_grace"
    ]


def test_all_problems_are_told_at_once(draft: Draft) -> None:
    draft.app(WSGI + "cpus: x\nmemroy: 1G\nworkers: -1\n")
    draft.app("interface: [", "blog")
    draft.app(WSGI, "news", lock=False)
    draft.app(WSGI, "Old")
    draft.environment(LOCAL + "http_port: 0\napps:\n  shop: {treads: 2}\n  wiki: {cpus: 1}\n")
    said = [problem.partition(" ")[0] + problem.split(": ")[1] for problem in draft.problems()]
    assert sorted(said) == sorted(
        [
            "environments/local.yml:3:http_port",
            "environments/local.yml:5:apps.shop.treads",
            "environments/local.yml:6:apps.wiki",
            "apps/shop/app.yml:3:cpus",
            "apps/shop/app.yml:4:memroy",
            "apps/shop/app.yml:5:workers",
            "apps/blog/app.yml:1:not valid YAML",
            "apps/news/app.yml:no requirements.txt beside it",
            "apps/Old/app.yml:an app's folder is its host name in the stack. Allowed",
        ]
    )


# --- what apps share --------------------------------------------------------------------------------------------------


def test_two_apps_cannot_have_one_route(draft: Draft) -> None:
    draft.app(WSGI + "route: /shop/\n", "store")
    assert draft.problems() == [
        "apps/store/app.yml:3: route: /shop is already the route of apps/shop. "
        "Give one of them another `route` or `host`"
    ]


def test_two_apps_cannot_have_one_host(draft: Draft) -> None:
    for name in ("one", "two"):
        draft.app(WSGI + "host: shop.example.com\n", name)
    assert draft.problems() == [
        "apps/two/app.yml: route: shop.example.com/ is already the route of apps/one. "
        "Give one of them another `route` or `host`"
    ]


def test_two_apps_share_a_host_by_path(draft: Draft) -> None:
    draft.app(WSGI + "host: shop.example.com\n", "one")
    draft.app(WSGI + "host: shop.example.com\nroute: /two\n", "two")
    site = draft.load()
    assert [(plan.host, plan.prefix) for plan in site.apps.values()] == [
        ("shop.example.com", ""),
        (None, "/shop"),
        ("shop.example.com", "/two"),
    ]


def test_a_process_cannot_take_the_service_name_of_an_app(draft: Draft) -> None:
    draft.app(WSGI + "processes: {worker: {command: [a]}}\n")
    draft.app(WSGI, "shop-worker")
    assert draft.problems() == [
        "apps/shop/app.yml:3: processes.worker: its service would be called shop-worker, which is already one. Rename it"
    ]


def test_two_processes_cannot_have_one_service_name(draft: Draft) -> None:
    draft.app(WSGI + "processes: {mail-queue: {command: [a]}}\n")
    draft.app(WSGI + "processes: {queue: {command: [a]}}\n", "shop-mail")
    assert draft.problems() == [
        "apps/shop-mail/app.yml:3: processes.queue: its service would be called shop-mail-queue, "
        "which is already one. Rename it"
    ]


def test_a_path_of_one_app_cannot_be_the_route_of_another(draft: Draft) -> None:
    draft.app(WSGI + "route: /\npaths: {/shop/: {}}\n", "home")
    draft.app(WSGI + "route: /home/api\n", "api")
    draft.app(WSGI + "paths: {/api/: {}}\nroute: /home\n", "zone")
    assert draft.problems() == [
        "apps/shop/app.yml: route: /shop/ belongs to apps/home already. Change one of them",
        "apps/zone/app.yml:3: paths./api/: /home/api/ belongs to apps/api already. Change one of them",
    ]


def test_apps_may_lie_within_one_another(draft: Draft) -> None:
    draft.app(WSGI + "route: /\npaths: {/shop: {}, /static/: {}}\n", "home")
    draft.app(WSGI + "route: /shop/admin\n", "admin")
    draft.app(WSGI + "host: shop.example.com\npaths: {/static/: {}}\n", "store")
    assert draft.problems() == []


def test_the_edge_keeps_its_own_path(draft: Draft) -> None:
    draft.app(WSGI + "route: /_gatehouse\n", "one")
    draft.app(WSGI + "route: /\npaths: {/_gatehouse/error: {}}\n", "two")
    assert draft.problems() == [
        "apps/one/app.yml:3: route: /_gatehouse/ is the edge's own (its error pages). Choose another",
        "apps/two/app.yml:4: paths./_gatehouse/error: /_gatehouse/error is the edge's own (its error pages). "
        "Choose another",
    ]


def test_two_apps_never_share_a_volume_by_accident(draft: Draft) -> None:
    draft.app(WSGI + "volumes: {mail-queue: /queue}\n")
    draft.app(WSGI + "volumes: {queue: /queue}\n", "shop-mail")
    assert draft.problems() == [
        "apps/shop-mail/app.yml:3: volumes.queue: it would be called shop-mail-queue, "
        "which is already a volume of apps/shop. Rename it"
    ]


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Shop", "my_shop", "2shop", ".shop", "s" * 33, "läden", "shop\n", "shop-"])
def test_a_folder_that_is_no_host_name_is_no_app(draft: Draft, name: str) -> None:
    draft.app(name=name)
    assert draft.problems() == [
        f"apps/{name}/app.yml: an app's folder is its host name in the stack. "
        f"Allowed: small letters, digits and -, at most 32, starting with a letter and not ending with -; not {name!r}"
    ]


@pytest.mark.parametrize("name", ["edge", "load", "localhost"])
def test_the_stacks_own_service_names_are_taken(draft: Draft, name: str) -> None:
    draft.app(name=name)
    assert draft.problems() == [
        f"apps/{name}/app.yml: the name '{name}' is taken by the stack itself. Rename the folder"
    ]


def test_a_folder_without_an_app_file_is_no_app(draft: Draft) -> None:
    (draft.root / "apps/notes").mkdir()
    assert list(draft.load().apps) == ["shop"]


def test_a_file_with_the_long_suffix_is_not_passed_over(draft: Draft) -> None:
    (draft.app(name="blog") / "app.yml").rename(draft.root / "apps/blog/app.yaml")
    (draft.root / "environments/prod.yaml").touch()
    assert draft.problems() == [
        "apps/blog/app.yaml: nothing reads this name. Rename it to app.yml",
        "environments/prod.yaml: nothing reads this name. Rename it to prod.yml",
    ]


def test_a_folder_in_the_place_of_the_app_file_is_told(draft: Draft) -> None:
    (draft.app(name="blog") / "app.yml").unlink()
    (draft.root / "apps/blog/app.yml").mkdir()
    assert draft.problems() == ["apps/blog/app.yml: cannot be read: Is a directory"]


def test_a_site_has_an_app(tmp_path: Path) -> None:
    draft = Draft(tmp_path)
    draft.environment()
    assert draft.problems() == ["apps/: no app here: an app is a folder with an app.yml"]


def test_an_app_has_a_lock(draft: Draft) -> None:
    draft.app(name="blog", lock=False)
    assert draft.problems() == [
        "apps/blog/app.yml: no requirements.txt beside it: "
        "list the app's packages in apps/blog/requirements.in and type: make lock"
    ]


@pytest.mark.parametrize(
    ("env", "hint"), [("locl", " Did you mean 'local'?"), ("LOCAL", " Did you mean 'local'?"), ("hosts", ""), ("", "")]
)
def test_an_unknown_environment_names_those_there_are(draft: Draft, env: str, hint: str) -> None:
    draft.environment(name="production")
    assert draft.problems(env) == [f"environments/{env}.yml: no such environment.{hint} Allowed: local, production"]


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_value_has_three_layers_and_says_which_it_came_from(draft: Draft) -> None:
    draft.app(WSGI + "workers: 4\nthreads: 2\n")
    draft.environment(LOCAL + "apps: {shop: {workers: 6}}\n")
    plan = draft.plan()
    assert (plan.app.replicas, plan.app.threads, plan.app.workers) == (1, 2, 6)
    assert plan.origins == {
        "interface": "apps/shop/app.yml",
        "entry": "apps/shop/app.yml",
        "threads": "apps/shop/app.yml",
        "workers": "environments/local.yml",
    }


def test_an_environment_replaces_the_whole_value(draft: Draft) -> None:
    draft.app(WSGI + "env: {A: one, B: two}\ntimeouts: {request: 20, ping: 5}\n")
    draft.environment(LOCAL + "apps: {shop: {env: {B: three}, timeouts: {request: 10}}}\n")
    plan = draft.plan()
    assert plan.app.env == {"B": "three"}
    assert plan.app.timeouts == Timeouts(request=10)
    assert {key: file for key, file in plan.origins.items() if key.startswith(("env", "timeouts"))} == {
        "env.B": "environments/local.yml",
        "timeouts.request": "environments/local.yml",
    }


def test_an_override_holds_in_its_own_environment_only(draft: Draft) -> None:
    draft.environment(LOCAL + "apps: {shop: {replicas: 3}}\n", "busy")
    assert draft.load("busy").apps["shop"].app.replicas == 3
    assert draft.load("local").apps["shop"].app.replicas == 1


def test_an_environment_can_make_a_good_app_bad_but_not_hide_what_is_wrong_with_it(draft: Draft) -> None:
    draft.app(WSGI + "replicas: many\n")
    draft.environment(LOCAL + "apps: {shop: {replicas: 3, workers: few}}\n")
    assert draft.problems() == [
        "apps/shop/app.yml:3: replicas: should be a whole number, not 'many'. Containers of this app.",
        "environments/local.yml:3: apps.shop.workers: should be a whole number, or auto, not 'few'. "
        "Worker processes in each replica.",
    ]


def test_numbers_and_switches_become_the_text_of_environment_variables(draft: Draft) -> None:
    draft.app(WSGI + "env: {DEBUG: false, PORT: 8000, RATE: '0.50', ANSWER: yes, EMPTY: '', SIGN: 😀}\n")
    assert draft.plan().app.env == {
        "DEBUG": "false",
        "PORT": "8000",
        "RATE": "0.50",
        "ANSWER": "yes",
        "EMPTY": "",
        "SIGN": "😀",
    }


def test_a_number_with_a_point_needs_quotes(draft: Draft) -> None:
    draft.app(WSGI + "env: {VERSION: 3.10}\n")
    (problem,) = draft.problems()
    assert "needs quotes, else 3.10 would arrive as 3.1" in str(problem)


@pytest.mark.parametrize("name", ["PATH", "GATEHOUSE_RELEASE", "SCRIPT_NAME"])
def test_what_the_stack_sets_cannot_be_set_by_an_app(draft: Draft, name: str) -> None:
    draft.app(WSGI + f"env: {{{name}: x}}\n")
    (problem,) = draft.problems()
    assert f"env.{name}: is set by the stack or the image. Remove it" in str(problem)


@pytest.mark.parametrize(
    ("settings", "module"),
    [("", "src/shop/web.py"), ("env: {PYTHONPATH: /app/lib:/app/code/src}\n", "code/src/shop/web.py")],
)
def test_the_code_may_be_where_python_looks_besides(draft: Draft, settings: str, module: str) -> None:
    folder = draft.app("interface: wsgi\nentry: shop.web:app\n" + settings)
    assert "no module 'shop' in apps/shop/" in "".join(draft.problems())
    (folder / module).parent.mkdir(parents=True)
    (folder / module).touch()
    assert draft.problems() == []


def test_an_app_with_a_dockerfile_of_its_own_says_there_what_it_needs(draft: Draft) -> None:
    folder = draft.app("interface: wsgi\nentry: elsewhere:app\n", lock=False)
    (folder / "requirements.txt").unlink()
    assert len(draft.problems()) == 2
    (folder / "Dockerfile").touch()
    assert draft.problems() == []


@pytest.mark.parametrize(
    "more", ["env: {TOKEN: x}\nsecrets: [TOKEN]\n", "secrets: [PATH]\n", "secrets: [GATEHOUSE_APP]\n"]
)
def test_a_secret_in_the_environment_replaces_nothing(draft: Draft, more: str) -> None:
    draft.app(WSGI + more)
    assert draft.problems() == []
    draft.app(WSGI + more + "secrets_as_env: true\n")
    (problem,) = draft.problems()
    assert "secrets_as_env: there is a variable" in problem


def test_a_body_must_fit_the_edges_place_for_bodies(draft: Draft) -> None:
    draft.app(WSGI + "body_limit: 300M\npaths: {/big: {body_limit: 400M}, /streamed: {body_limit: 4G, stream: true}}\n")
    found = "\n".join(map(str, draft.problems()))
    assert "body_limit: 300M does not fit the edge's place for bodies, half of its memory of 512M" in found
    assert "paths./big.body_limit: 400M does not fit" in found
    assert "/streamed" not in found


def test_what_the_edge_keeps_takes_from_the_place_for_bodies(draft: Draft) -> None:
    draft.app(WSGI + "body_limit: 193M\n")
    assert draft.problems() == []
    draft.app(WSGI + "body_limit: 193M\npaths: {/static/: {cache: revalidate}}\n")
    (found,) = draft.problems()
    assert "three eighths (`cache` takes one) of its memory of 512M" in found
    draft.app(WSGI + "body_limit: 192M\npaths: {/static/: {cache: revalidate}}\n")
    assert draft.problems() == []


# --- the verbs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["check", "show", "render", "up", "ps"])
def test_verbs_refuse_bad_input_with_exit_2(draft: Draft, verb: str) -> None:
    draft.app(WSGI + "memroy: 1G\nworkers: few\n")
    done = CliRunner().invoke(cli, [verb, "--root", str(draft.root)])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"error: apps/shop/app.yml:3: memroy: unknown key. Did you mean 'memory'? Allowed: {APP_KEYS}",
        "error: apps/shop/app.yml:4: workers: should be a whole number, or auto, not 'few'. "
        "Worker processes in each replica.",
        "2 problems; nothing was started or changed. Every setting: docs/settings.md",
    ]
    assert done.stdout == ""


def test_after_bad_input_nothing_was_started_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = new_checkout(tmp_path / "site", "gatehouse-pure", 18180, 18543, ["flask"])
    checkout.app_yml("flask").write_text("interface: wsgi\n")
    calls = tmp_path / "calls"
    for tool in ("docker", "sudo"):
        fake = tmp_path / "bin" / tool
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f"#!/bin/sh\necho {tool} >> {calls}\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = checkout.run("up", check=False)
    assert done.returncode == 2
    assert "1 problem; nothing was started or changed." in done.stdout
    assert not calls.exists()
    assert sorted(path.name for path in checkout.root.iterdir()) == ["apps", "environments"]


def test_text_of_the_user_is_shown_as_it_is(draft: Draft) -> None:
    draft.app(WSGI + "'[bold]': 1\n")
    done = CliRunner().invoke(cli, ["check", "--root", str(draft.root)])
    assert "apps/shop/app.yml:3: [bold]: unknown key." in done.stderr


def test_a_good_site_passes(draft: Draft) -> None:
    done = CliRunner().invoke(cli, ["check", "--root", str(draft.root)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "no problem found" in done.stdout


def test_a_release_commands_job_has_a_name_of_its_own(draft: Draft) -> None:
    draft.app(WSGI + "release_command: [python, migrate.py]\n")
    draft.app(name="shop-release")
    assert any("its job would be called shop-release, which is already an app" in said for said in draft.problems())


@pytest.mark.parametrize(
    ("placement", "hosts", "sentence"),
    [
        ("", "ab", "may run on any of a, b"),
        ("", "a", None),  # the only one
        ("placement: {disk: ssd}\n", "ab", None),
        ("placement: {rack: one}\n", "ab", "may run on any of a, b"),
        ("placement: {disk: tape}\n", "ab", "may run on no host"),
        ("placement: {disk: ssd}\n", "b", "may run on no host"),
    ],
)
def test_an_app_with_a_volume_belongs_to_one_host(
    draft: Draft, placement: str, hosts: str, sentence: str | None
) -> None:
    draft.app(WSGI + "volumes: {media: /media}\n" + placement)
    labels = {"a": {"rack": "one", "disk": "ssd"}, "b": {"rack": "one"}}
    said = [said for _, said in unplaced(draft.load(), {name: labels[name] for name in hosts})]
    if sentence is None:
        assert said == []
    else:
        assert len(said) == 1
        assert sentence in said[0]
