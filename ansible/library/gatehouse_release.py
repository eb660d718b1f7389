#!/usr/bin/python
"""One step of a release, on a manager (why: on every host). What each does: ansible/module_utils/gatehouse/swarm.py."""

from __future__ import annotations

import base64
import difflib
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.gatehouse import swarm
from ansible.module_utils.gatehouse.swarm import Engine, Failed, Lock

ARGUMENTS: dict[str, Any] = {
    "step": {
        "choices": ["find", "history", "begin", "secrets", "label", "jobs", "apply", "hold", "wait", "end", "why"],
        "required": True,
    },
    "site": {"required": True},
    "token": {"no_log": False, "default": ""},  # this run's, for the lock
    "lease": {"type": "float", "default": 60.0},  # s
    "files": {"type": "dict", "default": {}},  # build/<env>/: path -> text
    "secrets": {"type": "dict", "default": {}, "no_log": False},  # variable -> name of the Swarm secret
    "values": {"type": "dict", "default": {}, "no_log": True},  # app -> name -> value
    "facts": {"type": "dict", "default": {}},  # by, git, action, of
    "wanted": {"default": ""},  # a release's id
    "hosts": {"type": "list", "elements": "str", "default": []},  # of this run
    "nodes": {"type": "dict", "default": {}},  # node id -> its images, as JSON lists of names
    "apps": {"type": "list", "elements": "str", "default": []},
    "service": {"default": ""},
    "patience": {"type": "float", "default": 60.0},  # s
    "watch": {"type": "bool", "default": True},
    "release": {"default": ""},
    "result": {"default": ""},
    "reason": {"default": ""},
}


def find(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """The release that a rollback goes to."""
    found = swarm.target(swarm.history(engine, given["site"]), given["wanted"] or None)
    git = found.labels.get("gatehouse.git", "")
    return {"release": found.id, "git": git, "files": found.files, "secrets": found.secrets, "changed": False}


def history(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Every release that is remembered, the newest first."""
    records = swarm.history(engine, given["site"])
    here = swarm.current(records)
    keep = {record.content for record in swarm.kept(records)[0]}
    shown = [{**r.shown(), "current": r is here, "kept": r.content in keep and r.result == "good"} for r in records]
    return {"releases": [{**r, "line": line(r)} for r in shown], "changed": False}


def line(release: dict[str, Any]) -> str:
    """One release as people read it."""
    state = "current" if release["current"] else release["result"]
    if state == "good" and not release["kept"]:
        state = "good (gone)"  # its images
    what = f"{release['action']} of {release['git'] or 'no git revision'} by {release['by']}"
    reason = (release["reason"].splitlines() or [""])[0][:100]
    return f"{release['release']}  {state:<11}  {what}" + (f": {reason}" if reason else "")


def begin(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Takes the lock and writes down that a release begins, unless it is what the fleet should be running already."""
    if given["_check"]:
        return _begin(engine, given)
    lock.take(given["facts"]["by"])
    try:
        return _begin(engine, given)
    except Exception:
        lock.release()
        raise


def _begin(engine: Engine, given: dict[str, Any]) -> dict[str, Any]:
    # What is read here must not change any more, so the lock comes first.
    records = swarm.history(engine, given["site"])
    here = swarm.current(records)
    files, secrets = given["files"], given["secrets"]
    new = here is None or here.content != swarm.content(files, secrets)
    if new and (left := swarm.left_out(engine.nodes(), given["hosts"])):
        raise Failed(
            f"{', '.join(left)} would keep the old release, because --limit leaves it out. A new release goes to every host that is up; --limit is for hosts that are down (the Swarm notices within a minute), and for bringing one up to date"
        )
    served = swarm.releases_served(engine, given["site"])
    plan = swarm.plan(files)
    # Never on the way back: an older migration knows nothing of what a newer one did.
    forward = given["facts"]["action"] == "deploy"
    result = {
        "changed": new,
        "new": new,
        "release": here.id if here and not new else "",
        "previous": {"release": here.id, "files": here.files, "secrets": here.secrets} if here else {},
        "jobs": [n for n, app in plan["apps"].items() if forward and app["job"] and served.get(n) != app["release"]],
        "diff": differences(here.files if here else {}, files),
    }
    if given["_check"]:
        return result
    for unfinished in records:
        if unfinished.result == "started":
            swarm.close(engine, given["site"], unfinished.id, "interrupted")
    if new:
        result["release"] = swarm.record(engine, given["site"], files, secrets, given["facts"]).id
    return result


def differences(before: dict[str, str], after: dict[str, str]) -> list[dict[str, str]]:
    """What --diff shows: the files that change."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [
        {
            "prepared": "".join(
                difflib.unified_diff(
                    before.get(name, "").splitlines(True), after.get(name, "").splitlines(True), name, name, n=1
                )
            )
        }
        for name in names
    ]


def secrets(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Creates the Swarm secrets that are not there yet; the name says which value it is, so none is ever changed."""
    known = {secret["Spec"]["Name"] for secret in engine.call("GET", "/secrets") or []}
    plan = swarm.plan(given["files"])
    values = {
        given["secrets"][variable]: given["values"][app][name]
        for app, facts in plan["apps"].items()
        for name, variable in facts["secrets"].items()
    }
    new = sorted(values.keys() - known)
    for name in new:
        data = base64.b64encode(values[name].encode()).decode()
        engine.call(
            "POST", "/secrets/create", {"Name": name, "Data": data, "Labels": {"gatehouse.site": given["site"]}}
        )
    return {"created": new, "changed": bool(new)}


def label(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Says of hosts which images of this release they have."""
    plan = swarm.plan(given["files"])
    changed = []
    for node in engine.nodes():
        if node["ID"] not in given["nodes"]:
            continue
        labels = dict(node["Spec"].get("Labels") or {})
        for part in [plan["edge"], *swarm.with_images(plan)]:
            if f'"{part["image"]}"' in given["nodes"][node["ID"]]:
                labels[part["label"]] = "present"
            else:
                labels.pop(part["label"], None)
        if labels != node["Spec"].get("Labels", {}):
            swarm.label(engine, node, labels)
            changed.append(node["Description"]["Hostname"])
    return {"hosts": changed, "changed": bool(changed)}


def jobs(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Runs one app's release_command."""
    swarm.run_job(engine, given["site"], given["service"], given["files"], given["secrets"], given["patience"], lock)
    return {"changed": True}


def apply(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Gives the Swarm the services as they are to be. `troubled`: those that did not run before, and that this release
    does not change; an app without its database must not keep another one from being mended."""
    lock.renew()
    before = swarm.troubled(engine, given["site"])
    if given["files"]:
        done = swarm.apply(engine, given["site"], given["files"], given["secrets"])
    else:  # there is nothing to go back to
        done = dict.fromkeys(swarm.remove(engine, given["site"], list(engine.services(given["site"]))), True)
    changed = sorted(name for name, differs in done.items() if differs)
    troubled = {name: said for name, said in before.items() if name not in changed}
    return {"services": changed, "troubled": troubled, "changed": bool(changed)}


def hold(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Makes sure that this run still has the lock, before hosts are touched."""
    lock.renew()
    return {"changed": False}


def wait(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Until one service runs as it is written, or the first of them all will not."""
    said = swarm.wait(engine, given["site"], given["apps"], given["service"], given["patience"], lock, given["watch"])
    return {"msg": said, "changed": False}


def end(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """Removes services that are not of this release, writes down the result, drops what no kept release needs, and gives
    the lock back. `gone`: host -> its images that nothing needs any more."""
    site, gone = given["site"], {}
    lock.renew()
    written = swarm.plan(given["files"])["services"] if given["files"] else {}
    removed = swarm.remove(engine, site, [name for name in engine.services(site) if name not in written])
    if given["release"] and given["result"]:
        swarm.close(engine, site, given["release"], given["result"], given["reason"])
    if given["result"] == "good":
        try:
            gone = swarm.prune(engine, site)
        except (swarm.ApiError, Failed):  # the next release tidies up; this one is good
            gone = {}
    lock.release()
    return {"removed": removed, "gone": gone, "changed": bool(removed)}


def why(engine: Engine, given: dict[str, Any], lock: Lock) -> dict[str, Any]:
    """What this host's failed containers of some services have to say."""
    plan = swarm.plan(given["files"])
    releases = [app["release"] for app in plan["apps"].values()]
    return {"lines": swarm.why(engine, given["site"], given["apps"], releases), "changed": False}


STEPS = {step.__name__: step for step in (find, history, begin, secrets, label, jobs, apply, hold, wait, end, why)}


def main() -> None:
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    given = {**module.params, "_check": module.check_mode}
    engine = Engine()
    lock = Lock(engine, given["site"], given["token"], given["lease"])
    try:
        module.exit_json(**STEPS[given["step"]](engine, given, lock))
    except Failed as failure:
        module.fail_json(msg=str(failure), services=failure.services)
    except swarm.ApiError as error:
        module.fail_json(msg=f"the Docker engine refuses: {error}")
    except swarm.Gone:
        module.fail_json(msg="whoever started this has gone")


if __name__ == "__main__":
    main()
