"""What stands in the way of provisioning the host this runs on: a JSON list of sentences on standard output.

Facts, then one pure function. It runs on a bare host: the standard library of Python 3.9 and nothing else.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SUPPORTED = {"debian": ("12", "13"), "ubuntu": ("24.04",)}
OLDEST_ENGINE = (25,)
"""Older engines' own client refuses the stack file."""


def problems(wanted: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """A sentence for each thing that must change first, with what to do."""
    found = []
    if facts["version"] not in SUPPORTED.get(facts["id"], ()):
        found.append(f"runs {facts['system']}. Supported: Debian 12 and 13, Ubuntu 24.04")
    if not facts["systemd"]:
        found.append("is not run by systemd, which has to start the engine and keep it running")
    engine = facts["engine"]
    if engine and tuple(int(part) for part in engine.split(".")[:1]) < OLDEST_ENGINE:
        found.append(
            f"has Docker {engine}, and 25 or newer is needed. Upgrade it, or remove its packages: then a newer one gets installed"
        )
    if facts["free_gb"] < wanted["free_gb"]:
        found.append(
            f"has {facts['free_gb']:.1f} GB free for /var/lib/docker, and {wanted['free_gb']:.0f} are needed (preflight_free_gb)"
        )
    if abs(facts["now"] - wanted["now"]) > wanted["skew"]:
        found.append(
            f"has a clock {facts['now'] - wanted['now']:+.0f} s off this machine's. Set one of them right: timedatectl set-ntp true"
        )
    for port in [*wanted["ports"], *(f"{port}/udp" for port in wanted["udp"])]:
        owner = facts["listening"].get(str(port))
        if owner and owner not in ("dockerd", "docker-proxy"):
            found.append(
                f"has port {port} taken by {owner}. Stop that, or choose another port in the environment's file"
                if port not in (2377, 7946)
                else f"has port {port}, which Swarm needs, taken by {owner}"
            )
    for pool in wanted["pools"]:
        for network, device in facts["routes"]:
            if ipaddress.ip_network(network).overlaps(ipaddress.ip_network(pool)):
                found.append(
                    f"uses {network} on {device}, and {pool} overlaps it, which its containers would get. "
                    "Set host_address_pool or swarm_address_pool to a network that is free"
                )
    if wanted["encrypted"] and not facts["esp"]:
        found.append(
            "has a kernel without ESP (IPsec), so an encrypted network would carry nothing. Take a kernel with CONFIG_INET_ESP"
        )
    return found


def gather() -> dict[str, Any]:
    """The facts about this host."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line and line[0] != "#"
    )
    release = {key: value.strip('"') for key, value in release.items()}
    place = Path("/var/lib/docker")
    while not place.exists():
        place = place.parent
    return {
        "id": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "system": release.get("PRETTY_NAME", "an unknown system"),
        "systemd": Path("/run/systemd/system").is_dir(),
        "engine": engine(),
        "free_gb": shutil.disk_usage(place).free / 1e9,
        "now": time.time(),
        "listening": listening(),
        "routes": routes(Path("/proc/net/route").read_text()),
        "esp": esp(),
    }


def engine() -> str:
    """The running engine's version; empty when none answers."""
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def listening() -> dict[str, str]:
    """Ports that somebody listens on ("443", and "443/udp" for UDP), and the name of that program."""
    ports = {}
    for table, state, kind in (("tcp", "0A", ""), ("tcp6", "0A", ""), ("udp", "07", "/udp"), ("udp6", "07", "/udp")):
        file = Path("/proc/net") / table
        for line in file.read_text().splitlines()[1:] if file.exists() else ():
            fields = line.split()
            if fields[3] == state:
                ports[f"{int(fields[1].rpartition(':')[2], 16)}{kind}"] = f"socket:[{fields[9]}]"
    owners = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            owners[str(link.readlink())] = (link.parent.parent / "comm").read_text().strip()
        except OSError:
            continue  # it ended meanwhile
    return {port: owners.get(socket, "another program") for port, socket in ports.items()}


def routes(table: str) -> list[tuple[str, str]]:
    """Networks this host has a route to, other than the default one and the engine's own: (network, device)."""
    found = []
    for line in table.splitlines()[1:]:
        device, destination, _, _, _, _, _, mask = line.split()[:8]
        address, bits = (struct.pack("=I", int(field, 16)) for field in (destination, mask))
        network = f"{ipaddress.IPv4Address(address)}/{ipaddress.IPv4Address(bits)}"
        if int(mask, 16) and not device.startswith(("docker", "br-", "veth")):
            found.append((str(ipaddress.ip_network(network)), device))
    return found


def esp() -> bool:
    """Whether the kernel takes an IPsec association; tried in a network namespace of its own."""
    add = "ip xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 256 mode transport aead"
    try:
        done = subprocess.run(
            ["unshare", "--net", *add.split(), "rfc4106(gcm(aes))", "0x" + "00" * 20, "64"], capture_output=True
        )
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    print(json.dumps(problems(json.loads(sys.argv[1]), gather())))
