"""One stack file that `docker compose` and `docker stack deploy` both accept, and the same services on both."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stack import dev, docker
from stack.load import load_site
from stack.render import render
from tests.conftest import REPOSITORY
from tests.rendered.conftest import HERE, Rendered, read_yaml

# What Swarm ignores (the docker CLI's list of unsupported and deprecated keys) or what only one of the two accepts.
ONE_ENGINE_ONLY = {
    *("build", "cgroup_parent", "cgroupns_mode", "container_name", "depends_on", "devices", "domainname", "expose"),
    *("external_links", "gpus", "ipc", "links", "mac_address", "network_mode", "pid", "platform", "privileged"),
    *("profiles", "pull_policy", "restart", "runtime", "security_opt", "shm_size", "tmpfs", "userns_mode", "volumes_from"),
}  # fmt: skip


def client(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*docker.client(), *arguments], capture_output=True, text=True, check=False)


def test_compose_accepts_the_stack(rendered: Rendered) -> None:
    done = client("compose", "--project-name=x", f"--file={rendered.directory / 'stack.yml'}", "config")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(read_yaml(done.stdout)["services"]) == sorted(rendered.stack["services"])


def test_swarm_accepts_the_stack(rendered: Rendered) -> None:
    done = client("stack", "config", f"--compose-file={rendered.directory / 'stack.yml'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(read_yaml(done.stdout)["services"]) == sorted(rendered.stack["services"])


def test_compose_accepts_what_this_machine_adds(all_rendered: dict[str, Rendered]) -> None:
    directory = all_rendered["test"].directory
    files = [f"--file={directory / name}" for name in ("stack.yml", "local.yml")]
    done = client("compose", "--project-name=x", *files, "config")
    assert (done.returncode, done.stderr) == (0, "")
    edge = read_yaml(done.stdout)["services"]["edge"]
    assert [(p["host_ip"], p["published"], p["target"]) for p in edge["ports"]] == [
        ("127.0.0.1", "8080", 8080),
        ("127.0.0.1", "8443", 8443),
    ]


def test_nothing_in_the_stack_means_anything_to_one_engine_only(rendered: Rendered) -> None:
    assert set(rendered.stack) <= {"services", "networks", "volumes", "secrets"}
    for name, service in rendered.stack["services"].items():
        assert set(service) & ONE_ENGINE_ONLY == set(), name


def test_ports_of_this_machine_stand_in_local_yml_alone(all_rendered: dict[str, Rendered]) -> None:
    test, fleet = all_rendered["test"], all_rendered["fleet"]
    assert [name for name, service in test.stack["services"].items() if "ports" in service] == []
    assert [name for name, service in fleet.stack["services"].items() if "ports" in service] == ["edge"]
    assert "host_ip" not in fleet.files["stack.yml"]
    assert "local.yml" in test.files
    assert "local.yml" not in fleet.files


def test_no_file_knows_where_it_was_made(rendered: Rendered) -> None:
    for name, text in rendered.files.items():
        for path in (REPOSITORY, rendered.directory, Path.home()):
            assert f"{path}/" not in text, name


def test_dollar_signs_reach_the_app(rendered: Rendered) -> None:
    """Both engines replace $NAME in the file, so each is written twice."""
    done = client("stack", "config", f"--compose-file={rendered.directory / 'stack.yml'}")
    services = read_yaml(done.stdout)["services"]
    greeting = services["shop"]["environment"]["GREETING"]
    assert greeting.replace("$$", "$") == '50 % off for $USER, "today" — ${ALL}'
    assert services["shop-worker"]["command"][-1].replace("$$", "$") == "$HOME is not expanded"


def test_a_health_check_asks_for_a_name_the_app_knows(rendered: Rendered) -> None:
    """Frameworks refuse others (Django: ALLOWED_HOSTS), and a healthy app would never become healthy."""
    for name, plan in rendered.site.apps.items():
        probe = rendered.stack["services"][name]["healthcheck"]["test"][-1]
        assert f"\\r\\nHost: {plan.host or rendered.site.environment.domains[0]}\\r\\n" in probe


def test_every_container_is_bounded_and_has_no_privilege(rendered: Rendered) -> None:
    for name, service in rendered.stack["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["deploy"]["restart_policy"]["condition"] == "any", name


def test_only_apps_with_egress_reach_the_outside(rendered: Rendered) -> None:
    assert rendered.stack["networks"]["apps"] == {"internal": True}
    outside = {name for name, service in rendered.stack["services"].items() if "egress" in service["networks"]}
    assert outside == {"shop", "shop-worker", "shop-clock", "old-reports"}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """The test environment rendered for Compose and, with that one word changed, for Swarm."""
    both = []
    for engine in ("compose", "swarm"):
        root = tmp_path_factory.mktemp(engine)
        shutil.copytree(HERE / "site", root, dirs_exist_ok=True)
        file = root / "environments/test.yml"
        file.write_text(file.read_text().replace("engine: compose", f"engine: {engine}"))
        both.append(render(load_site(root, "test")))
    return both[0], both[1]


def test_nginx_is_the_same_on_both_engines(twins: tuple[dict[str, str], dict[str, str]]) -> None:
    compose, swarm = ({n: t for n, t in files.items() if n.startswith("nginx/")} for files in twins)
    assert compose == swarm


def test_services_are_the_same_on_both_engines(twins: tuple[dict[str, str], dict[str, str]]) -> None:
    compose, swarm = (read_yaml(files["stack.yml"])["services"] for files in twins)
    for service in (edge := swarm["edge"]), compose["edge"]:
        service["volumes"] = [v for v in service["volumes"] if v["type"] != "bind"]
    del edge["ports"], edge["deploy"]["mode"], edge["deploy"]["update_config"]
    for service in swarm.values():
        del service["deploy"]["placement"]  # of hosts
    assert compose == swarm


def test_environments_change_only_what_they_say(all_rendered: dict[str, Rendered]) -> None:
    test, fleet = (differing(all_rendered[env].stack["services"]) for env in ("test", "fleet"))
    assert {name for name in test if test[name] != fleet[name]} == {"api", "shop"}
    api, shop = fleet["api"], fleet["shop"]
    api["command"][api["command"].index("--workers") + 1] = "1"
    api["deploy"]["replicas"] = shop["deploy"]["replicas"] = 1
    assert test == fleet


def differing(services: dict[str, Any]) -> dict[str, Any]:
    """The apps' services, less what follows from the environment's domains and from the settings' own hash."""
    del services["edge"]
    for service in services.values():
        service["environment"] = [v for v in service["environment"] if not v.startswith("GATEHOUSE_RELEASE=")]
        service["deploy"].pop("placement", None)
        if "healthcheck" in service:
            service["healthcheck"]["test"] = [
                part.replace("example.com", "localhost") for part in service["healthcheck"]["test"]
            ]
    return services


def test_what_both_environments_have_of_nginx_is_the_same(all_rendered: dict[str, Rendered]) -> None:
    test, fleet = (all_rendered[env].edge_files for env in ("test", "fleet"))
    shared = test.keys() & fleet.keys() - {"site.conf"}
    assert test.keys() - fleet.keys() == {"pages/index.html"}
    assert {name: test[name] for name in shared} == {name: fleet[name] for name in shared}


def test_a_debugger_is_reached_on_loopback_alone_wherever_the_edge_is() -> None:
    site = load_site(REPOSITORY, "local")
    site = replace(site, environment=site.environment.model_copy(update={"bind": "0.0.0.0"}))
    assert "5678" not in render(site)["local.yml"]
    services = read_yaml(render(dev.of(site))["local.yml"])["services"]
    assert set(dev.ports(dev.of(site))) == set(site.apps)
    for name, port in dev.ports(dev.of(site)).items():
        assert [(p["host_ip"], p["published"]) for p in services[name]["ports"]] == [("127.0.0.1", port)]
        assert "GATEHOUSE_DEV" not in render(site)["stack.yml"] + render(site)["local.yml"]
