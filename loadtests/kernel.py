"""What this machine's kernel and engine know of containers: the CPU time and memory of their control groups, version 1 and 2."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from stack import docker
from stack.errors import Failed

MIB = 2**20


def processes(ids: list[str]) -> list[int]:
    """The id, on this machine, of each container's first process."""
    return list(map(int, docker.run("inspect", "--format", "{{.State.Pid}}", *ids).split())) if ids else []


def _groups(pid: int, root: Path) -> Iterator[tuple[str, Path]]:
    """(controllers, directory) of a process's control groups; no controllers: version 2."""
    for line in (root / f"proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        named = "" if not controllers else f"/{'cpuacct' if 'cpuacct' in controllers.split(',') else controllers}"
        yield controllers, root / f"sys/fs/cgroup{named}{path}"


def cpu(pid: int, root: Path = Path("/")) -> float:
    """s of CPU time that the control group of a process has used. Raises Failed where there is no such group here."""
    try:
        for controllers, group in _groups(pid, root):
            if not controllers:
                said = group / "cpu.stat"
                if said.is_file() and (found := re.search(r"^usage_usec (\d+)", said.read_text(), re.MULTILINE)):
                    return int(found[1]) / 1e6
            elif "cpuacct" in controllers.split(","):
                return int((group / "cpuacct.usage").read_text()) / 1e9
    except OSError as error:
        raise Failed(
            f"the CPU time of containers is not to be read here ({error}): this wants Linux, and Docker on it"
        ) from None
    raise Failed("no control group here counts CPU time: this wants Linux, and Docker on it")


def memory(pid: int, root: Path = Path("/")) -> float:
    """MiB that the control group of a process holds and cannot give back: without files in the cache that nobody uses now."""
    try:
        for controllers, group in _groups(pid, root):
            used, inactive = {
                "": ("memory.current", "inactive_file"),
                "memory": ("memory.usage_in_bytes", "total_inactive_file"),
            }.get(controllers, ("", ""))
            if used and (group / used).is_file():
                cached = re.search(rf"^{inactive} (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
                return (int((group / used).read_text()) - int(cached[1] if cached else 0)) / MIB
    except OSError as error:
        raise Failed(
            f"the memory of containers is not to be read here ({error}): this wants Linux, and Docker on it"
        ) from None
    raise Failed("no control group here counts memory: this wants Linux, and Docker on it")


PSS = 'for p in /proc/[0-9]*; do echo "$p $(cat $p/comm 2>/dev/null) $(sed -n "s/^Pss: *//p" $p/smaps_rollup 2>/dev/null)"; done'


def parts(container: str, workers: int) -> dict[str, float]:
    """MiB of a container's processes, what they share divided among them (PSS): all of them, and a worker's median."""
    said = docker.run("exec", container, "sh", "-c", PSS)
    found = re.findall(r"^/proc/\d+ (?!sh |cat |sed )\S+.* (\d+) kB$", said, re.MULTILINE)
    sizes = sorted((int(size) / 1024 for size in found), reverse=True)
    if not sizes:
        raise Failed("the memory of the app's processes is not to be read (/proc/PID/smaps_rollup)")
    return {"total": sum(sizes), "worker": statistics.median(sizes[:workers]), "processes": len(sizes)}
