"""`dev` on a site of its own: edit, see, stumble, look inside; then `up` as if nothing had been."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stack import dev
from tests.conftest import REPOSITORY, Checkout, new_checkout

HTTP, HTTPS = 18092, 18455
URL = f"http://127.0.0.1:{HTTP}"
CODE = {"flask": "app.py", "fastapi": "main.py"}
HELLO = {"flask": "Hello, WSGI!", "fastapi": "Hello, ASGI!"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = new_checkout(tmp_path_factory.mktemp("dev"), "gatehouse-dev", HTTP, HTTPS, apps=["flask", "fastapi"])
    try:
        yield checkout
    finally:
        checkout.run("down", "--volumes", check=False)


@pytest.fixture(scope="module")
def running(site: Checkout) -> Iterator[subprocess.Popen[str]]:
    """`make dev` in a terminal of its own, up to its logs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "dev"],
        cwd=REPOSITORY,
        env={**os.environ, "GATEHOUSE_ROOT": str(site.root), "GATEHOUSE_ENV": site.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in process.stdout or ():
        said.append(line)
        if "Ctrl-C" in line:
            break
    assert process.poll() is None, "".join(said)
    threading.Thread(target=process.stdout.read if process.stdout else None, daemon=True).start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def file(site: Checkout, app: str) -> Path:
    return site.root / "apps" / app / CODE[app]


def in_hello(code: str, app: str, line: str) -> str:
    """The code with a line more in front of the hello's last."""
    return re.sub(rf"( +)(return .*{HELLO[app]})", rf"\1{line}\n\1\2", code)


def seen(path: str, text: str, within: float = 20) -> httpx.Response:
    """The first answer that has this text."""
    end = time.monotonic() + within
    while True:
        answer = httpx.get(f"{URL}{path}", timeout=within)
        if text in answer.text:
            return answer
        assert time.monotonic() < end, answer.text
        time.sleep(0.05)


@pytest.mark.parametrize("app", CODE)
def test_a_change_is_there_soon_and_what_is_broken_says_why(site: Checkout, running: object, app: str) -> None:
    code, path = file(site, app), f"/{app}/"
    before = code.read_text()
    seen(path, HELLO[app])
    code.write_text(before.replace(HELLO[app], "Hello, you"))
    seen(path, "Hello, you")
    code.write_text("import nothing_of_that_name\n" + before)
    assert seen(path, "No module named").status_code == 500
    code.write_text(before + "\n)\n")
    assert seen(path, "SyntaxError").status_code == 500
    # An error of a request, and one that is not the first line that was imported.
    (code.parent / "other.py").write_text("def fail():\n    raise LookupError('of this request')\n")
    code.write_text(in_hello(before, app, "import other; other.fail()"))
    answer = seen(path, "of this request")
    assert answer.status_code == 500
    assert "other.py" in answer.text
    code.write_text(before)
    seen(path, HELLO[app])


@pytest.mark.parametrize("app", CODE)
def test_a_breakpoint_waits_for_whoever_comes(site: Checkout, running: object, app: str) -> None:
    code, before = file(site, app), file(site, app).read_text()
    answers: list[str] = []
    code.write_text(in_hello(before, app, "here = 42; breakpoint()"))
    port = dev.ports(dev.of(site.site))[app]

    def ask() -> None:
        answers.append(httpx.get(f"{URL}/{app}/", timeout=60).text)

    end, said, request = time.monotonic() + 20, b"", threading.Thread(target=ask)
    time.sleep(3)  # until it is loaded: a request before would just be answered
    request.start()
    while b"(Pdb)" not in said:  # docker-proxy takes a connection before anybody listens, and hangs up
        assert time.monotonic() < end
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", port), 5) as terminal:
            terminal.settimeout(5)
            said = terminal.recv(4096)
            if said and b"(Pdb)" not in said:
                said += terminal.recv(4096)
            if said:
                terminal.sendall(b"p here + 1\n")
                assert b"43" in terminal.recv(4096)
                terminal.sendall(b"c\n")
                request.join(20)
    assert HELLO[app] in answers[0]
    pid = httpx.get(f"{URL}/{app}/whoami").json()["pid"]
    code.write_text(before)
    while httpx.get(f"{URL}/{app}/whoami").json()["pid"] == pid:  # else the next test's hello would wait at it
        assert time.monotonic() < end + 20
        time.sleep(0.1)


def test_ctrl_c_ends_the_logs_alone_and_up_is_as_elsewhere(site: Checkout, running: subprocess.Popen[str]) -> None:
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0
    assert "Hello" in httpx.get(f"{URL}/flask/").text
    site.run("up")
    assert "flask (as it is elsewhere)" in site.output
    (site.root / "apps/flask/app.py").write_text("raise RuntimeError('not seen')")
    assert httpx.get(f"{URL}/flask/").text == "Hello, WSGI!"
