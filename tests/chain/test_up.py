"""`up` on a site of its own: what changes is applied and nothing else; what fails leaves what was there before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from stack import docker
from tests.conftest import REPOSITORY, Checkout, new_checkout, pause

HTTP, HTTPS = 18090, 18453
URL = f"http://127.0.0.1:{HTTP}"
PROJECT = "gatehouse-up"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Checkout]:
    """A site with the Flask app alone, and nothing running."""
    checkout = new_checkout(tmp_path, PROJECT, HTTP, HTTPS, apps=["flask"])
    try:
        yield checkout
    finally:
        checkout.run("down", "--volumes", check=False)


def containers() -> dict[str, str]:
    """Service -> container id, of everything that runs."""
    listed = docker.run(
        "ps", "--no-trunc", "--filter", f"label=com.docker.compose.project={PROJECT}",
        "--format", '{{.Label "com.docker.compose.service"}} {{.ID}}',
    )  # fmt: skip
    return dict(line.split() for line in listed.splitlines())


def write(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def whoami() -> dict[str, str]:
    answer: dict[str, str] = httpx.get(f"{URL}/flask/whoami").json()
    return answer


def test_a_release_command_runs_once_before_each_new_version(site: Checkout) -> None:
    command = "import sys, time; open('/data/ran', 'a').write('x'); sys.exit({code})"

    def release_command(code: int) -> None:
        yaml = YAML()
        data = yaml.load(site.app_yml("flask"))
        yaml.dump(
            {**data, "volumes": {"data": "/data"}, "release_command": ["python", "-c", command.format(code=code)]},
            site.app_yml("flask"),
        )

    def times() -> int:
        return len(docker.run("exec", containers()["flask"], "cat", "/data/ran"))

    release_command(0)
    site.run("up")
    assert times() == 1
    site.run("up")
    assert times() == 1
    write(site.root / "apps/flask/app.py", "Hello, WSGI!", "Hello, migrated!")
    site.run("up")
    assert times() == 2
    assert httpx.get(f"{URL}/flask/").text == "Hello, migrated!"

    release_command(3)
    write(site.root / "apps/flask/app.py", "Hello, migrated!", "Hello, nobody!")
    before = containers()
    assert site.run("up", check=False).returncode == 1
    assert "flask: release_command" in site.output
    assert containers() == before
    assert httpx.get(f"{URL}/flask/").text == "Hello, migrated!"


@pytest.mark.long
def test_a_day_with_one_app(site: Checkout) -> None:
    """One story, because every step needs the one before it: bringing up takes seconds each time."""
    site.run("up")
    first = containers()
    assert set(first) == {"edge", "flask"}
    assert httpx.get(f"{URL}/flask/").text == "Hello, WSGI!"

    # Nothing changed: nothing is touched.
    site.run("up")
    assert "nothing was restarted" in site.output
    assert containers() == first

    # Somebody stopped it: it is started again and waited for.
    docker.run("stop", "--time=5", first["flask"])
    site.run("up")
    assert "applied: flask (was stopped)" in site.output
    assert containers() == first
    assert httpx.get(f"{URL}/flask/").text == "Hello, WSGI!"

    # Or has just started it himself: what is starting is waited for, and is no fault.
    docker.run("restart", "--time=5", first["flask"])
    site.run("up")
    assert "nothing was restarted" in site.output

    # HTTP behaviour changed: the edge reloads, and no container is replaced. A keep-alive client does not notice.
    with httpx.Client() as client:
        assert client.post(f"{URL}/flask/healthz", content=b"x" * 2 * 2**20).status_code == 413
        write(site.app_yml("flask"), "egress: false", "egress: false\nbody_limit: 4M")
        site.run("up")
        assert client.post(f"{URL}/flask/healthz", content=b"x" * 2 * 2**20).status_code == 405
    assert containers() == first

    # A setting of the app changed: the app alone is replaced, from the same image.
    before, release = containers(), whoami()["release"]
    write(site.app_yml("flask"), "workers: 4", "workers: 2")
    site.run("up")
    assert containers()["edge"] == before["edge"]
    assert containers()["flask"] != before["flask"]
    assert "building" not in site.output
    assert "applied: flask (--workers 4 -> 2)" in site.output
    assert whoami()["release"] != release

    # Code changed: its image is built anew.
    hello = f"Hello at {time.time()}"  # never seen before, so no run before this one has made its image
    write(site.root / "apps/flask/app.py", "Hello, WSGI!", hello)
    site.run("up")
    assert "flask: building its image" in site.output
    assert "applied: flask (its files)" in site.output
    assert httpx.get(f"{URL}/flask/").text == hello

    # A second app appears with its folder, and goes with it.
    (site.root / "apps/other").mkdir()
    for name in ("app.py", "app.yml", "requirements.txt"):
        (site.root / "apps/other" / name).write_text((site.root / "apps/flask" / name).read_text())
    site.run("up")
    assert httpx.get(f"{URL}/other/").status_code == 200
    shutil.rmtree(site.root / "apps/other")
    site.run("up")
    assert set(containers()) == {"edge", "flask"}
    assert httpx.get(f"{URL}/other/").status_code == 404

    # A release that crashes: said in one sentence with its log, and what ran before runs again.
    good = whoami()["release"]
    write(site.root / "apps/flask/app.py", "import os\n", "import os\n\nraise RuntimeError('no database')\n")
    assert site.run("up", check=False).returncode == 1
    assert "flask: crashes on start" in site.output
    assert "no database" in site.output
    assert whoami()["release"] == good

    # A new app that crashes, whose folder is then removed again, is in nobody's way.
    (site.root / "apps/broken").mkdir()
    for name in ("app.py", "app.yml", "requirements.txt"):
        (site.root / "apps/broken" / name).write_text((site.root / "apps/flask" / name).read_text())
    assert site.run("up", check=False).returncode == 1
    shutil.rmtree(site.root / "apps/broken")

    # One that starts but is not healthy.
    write(site.root / "apps/flask/app.py", "import os\n\nraise RuntimeError('no database')\n", "import os\n")
    write(site.app_yml("flask"), "egress: false", "egress: false\nhealth: /nowhere")
    assert site.run("up", check=False).returncode == 1
    assert "its health path answers 404" in site.output
    assert whoami()["release"] == good

    # A certificate that is none: nothing is touched.
    write(site.app_yml("flask"), "health: /nowhere", "")
    before = containers()
    write(site.root / "environments/local.yml", "certificate: local-ca", "certificate: cert.pem\n  key: cert.pem")
    (site.root / "cert.pem").write_text("not a certificate")
    assert site.run("up", check=False).returncode == 1
    assert "tls: cert.pem or its key is no PEM file" in site.output
    assert containers() == before
    assert whoami()["release"] == good
    write(site.root / "environments/local.yml", "certificate: cert.pem\n  key: cert.pem", "certificate: local-ca")

    # An app that is unhealthy for a reason of its own does not keep a change to something else from coming in.
    pause(f"{PROJECT}-flask-1")
    while docker.run("inspect", "--format", "{{.State.Health.Status}}", f"{PROJECT}-flask-1").strip() == "healthy":
        time.sleep(0.5)
    docker.run("unpause", f"{PROJECT}-flask-1")
    write(site.root / "environments/local.yml", "index: true", "index: false")
    site.run("up", check=False)  # its exit code tells of the app, unless that is healthy again by now
    assert "applied: edge's nginx/site.conf" in site.output
    assert httpx.get(f"{URL}/").status_code == 404
    assert whoami()["release"] == good

    # Another name would leave the old containers running, unseen.
    write(site.root / "environments/local.yml", f"name: {PROJECT}", "name: other")
    assert site.run("up", check=False).returncode == 1
    assert f"still runs under the name {PROJECT}. Type: make down" in site.output
    write(site.root / "environments/local.yml", "name: other", f"name: {PROJECT}")

    site.run("restart", "flask")
    site.run("ps")
    assert "healthy 1/1" in site.output

    # Stopping needs nothing of what is written, so it works with a broken app.yml, too.
    site.app_yml("flask").write_text("interface: [")
    site.run("down")
    assert not containers()
    site.app_yml("flask").write_text("interface: wsgi\nentry: app:app\n")
    assert site.run("restart", "flask", check=False).returncode == 1
    assert "flask is not running. Type: make up" in site.output


def test_a_first_up_that_fails_leaves_nothing_running(site: Checkout) -> None:
    write(site.root / "apps/flask/app.py", "import os\n", "import os\n\nraise RuntimeError('no database')\n")
    assert site.run("up", check=False).returncode == 1
    assert "no database" in site.output
    assert not containers()


def test_a_taken_port_is_named_before_anything_starts(site: Checkout) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", HTTP))
        taken.listen()
        assert site.run("up", check=False).returncode == 1
    assert f"http_port: {HTTP} cannot be published: address already in use" in site.output
    assert not containers()


def test_secrets_volumes_environment_and_processes_reach_the_app(site: Checkout) -> None:
    app = site.app_yml("flask")
    write(
        app,
        "egress: false",
        """egress: false
env: {GREETING: "costs $5", ON: true}
secrets: [TOKEN]
volumes: {data: /var/lib/flask}
processes:
  ticker: {command: [python, -c, "import time, pathlib\\nwhile True: pathlib.Path('/var/lib/flask/tick').touch(); time.sleep(0.2)"]}""",
    )
    assert site.run("up", check=False).returncode == 1
    assert "make secret APP=flask NAME=TOKEN" in site.output
    site.run("secret", "flask", "TOKEN", input="changeme\n")
    assert site.run("up", check=False).returncode == 1
    assert "still a placeholder" in site.output
    site.run("secret", "flask", "TOKEN", input="s3cr3t-value\n")
    site.run("up")

    def inside(code: str) -> str:
        return docker.run("exec", containers()["flask"], "python", "-c", code).strip()

    assert inside("import os; print(os.environ['GREETING'], os.environ['ON'])") == "costs $5 true"
    assert inside("import os; print(open(os.environ['TOKEN_FILE']).read())") == "s3cr3t-value"
    assert inside("open('/var/lib/flask/mine', 'w').write('kept')") == ""
    assert inside("import os; print(os.path.exists('/var/lib/flask/tick'))") == "True"
    site.run("show")
    assert "s3cr3t-value" not in site.output
    assert "s3cr3t-value" not in json.dumps(json.loads(docker.run("inspect", *containers().values())))

    # A new value of a secret is a new container; a volume outlives it.
    before = containers()["flask"]
    site.run("secret", "flask", "TOKEN", input="an0ther-value\n")
    site.run("up")
    assert containers()["flask"] != before
    assert inside("import os; print(open(os.environ['TOKEN_FILE']).read())") == "an0ther-value"
    assert inside("print(open('/var/lib/flask/mine').read())") == "kept"


def interrupt(site: Checkout, number: signal.Signals, when: str) -> None:
    """`up`, interrupted as by a terminal: the signal goes to every process of the job, once `when` was printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "up"],
        cwd=REPOSITORY,
        env={**os.environ, "GATEHOUSE_ROOT": str(site.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if when in line:
            time.sleep(0.4)  # Compose is at work by now
            os.killpg(process.pid, number)
            break
    said = process.stdout.read()
    assert process.wait(120) == 130, said


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_an_interrupted_up_leaves_what_was_there_before(site: Checkout, number: signal.Signals) -> None:
    interrupt(site, number, "waiting for")
    assert not containers()
    site.run("up")
    good = whoami()["release"]
    for when in ("building its image: ", "waiting for"):
        write(site.root / "apps/flask/app.py", "import os\n", f"import os\n\n# {time.time()}\n")
        interrupt(site, number, when)
        assert whoami()["release"] == good
    site.run("up")
    assert whoami()["release"] != good


def test_https_only_and_a_host_of_its_own(site: Checkout) -> None:
    write(site.root / "environments/local.yml", "redirect: false", "redirect: true")
    write(site.root / "environments/local.yml", "hsts: 0", "hsts: 300")
    write(site.app_yml("flask"), "egress: false", "egress: false\nhost: shop.localhost\nreplicas: 2")
    site.run("up")
    trust = ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")
    secure = f"https://shop.localhost:{HTTPS}"
    with httpx.Client(verify=trust) as client:
        # Every name of the site has the certificate; resolved here, because not every resolver knows *.localhost.
        plain = client.get(f"{URL}/whoami?a=b", headers={"Host": f"shop.localhost:{HTTP}"})
        assert plain.status_code == 308
        assert plain.headers["location"] == f"{secure}/whoami?a=b"
        assert "strict-transport-security" not in plain.headers
        seen = client.get(
            f"https://127.0.0.1:{HTTPS}/whoami",
            headers={"Host": f"shop.localhost:{HTTPS}"},
            extensions={"sni_hostname": "shop.localhost"},
        )
        assert seen.headers["strict-transport-security"] == "max-age=300"
        assert seen.json()["url"] == f"{secure}/whoami"
        assert seen.json()["prefix"] == ""
        # The app is nobody else's: the site's own names do not lead to it.
        assert client.get(f"https://127.0.0.1:{HTTPS}/flask/").status_code == 404

    # One of two replicas dies: nothing that was not in flight there notices, POSTs included.
    docker.run("kill", f"{PROJECT}-flask-2")
    for _ in range(20):
        with httpx.Client(verify=trust) as client:
            answer = client.post(
                f"https://127.0.0.1:{HTTPS}/whoami",
                content=b"x" * 1000,
                headers={"Host": "shop.localhost"},
                extensions={"sni_hostname": "shop.localhost"},
            )
        assert answer.status_code == 405  # the app's own answer
