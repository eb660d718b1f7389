"""Times the app, and mends what Gunicorn leaves open behind Nginx, as in gunicorn/conf.py."""

from typing import Any

from gatehouse_timing import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData


def post_worker_init(worker: Any) -> None:
    worker.wsgi = wsgi(worker.wsgi, NoMoreData)


def a_body_cut_off_is_an_error() -> None:
    """Where a path has `stream: true`, a client that goes away in the middle is the app's to notice. Gunicorn takes what has
    come as the whole, so half an upload would be kept as one; of a chunked body it says so itself."""
    read = LengthReader.read

    def read_or_raise(self: Any, size: int) -> bytes:
        left = self.length
        data: bytes = read(self, size)
        if len(data) < min(left, size):
            raise NoMoreData
        return data

    LengthReader.read = read_or_raise


a_body_cut_off_is_an_error()
