#!/usr/bin/python
"""A host's edge: its configuration as a versioned directory, tested, switched to, and asked. Settings: ARGUMENTS."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gatehouse import edge

ARGUMENTS: dict[str, Any] = {
    "step": {"choices": ["publish", "switch", "ask"], "required": True},
    "site": {"required": True},
    # publish: the files of build/<env>/, of which it takes nginx/; the certificate's, or none to keep the present ones.
    "files": {"type": "dict"},
    "tls": {"type": "dict", "no_log": True},
    "image": {},
    # switch: to this release of the directory.
    "version": {},
    # ask: every app's health path, through this host's edge.
    "plan": {"type": "dict"},
    "skip": {"type": "list", "elements": "str", "default": []},  # apps that did not run before, either
    "patience": {"type": "float", "default": 15.0},  # s
}


class Refused(Exception):
    """One sentence for people."""


def publish(root: Path, files: dict[str, str], tls: dict[str, str] | None, image: str) -> dict[str, Any]:
    """Writes a release unless it is there, and lets the shipped Nginx test it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    root.parent.chmod(0o700)  # it holds the certificate's key, readable for Nginx's user
    previous = edge.current(root)
    content = {name.removeprefix("nginx/"): text.encode() for name, text in files.items() if name.startswith("nginx/")}
    if tls is None and previous:
        present = root / "releases" / previous / "tls"
        # Of ACME's, certificate.pem is a link, which publish makes anew.
        content |= {
            f"tls/{path.name}": path.read_bytes() for path in sorted(present.iterdir()) if not path.is_symlink()
        }
    content |= {name: text.encode() for name, text in (tls or {}).items()}
    version = edge.publish(root, content)
    if version != previous:
        done = subprocess.run(["docker", *edge.test(root, version, image)], capture_output=True, text=True, check=False)
        if done.returncode:
            edge.discard(root, version)
            reasons = "\n".join(f"  | {line}" for line in done.stderr.strip().splitlines()[-10:])
            raise Refused(f"Nginx refuses this configuration; the running one was not touched\n{reasons}")
    return {"version": version, "previous": previous or "", "changed": version != previous}


def switch(root: Path, site: str, version: str) -> dict[str, Any]:
    """Points the directory at a release and has the running Nginx take it; without one, the next to start will."""
    before = edge.current(root)
    if before != version:
        edge.switch(root, version)
    container = running(site)
    if container and serves(container) != version:
        command(["docker", "exec", container, "nginx", *edge.arguments("current", "-s", "reload")])
        end = time.monotonic() + 10
        while serves(container) != version:
            if time.monotonic() > end:
                raise Refused("the edge did not take its new configuration within 10 s")
            time.sleep(0.2)
        return {"changed": True}
    return {"changed": before != version}


def ask(plan: dict[str, Any], skip: list[str], patience: float) -> dict[str, Any]:
    """Until every app's health path answers 200 through this edge."""
    way, end = plan["edge"], time.monotonic() + patience
    while True:
        answers = {
            name: edge.ask("127.0.0.1", way["port"], way["secure"], app["host"], app["health"])
            for name, app in plan["apps"].items()
            if name not in skip
        }
        bad = {name: answer for name, answer in answers.items() if answer != "200"}
        if not bad:
            return {"answers": answers, "changed": False}
        if time.monotonic() > end:
            said = ", ".join(f"{name}: {plan['apps'][name]['health']} answers {answer}" for name, answer in bad.items())
            raise Refused(f"healthy, but not through this host's edge: {said}")
        time.sleep(0.5)


def running(site: str) -> str | None:
    """The id of the edge's container on this host."""
    found = command(["docker", "ps", "--quiet", "--filter", f"label=com.docker.swarm.service.name={site}_edge"]).split()
    return found[0] if found else None


def serves(container: str) -> str:
    """The hash of the configuration that the running Nginx has."""
    done = subprocess.run(["docker", "exec", container, *edge.VERSION], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def command(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{' '.join(words[:3])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def main() -> None:
    module = AnsibleModule(ARGUMENTS)
    given = module.params
    root = Path("/srv") / given["site"] / "edge"
    try:
        match given["step"]:
            case "publish":
                result = publish(root, given["files"], given["tls"], given["image"])
            case "switch":
                result = switch(root, given["site"], given["version"])
            case _:
                result = ask(given["plan"], given["skip"], given["patience"])
    except (Refused, OSError) as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
