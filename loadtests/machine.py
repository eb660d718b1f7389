"""How busy the machine is that generates load."""

from __future__ import annotations

from pathlib import Path


def ticks(stat: Path = Path("/proc/stat")) -> tuple[int, int, int]:
    """Busy, all, and stolen clock ticks of all cores since the machine started; nothing where there is no /proc (macOS)."""
    if not stat.exists():
        return 0, 0, 0
    # user nice system idle iowait irq softirq steal; what follows (guest) is in user already.
    counted = [int(n) for n in stat.read_text().partition("\n")[0].split()[1:9]]
    return sum(counted) - counted[3] - counted[4], sum(counted), counted[7]


def share(before: tuple[int, int, int], after: tuple[int, int, int]) -> float | None:
    """Busy part of all cores between two of them, 0..1."""
    return (after[0] - before[0]) / (after[1] - before[1]) if after[1] > before[1] else None


def stolen(before: tuple[int, int, int], after: tuple[int, int, int]) -> float:
    """Part of all cores' time that this machine's own host gave to others meanwhile, 0..1."""
    return (after[2] - before[2]) / max(after[1] - before[1], 1)
