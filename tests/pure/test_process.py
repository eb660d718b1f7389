"""What is rendered for the process engine: the same gateways and Nginx files as for containers, and nothing else."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stack import cli, docker, process, supervisor
from stack.errors import Failed
from stack.gateways import CONFIGURATION
from stack.images import GATEWAYS
from stack.load import Site, load_site
from stack.render import LISTEN, Here, ports, render
from tests.conftest import Checkout
from tests.pure.conftest import WSGI, Draft

INVENTED = Path(__file__).parents[1] / "rendered/site"


@pytest.fixture
def site() -> Site:
    return load_site(INVENTED, "test")


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / ".local", "/tmp/gatehouse-7-test", "3.11.7", ("/usr/sbin/nginx",))


def test_nginx_files_differ_in_the_run_directory_alone(site: Site, here: Here) -> None:
    containers, processes = render(site), render(site, here=here)
    static = [name for name in containers if name.startswith("nginx/") and name != "nginx/site.conf"]
    assert len(static) > 15
    for name in static:
        assert processes[name].replace(f"{here.run}/", "/tmp/") == containers[name], name
    assert any(here.run in processes[name] for name in static)


def test_the_site_differs_in_what_it_listens_on_and_where_replicas_are(site: Site, here: Here) -> None:
    def kept(text: str) -> list[str]:
        lines = re.sub(r"(?m)^ *(listen|server) [^;{\n]*\d[^;{\n]*;$", "", text).replace(f"{here.run}/", "/tmp/")
        return [line for line in lines.splitlines() if line and not re.match(r"resolver |# The engine's DNS", line)]

    containers, processes = render(site)["nginx/site.conf"], render(site, here=here)["nginx/site.conf"]
    assert kept(processes) == kept(containers)
    listens = re.findall(r"listen (\S+?);? ", processes.replace(";", " "))
    environment = site.environment
    allowed = (environment.http_port, environment.https_port, environment.http_port + 999)
    assert {int(address.rpartition(":")[2]) for address in listens} <= set(allowed)
    servers = re.findall(r"server 127\.0\.0\.1:(\d+) max_fails=10 fail_timeout=1s max_conns=\d+;", processes)
    assert sorted(map(int, servers)) == sorted(port for held in ports(site).values() for port in held)


def test_gateways_get_the_same_arguments(site: Site, here: Here) -> None:
    services = YAML(typ="safe").load(render(site)["stack.yml"])["services"]
    files = render(site, here=here)
    for name, plan in site.apps.items():
        assert len(ports(site)[name]) == plan.app.replicas
        for number, port in enumerate(ports(site)[name], 1):
            shell, enter, *command = shlex.split(files[f"process/{name}.{number}.sh"])[1:]
            assert (shell, Path(enter).name) == ("/bin/sh", f"{name}.sh")
            conf = str(GATEWAYS / plan.gateway.files / "conf.py")
            back = [CONFIGURATION if part == conf else part for part in command]
            address, host = f"127.0.0.1:{port}", LISTEN.partition(":")
            back = [LISTEN if part == address else host[2] if part == str(port) else part for part in back]
            wanted = [part.replace("$$", "$") for part in services[name]["command"]]
            assert [host[0] if part == "127.0.0.1" else part for part in back] == wanted


def test_another_app_changes_nobodys_port(site: Site) -> None:
    every = ports(site)
    assert len({port for held in every.values() for port in held}) == sum(map(len, every.values()))
    for gone in site.apps:
        fewer = replace(site, apps={name: plan for name, plan in site.apps.items() if name != gone})
        assert ports(fewer) == {name: held for name, held in every.items() if name != gone}


def test_a_variable_arrives_as_it_was_written(site: Site, here: Here) -> None:
    odd = 'it\'s "quoted" $HOME `id` ;x #y %(z)s \\ \n second line'
    name, plan = next(iter(site.apps.items()))
    changed = replace(plan, app=plan.app.model_copy(update={"env": {"ODD": odd}}))
    files = render(replace(site, apps={name: changed}), here=here)
    script = here.local / "app.sh"
    script.parent.mkdir(parents=True)
    script.write_text(files[f"process/{name}.sh"])
    code = re.search(r"^cd (\S+)", script.read_text(), re.MULTILINE)
    assert code
    Path(code[1]).mkdir(parents=True)
    said = subprocess.run(["/bin/sh", script, "printenv", "ODD"], capture_output=True, text=True, check=True).stdout
    assert said == f"{odd}\n"


def test_what_changes_a_program_changes_its_definition(site: Site, here: Here) -> None:
    def definitions(secrets: dict[str, str] | None = None) -> dict[str, str]:
        conf = render(site, secrets, here)["process/supervisord.conf"]
        found = re.findall(r'\[program:(.+)\]\n(?:.*\n)*?environment=GATEHOUSE_DEFINITION="(\w+)"', conf)
        assert len(found) == conf.count("[program:")
        return dict(found)

    name = next(iter(site.apps))
    before, after = definitions(), definitions({name: "a new value"})
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {key for key in before if key.startswith((f"{name}.", f"{name}-")) and key != "edge.1"}


@pytest.mark.parametrize(
    ("user", "variables", "sudo", "said", "absent"),
    [
        (1000, {}, "no", "command not found", True),
        (1000, {}, "", "command not found", False),
        (0, {}, "no", "command not found", False),
        (0, {"DOCKER": "no"}, "no", "command not found", True),
        (1000, {"DOCKER_HOST": "tcp://elsewhere:2375"}, "no", "refused", False),
        (1000, {}, "no", "permission denied while connecting", False),
    ],
)
def test_it_is_chosen_where_docker_is_not_to_be_had(
    monkeypatch: pytest.MonkeyPatch, user: int, variables: dict[str, str], sudo: str, said: str, absent: bool
) -> None:
    for name in ("DOCKER", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(docker, "_find", lambda: None)
    monkeypatch.setattr(docker, "said", lambda command: sudo if command[0] == "sudo" else said)
    monkeypatch.setattr("os.getuid", lambda: user)
    assert docker.absent() is absent


def test_an_unknown_engine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GATEHOUSE_ENGINE", "podman")
    with pytest.raises(Failed, match="ENGINE=podman"):
        cli._without_docker(tmp_path)


@pytest.mark.parametrize(
    ("bind", "domains", "target"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1"], "http://127.0.0.1:8080"),
        ("0.0.0.0", ["shop.example.com", "127.0.0.1"], "http://127.0.0.1:8080"),
        ("127.0.0.1", ["localhost"], "http://localhost:8080"),
        ("192.0.2.7", ["192.0.2.7", "localhost"], "http://192.0.2.7:8080"),
        ("192.0.2.7", ["localhost"], None),
        ("127.0.0.1", ["shop.example.com"], None),
    ],
)
def test_load_is_for_this_machine_alone(site: Site, bind: str, domains: list[str], target: str | None) -> None:
    """Whatever the domains' DNS entries say: shop.example.com may be what customers use."""
    place = {"bind": bind, "domains": domains, "http_port": 8080}
    there = replace(site, environment=site.environment.model_copy(update=place))
    if target:
        assert process.load_target(there) == target
        return
    with pytest.raises(Failed, match=f"load tests ask for {bind}"):
        process.load_target(there)


def test_somebody_elses_run_directory_is_not_used(tmp_path: Path) -> None:
    supervisor.own_directory(tmp_path / "mine")
    supervisor.own_directory(tmp_path / "mine")
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("open", "link"):
        with pytest.raises(Failed, match="not a folder of yours alone"):
            supervisor.own_directory(tmp_path / name)


def test_somebody_elses_supervisor_is_not_asked(tmp_path: Path) -> None:
    """Anybody may make a folder of any name in /tmp, with a socket that answers whatever it likes."""
    answers = "<params><param><value><array><data/></array></value></param></params>"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "supervisor.sock"))
        door.listen()

        def answer() -> None:
            peer, _ = door.accept()
            with peer:
                asked = b""
                while b"</methodCall>" not in asked:  # else what is left unread resets the connection
                    asked += peer.recv(65536)
                text = f"<methodResponse>{answers}</methodResponse>".encode()
                peer.sendall(
                    b"HTTP/1.0 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(text) + text
                )

        threading.Thread(target=answer, daemon=True).start()
        tmp_path.chmod(0o777)
        assert supervisor.Supervisor(tmp_path).programs() is None
        tmp_path.chmod(0o700)
        assert supervisor.Supervisor(tmp_path).programs() == []


def test_a_gateway_of_the_systems_own_is_refused_with_what_to_type(draft: Draft) -> None:
    draft.app(f"{WSGI}gateway: mod_wsgi\n")
    said = [sentence for sentence in process.Process(draft.load()).problems() if "mod_wsgi" in sentence]
    assert len(said) == 1
    assert said[0].startswith(
        "apps/shop/app.yml: gateway: mod_wsgi is Debian's Apache on Debian's Python, and needs Docker"
    )
    assert "set gateway: gunicorn-gthread" in said[0]


def test_a_gateway_that_is_compiled_says_what_the_machine_lacks(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    yml = checkout.app_yml("flask")
    yml.write_text(yml.read_text().replace("gateway: gunicorn-gthread", "gateway: uwsgi"))
    engine = process.Process(checkout.site)
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    (said,) = [problem for problem in engine.problems() if "is compiled here" in problem]
    assert said.startswith(
        "apps/flask/app.yml: gateway: uwsgi is compiled here, and this machine lacks no-such-compiler"
    )
    assert said.endswith("Type: sudo apt-get install gcc libc6-dev python3-dev, or choose another gateway")
