"""What the running chain's containers may do: read from the engine, and tried from inside."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from stack import docker
from stack.model import size_bytes
from tests.conftest import Chain, needs_docker

pytestmark = needs_docker


@pytest.fixture(scope="module")
def containers(chain: Chain) -> dict[str, dict[str, Any]]:
    """Service -> what `docker inspect` says of its first container."""
    project = f"label=com.docker.compose.project={chain.checkout.site.environment.name}"
    found = json.loads(docker.run("inspect", *docker.run("ps", "--quiet", "--filter", project).split()))
    return {of["Config"]["Labels"]["com.docker.compose.service"]: of for of in found}


def inside(container: dict[str, Any], *command: str) -> str:
    return docker.run("exec", container["Id"], *command)


def test_each_service_is_looked_at(chain: Chain, containers: dict[str, dict[str, Any]]) -> None:
    assert containers.keys() >= {"edge", *chain.apps}


def test_no_container_has_a_privilege(containers: dict[str, dict[str, Any]]) -> None:
    for name, of in containers.items():
        host = of["HostConfig"]
        assert (host["Privileged"], host["CapAdd"], host["CapDrop"]) == (False, None, ["ALL"]), name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name  # and so not seccomp=unconfined
        assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", of["Config"]["User"]), name
        for namespace in ("PidMode", "UTSMode", "UsernsMode", "NetworkMode"):
            assert "host" not in host[namespace], (name, namespace)
        assert host["IpcMode"] == "private", name
        assert not host["Devices"], name
        # As the kernel has it.
        status = dict(line.split(":\t") for line in inside(of, "cat", "/proc/1/status").splitlines() if ":\t" in line)
        assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}, name
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), name
        assert "0" not in status["Uid"].split(), name


def test_nothing_of_the_machine_is_mounted_and_only_tmp_can_be_written(containers: dict[str, dict[str, Any]]) -> None:
    for name, of in containers.items():
        assert of["HostConfig"]["ReadonlyRootfs"], name
        assert "docker.sock" not in json.dumps(of["Mounts"] + (of["HostConfig"]["Binds"] or [])), name
        binds = {mount["Destination"]: mount["RW"] for mount in of["Mounts"] if mount["Type"] == "bind"}
        secrets = {path: rw for path, rw in binds.items() if path.startswith("/run/secrets/")}
        assert binds == ({"/etc/gatehouse": False} if name == "edge" else {}) | dict.fromkeys(secrets, False), name
        mounts = {line.split()[1]: line.split()[2:4] for line in inside(of, "cat", "/proc/mounts").splitlines()}
        assert mounts["/"][1].split(",")[0] == "ro", name
        for path in ("/tmp", "/dev/shm"):
            assert {"noexec", "nosuid", "nodev"} <= set(mounts[path][1].split(",")), (name, path)
            assert "size=" in mounts[path][1], (name, path)


def test_each_container_is_bounded_and_comes_back(chain: Chain, containers: dict[str, dict[str, Any]]) -> None:
    for name, of in containers.items():
        host = of["HostConfig"]
        assert 0 < host["Memory"] == host["MemorySwap"], name
        assert 0 < host["PidsLimit"] <= 512, name
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}, name
        assert host["RestartPolicy"]["Name"] == "always", name
        if plan := chain.apps.get(name):
            assert host["NanoCpus"] == plan.app.cpus * 1e9, name  # the edge has what is left
            assert host["Memory"] == size_bytes(plan.app.memory), name
        assert of["State"]["Health"]["Status"] == "healthy", name


def test_the_first_process_passes_signals_on(containers: dict[str, dict[str, Any]]) -> None:
    """A gateway and compose/edge.sh do so by themselves; whatever else a service runs has an init."""
    for name, of in containers.items():
        first = inside(of, "cat", "/proc/1/cmdline").split("\0")
        assert of["HostConfig"].get("Init") or re.search("gunicorn|python|bash", first[0]), (name, first)


def test_no_secret_is_a_variable_unless_the_app_says_so(chain: Chain, containers: dict[str, dict[str, Any]]) -> None:
    for name, plan in chain.apps.items():
        variables = {variable.partition("=")[0] for variable in containers[name]["Config"]["Env"]}
        assert not variables & set(plan.app.secrets), name


def test_only_the_edge_has_a_port(containers: dict[str, dict[str, Any]]) -> None:
    published = {name for name, of in containers.items() if of["HostConfig"]["PortBindings"]}
    assert published == {"edge"}
    for bindings in containers["edge"]["HostConfig"]["PortBindings"].values():
        assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]


# --- from inside --------------------------------------------------------------------------------------------------------

CONNECT = """
import socket, sys
for place in sys.argv[1:]:
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(place)
    except OSError:
        pass
"""


@pytest.fixture
def machine() -> Iterator[int]:
    """A port of this machine that anybody may connect to who reaches one of its addresses."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def test_an_app_without_egress_reaches_other_apps_and_nothing_else(
    chain: Chain, containers: dict[str, dict[str, Any]], machine: int
) -> None:
    """Not the outside, and not this machine, by whichever of its addresses."""
    apart = [name for name, plan in chain.apps.items() if not plan.app.egress]
    assert apart
    networks = json.loads(
        docker.run("network", "inspect", *docker.run("network", "ls", "--quiet", "--filter=driver=bridge").split())
    )
    addresses = {of["Gateway"] for network in networks for of in network["IPAM"]["Config"] or () if "Gateway" in of}
    addresses |= {of[4][0] for of in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    here = [f"{address}:{machine}" for address in sorted(addresses) if not address.startswith("127.")]
    # The edge is on a network with a way out: what it reaches there is what an app must not.
    reached = inside(containers["edge"], "bash", "-c", f"for a in {' '.join(here)}; do (timeout 2 bash -c \"</dev/tcp/${{a%:*}}/${{a#*:}}\") 2>/dev/null && echo $a; done; true").split()  # fmt: skip
    assert reached
    for name in apart:
        others = [f"{other}:8000" for other in chain.apps if other != name]
        places = [*here, "192.0.2.1:443", "example.com:80", *others]
        assert inside(containers[name], "python", "-c", CONNECT, *places).split() == others, name
        routes = inside(containers[name], "cat", "/proc/net/route").splitlines()[1:]
        assert "00000000" not in {route.split()[1] for route in routes}, f"{name} has a default route"
