"""Where a request's time went, as the edge tells it: through the real chain."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time

import httpx
import pytest

from loadtests.hops import durations
from stack import docker
from stack.render import NGINX_IMAGE
from tests.conftest import EARLY, REPOSITORY, Chain, in_reach

FULL = ["flask", "fastapi"]


@pytest.fixture(params=FULL)
def app(request: pytest.FixtureRequest, chain: Chain) -> str:
    if request.param not in chain.apps:
        pytest.skip(f"needs the sample {request.param}")
    return chain.apps[request.param].prefix


def test_an_answer_says_how_long_edge_gateway_and_app_took(chain: Chain, app: str) -> None:
    answer = httpx.get(f"{chain.url}{app}/wait?ms=100")
    assert answer.status_code == 200
    told = durations(answer.headers["server-timing"])
    assert set(told) == {"edge", "upstream", "app"}
    assert told["app"] >= 100 - EARLY
    # Nginx counts whole milliseconds, and looks at its clock once a round of its loop.
    assert told["edge"] + 2 >= told["upstream"] >= told["app"] - 2
    assert "x-gatehouse-time" not in answer.headers


def test_it_is_valid_for_browsers(chain: Chain, app: str) -> None:
    header = httpx.get(f"{chain.url}{app}/").headers["server-timing"]
    entry = r"[a-z]+;dur=\d+(\.\d+)?"
    assert re.fullmatch(f"{entry}(, {entry})*", header), header


def test_what_the_edge_answers_itself_has_no_gateway_in_it(chain: Chain) -> None:
    answer = httpx.get(f"{chain.url}/no-such-app/")
    assert answer.status_code == 404
    assert set(durations(answer.headers["server-timing"])) == {"edge"}


def test_a_body_that_the_client_sends_slowly_is_the_edges_time(chain: Chain, app: str) -> None:
    """Where bodies are buffered, the app does not wait for them. /echo of the samples streams: there the app does."""

    def slowly() -> object:
        yield b"a"
        time.sleep(0.3)
        yield b"b"

    buffered = durations(httpx.post(f"{chain.url}{app}/whoami", content=slowly()).headers["server-timing"])  # type: ignore[arg-type]
    assert buffered["edge"] >= 300 - EARLY > buffered["upstream"]
    streamed = durations(httpx.post(f"{chain.url}{app}/echo", content=slowly()).headers["server-timing"])  # type: ignore[arg-type]
    assert streamed["upstream"] >= 300 - EARLY


def test_a_wait_for_a_thread_is_told_apart(chain: Chain) -> None:
    """FastAPI's `def` routes take one of 40 threads; the wait for it is inside the app, and no queue in front of it."""
    if "fastapi" not in chain.apps:
        pytest.skip("needs the sample fastapi")
    told = durations(httpx.get(f"{chain.url}/fastapi/work?ms=5").headers["server-timing"])
    assert set(told) == {"edge", "upstream", "app", "pool"}
    assert told["pool"] <= told["app"]


def test_strangers_learn_nothing_and_the_load_tests_key_opens_it(chain: Chain) -> None:
    """The shipped snippet in the shipped Nginx, with the hash of a key as `stack load_key` writes it."""
    chain.checkout.run("load_key")
    key = (chain.checkout.root / ".local/load.key").read_text()
    digest = chain.checkout.output.rpartition("md5:")[2].strip()
    configuration = f"""
        daemon off; pid /tmp/nginx.pid; events {{}}
        http {{
            secure_link "{digest}"; secure_link_md5 $http_x_gatehouse_load;
            map $secure_link $timing {{ default ""; 1 open; }}
            include timing.conf;
            server {{ listen 80; location / {{ return 204; }} }}
        }}"""
    snippet = (REPOSITORY / "nginx/snippets/timing.conf").read_text()
    ask = """ask() { exec 3<>/dev/tcp/127.0.0.1/80; printf "GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n$1\\r\\n" >&3; cat <&3; echo ---; }"""
    script = f"""printf '%s' "$CONF" >/tmp/nginx.conf; printf '%s' "$SNIPPET" >/tmp/timing.conf
nginx -c /tmp/nginx.conf -e /dev/stderr & until exec 4<>/dev/tcp/127.0.0.1/80; do sleep 0.1; done 2>/dev/null
{ask}
ask ""; ask "X-Gatehouse-Load: guess\\r\\n"; ask "X-Gatehouse-Load: $KEY\\r\\n" """
    said = docker.run(
        "run", "--rm", "--network=none", "--env", f"CONF={configuration}", "--env", f"SNIPPET={snippet}", "--env", f"KEY={key}",
        "--entrypoint=bash", NGINX_IMAGE, "-c", script,
    )  # fmt: skip
    assert ["Server-Timing" in answer for answer in said.split("---")[:3]] == [False, False, True], said


def test_the_access_log_has_the_apps_time(chain: Chain, app: str) -> None:
    answer = httpx.get(f"{chain.url}{app}/wait?ms=20")
    log = subprocess.run(
        [*docker.client(), "logs", "--tail", "50", "gatehouse-test-edge-1"], capture_output=True, text=True, check=True
    ).stdout
    lines = [json.loads(line) for line in log.splitlines() if answer.headers["x-request-id"] in line]
    assert [line["app_time"].partition(";dur=")[0] for line in lines] == ["app"]


def test_no_request_waits_for_a_thread_while_another_worker_has_one_free(chain: Chain) -> None:
    """As many at once as there are threads, each on a connection of its own: nobody waits for another one's second to end."""
    plan = next((plan for plan in chain.apps.values() if plan.gateway.name == "gunicorn-gthread"), None)
    if plan is None:
        pytest.skip("no app here runs on gunicorn-gthread")
    container = f"gatehouse-test-{plan.name}-1"
    address = in_reach(container)
    many = plan.sizing.workers * plan.app.threads
    together, took = threading.Barrier(many), []

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            together.wait()
            began = time.monotonic()
            client.get(f"http://{address}:8000{plan.prefix}/wait?ms=1000").raise_for_status()
            took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    docker.run("network", "disconnect", "gatehouse-test_edge", container)
    assert len(took) == many
    assert [seconds for seconds in took if seconds >= 2] == []
