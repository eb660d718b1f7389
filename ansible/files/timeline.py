"""What containers of this host go through, and when replicas enter and leave DNS: python3 timeline.py HOST SITE APP...

    {"at": 1764060000.123, "host": "host1", "service": "gatehouse_shop", "what": "kill 15"}
    {"at": 1764060000.345, "host": "host1", "service": "gatehouse_shop", "what": "out of DNS 10.0.1.7"}

Run by ansible/timeline.yml on each host. DNS is asked in the network of the site's edge, as its Nginx does.
"""

import json
import socket
import struct
import subprocess
import sys
import threading
import time

EVENTS = ("create", "start", "health_status", "kill", "die")
DNS = ("127.0.0.11", 53)
EVERY = 0.1
"""s between two questions."""


def write(at: float, host: str, service: str, what: str) -> None:
    print(json.dumps({"at": at, "host": host, "service": service, "what": what}), flush=True)


def containers(host: str) -> None:
    """A line for each event of the engine, until it stops."""
    filters = [part for event in EVENTS for part in ("--filter", f"event={event}")]
    command = ["docker", "events", "--filter", "type=container", *filters, "--format", "{{json .}}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as said:
        assert said.stdout is not None
        for line in said.stdout:
            event = json.loads(line)
            about = event["Actor"]["Attributes"]
            signal = f" {about['signal']}" if "signal" in about else ""
            service = about.get("com.docker.swarm.service.name", about["name"])
            write(event["timeNano"] / 1e9, host, service, event["Action"] + signal)


def addresses(asking: socket.socket, name: str) -> set[str]:
    """What `name` resolves to; nothing where it is not known. Raises OSError when nobody answers."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = labels + b"\0\0\1\0\1"  # type A, internet
    asking.send(struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + question)
    answer = asking.recv(4096)
    (count,) = struct.unpack_from(">H", answer, 6)
    at, found = 12 + len(question), set()
    for _ in range(count):
        while answer[at] and answer[at] < 0xC0:  # the name: labels, then an end or a pointer
            at += answer[at] + 1
        at += 2 if answer[at] else 1
        kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
        at += 10 + length
        if kind == 1:
            found.add(socket.inet_ntoa(answer[at - length : at]))
    return found


def names(host: str, site: str, apps: list[str]) -> None:
    """A line for each change of DNS, until nobody answers."""
    known: dict[str, set[str]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.connect(DNS)
        while True:
            for app in apps:
                found = addresses(asking, app)
                before = known.get(app, found)
                for address in before - found:
                    write(time.time(), host, f"{site}_{app}", f"out of DNS {address}")
                for address in found - before:
                    write(time.time(), host, f"{site}_{app}", f"in DNS {address}")
                known[app] = found
            time.sleep(EVERY)


def edge(site: str) -> str:
    """The process id of the site's edge; empty: there is none now."""
    label = f"label=com.docker.swarm.service.name={site}_edge"
    found = subprocess.run(
        ["docker", "ps", "--quiet", "--filter", label], capture_output=True, text=True
    ).stdout.split()
    command = ["docker", "inspect", "--format", "{{.State.Pid}}", *found[:1]]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() if found else ""


if __name__ == "__main__":
    if sys.argv[1] == "--names":
        try:
            names(sys.argv[2], sys.argv[3], sys.argv[4:])
        except OSError:
            sys.exit()
    threading.Thread(target=containers, args=(sys.argv[1],), daemon=True).start()
    while True:
        if pid := edge(sys.argv[2]):
            subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, __file__, "--names", *sys.argv[1:]])
        time.sleep(0.5)
