"""Uvicorn's command line, with what it leaves open behind Nginx mended for every app: python -P conf.py APP OPTIONS..."""

from typing import Any

from uvicorn import main
from uvicorn.supervisors import Multiprocess

terminate_all = Multiprocess.terminate_all


def close_and_terminate_all(self: Any) -> None:
    """The parent has the listening socket, too, and accepts nothing on it: until it ends, the kernel goes on taking
    connections that nobody answers, and Nginx waits instead of going to another replica."""
    for listener in self.sockets:
        listener.close()
    terminate_all(self)


Multiprocess.terminate_all = close_and_terminate_all  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
