"""The exact argument list of every gateway: a changed flag is a changed line here."""

from __future__ import annotations

from stack.gateways import DEFAULT, GATEWAYS, TRUSTED_PROXIES
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


def test_an_app_at_the_root_has_no_prefix() -> None:
    for gateway in GATEWAYS:
        arguments = command(gateway)
        assert "--root-path" not in arguments
        assert "--env" not in arguments


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
