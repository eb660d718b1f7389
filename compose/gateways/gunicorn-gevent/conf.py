"""Gunicorn's gevent worker needs nothing mended: this only times the app."""

from typing import Any

from gatehouse_timing import wsgi


def post_worker_init(worker: Any) -> None:
    worker.wsgi = wsgi(worker.wsgi)
