"""Locust's web UI: the tab "Where the time goes" with its chart and table, and the report.

The tab and its table are Locust's own means (template_args). A chart there is none for: a script draws it above the table,
and if a later Locust looks different the table stays. tests/browser holds both.
"""

# Locust's event hooks have no types.
# mypy: allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import hmac
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from flask import Response, redirect, request, session, url_for
from flask_login import UserMixin, login_user
from locust import events
from locust.env import Environment
from locust.web import WebUI

from loadtests import hops, summary, watch
from loadtests.report import page

TAB = "hops"
COLUMNS = {
    "name": "Route", "requests": "# Requests", "p50": "p50 (ms)", "p95": "p95 (ms)", "mean": "Mean (ms)",
    **{hop: f"{hop.capitalize()} (ms)" for hop in hops.HOPS}, "queue_p95": "Queue p95 (ms)",
}  # fmt: skip
SCRIPT = Path(__file__).with_name("hops.js")


@events.init.add_listener
def extend(environment: Environment, web_ui: WebUI | None, **_: Any) -> None:
    if web_ui is None or web_ui.app is None:  # a worker, or --headless
        return
    base = (environment.parsed_options and environment.parsed_options.web_base_path) or ""
    web_ui.template_args |= {
        "extended_tabs": [{"title": "Where the time goes", "key": TAB}],
        "extended_tables": [
            {
                "key": TAB,
                "structure": [
                    {"key": key, "title": title, **({} if key == "name" else {"round": 1})}
                    for key, title in COLUMNS.items()
                ],
            }
        ],
        "extended_csv_files": [{"href": "./gatehouse/report", "title": "Where the time went: the report"}],
    }
    app = web_ui.app
    if web_ui.web_login:
        log_in(web_ui, base)

    @app.route(f"{base}/gatehouse/hops.js")
    def script() -> Response:
        return Response(SCRIPT.read_text(), mimetype="text/javascript")

    @app.route(f"{base}/gatehouse/hops.json")
    @web_ui.auth_required_if_enabled
    def state() -> Response:
        return Response(json.dumps(live()), mimetype="application/json")

    @app.route(f"{base}/gatehouse/report")
    @web_ui.auth_required_if_enabled
    def report() -> Response:
        run = summary.the_run(environment)
        return Response(page(run, summary.judged(run)), mimetype="text/html")

    @app.after_request
    def add(response: Response) -> Response:
        """The table's rows to what the page asks for every two seconds, and the script to the page."""
        if request.endpoint == "locust.request_stats" and response.is_json:
            data = {**response.get_json(), "extended_stats": [{"key": TAB, "data": table()}]}
            # Locust keeps its answer for two seconds: this is another one.
            return Response(json.dumps(data), mimetype="application/json")
        if request.endpoint == "locust.index" and response.status_code == 200:
            head, body, rest = response.get_data(as_text=True).rpartition("</body>")
            response.set_data(f'{head}<script src="./gatehouse/hops.js"></script>{body}{rest}')
        return response


class Operator(UserMixin):  # type: ignore[misc]
    """Whoever knows the password."""

    id = "operator"


def log_in(web_ui: WebUI, base: str) -> None:
    """--web-login: one password, from the environment."""
    password = os.environ.get("GATEHOUSE_LOAD_PASSWORD")
    if not password:
        sys.exit("error: --web-login asks for a password. Set it in GATEHOUSE_LOAD_PASSWORD")
    app = web_ui.app
    assert app
    app.secret_key = secrets.token_bytes(32)
    web_ui.login_manager.user_loader(lambda _: Operator())
    web_ui.auth_args = {
        "custom_form": {
            "inputs": [{"label": "Password", "name": "password", "is_secret": True, "is_required": True}],
            "callback_url": f"{base}/gatehouse/login",
            "submit_button_text": "Log in",
        }
    }

    @app.post(f"{base}/gatehouse/login")
    def login() -> Any:
        if not hmac.compare_digest(request.form.get("password", "").encode(), password.encode()):
            session["auth_error"] = "Wrong password"
            return redirect(url_for("locust.login"))
        login_user(Operator())
        return redirect(url_for("locust.index"))


def table() -> list[dict[str, Any]]:
    """Rows for Locust's own table: text and numbers."""
    rows = hops.rows(watch.store.routes)
    return [{key: row[key] or 0 for key in COLUMNS} for row in rows]


def live() -> dict[str, Any]:
    """What the script draws: means by route, the last seconds, the verdict, the gateways' use."""
    run = summary.the_run()
    return {
        "hops": hops.HOPS,
        "verdict": run.verdict.word,
        "reasons": run.verdict.reasons,
        "busy": {app: busy.sentence for app, busy in run.busy.items()},
        "rows": list(hops.rows(run.routes)),
        "series": series(120),
    }


def series(most: int) -> list[dict[str, Any]]:
    """The last points, of all routes together: seconds ago, requests, failed, and the mean of each hop in ms."""
    points = []
    now = watch.clock()
    names = hops.whole(watch.store.routes)
    for second in sorted(watch.store.seconds)[-most:]:
        sums: dict[str, list[float]] = {}
        hops.add_up(sums, watch.store.seconds[second], names)
        requests = sums.get(hops.TOTAL, (0, 0.0))[0]
        means = {hop: sums[hop][1] / requests for hop in hops.HOPS if hop in sums and requests}
        points.append(
            {"ago": round(now - second, 1), "requests": requests / watch.store.step, "failed": sums.get("failed", (0, 0))[0], **means}
        )  # fmt: skip
    return points
