"""How many requests a second this machine can send and still measure: open arrivals to an answer that Nginx gives by itself.

`make load-check`. More and more, until the generator is late: then its waiting, and not the chain's, would be measured."""

from types import SimpleNamespace
from typing import ClassVar

from locust import task

from loadtests import summary
from loadtests.locustfile import arguments, steady_unless_asked  # noqa: F401  its listeners
from loadtests.shapes import Knee  # noqa: F401  by name, for --shape
from loadtests.users import AppUser

summary.limits = None  # they are the apps'


class Arrivals(AppUser):
    """Twenty a second each."""

    app = SimpleNamespace(name="edge", prefix="")  # type: ignore[assignment]
    rate = 20.0
    default_headers: ClassVar = {"Host": "generator.invalid"}  # no app's name: the edge answers a balancer's question

    @task
    def ask(self) -> None:
        with self.request("GET", "/healthz"):
            pass
