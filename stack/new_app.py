"""`make new-app`: a folder in apps/ that runs, is routed, tested and load-tested as it is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from stack.errors import Failed
from stack.load import load_site, unfit_name

TEMPLATES = Path(__file__).resolve().parent / "templates"
KINDS = sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir() and path.name != "__pycache__")


def make(root: Path, env: str, name: str, kind: str) -> Path:
    """The new folder below root/apps. Raises Failed where the name or the kind will not do, and SiteError where the site,
    with this app in it, has problems; nothing is left then."""
    if kind not in KINDS:
        raise Failed(f"KIND={kind}: no such kind. Allowed: {', '.join(KINDS)}")
    if reason := unfit_name(name):
        raise Failed(f"NAME={name}: {reason}")
    folder = root / "apps" / name
    folder.parent.mkdir(exist_ok=True)
    # On disks that do not tell Orders from orders, either: whoever clones this may have one.
    if taken := next((there.name for there in folder.parent.iterdir() if there.name.lower() == name), None):
        raise Failed(f"apps/{taken} is there already. Choose another name, or remove that folder")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as unfinished:
        made = Path(unfinished, name)
        shutil.copytree(TEMPLATES / kind, made, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(TEMPLATES / "loadtest.py", made)  # a user sees no difference between the kinds
        if not (root / "docs/schema").is_dir():  # a site of its own: editors would look for what is not there
            (made / "app.yml").write_text((made / "app.yml").read_text().partition("\n")[2])
        made.rename(folder)
    try:
        load_site(root, env)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder
