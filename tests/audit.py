"""`make audit`: every scanner that is installed, on the repository's files and on a stack of its own that runs as on hosts (ports 80
and 443, redirect, HSTS); one table, and exit code 1 where a verdict is bad. What is missing is named, with how to get it.

A scanner is a function that returns what it found, for people, and whether that is good. docs/results/audit.md is a run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import trustme
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from stack import docker
from tests import check
from tests.check import BIN, REPOSITORY
from tests.conftest import Checkout, new_checkout

TOOLS = REPOSITORY / ".local/audit"
PLACES = [str(BIN), str(TOOLS / "venv/bin"), str(TOOLS / "node_modules/.bin"), *os.get_exec_path()]
OBSERVATORY = "@mdn/mdn-http-observatory"
NPM = f"npm install --ignore-scripts --prefix .local/audit {OBSERVATORY}@1.4.8"
VENV = "make audit installs it"

# What a scanner warns of and we mean: (rule, part of what it says) -> why. Anything else is a bad verdict.
ACCEPTED = {
    ("CL-0019", ""): "base images by tag (stack/render.py says why); the others' tags are hashes of what they are made from",
    ("CL-0026", "edge:"): "the edge has what the apps' limits leave it",
    ("DS-0002", "compose/images/"): "as the official images, under whose names they are made: apps/Dockerfile and the service set the user",
    ("DS-0026", ""): "the check needs the app's path, so it stands in the service (compose/stack.yml.j2)",
}  # fmt: skip
PRIVATE_CA = (
    "cert_chain_of_trust",
    "cert_revocation",
    "cert_crlDistributionPoints",
    "DNS_CAArecord",
    "cert_trust",
    "cert_ocspURL",
)
"""What testssl.sh says of every certificate that no public authority has signed, or of a name that has no DNS."""

Found = tuple[str, bool]


def said(*command: str, cwd: Path = REPOSITORY, **env: str) -> tuple[int, str]:
    """Exit code and output."""
    program = shutil.which(command[0], path=os.pathsep.join(PLACES)) or command[0]
    around = {**os.environ, "PATH": os.pathsep.join(PLACES), "NO_COLOR": "1", **env}
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, env=around, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False, timeout=600,
    )  # fmt: skip
    return done.returncode, re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", done.stdout.decode(errors="replace"))


def _not_accepted(findings: list[str]) -> Found:
    """Of findings that begin with their rule's id."""
    open_, accepted = [], set()
    for finding in findings:
        if known := [key for key in ACCEPTED if finding.startswith(key[0]) and key[1] in finding]:
            accepted.add(known[0][0])
        else:
            open_.append(finding)
    more = f" but {', '.join(sorted(accepted))} (accepted)" if accepted else ""
    return "\n".join([f"{len(open_)} findings{more}", *open_[:20]]), not open_


# --- files --------------------------------------------------------------------------------------------------------------


def of_check(name: str, site: Checkout) -> Found:
    """As `make check` does it."""
    outputs = [of() for check_, of in check.checks() if check_.split()[0] == name]
    failed = [output for output in outputs if output]
    return "\n".join(failed) or f"0 findings ({len(outputs)} x)", bool(outputs) and not failed


def ansible_lint(site: Checkout) -> Found:
    code, output = said("ansible-lint", "--offline", cwd=REPOSITORY / "ansible")
    passed = re.search(r"Passed: (\d+ failure\(s\), \d+ warning\(s\) in \d+ files)", output)
    return passed[1] if passed else output[-2000:], code == 0 and "'production' was required, and it passed" in output


def compose_lint(site: Checkout) -> Found:
    files = [f"--file={site.root / 'build/local' / name}.yml" for name in ("stack", "local")]
    merged = site.root / "merged.yml"
    merged.write_text(docker.run("compose", "--project-name=gatehouse-audit", *files, "config"))
    _, output = said("compose-lint", "check", "--format=json", str(merged))
    found = [f"{f['rule_id']} {f['severity']} {f['service']}: {f['message']}" for f in _findings(json.loads(output))]
    return _not_accepted(found)


def _findings(report: object) -> list[dict[str, str]]:
    """Of whichever JSON the linter wraps them in."""
    if isinstance(report, dict):
        return [report] if "rule_id" in report else [f for value in report.values() for f in _findings(value)]
    return [f for value in report for f in _findings(value)] if isinstance(report, list) else []


def trivy(site: Checkout) -> Found:
    skip = ",".join(sorted(check.NOT_OURS))
    _, output = said("trivy", "config", "--skip-check-update", "--quiet", "--format=json", f"--skip-dirs={skip}", ".")
    results = json.loads(output[output.index("{") :]).get("Results", [])
    found = [
        f"{m['ID']} {m['Severity']} {r['Target']}: {m['Title']}"
        for r in results
        for m in r.get("Misconfigurations", [])
    ]
    text, good = _not_accepted(found)
    return f"{text} in {len(results)} files", good and bool(results)


# --- the running stack --------------------------------------------------------------------------------------------------


def observatory(site: Checkout) -> Found:
    package = TOOLS / "node_modules" / OBSERVATORY
    (package / "conf").mkdir(exist_ok=True)
    (package / "conf/hsts-preload.json").write_text("{}")  # else fetched when the package is installed
    _, output = said("node", str(package / "src/scan.js"), "localhost", NODE_EXTRA_CA_CERTS=str(_ca(site)))
    report = json.loads(output)
    scan, tests = report["scan"], report["tests"]
    failed = [f"{name}: {test.get('result')}" for name, test in tests.items() if not test.get("pass")]
    told = f"{scan['grade']}, {scan['score']}, {scan['testsPassed']}/{scan['testsQuantity']} tests"
    return "\n".join([told, *failed]), scan["grade"] == "A+" and scan["score"] >= 130


def testssl(site: Checkout) -> Found:
    report = site.root / "testssl.json"
    _, output = said(
        "testssl", "--quiet", "--color=0", "--nodns=min", "--ip=127.0.0.1", f"--add-ca={_ca(site)}",
        f"--jsonfile={report}", "localhost:443",
    )  # fmt: skip
    if not report.exists():
        return output[-1500:], False
    lines = json.loads(report.read_text())
    of = {line["id"]: line["finding"] for line in lines}
    bad = [
        f"{line['id']} {line['severity']}: {line['finding']}"
        for line in lines
        if line["severity"] in ("MEDIUM", "HIGH", "CRITICAL") and not line["id"].startswith(PRIVATE_CA)
    ]
    grade, score = of.get("overall_grade", "none: testssl.sh before 3.2 has no rating"), int(of.get("final_score", 0))
    return "\n".join([f"{grade}, {score}/100", *bad]), grade == "A+" and score >= 96 and not bad


def sslyze(site: Checkout) -> Found:
    _, output = said("sslyze", f"--certinfo_ca_file={_ca(site)}", "--mozilla_config=intermediate", "localhost:443")
    verdict = output.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    # No browser's own list has a private authority.
    wrong = [line.strip(" *") for line in re.findall(r"^ +\* .*", verdict, re.M) if "path validation" not in line]
    judged = re.search(r"localhost:443: (OK|FAILED)", verdict)
    return "\n".join([f"{len(wrong)} deviations from Mozilla intermediate", *wrong]), bool(judged) and not wrong


def slowhttptest(site: Checkout) -> Found:
    """300 slow connections for 10 s, by slow headers, bodies and reads."""
    app, kinds = "https://localhost/flask", {"-H": "/healthz", "-B": "/wait", "-X": "/bytes?n=1048576"}
    told, good = [], True
    for kind, path in kinds.items():
        report = site.root / f"slow{kind}"
        said("slowhttptest", kind, "-c300", "-r200", "-i2", "-l10", "-p3", "-g", f"-o{report}", f"-u{app}{path}")
        seconds = report.with_suffix(".csv").read_text().splitlines()[1:]
        served = sum(second.split(",")[4].strip() not in ("", "0") for second in seconds)
        told.append(f"{kind} available in {served} of {len(seconds)} s")
        good = good and bool(seconds) and served == len(seconds)
    return ", ".join(told), good


def _ca(site: Checkout) -> Path:
    return site.root / "authority.pem"


# --- the table ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scanner:
    """A row."""

    program: str
    what: str
    get: str
    """How to install it."""
    scan: Callable[[Checkout], Found]
    version: tuple[str, ...] = ("--version",)

    @property
    def there(self) -> bool:
        return shutil.which(self.program, path=os.pathsep.join(PLACES)) is not None

    def release(self) -> str:
        if self.program == "mdn-http-observatory-scan":
            return str(json.loads((TOOLS / "node_modules" / OBSERVATORY / "package.json").read_text())["version"])
        found = re.search(r"\d+\.\d+[.\w]*", said(self.program, *self.version)[1])
        return found[0] if found else "?"


SCANNERS = [
    Scanner("gixy", "rendered Nginx configurations", VENV, partial(of_check, "gixy")),
    Scanner("hadolint", "Dockerfiles", VENV, partial(of_check, "hadolint")),
    Scanner("shellcheck", "shell scripts", VENV, partial(of_check, "shellcheck")),
    Scanner("ansible-lint", "ansible/, profile production", VENV, ansible_lint),
    Scanner("trivy", "Dockerfiles", VENV, trivy),
    Scanner("compose-lint", "the stack as Compose merges it", VENV, compose_lint),
    Scanner("mdn-http-observatory-scan", "headers of https://localhost/", NPM, observatory),
    Scanner("sslyze", "TLS, against Mozilla's profile", VENV, sslyze, ("--help",)),
    Scanner("testssl", "TLS, rated", "apt-get install testssl.sh (Debian 13; 12's has no rating)", testssl),
    Scanner("slowhttptest", "300 slow clients, thrice", "apt-get install slowhttptest", slowhttptest, ("-h",)),
]


def audited(root: Path) -> Checkout:
    """The repository's apps, not running yet, as a public site has them."""
    site = new_checkout(root, "gatehouse-audit", 80, 443)
    yaml = YAML()
    local = yaml.load(site.root / "environments/local.yml")
    authority, now = trustme.CA(), datetime.now(UTC)
    of_90_days = authority.issue_cert("localhost", "127.0.0.1", not_before=now, not_after=now + timedelta(90))
    authority.cert_pem.write_to_path(_ca(site))
    of_90_days.private_key_pem.write_to_path(site.root / "key.pem")
    for pem in of_90_days.cert_chain_pems:
        pem.write_to_path(site.root / "certificate.pem", append=True)
    local |= {"domains": ["localhost", "127.0.0.1"]}
    local["tls"] |= {"certificate": "certificate.pem", "key": "key.pem", "redirect": True, "hsts": 63072000}
    yaml.dump(local, site.root / "environments/local.yml")
    return site


def main(*only: str) -> int:
    """Runs those that are there, one after another; 1 if a verdict is bad."""
    table = Table("scanner", "version", "looks at", "result", "verdict", title="make audit", title_justify="left")
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        site = audited(Path(folder))
        try:
            site.run("up")
            for scanner in [scanner for scanner in SCANNERS if scanner.program in only or not only]:
                if not scanner.there:
                    table.add_row(scanner.program, "-", scanner.what, f"not installed: {scanner.get}", "not run")
                    continue
                print(f"  {scanner.program} ...", file=sys.stderr, flush=True)
                try:
                    result, good = scanner.scan(site)
                except (ValueError, KeyError, OSError, subprocess.TimeoutExpired) as error:
                    result, good = f"cannot be read: {error!r}", False
                bad += not good
                table.add_row(scanner.program, scanner.release(), scanner.what, result, "good" if good else "BAD")
        finally:
            site.run("down", "--volumes", check=False)
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
