"""Keeps all cores of this machine so busy, together with everything else that runs: python -m tests.hosts.burn 0.9 SECONDS"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

from loadtests.machine import share as busy
from loadtests.machine import ticks


def burn(share: float, seconds: float) -> None:
    """One process of many: works a part of each 20 ms, more while the machine has time left, less while it has not."""
    end, part, before = time.monotonic() + seconds, 0.5, ticks()
    for number in range(10**9):
        began = time.monotonic()
        if began > end:
            return
        while time.monotonic() - began < part * 0.02:
            pass
        time.sleep((1 - part) * 0.02)
        if number % 25 == 24:
            now = ticks()
            part, before = min(max(part + share - (busy(before, now) or 0.0), 0.0), 1.0), now


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    os.setpgrp()
    burners = [multiprocessing.Process(target=burn, args=(float(sys.argv[1]), float(sys.argv[2]))) for _ in range(4)]
    for burner in burners:
        burner.start()
    for burner in burners:
        burner.join()
