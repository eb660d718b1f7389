"""`make proof`: the release that is written now, to the hosts of an inventory, under load through every one of their edges.

    python -m loadtests.proof_fleet ansible/inventory/production [options of loadtests.proof] [-- COMMAND...]

What to ask, and how, comes from the inventory and the site; the page shows what each container went through meanwhile.
Without a command: ansible-playbook deploy.yml --tags release.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loadtests import proof
from stack.load import Site, SiteError, load_site
from stack.say import errors

REPOSITORY = Path(__file__).resolve().parent.parent
PLAYBOOKS = REPOSITORY / "ansible"
BIN = Path(sys.executable).parent


def inventory(path: Path) -> dict[str, dict[str, Any]]:
    """Host -> its variables, of those that have an edge: not drained, not on their way out."""
    said = subprocess.run([BIN / "ansible-inventory", "-i", path, "--list"], check=True, capture_output=True, text=True)
    found = json.loads(said.stdout)
    names = [name for group in ("managers", "workers") for name in found.get(group, {}).get("hosts", [])]
    variables = found["_meta"]["hostvars"]
    return {name: v for name in names if (v := variables.get(name, {})).get("swarm_member", "active") == "active"}


def options(site: Site, hosts: dict[str, dict[str, Any]], own: list[str]) -> list[str]:
    """What loadtests.proof has to know of this site on these hosts; `own` may choose among the edges."""
    environment = site.environment
    local = [name for name, v in hosts.items() if v.get("ansible_connection") == "local"]
    addresses = ["127.0.0.1" if name in local else str(v.get("ansible_host", name)) for name, v in hosts.items()]
    found = [] if "--edge" in own else [part for address in addresses for part in ("--edge", address)]
    found += ["--host", environment.domains[0]]
    if environment.tls.certificate == "off":
        found += ["--plain", "--port", str(environment.http_port)]
    else:
        found += ["--port", str(environment.https_port)]
        if environment.tls.certificate == "local-ca":
            found += ["--ca", str(site.root / ".local/ca/ca.pem")]
    for plan in site.apps.values():
        if plan.host:
            continue  # asked for by another name; its health path is verified by the release itself
        if plan.app.contract == "full":
            found += ["--app", f"{plan.prefix or '/'}={plan.app.interface}"]
        else:
            found += ["--health", plan.health_url]
    return found


def timeline(path: Path, *arguments: str) -> None:
    """Runs ansible/timeline.yml; what it cannot do is missing on the page, and no reason to stop."""
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", path, PLAYBOOKS / "timeline.yml", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        errors.print("the hosts' events could not be read; the page goes without", markup=False)


def main(arguments: list[str]) -> int:
    """Exit codes as in loadtests.proof."""
    if not arguments or not Path(arguments[0]).exists():
        errors.print(
            f"error: no inventory {' '.join(arguments[:1])}. Type: make proof INVENTORY=inventory/test", markup=False
        )
        return 2
    path, own = Path(arguments[0]).resolve(), arguments[1:]
    command: list[str] = []
    if "--" in own:
        own, command = own[: own.index("--")], own[own.index("--") + 1 :]
    os.environ["ANSIBLE_CONFIG"] = str(PLAYBOOKS / "ansible.cfg")
    hosts = inventory(path)
    env = next((v["gatehouse_env"] for v in hosts.values() if "gatehouse_env" in v), "production")
    try:
        site = load_site(REPOSITORY, env)
    except SiteError as error:
        errors.print(f"error: {error}", markup=False)
        return 2
    command = command or [
        str(BIN / "ansible-playbook"), "-i", str(path), str(PLAYBOOKS / "deploy.yml"), "--tags", "release",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder, "events")
        timeline(path, "--tags", "start", "-e", f"timeline_of={','.join([site.environment.name, *site.apps])}")
        return proof.main(
            [*options(site, hosts, own), "--events", str(events), *own, "--", *command],
            lambda: timeline(path, "--tags", "fetch", "-e", f"timeline_file={events}"),
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
