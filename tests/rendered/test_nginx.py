"""Nginx's own check of the rendered directory, and what it does not check."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from stack import certs, docker, edge, images
from stack.load import Site, load_site
from stack.render import NGINX_IMAGE, render
from tests.rendered.conftest import Rendered, seconds


def complaints(site: Site, files: dict[str, str], folder: Path) -> list[str]:
    """What Nginx says about these files, beyond that they are fine."""
    images.base(NGINX_IMAGE)
    names = [*site.environment.domains, *{plan.host for plan in site.apps.values() if plan.host}]
    certificate, key = certs.local(folder / "ca", names)
    content = {name.removeprefix("nginx/"): text.encode() for name, text in files.items() if name.startswith("nginx/")}
    version = edge.publish(folder / "edge", {**content, "tls/certificate.pem": certificate, "tls/key.pem": key})
    done = subprocess.run(
        [
            *[*docker.client(), "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--user=101:101"],
            *["--cap-drop=ALL", f"--volume={folder / 'edge'}:/etc/gatehouse:ro", "--entrypoint=nginx", NGINX_IMAGE],
            *["-e", "/dev/stderr", "-t", "-p", f"/etc/gatehouse/releases/{version}/", "-c", "nginx.conf"],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not re.search("syntax is ok|test is successful", line)]
    assert (done.returncode == 0) or said
    return said


def test_nginx_accepts_it_without_a_warning(rendered: Rendered, tmp_path: Path) -> None:
    assert complaints(rendered.site, rendered.files, tmp_path) == []


def test_nginx_accepts_balancers_in_front_of_it(all_rendered: dict[str, Rendered], tmp_path: Path) -> None:
    for env, rendered in all_rendered.items():
        trusting = rendered.site.environment.model_copy(update={"trusted_proxies": ["10.20.0.0/16", "2001:db8::/32"]})
        site = replace(rendered.site, environment=trusting)
        files = render(site)
        assert complaints(site, files, tmp_path / env) == []
        # Whoever speaks plain HTTP is redirected, unless a balancer says that its client does not.
        for server in parse(files["nginx/site.conf"]).blocks:
            if server.head == "server" and any(b.has("proxy_pass") for b in server.within()) and env == "fleet":
                assert server.has("listen 8080")
                assert any("$to_https" in block.head for block in server.blocks)


def test_nginx_accepts_a_hundred_apps_with_long_names(tmp_path: Path) -> None:
    """Its hash tables have room: with their default sizes it warns at 60 apps and refuses a host name of 64 letters."""
    for number in range(100):
        folder = tmp_path / f"apps/app-{number}-with-a-longish-name"
        folder.mkdir(parents=True)
        host = f"host: app-{number}-of-{'a-department' * 4}.example.com\n" if number % 2 else ""
        (folder / "app.yml").write_text(f"interface: wsgi\nentry: app:app\n{host}")
        (folder / "app.py").touch()
        (folder / "requirements.txt").touch()
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments/test.yml").write_text(f"domains: [{'a.' * 120}example.com]\n")
    site = load_site(tmp_path, "test")
    assert complaints(site, render(site), tmp_path) == []


def test_nginx_ends_before_the_engine_ends_it(rendered: Rendered) -> None:
    edge = rendered.stack["services"]["edge"]
    assert sum(map(int, edge["command"][-2:])) < seconds(edge["stop_grace_period"])


def test_nginx_is_started_with_the_files_that_are_tested(rendered: Rendered) -> None:
    assert f"nginx {' '.join(edge.arguments('current'))} &" in rendered.stack["services"]["edge"]["entrypoint"][-1]


# --- the rendered site.conf, block by block ---------------------------------------------------------------------------


@dataclass
class Block:
    """`head { simple; directives; blocks {} }`"""

    head: str
    directives: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def within(self) -> Iterator[Block]:
        yield self
        for block in self.blocks:
            yield from block.within()

    def has(self, directive: str) -> bool:
        return any(d == directive or d.startswith(f"{directive} ") for d in self.directives)


def parse(text: str) -> Block:
    root = Block("")
    stack, words = [root], list[str]()
    for token in re.findall(r'#[^\n]*|"(?:\\.|[^"\\])*"|[{};]|[^\s{};"]+', text):
        if token.startswith("#"):
            continue
        if token == "{":
            stack[-1].blocks.append(Block(" ".join(words)))
            stack.append(stack[-1].blocks[-1])
        elif token == "}":
            stack.pop()
        elif token == ";":
            stack[-1].directives.append(" ".join(words))
        else:
            words.append(token)
            continue
        words = []
    assert stack == [root]
    return root


def test_the_parser_reads_what_nginx_reads() -> None:
    text = 'a b; # c;\nmap $x $y {\n  "~^/(?<r>.*)$" "/;{$r";\n}\nserver { location / { return 404; } }'
    assert parse(text) == Block(
        "",
        ["a b"],
        [
            Block("map $x $y", ['"~^/(?<r>.*)$" "/;{$r"']),
            Block("server", [], [Block("location /", ["return 404"])]),
        ],
    )


@pytest.fixture
def site(rendered: Rendered) -> Block:
    return parse(rendered.files["nginx/site.conf"])


def proxying(site: Block) -> list[Block]:
    found = [block for block in site.within() if block.has("proxy_pass")]
    assert len(found) > 10
    return found


def test_every_location_that_proxies_is_complete(site: Block) -> None:
    """A location that forgets the headers of proxy.conf lets clients claim who they are; one without a Connection header
    of its own passes the client's on."""
    for location in proxying(site):
        assert location.has("include snippets/proxy.conf"), location.head
        connection = [d for d in ("keepalive", "websocket") if location.has(f"include snippets/proxy-{d}.conf")]
        assert len(connection) == 1, location.head
        assert location.has("proxy_connect_timeout"), location.head
        assert location.has("proxy_read_timeout"), location.head
        assert location.has("proxy_send_timeout"), location.head


def test_headers_are_set_in_snippets_alone(site: Block) -> None:
    """One of its own would make a location lose all the inherited ones."""
    for block in site.within():
        assert not block.has("proxy_set_header"), block.head
        assert not block.has("add_header"), block.head


def test_a_location_with_an_error_page_of_its_own_has_the_others_too(site: Block) -> None:
    own = [block for block in site.within() if block.has("error_page")]
    assert own
    for location in own:
        assert location.has("include snippets/error-pages.conf"), location.head


def test_an_ambiguous_path_is_refused_wherever_something_is_proxied(site: Block) -> None:
    for location in proxying(site):
        (target,) = (d for d in location.directives if d.startswith("proxy_pass "))
        variable = re.fullmatch(r"proxy_pass http://[a-z-]+(\$uri_of_[a-z_]+)", target)
        assert variable, target
        (guard,) = (b for b in location.blocks if b.head == f'if ( {variable[1]} = "" )' or variable[1] in b.head)
        assert guard.directives == ["return 400"]


def test_what_follows_the_upstreams_name_is_a_path_or_nothing(site: Block) -> None:
    """So no request can make the edge ask another host. gixy's warning of it is accepted on this ground (check.py)."""
    maps = [block for block in site.blocks if block.head.startswith("map $request_uri $uri_of_")]
    assert len(maps) == 5
    for block in maps:
        default, *values = block.directives
        assert default == 'default ""'
        for value in values:
            assert re.fullmatch(r'"~\^/.*\$" "/\$rest_of_[a-z_]+"', value)


def test_only_paths_that_ask_for_it_may_upgrade(rendered: Rendered, site: Block) -> None:
    asked = {
        f"location ^~ {plan.prefix}{path}"
        for plan in rendered.site.apps.values()
        for path, behaviour in plan.app.paths.items()
        if behaviour.websocket
    }
    assert asked == {"location ^~ /api/v2/ws", "location ^~ /live/socket.v1"}
    upgrading = [block for block in proxying(site) if block.has("include snippets/proxy-websocket.conf")]
    assert {block.head for block in upgrading} == asked


def test_no_two_locations_of_a_server_are_the_same(site: Block) -> None:
    for server in (block for block in site.within() if block.head == "server"):
        heads = [block.head for block in server.blocks]
        assert len(heads) == len(set(heads))


def test_snippets_that_are_included_are_there(rendered: Rendered, site: Block) -> None:
    for name, text in rendered.edge_files.items():
        if name.endswith(".conf"):
            for block in parse(text).within():
                for directive in (d for d in block.directives if d.startswith("include ")):
                    included = directive.removeprefix("include ")
                    assert included in {*rendered.edge_files, "version.conf"}, f"{name}: {included}"


def test_every_snippet_is_used(rendered: Rendered) -> None:
    everything = "".join(rendered.edge_files.values())
    for name in rendered.edge_files:
        if name.startswith("snippets/"):
            assert f"include {name};" in everything


def test_plain_http_is_redirected_where_the_environment_says_so(all_rendered: dict[str, Rendered]) -> None:
    def answering(env: str) -> dict[str, list[bool]]:
        """Server name -> for each server that listens for plain HTTP, whether it proxies."""
        found: dict[str, list[bool]] = {}
        for server in parse(all_rendered[env].files["nginx/site.conf"]).blocks:
            if server.head == "server" and server.has("listen 8080") and not server.has("listen 8080 default_server"):
                (names,) = (d for d in server.directives if d.startswith("server_name "))
                proxies = any(b.has("proxy_pass") for b in server.within())
                found.setdefault(names.removeprefix("server_name "), []).append(proxies)
        return found

    assert answering("test") == {"localhost 127.0.0.1": [True], "shop.example.com": [True]}
    assert answering("fleet") == {"example.com www.example.com": [False], "shop.example.com": [False]}


@pytest.mark.parametrize(
    # Clients name no host in a handshake with an IP address, which `test` has among its names.
    ("env", "over_tls"),
    [("test", "return 444"), ("fleet", "ssl_reject_handshake on")],
)
def test_a_request_for_any_other_name_is_closed(all_rendered: dict[str, Rendered], env: str, over_tls: str) -> None:
    servers = parse(all_rendered[env].files["nginx/site.conf"]).blocks
    plain, tls = (s for s in servers if s.head == "server" and any("default_server" in d for d in s.directives))
    (everything,) = (b for b in plain.blocks if b.head == "location /")
    assert everything.has("return 444")
    assert tls.has(over_tls)
