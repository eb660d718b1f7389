"""docs/results/proof.md and its raw data, from what proofs have left in build/proof/: python -m loadtests.proof_results"""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FROM, TO = REPOSITORY / "build/proof", REPOSITORY / "docs/results"

COLUMNS = (
    "scenario",
    "command",
    "requests (during it; least of a class)",
    "containers stopped",
    "failed",
    "effects",
    "GET p99 before / during / after, ms",
    "CPU",
)
AWAY = 75
"""s that a lost host is away (tests/hosts/proof.py)."""
READS = ("get", "keepalive", "health", "slow", "sse")
"""Classes of GET."""


def failures(proof: dict[str, Any]) -> list[dict[str, Any]]:
    """Every failed request: seconds since the command began that it `started` and `ended`, its kind and what is wrong."""
    with gzip.open(FROM / proof["name"] / "requests.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    zero = proof["command"]["start"]
    return [
        {"kind": r["kind"], "started": float(r["started"]) - zero, "ended": float(r["ended"]) - zero,
         "why": r["error"].partition(":")[0] or r["status"]}
        for r in rows
        if r["error"] or r["status"][:1] not in ("2", "1")
    ]  # fmt: skip


def row(proof: dict[str, Any]) -> str:
    """One scenario as a row of the table."""
    every = proof["summary"]["all"]
    during = {kind: part["intervals"]["during"]["requests"] for kind, part in proof["summary"].items()}
    effects, command = proof["effects"], proof["command"]
    counted = (
        f"{effects['counted']:,}: {len(effects['lost'])} lost, {len(effects['doubled'])} doubled"
        if isinstance(effects, dict)
        else effects
    )
    get = proof["summary"]["get"]["intervals"]
    p99 = " / ".join(f"{get[when]['p99']:.0f}" for when in ("before", "during", "after"))
    stopped = sum(1 for event in proof["events"] if event["what"] == "kill 15")
    cells = [
        proof["name"],
        f"{command['end'] - command['start']:.0f} s, exit {command['exit_code']}",
        f"{every['requests']:,} ({during['all']:,}; {min(during.values()):,})",
        str(stopped),
        f"**{every['failed']}**",
        counted,
        p99,
        proof["conditions"]["cpu"].partition(" ")[0],
    ]
    return f"| {' | '.join(cells)} |\n"


def lost(proof: dict[str, Any]) -> str:
    """A host's loss as a row: who failed, by when the request began."""
    failed = failures(proof)
    groups = {
        "before": [f for f in failed if f["started"] <= 0],
        "soon": [f for f in failed if 0 < f["started"] <= 2],
        "reads": [f for f in failed if f["started"] > 2 and f["kind"] in READS],
        "others": [f for f in failed if f["started"] > 2 and f["kind"] not in READS],
    }
    said = [
        ", ".join(f"{kind} {n}" for kind, n in Counter(f["kind"] for f in of).items()) or "0" for of in groups.values()
    ]
    longest = max((f["ended"] - f["started"] for f in failed), default=0.0)
    zero = proof["command"]["start"]
    times = [e["at"] - zero for e in proof["events"] if e["what"] == "health_status: healthy"]
    healthy = [at for at in times if 0 < at < AWAY]
    back = f"{max(healthy):.0f} s" if healthy else "-"
    every = proof["summary"]["all"]
    return f"| {proof['name'].removeprefix('lost-')} | {every['requests']:,} | {' | '.join(said)} | {longest:.0f} s | {back} |\n"


def gap(proof: dict[str, Any]) -> str:
    """What the only host's edge costs when its image changes: one gap for each time."""
    every = sorted(failures(proof), key=lambda f: float(f["started"]))
    cut = sum(1 for failure in every if failure["why"] == "cut")  # streams, of which some had begun long before
    failed = [failure for failure in every if failure["why"] != "cut"]
    gaps: list[list[dict[str, Any]]] = []
    for failure in failed:
        if not gaps or failure["started"] > gaps[-1][-1]["started"] + 5:
            gaps.append([])
        gaps[-1].append(failure)
    return f"Of {proof['summary']['all']['requests']:,} requests, {cut} streams were cut, and\n\n" + "".join(
        f"- {len(of)} were refused or closed, begun within {of[-1]['started'] - of[0]['started']:.1f} s: "
        + ", ".join(f"{why} {n}" for why, n in Counter(f["why"] for f in of).items())
        + "\n"
        for of in gaps
    )


def main() -> None:
    """Writes the page, and keeps every request beside it; without this machine's paths."""
    proofs = sorted(
        (json.loads(file.read_text()) for file in FROM.glob("*/proof.json")), key=lambda p: p["command"]["start"]
    )
    shutil.rmtree(TO / "proof", ignore_errors=True)
    (TO / "proof").mkdir()
    for proof in proofs:
        proof["command"]["argv"] = [re.sub(r"(?<![\w.$])/\S*/", "", part) for part in proof["command"]["argv"]]
        (TO / "proof" / f"{proof['name']}.json").write_text(json.dumps(proof, indent=1) + "\n")
        shutil.copy(FROM / proof["name"] / "requests.csv.gz", TO / "proof" / f"{proof['name']}.csv.gz")
    losses = [proof for proof in proofs if proof["name"].startswith("lost-")]
    gaps = [proof for proof in proofs if proof["name"] == "single-edge-image"]
    others = [proof for proof in proofs if proof not in losses + gaps]
    requests, failed = (sum(proof["summary"]["all"][key] for proof in others) for key in ("requests", "failed"))
    first = proofs[0]["conditions"]
    broken = "".join(
        f"- {proof['name']}: {kind}: {', '.join(f'{what} ({n})' for what, n in part['failures'].items())}\n"
        for proof in others
        for kind, part in proof["summary"].items()
        if part["failed"] and kind != "all"
    )
    text = f"""# Proof: what is done to a fleet under load

{first["date"]}, three machines of `make hosts-up` on {first["machine"].partition(",")[0]} that they share with the load and the controller.
{first["rate"]};
besides, through every edge 8 WebSockets with a message a second, and 8 event streams, of which two last 10 s and the others
are opened anew all the time. Over TLS. A request fails when its answer is no 2xx, is cut, is another one's, or does not
come; no client repeats anything. A command goes on, again and again, until every class was sent 1,000 times during it; CPU
is how busy the cores were meanwhile. What goes to hosts in rotation (edge-image, host-drained, host-removed) asks each
edge's `/healthz` once a second, as a balancer does.

Again, in an hour: `make test-hosts T=tests/hosts/proof.py`, then `python -m loadtests.proof_results`. Every request is in
[proof/](proof/), with its due time, start, end, edge, status and error; and what each container went through.

**{requests:,} requests, {failed} failed.**

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{"".join(map(row, others))}"""
    if broken:
        text += f"\nWhat failed:\n\n{broken}"
    if any(proof["name"] == "term" for proof in others):
        text += (
            "\nterm is SIGTERM to a replica in full rotation, which no deploy does: it shows what an edge costs that has missed "
            "the message that a replica leaves.\n"
        )
    if losses:
        text += f"""
## A host that is lost

Not drained: its power fails (stop), its cable is pulled (cut), or its processes freeze while its kernel goes on taking
connections (pause), under the same load, through the two edges that are left; after {AWAY} s it is back. Failed requests by
when they began: before the loss, within 2 s after it, later. What was in flight waits for `timeouts.request` (30 s) at most;
GETs are asked of another replica as soon as the loss is known.

| what | requests | before | within 2 s | later: GET | later: others | longest wait of a failed one | replicas back after |
|---|---|---|---|---|---|---|---|
{"".join(map(lost, losses))}"""
    for proof in gaps:
        text += f"\n## The only host's edge gets another image\n\n{gap(proof)}"
    (TO / "proof.md").write_text(text)


if __name__ == "__main__":
    main()
