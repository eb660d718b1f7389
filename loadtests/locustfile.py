"""What Locust loads: the user classes of every app it discovers, so a new app folder is under load at once."""

# Locust's event hooks have no types.
# mypy: allow-untyped-decorators

import os
import socket
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import Runner, WorkerRunner

from loadtests import slo, summary, ui  # noqa: F401  their listeners
from loadtests.shapes import Knee, Ramp, Smoke, Soak, Spike
from loadtests.users import user_classes
from stack.load import SiteError, load_site

REPOSITORY = Path(__file__).resolve().parent.parent
root = Path(os.environ.get("GATEHOUSE_ROOT", REPOSITORY))
try:
    summary.site = load_site(root, os.environ.get("GATEHOUSE_ENV", "local"))
    summary.limits = slo.load(root, summary.site.env)
    classes = user_classes(summary.site)
except (SiteError, ValueError) as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
globals().update(classes)


SHAPES = {shape.__name__.lower(): shape for shape in (Smoke, Ramp, Spike, Soak, Knee)}


# What the web UI's form shows and headless runs take: four users of each class, all there after four seconds. Not in a
# group of arguments: those never appear in the form.
@events.init_command_line_parser.add_listener
def arguments(parser: LocustArgumentParser) -> None:
    parser.set_defaults(num_users=4 * len(classes), spawn_rate=len(classes))
    parser.add_argument(
        "--model",
        choices=["closed", "open"],
        default="closed",
        help="closed: users wait for each answer; open: each is one arrival a second, whatever became of the others",
    )
    # In the form it is the class picker's.
    parser.add_argument("--shape", choices=["steady", *SHAPES], default="steady", include_in_web_ui=False)
    parser.add_argument("--results", default="build/load", help="folder for runs", include_in_web_ui=False)


@events.init.add_listener
def steady_unless_asked(environment: Environment, **_: Any) -> None:
    """Locust takes the first shape that it finds."""
    options = environment.parsed_options
    shape = SHAPES.get(options.shape) if options else None
    environment.shape_class = shape() if shape else None
    if environment.shape_class:
        environment.shape_class.runner = environment.runner


@events.init.add_listener
def somebody_answers(environment: Environment, runner: Runner, **_: Any) -> None:
    """Else a run would be a minute of refused connections."""
    target = urllib.parse.urlsplit(environment.host or "")
    options = environment.parsed_options
    if isinstance(runner, WorkerRunner) or not (options and options.headless):
        return
    try:
        socket.create_connection(
            (target.hostname or "", target.port or (443 if target.scheme == "https" else 80)), 5
        ).close()
    except OSError as error:
        print(f"error: nobody answers at {environment.host}: {error}. Is the chain up? Type: make up", file=sys.stderr)
        sys.exit(2)
    among = len(environment.user_classes)
    if options.shape == "steady" and (options.num_users or 0) < among:
        print(f"note: {options.num_users} users among {among} user classes: some stay empty. USERS={among} fills all")
