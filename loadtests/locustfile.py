"""What Locust loads: the user classes of every app it discovers, so a new app folder is under load at once."""

# Locust's event hooks have no types.
# mypy: allow-untyped-decorators

import os
import sys
from pathlib import Path

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtests import summary  # noqa: F401  its listeners
from loadtests.users import user_classes
from stack.load import SiteError, load_site

root = Path(os.environ.get("GATEHOUSE_ROOT", Path(__file__).resolve().parent.parent))
try:
    classes = user_classes(load_site(root, os.environ.get("GATEHOUSE_ENV", "local")))
except SiteError as error:
    sys.exit(str(error))
globals().update(classes)


# What the web UI's form shows and headless runs take: four users of each class, all there after four seconds.
@events.init_command_line_parser.add_listener
def suggest(parser: LocustArgumentParser) -> None:
    parser.set_defaults(num_users=4 * len(classes), spawn_rate=len(classes))
