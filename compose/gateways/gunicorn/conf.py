"""What Gunicorn leaves open behind Nginx, mended for every WSGI app without a change to its code."""

import os
import signal
import time
from typing import Any

from gatehouse_timing import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData
from gunicorn.workers import gthread
from gunicorn.workers.sync import StopWaiting


def post_worker_init(worker: Any) -> None:
    """Times the app, and leaves the door open for nobody. A worker that is told to end lets nobody in, but both classes have the door open
    until they are gone: the kernel goes on taking connections, and Nginx waits for an answer that never comes."""
    worker.wsgi = wsgi(worker.wsgi, NoMoreData)
    if hasattr(worker, "set_accept_enabled"):
        gthread_closes_its_door(worker)
        gthread_lets_in_whom_it_can_serve(worker)
    else:
        sync_answers_who_waits(worker)


def worker_int(worker: Any) -> None:
    """A file has changed (make dev): gthread's loop would find out within a second, and stay 2 s for kept connections."""
    if "GATEHOUSE_DEV" in os.environ and hasattr(worker, "method_queue"):
        gthread.STOP_KEEPALIVE_LINGER = 0
        worker.method_queue.defer(lambda: None)


def gthread_closes_its_door(worker: Any) -> None:
    """At once, not with the last answer: new connections are refused, and Nginx goes to another replica."""
    enable = worker.set_accept_enabled

    def set_accept_enabled(enabled: bool) -> None:
        enable(enabled)
        if enabled or worker.alive:
            return
        for listener in worker.sockets:
            before = None
            while before != worker.nr_conns:  # whoever is in already
                before = worker.nr_conns
                worker.accept(listener)
            listener.close()
        worker.sockets = []

    worker.set_accept_enabled = set_accept_enabled


PATIENCE = 0.05
"""s at a worker's door: longer than another one with a free thread would take to open its own."""


def gthread_lets_in_whom_it_can_serve(worker: Any) -> None:
    """Else one process takes connections for which it has no thread, and threads of the others stay free. Where there are none
    free anywhere, one after another is let in nevertheless: kept connections, each with its next request, would have every
    thread for themselves, and the engine's health check is among those at the door (14 s, measured)."""
    accept, enable, closed = worker.accept, worker.set_accept_enabled, 0.0

    def all_busy() -> bool:
        idle = len(worker.keepalived_conns) + len(worker.pending_conns)
        return bool(worker.nr_conns - idle >= worker.cfg.threads)

    def accept_and_look(listener: Any) -> None:
        nonlocal closed
        accept(listener)
        if worker.alive and all_busy():
            enable(False)
            closed = time.monotonic()

    def enable_and_look(enabled: bool) -> None:
        if enabled and worker.alive and all_busy():
            enable(False)
            if time.monotonic() - closed >= PATIENCE:
                for listener in worker.sockets:
                    accept_and_look(listener)
        else:
            enable(enabled)

    # Gunicorn's loop asks for True again and again where it is not so, and a thread that is done wakes it.
    worker.accept = accept_and_look
    worker.set_accept_enabled = enable_and_look


def sync_answers_who_waits(worker: Any) -> None:
    """The queue is the kernel's here, in front of workers that are all busy: they end when nobody is left in it."""
    wait, told = worker.wait, []

    def until_nobody_waits(timeout: float) -> Any:  # called whenever nobody does
        if told:
            raise StopWaiting
        return wait(timeout)

    worker.wait = until_nobody_waits
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Takes in what the app left unread of the body. Gunicorn 27 takes 64 KiB and hangs up; Nginx, still sending, would
    answer 502 instead of the app's own 401, 404 or 405 (51 of 100 POSTs of 256 KiB) and count a failed replica."""
    try:
        while req.body.read(2**16):
            pass
    except Exception:  # Nginx has what it needed and has gone
        pass


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
