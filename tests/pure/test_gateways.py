"""The exact argument list of every gateway: a changed flag is a changed line here."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from stack.gateways import DEFAULT, GATEWAYS, TRUSTED_PROXIES, notes
from tests.conftest import REPOSITORY
from tests.pure.conftest import app

LISTEN = "0.0.0.0:8000"
GUNICORN = [
    "--bind", LISTEN,
    "--timeout", "25",
    "--graceful-timeout", "30",
    "--keep-alive", "75",
    "--max-requests", "0",
    "--max-requests-jitter", "0",
    "--forwarded-allow-ips", TRUSTED_PROXIES,
    "--forwarder-headers", "",
    "--limit-request-line", "8190",
    "--limit-request-fields", "128",
    "--limit-request-field_size", "16380",
    "--worker-tmp-dir", "/dev/shm",
    "--no-control-socket",
    "--log-level", "info",
]  # fmt: skip
UVICORN = [
    "--host", "0.0.0.0", "--port", "8000",
    "--workers", "2",
    "--loop", "uvloop", "--http", "httptools",
    "--timeout-keep-alive", "75",
    "--timeout-graceful-shutdown", "30",
    "--timeout-worker-healthcheck", "30",
    "--proxy-headers", "--forwarded-allow-ips", TRUSTED_PROXIES,
    "--ws-ping-interval", "20",
    "--ws-max-size", "1048576",
    "--no-access-log", "--no-server-header",
    "--log-level", "info",
]  # fmt: skip


GRANIAN = [
    "--http", "1", "--loop", "uvloop",
    "--backlog", "2048",
    "--backpressure", "65536",
    "--http1-header-read-timeout", "75000",
    "--workers-kill-timeout", "30",
    "--respawn-failed-workers",
    "--forwarded-allow-ips", TRUSTED_PROXIES,
    "--no-access-log",
    "--log-level", "info",
]  # fmt: skip
UWSGI = [
    "--master", "--need-app", "--no-orphans",
    "--workers", "2", "--threads", "8", "--enable-threads",
    "--thunder-lock",
    "--add-header", "Connection: close",
    "--socket-timeout", "30",
    "--buffer-size", "65535",
    "--hook-master-start", "unix_signal:15 gracefully_kill_them_all",
    "--worker-reload-mercy", "30",
    "--disable-logging",
]  # fmt: skip


def command(gateway: str, prefix: str = "", **settings: object) -> list[str]:
    known = GATEWAYS[gateway]
    return known.command(app(interface=known.interface, gateway=gateway, **settings), 2, prefix, LISTEN)


def test_gunicorn_sync() -> None:
    assert command("gunicorn-sync", "/shop") == [
        *["gunicorn", "app:app", "--worker-class", "sync", "--workers", "2"],
        *["--config", "/gateway/conf.py", "--env", "SCRIPT_NAME=/shop"],
        *GUNICORN,
    ]


def test_gunicorn_gthread() -> None:
    assert command("gunicorn-gthread", "/shop", threads=16) == [
        *["gunicorn", "app:app", "--worker-class", "gthread", "--workers", "2"],
        *["--threads", "16", "--config", "/gateway/conf.py", "--env", "SCRIPT_NAME=/shop"],
        *GUNICORN,
    ]


def test_gunicorn_gevent() -> None:
    assert command("gunicorn-gevent", "/shop") == [
        *["gunicorn", "app:app", "--worker-class", "gevent", "--workers", "2", "--config", "/gateway/conf.py"],
        *["--env", "SCRIPT_NAME=/shop"],
        *GUNICORN,
    ]


def test_gunicorn_asgi() -> None:
    assert command("gunicorn-asgi", "/shop") == [
        *["gunicorn", "app:app", "--worker-class", "asgi", "--workers", "2"],
        *["--asgi-loop", "uvloop", "--config", "/gateway/conf.py", "--websocket-max-message-size", "1048576"],
        *["--root-path", "/shop"],
        *GUNICORN,
    ]


def test_uvicorn() -> None:
    assert command("uvicorn", "/shop") == [
        "python",
        "-P",
        "/gateway/conf.py",
        "app:app",
        *UVICORN,
        "--root-path",
        "/shop",
    ]


OURS = ["--graceful-timeout", "30", "--forwarded-allow-ips", TRUSTED_PROXIES]
RECYCLING = ["--max-requests", "1000", "--max-requests-jitter", "50"]


def test_hypercorn() -> None:
    own = {"keep_alive": 90, "ping": 0.5}
    assert command("hypercorn", "/shop", timeouts=own, max_requests=1000, max_requests_jitter=50) == [
        *["python", "-P", "/gateway/conf.py", "app:app", "--bind", LISTEN, "--workers", "2"],
        *["--worker-class", "uvloop", "--backlog", "2048", "--keep-alive", "90", "--websocket-ping-interval", "0.5"],
        *["--log-level", "info", *OURS, *RECYCLING, "--root-path", "/shop"],
    ]


def test_daphne() -> None:
    own = {"keep_alive": 90, "ping": 7, "request": 12.5}
    assert command("daphne", "/shop", timeouts=own, max_requests=1000, max_requests_jitter=50) == [
        *["python", "-P", "/gateway/conf.py", "app:app", "--bind", LISTEN, "--workers", "2", "--keep-alive", "90"],
        *["--ping-interval", "7", "--websocket-max-message-size", "1048576", "--websocket-max-frame-size", "1048576"],
        *["--websocket_timeout", "-1", "--websocket_connect_timeout", "13", "--application-close-timeout", "86400"],
        *["--no-server-name", "--verbosity", "0", *OURS, *RECYCLING, "--root-path", "/shop"],
    ]


def test_mod_wsgi() -> None:
    asked = command("mod_wsgi", "/shop", threads=4, max_requests=1000, paths={"/poll": {"timeout": 64.5}})
    defined = [part for part in asked if part.startswith("Define")]
    assert [part for part in asked if part not in (*defined, "-C")] == [
        *["bash", "/gateway/run.sh", "2", "apache2", "-f", "/gateway/httpd.conf", "-D", "FOREGROUND"]
    ]
    assert defined == [
        "Define ENTRY app:app",
        "Define PREFIX /shop",
        f"Define LISTEN {LISTEN}",
        "Define PROCESSES 2",
        "Define THREADS 4",
        "Define THREADS_OF_APACHE 40",
        "Define KEEP_ALIVE 75",
        "Define TIMEOUT 70",
        "Define GRACEFUL 30",
        "Define DEADLOCK 25",
        "Define MAX_REQUESTS 1000",
        'Define TRUSTED "127.0.0.1 ::1 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7"',
    ]
    assert "Define PREFIX /" in command("mod_wsgi")


def test_every_word_of_apaches_configuration_is_defined() -> None:
    defined = {part.split()[1] for part in command("mod_wsgi") if part.startswith("Define")}
    conf = (REPOSITORY / "compose/gateways/mod_wsgi/httpd.conf").read_text()
    assert set(re.findall(r"\$\{(\w+)\}", conf)) == defined


@pytest.mark.parametrize(
    ("gateway", "settings", "sentence"),
    [
        ("mod_wsgi", {"max_requests": 9, "max_requests_jitter": 1}, "max_requests_jitter: mod_wsgi replaces a worker after exactly"),
        ("mod_wsgi", {"preload": True}, "preload: mod_wsgi cannot load the code before it starts workers"),
        ("hypercorn", {"preload": True}, "preload: hypercorn cannot"),
        ("daphne", {"preload": True}, "preload: daphne cannot"),
        ("daphne", {"timeouts": {"ping": 1}}, "timeouts.ping: daphne takes whole seconds, at least 2, not 1"),
        ("daphne", {"timeouts": {"ping": 2.5}}, "timeouts.ping: daphne takes whole seconds, at least 2, not 2.5"),
    ],
)  # fmt: skip
def test_what_a_gateway_cannot_do_is_refused(gateway: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        command(gateway, **settings)


def test_what_means_nothing_to_a_gateway_is_noted() -> None:
    written = {"threads": 4, "timeouts": {"gateway": 20}, "paths": {"/up": {"stream": True}, "/x": {"timeout": 9}}}
    daphne = list(notes(app(interface="asgi", gateway="daphne", **written)))
    assert [note.partition(":")[0] for note in daphne] == ["threads", "timeouts.gateway", "paths"]
    assert "stream (/up) is for answers alone" in daphne[-1]
    assert [note.partition(":")[0] for note in notes(app(interface="asgi", gateway="hypercorn", **written))] == [
        "threads",
        "timeouts.gateway",
    ]
    assert list(notes(app(gateway="mod_wsgi", **written))) == []
    kept = {"timeouts": {"keep_alive": 90, "ping": 9}}
    for gateway in ("gunicorn-sync", "uwsgi"):
        assert [note.partition(":")[0] for note in notes(app(gateway=gateway, **kept))] == ["timeouts.keep_alive"]
    assert [note.partition(":")[0] for note in notes(app(interface="asgi", gateway="gunicorn-asgi", **kept))] == [
        "timeouts.ping"
    ]
    assert list(notes(app(interface="asgi", gateway="uvicorn", **kept))) == []
    assert list(notes(app(interface="asgi", gateway="daphne"))) == []


def test_granian_wsgi() -> None:
    assert command("granian-wsgi", "/shop", threads=16) == [
        *["python", "-P", "/gateway/conf.py", "app:app", "--interface", "wsgi"],
        *["--host", "0.0.0.0", "--port", "8000", "--workers", "2", "--blocking-threads", "16", "--no-ws"],
        *GRANIAN,
        *["--url-path-prefix", "/shop"],
    ]


def test_granian_asgi() -> None:
    assert command("granian-asgi", "/shop") == [
        *["python", "-P", "/gateway/conf.py", "app:app", "--interface", "asgi"],
        *["--host", "0.0.0.0", "--port", "8000", "--workers", "2"],
        *GRANIAN,
        *["--url-path-prefix", "/shop"],
    ]


def test_uwsgi() -> None:
    assert command("uwsgi", "/shop") == [
        *["python", "-P", "/gateway/conf.py", "app:app", "--bind", LISTEN, "--backlog", "2048"],
        *["--graceful-timeout", "30", "--forwarded-allow-ips", TRUSTED_PROXIES, "--script-name", "/shop"],
        *UWSGI,
        "--lazy-apps",
    ]


def test_uwsgis_preload_recycling_and_longest_wait() -> None:
    asked = command(
        "uwsgi", preload=True, max_requests=1000, max_requests_jitter=50, paths={"/poll": {"timeout": 65.5}}
    )
    assert "--lazy-apps" not in asked
    assert following(asked, "--max-requests", "--max-requests-delta", "--socket-timeout") == ["1000", "25", "66"]
    assert "--max-requests" not in command("uwsgi")


def test_an_app_at_the_root_has_no_prefix() -> None:
    for gateway in GATEWAYS:
        arguments = command(gateway)
        for flag in ("--root-path", "--env", "--url-path-prefix", "--script-name"):
            assert flag not in arguments


def test_gunicorns_preload_and_recycling_are_off_until_asked_for() -> None:
    asked = command("gunicorn-gthread", preload=True, max_requests=1000, max_requests_jitter=50)
    assert following(asked, "--max-requests", "--max-requests-jitter") == ["1000", "50"]
    assert asked[-1] == "--preload"
    assert "--preload" not in command("gunicorn-gthread")


def test_uvicorns_recycling_is_off_until_asked_for() -> None:
    assert command("uvicorn", max_requests=1000, max_requests_jitter=50) == [
        *["python", "-P", "/gateway/conf.py", "app:app", *UVICORN],
        *["--limit-max-requests", "1000", "--limit-max-requests-jitter", "50"],
    ]


def test_timeouts_reach_the_gateway() -> None:
    own = {"gateway": 5, "graceful": 60, "keep_alive": 90, "ping": 7}
    gunicorn, uvicorn = command("gunicorn-sync", timeouts=own), command("uvicorn", timeouts=own)
    assert following(gunicorn, "--timeout", "--graceful-timeout", "--keep-alive") == ["5", "60", "90"]
    assert following(
        uvicorn, "--timeout-graceful-shutdown", "--timeout-keep-alive", "--ws-ping-interval"
    ) == ["60", "90", "7"]  # fmt: skip
    granian, uwsgi = command("granian-asgi", timeouts=own), command("uwsgi", timeouts=own)
    assert following(granian, "--workers-kill-timeout", "--http1-header-read-timeout") == ["60", "90000"]
    assert following(uwsgi, "--graceful-timeout", "--worker-reload-mercy") == ["60", "60"]


def test_each_interface_has_a_default_that_serves_it() -> None:
    assert {interface: GATEWAYS[name].interface for interface, name in DEFAULT.items()} == {
        "wsgi": "wsgi",
        "asgi": "asgi",
    }
    assert app().chosen_gateway.name == "gunicorn-gthread"
    assert app(interface="asgi").chosen_gateway.name == "uvicorn"


def following(arguments: list[str], *flags: str) -> list[str]:
    """The value after each flag."""
    return [arguments[arguments.index(flag) + 1] for flag in flags]
