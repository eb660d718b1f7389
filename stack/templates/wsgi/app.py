"""A Flask app to begin with: replace what it answers."""

import os
import time

from flask import Flask
from flask.typing import ResponseReturnValue
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)
# One proxy in front, which overwrites these headers. Without it every client has the proxy's address.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]


@app.get("/")
def hello() -> ResponseReturnValue:
    return {"message": f"Hello from {os.environ.get('GATEHOUSE_APP', 'here')}"}


@app.get("/items/<int:number>")
def item(number: int) -> ResponseReturnValue:
    time.sleep(0.02)  # a database would be asked here; this thread is held meanwhile
    return {"number": number}


@app.get("/healthz")
def healthz() -> ResponseReturnValue:
    """200 when the app can serve: nothing is sent to it before."""
    return "ok"
