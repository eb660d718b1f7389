"""Writes a row for each key it is given, so that a proof counts effects instead of guessing them: a POST that was answered
and left no row is lost, one that left two was sent twice."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from flask import Flask, request
from flask.typing import ResponseReturnValue

app = Flask(__name__)


def database() -> sqlite3.Connection:
    """On the volume that all replicas of the host share."""
    connection = sqlite3.connect(Path(os.environ["ROWS"]), timeout=10)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")  # it has to outlive a container, not the machine
    connection.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT, at REAL DEFAULT (julianday('now')))")
    return connection


@app.get("/healthz")
def healthz() -> ResponseReturnValue:
    return "ok"


@app.post("/effect")
def effect() -> ResponseReturnValue:
    """One row for the key; no uniqueness, because twice is what we look for."""
    with database() as connection:
        connection.execute("INSERT INTO effects (key) VALUES (?)", (request.args["key"],))
    return {"release": os.environ.get("GATEHOUSE_RELEASE", "")}


@app.get("/rows")
def rows() -> ResponseReturnValue:
    """Key -> number of rows."""
    with database() as connection:
        return dict(connection.execute("SELECT key, count(*) FROM effects GROUP BY key"))
