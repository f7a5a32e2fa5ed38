"""Git repositories that tests make, without the configuration of the user who runs them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_WHO = {
    f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "x"), ("EMAIL", "x@y.z"))
}
_ENV = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **_WHO}


def git(folder: Path, *words: str) -> str:
    """Runs `git` in `folder`, and returns what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _ENV
    done = subprocess.run(["git", *words], cwd=folder, env=env, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path) -> str:
    """Commits all that lies in `folder`, in a new repository if there is none, and returns the commit."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a commit")
    return git(folder, "rev-parse", "HEAD")
