"""docs/results/proof.md and its raw data, from what proofs have left in build/proof/: python -m loadtests.proof_results"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FROM, TO = REPOSITORY / "build/proof", REPOSITORY / "docs/results"

KNOWN = """A WebSocket that is open while an edge reloads is cut 30 s later (`worker_shutdown_timeout` in nginx/nginx.conf), and Nginx
sends no close frame then: the client has to open a new one by itself. Everything else passes a reload unnoticed."""


def row(proof: dict[str, Any]) -> str:
    """One scenario as a row of the table."""
    every = proof["summary"]["all"]
    requests, failed, during = every["requests"], every["failed"], every["intervals"]["during"]["requests"]
    effects, command = proof["effects"], proof["command"]
    counted = (
        f"{effects['counted']:,}: {len(effects['lost'])} lost, {len(effects['doubled'])} doubled"
        if isinstance(effects, dict)
        else effects
    )
    get = proof["summary"]["get"]["intervals"]
    p99 = " / ".join(f"{get[when]['p99']:.0f}" for when in ("before", "during", "after"))
    took = command["end"] - command["start"]
    return f"| {proof['name']} | {took:.0f} s, exit {command['exit_code']} | {requests:,} ({during:,}) | **{failed}** | {counted} | {p99} |"


def main() -> None:
    """Writes the page, and keeps every request beside it; without this machine's paths."""
    proofs = sorted(
        (json.loads(file.read_text()) for file in FROM.glob("*/proof.json")), key=lambda p: p["command"]["start"]
    )
    shutil.rmtree(TO / "proof", ignore_errors=True)
    (TO / "proof").mkdir()
    for proof in proofs:
        proof["command"]["argv"] = [re.sub(r"/\S*/", "", part) for part in proof["command"]["argv"]]
        (TO / "proof" / f"{proof['name']}.json").write_text(json.dumps(proof, indent=1) + "\n")
        shutil.copy(FROM / proof["name"] / "requests.csv.gz", TO / "proof" / f"{proof['name']}.csv.gz")
    requests, failed = (sum(proof["summary"]["all"][key] for proof in proofs) for key in ("requests", "failed"))
    first = proofs[0]["conditions"]
    broken = "".join(
        f"- {proof['name']}: {kind}: {', '.join(f'{what} ({n})' for what, n in part['failures'].items())}\n"
        for proof in proofs
        for kind, part in proof["summary"].items()
        if part["failed"] and kind != "all"
    )
    text = f"""# Proof: what is done to a fleet under load

{first["date"]}, three machines of `make hosts-up` on {first["machine"].partition(",")[0]} that they share with the load and
the controller. {first["rate"]}; besides, a WebSocket and two event streams held open through every edge. Requests through every edge
over TLS, or through those that stay in rotation where one goes. A request fails when its answer is no 2xx, is cut, is another
one's, or does not come; no client repeats anything.

Again: `make hosts-up HOSTS=3`, `make test-hosts T=tests/hosts/proof.py`, `python -m loadtests.proof_results`. Every request is in
[proof/](proof/), with its due time, start, end, edge, status and error.

**{requests:,} requests, {failed} failed.**

| scenario | command | requests (during it) | failed | effects | GET p99 before / during / after, ms |
|---|---|---|---|---|---|
""" + "\n".join(row(proof) for proof in proofs)
    if broken:
        text += f"\n\nWhat failed:\n\n{broken}\n{KNOWN}"
    (TO / "proof.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
