"""Its own load: `make load` has it in its list of users at once."""

import random

from locust import task

from loadtests.users import AppUser


class Reader(AppUser):
    """Looks at the first page, and at some items."""

    @task
    def hello(self) -> None:
        with self.request("GET", "/") as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")

    @task(3)
    def item(self) -> None:
        number = random.randrange(1000)
        with self.request("GET", f"/items/{number}", "item") as response:
            if response.status_code != 200 or response.json() != {"number": number}:
                response.failure(f"status {response.status_code}: {response.text[:80]}")
