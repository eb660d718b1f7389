"""`make doctor`: each thing that can be wrong is one sentence with its cure, and of a stack that is well nothing is said."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stack import certs, compose, docker, doctor
from stack.compose import Compose, Container
from stack.doctor import Facts
from stack.errors import Failed
from stack.symptoms import Finding
from tests.pure.conftest import LOCAL, WSGI, Draft

NOW = 1_800_000_000.0
MIB, GIB = 2**20, 2**30


def container(service: str = "shop", **facts: Any) -> Container:
    """One that is well, but for these facts."""
    well = Container(
        service, f"{service}-0123456789abcdef", state="running", health="healthy", restarts=0, exit_code=0,
        out_of_memory=False, age=500, ports=frozenset(), answers=("200",),
    )  # fmt: skip
    return replace(well, **facts)


@pytest.fixture
def well(draft: Draft) -> Facts:
    """A site that runs as it should."""
    return Facts(
        draft.load(), NOW, containers=[container("edge"), container()], answers={"shop": "200"}, written="abc",
        running="abc", memory=8 * GIB, available=0.5,
    )  # fmt: skip


def test_of_a_stack_that_is_well_nothing_is_said(well: Facts) -> None:
    assert list(doctor.findings(well)) == []


def wrong(sentence: str, *log: str) -> Finding:
    return Finding(sentence, log)


def note(sentence: str) -> Finding:
    return Finding(sentence, wrong=False)


MEMORY = "Raise `memory` in apps/shop/app.yml, or lower `workers`; then type: make up"
LOG = "Its log: make logs APP=shop"

ONE_CONTAINER: dict[str, tuple[dict[str, Any], Finding]] = {
    "paused": (
        {"state": "paused"},
        wrong("shop: is paused, and its requests wait. Type: docker unpause shop-0123456"),
    ),
    "stopped": (
        {"state": "exited", "health": "unhealthy", "exit_code": 137},
        wrong("shop: has ended (exit code 137), and has to keep running. Type: make up", "its log"),
    ),
    "crash loop": (
        {"state": "restarting", "restarts": 4, "exit_code": 3, "health": "starting"},
        wrong("shop: crashes on start (exit code 3). Mend what its log says, and type: make up", "its log"),
    ),
    "out of memory": (
        {"state": "restarting", "out_of_memory": True, "restarts": 1},
        wrong(f"shop: needs more memory than its limit (app.yml: memory). {MEMORY}", "its log"),
    ),
    "a worker out of memory": (
        {"out_of_memory": True},
        wrong(
            "shop: the kernel has ended processes in it, because it reached its limit of memory. " + MEMORY, "its log"
        ),
    ),
    "unhealthy": (
        {"health": "unhealthy", "answers": ("200", "404")},
        wrong(
            "shop: runs, but its health path answers 404 (app.yml: health). Have it answer 200 there, or name the right path "
            "in apps/shop/app.yml",
            "its log",
        ),
    ),
    "hung": (
        {"health": "unhealthy", "answers": ("200", "")},
        wrong(
            "shop: runs, but its health path does not answer (app.yml: health). Have it answer 200 there, or name the right "
            "path in apps/shop/app.yml",
            "its log",
        ),
    ),
    "starting": (
        {"health": "starting", "age": 12.2},
        note("shop: is starting, for 12 s; it may take 60 (timeouts.start)"),
    ),
    "starting for too long": (
        {"health": "starting", "age": 70},
        wrong(f"shop: is not ready, 70 s after its start (running, starting). {LOG}", "its log"),
    ),
    "restarted a while ago": (
        {"restarts": 1, "age": 600},
        wrong(f"shop: was restarted once because it ended, 10 min ago for the last time. {LOG}", "its log"),
    ),
    "restarted just now": (
        {"restarts": 2, "age": 9},
        wrong(f"shop: was restarted 2 times because it ended, 9 s ago for the last time. {LOG}", "its log"),
    ),
}


@pytest.mark.parametrize(("facts", "finding"), ONE_CONTAINER.values(), ids=list(ONE_CONTAINER))
def test_an_apps_container(well: Facts, facts: dict[str, Any], finding: Finding) -> None:
    ill = container(**facts)
    found = replace(well, containers=[container("edge"), ill], tails={ill.id: ["its log"]} if finding.log else {})
    assert list(doctor.findings(found)) == [finding]


def test_a_restart_of_long_ago_is_not_worth_a_word(well: Facts) -> None:
    calm = replace(well, containers=[container("edge"), container(restarts=1, age=4000)])
    assert list(doctor.findings(calm)) == []


def test_what_ought_to_run_and_what_ought_not(draft: Draft) -> None:
    draft.app(WSGI + "replicas: 3\nprocesses: {mail: {command: [mail]}}\n")
    there = [container("edge"), container(), container(), container("gone")]
    facts = Facts(draft.load(), NOW, containers=there, answers={"shop": "200"}, written="a", running="a")
    assert list(doctor.findings(facts)) == [
        wrong("shop: 2 of 3 replicas there. Type: make up"),
        wrong("shop-mail: not running. Type: make up"),
        note("gone: runs, and no app is written for it any more. Type: make up"),
    ]


def test_a_stack_that_is_down(well: Facts) -> None:
    down = replace(well, containers=[], problems=["environments/local.yml: http_port: 80 cannot be published"])
    assert list(doctor.findings(down)) == [
        wrong("environments/local.yml: http_port: 80 cannot be published"),
        wrong("gatehouse: nothing of it runs. Type: make up"),
    ]


def refused(when: float) -> str:
    at = datetime.datetime.fromtimestamp(when, datetime.UTC).isoformat()
    return f'{{"time":"{at}","host":"localhost","method":"GET","uri":"/","status":431,"request_time":0.1,"upstream_status":"","user_agent":""}}'


EDGE: dict[str, tuple[dict[str, Any], Finding]] = {
    "an older configuration": (
        {"running": "abb", "answers": {"shop": "404"}},
        wrong("edge: runs configuration abb, and abc was switched to last. Type: make up, which reloads it"),
    ),
    "one that it does not name": (
        {"running": ""},
        wrong(
            "edge: does not say which configuration it runs, and abc was switched to last. Type: make up, which reloads it"
        ),
    ),
    "no way to the app": (
        {"answers": {"shop": "timed out"}},
        wrong(
            "shop: healthy, but http://localhost/shop/healthz gives no answer (timed out). Its log and the edge's say why: make logs"
        ),
    ),
    "a host name that the app refuses": (
        {"answers": {"shop": "400"}},
        wrong(
            "shop: healthy, but http://localhost/shop/healthz answers 400. An app that knows its host names (Django: ALLOWED_HOSTS) has to know this one"
        ),
    ),
    "a route that the app does not know": (
        {"answers": {"shop": "404"}},
        wrong(
            "shop: healthy, but http://localhost/shop/healthz answers 404. Look whether its route in app.yml is what the app thinks; then type: make up"
        ),
    ),
    "an app that never ran": (
        {"containers": [container("edge")], "unapplied": {"shop": "new"}},
        note("written, and not applied yet: shop (new). Type: make up"),
    ),
    "what it refused itself": (
        {"logs": {container("edge").id: [refused(NOW)]}},
        note(
            f"edge: 1 request (the last: GET / after 0.1 s at {datetime.datetime.fromtimestamp(NOW):%H:%M:%S}) got 414 or 431: a URL or a "
            "header field of more than 8 KB, often a cookie. Have the app set less: gateways have this limit, too "
            "(nginx/snippets/basics.conf)"
        ),
    ),
    "not running": ({"containers": [container()]}, wrong("edge: not running. Type: make up")),
    "files that have changed": (
        {"unapplied": {"shop": "its files, --workers 4 -> 6", "nginx/site.conf": ""}},
        note("written, and not applied yet: shop (its files, --workers 4 -> 6); nginx/site.conf. Type: make up"),
    ),
    "an app's own error": (
        {"logs": {container("edge").id: [
            '{"time":"2027-01-15T08:00:00+00:00","host":"localhost","method":"GET","uri":"/shop/","status":200,'
            '"request_time":0.1,"upstream_status":"200","user_agent":""}',
            '{"time":"2027-01-15T08:00:00+00:00","host":"localhost","method":"GET","uri":"/shop/","status":500,'
            '"request_time":0.1,"upstream_status":"500","user_agent":""}',
        ]}},
        wrong(
            f"shop: 1 request (the last: GET /shop/ after 0.1 s at {datetime.datetime.fromtimestamp(NOW):%H:%M:%S}) got an error that is the app's own. Its log says why: make logs APP=shop"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("facts", "finding"), EDGE.values(), ids=list(EDGE))
def test_the_edge(draft: Draft, well: Facts, facts: dict[str, Any], finding: Finding) -> None:
    draft.environment("engine: compose\ndomains: [localhost]\ntls: {certificate: 'off'}\n")
    assert list(doctor.findings(replace(well, site=draft.load(), **facts))) == [finding]


@pytest.mark.parametrize("since", [{"switched": NOW + 1}, {"containers": [container("edge"), container(age=-1)]}])
def test_what_was_before_the_last_change_may_be_mended(well: Facts, since: dict[str, Any]) -> None:
    log: dict[str, Any] = EDGE["an app's own error"][0]
    assert list(doctor.findings(replace(well, **log)))
    assert list(doctor.findings(replace(well, **log, **since))) == []


def test_what_is_older_than_an_hour_counts_no_more(well: Facts) -> None:
    old = replace(well, logs={container("edge").id: [refused(NOW - doctor.HOUR - 1)]})
    assert list(doctor.findings(old)) == []


def test_without_certificates_nothing_is_said_of_one(draft: Draft, well: Facts) -> None:
    draft.environment("engine: compose\ndomains: [localhost]\ntls: {certificate: 'off'}\n")
    pem, _ = certs.local(draft.root / "ca", ["localhost"])
    long_after = datetime.datetime.now(datetime.UTC).timestamp() + 1e8
    assert list(doctor.findings(replace(well, site=draft.load(), now=long_after, certificate=pem))) == []


def test_a_container_that_has_crashed_since_is_the_same_one(well: Facts) -> None:
    log: dict[str, Any] = EDGE["an app's own error"][0]
    crashed = replace(well, containers=[container("edge"), container(age=-1, restarts=1)], **log)
    assert "the app's own" in "".join(finding.sentence for finding in doctor.findings(crashed))


MACHINE: dict[str, tuple[dict[str, Any], Finding]] = {
    "memory nearly used up": (
        {"available": 0.03},
        wrong(
            "this machine: 3% of its memory is left, and soon the kernel ends processes. Stop what you do not need (ps aux --sort=-rss | head)"
        ),
    ),
    "limits beyond the machine's memory": (
        {"memory": GIB // 2},
        note(
            "this machine: it has 0.5 GB of memory, and the services together may use 1.0 GB. Lower `memory` of apps that need less, or under apps.NAME in environments/local.yml"
        ),
    ),
    "a clock that is late": (
        {"drift": -61.0},
        wrong(
            "Docker's machine: its clock is 61 s behind, and so are tokens, cookies and certificates. Restart Docker Desktop, or set the clock there (timedatectl set-ntp true)"
        ),
    ),
    "a clock that is early": (
        {"drift": 3.0},
        wrong(
            "Docker's machine: its clock is 3 s ahead, and so are tokens, cookies and certificates. Restart Docker Desktop, or set the clock there (timedatectl set-ntp true)"
        ),
    ),
}


@pytest.mark.parametrize(("facts", "finding"), MACHINE.values(), ids=list(MACHINE))
def test_the_machine(well: Facts, facts: dict[str, Any], finding: Finding) -> None:
    assert list(doctor.findings(replace(well, **facts))) == [finding]


def test_limits_are_those_of_all_replicas_and_processes(draft: Draft) -> None:
    draft.app(WSGI + "replicas: 3\nmemory: 1G\nprocesses: {mail: {command: [mail], memory: 64M}}\n")
    assert doctor.limits(draft.load()) == {"edge": 512 * MIB, "shop": 3 * GIB, "shop-mail": 64 * MIB}


OWN = "engine: compose\ndomains: [localhost]\ntls: {certificate: mine.pem, key: mine.key}\n"


@pytest.mark.parametrize(
    ("environment", "days", "said"),
    [
        (LOCAL, 15, None),
        (LOCAL, 13, "ends on {end}. Type: make up, which makes another one"),
        (LOCAL, -1, "ended on {end}, and browsers refuse it. Type: make up, which makes another one"),
        (OWN, 13, "ends on {end}. Put a new one into mine.pem, and type: make up"),
    ],
)
def test_the_edges_certificate(draft: Draft, well: Facts, environment: str, days: int, said: str | None) -> None:
    draft.environment(environment)
    pem, _ = certs.local(draft.root / "ca", ["localhost"])  # for 90 days
    end = datetime.datetime.now(datetime.UTC) + certs.LIFETIME
    now = (end - datetime.timedelta(days=days)).timestamp()
    found = list(doctor.findings(replace(well, site=draft.load(), now=now, certificate=pem)))
    sentence = f"environments/local.yml: tls: the edge's certificate {said}".format(end=f"{end:%Y-%m-%d}")
    assert found == ([Finding(sentence, wrong=days < 0)] if said else [])


def test_a_clock_before_the_certificate(draft: Draft, well: Facts) -> None:
    pem, _ = certs.local(draft.root / "ca", ["localhost"])
    [found] = doctor.findings(replace(well, now=0, certificate=pem))
    assert found == wrong(
        "this machine: its clock says 1970-01-01 00:00, when the edge's certificate was not yet made. Set the clock (timedatectl set-ntp true)"
    )


# --- facts ------------------------------------------------------------------------------------------------------------


def test_memory_that_is_left(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal:        1000 kB\nMemFree:  10 kB\nMemAvailable:     250 kB\nHugePages_Total: 0\n"
    )
    assert doctor._available(tmp_path / "meminfo") == 0.25
    assert doctor._available(tmp_path / "none") == 1


def test_a_log_is_cut_to_what_tells_something() -> None:
    crash = ["[1] [ERROR] Exception in worker process", "Traceback (most recent call last):",
             '  File "/venv/lib/x.py", line 1, in load', "    import it", '  File "/app/app.py", line 1, in <module>',
             "RuntimeError: no database"]  # fmt: skip
    start = [f"[{n}] [INFO] Booting worker with pid: {n}" for n in range(9)]
    assert doctor._telling([*start, *crash, *start]) == [*crash[:2], *crash[4:]]
    assert doctor._telling(start) == start[-3:]


@pytest.mark.parametrize(
    ("complaint", "host", "why"),
    [
        ("permission denied while trying to connect", None, "one runs, and ann may not use it. Type: sudo usermod -aG docker ann   and log in again"),
        ("Cannot connect", "tcp://10.0.0.1:2375", "none answers at DOCKER_HOST=tcp://10.0.0.1:2375. Start it, or unset DOCKER_HOST to use one on this machine"),
        ("[Errno 2] No such file or directory: 'docker'", None, "none answers here. Type: make up, which installs or starts one; or make up ENGINE=process, which needs none"),
    ],
)  # fmt: skip
def test_why_no_engine_answers(complaint: str, host: str | None, why: str) -> None:
    assert docker.why_not(complaint, "ann", host) == why


def test_up_and_doctor_ask_the_same_of_a_machine(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    draft.app(WSGI + "cpus: 64\nsecrets: [KEY, TOKEN]\n")
    token = draft.root / ".local/secrets/shop/TOKEN"
    token.parent.mkdir(parents=True)
    token.write_text("changeme")
    engine = {"ServerVersion": "20.10.5", "NCPU": 2, "DockerRootDir": str(draft.root)}
    holding = [container("edge", ports=frozenset({80})), container("edge", ports=frozenset({443}), state="exited")]
    monkeypatch.setattr(compose, "about", lambda: engine)
    monkeypatch.setattr(compose, "projects", lambda root, env: ["gatehouse", "other"])
    monkeypatch.setattr(compose, "cannot_listen", lambda address, port, kind: "address already in use")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": GIB}))
    monkeypatch.setattr(Compose, "containers", lambda self: holding)
    monkeypatch.setattr(docker, "client", lambda install=False: ["docker"])
    site = Compose(draft.load())
    said = [
        "the Docker engine here is 20.10.5 and Gatehouse needs 25 or newer. Upgrade it",
        "apps/shop/app.yml: cpus: 64 is more than the 2 of this machine. For here, set apps.shop.cpus in environments/local.yml",
        "apps/shop/app.yml: secrets: KEY has no value on this machine. Type: make secret APP=shop NAME=KEY",
        "the secret TOKEN of shop is still a placeholder. Type: make secret APP=shop NAME=TOKEN",
        "environments/local.yml: https_port: 443 cannot be published: address already in use",
        "this site still runs under the name other. Type: make down",
        "only 1.0 GB of disk are free here and images need about 3. Type: docker system prune",
    ]
    assert site.problems() == said
    (draft.root / "mine.pem").write_text("none")
    (draft.root / "mine.key").write_text("none")
    draft.environment(OWN)
    bad = "environments/local.yml: tls: mine.pem or its key is no PEM file, or has a password"
    assert Compose(draft.load()).problems() == [*said[:2], bad, *said[2:]]
    with pytest.raises(Failed) as raised:
        site._preflight()
    assert str(raised.value).splitlines() == said
