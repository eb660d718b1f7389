"""Uvicorn's command line, the app timed, and what it leaves open behind Nginx mended: python -P conf.py APP OPTIONS..."""

from typing import Any

from gatehouse_timing import asgi
from uvicorn import Config, main
from uvicorn.supervisors import Multiprocess

load, terminate_all = Config.load, Multiprocess.terminate_all


def close_and_terminate_all(self: Any) -> None:
    """The parent has the listening socket, too, and accepts nothing on it: until it ends, the kernel goes on taking
    connections that nobody answers, and Nginx waits instead of going to another replica."""
    for listener in self.sockets:
        listener.close()
    terminate_all(self)


def load_and_time(self: Any) -> None:
    load(self)
    self.loaded_app = asgi(self.loaded_app)


Config.load = load_and_time  # type: ignore[method-assign]
Multiprocess.terminate_all = close_and_terminate_all  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
