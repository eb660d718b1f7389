"""Daphne's command line on a parent of ours, which it has none of: python -P conf.py APP OPTIONS...

Daphne makes an event loop when it is imported, so each worker imports it by itself (gatehouse_daphne.py).
"""

import socket
import sys
from pathlib import Path

import gatehouse_workers

options, rest = gatehouse_workers.options("--keep-alive")


def work(listener: socket.socket) -> None:
    sys.path.append(str(Path(__file__).parent))
    from gatehouse_daphne import serve

    serve(listener, options, [options.entry, *rest])


if __name__ == "__main__":
    sys.exit(gatehouse_workers.run(options.bind, options.workers, work, options.reload))
