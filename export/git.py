"""The commit that a folder's files are from, as `git` reports it.

A repository's own configuration can name programs that `git status` runs: a file system monitor, hooks, filters of
files, transports of missing objects. None of them is run here, so that a repository can't start anything by being
looked at. Git itself refuses repositories of other users (`safe.directory`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tfserving.foundation.programs import Finished, OverTimeError, run

# For one call. A status reads the size and time of every file.
SECONDS = 10.0
_MOST_BYTES = 4 << 20
# The number of paths of one call: the length of a command line is limited.
_PATHS = 500
_LONGEST_URL = 480
# Never run anything of the repository's configuration, and never fetch. https://git-scm.com/docs/git-config has the
# keys; a hook and a monitor are the only programs besides filters that a status runs.
_NOTHING = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "protocol.allow": "never",
    "safe.bareRepository": "explicit",
    "submodule.recurse": "false",
}
_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_PARTS = ("clean", "smudge", "process", "required")
_FILTER = re.compile(rf"(filter\..+\.)(?:{'|'.join(_PARTS)})", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SCHEMES = ("http", "https", "ssh", "git")
# `user@host:path`, which Git reads as ssh://user@host/path.
_SCP = re.compile(r"(?:[^/@:]+@)?([^/@:\[\]]{2,}):(?!//)/*([^@]+)")


class GitError(Exception):
    """Git refused to read a repository, or took too long. The text has the reason."""


@dataclass(frozen=True)
class Checkout:
    """The commit of a folder: `path` is the folder's path in the repository, "." at its top.

    `repository` is the address that it is fetched from, without user names and passwords; None without one that others
    can reach. `changed` is whether a file of the repository differs from the commit.
    """

    top: Path
    path: str
    commit: str
    repository: str | None
    changed: bool

    def untracked(self, files: Collection[Path]) -> list[str]:
        """Return those of `files`, real paths below `top`, that the repository doesn't contain. Raises GitError."""
        names = sorted({file.relative_to(self.top).as_posix() for file in files})
        found: set[str] = set()
        for start in range(0, len(names), _PATHS):
            some = names[start : start + _PATHS]
            found.update(_checked(self.top, "ls-files", "-z", "--", *some).split("\0"))
        return [name for name in names if name not in found]


def checkout(folder: Path) -> Checkout | None:
    """Return the commit of the files in `folder`; None outside a repository, without a commit, or without Git.

    Files of submodules are not compared with their commits. Raises GitError.
    """
    if shutil.which("git") is None:
        return None
    where = _git(folder, "rev-parse", "--show-toplevel", "--show-prefix")
    if where.code:
        if "not a git repository" in where.stderr or "must be run in a work tree" in where.stderr:
            return None
        raise GitError(_reason(where))
    top, _, prefix = where.stdout.removesuffix("\n").partition("\n")
    head = _git(folder, "rev-parse", "--quiet", "--verify", "HEAD^{commit}")
    if head.code or not _COMMIT.fullmatch(commit := head.stdout.strip()):
        return None
    config = dict(_configuration(folder))
    # Without its filter a file of Git LFS differs from the commit once its time changed: it may be reported as changed
    # when it isn't, and never the other way round.
    filters = {found[1] for key in config if (found := _FILTER.fullmatch(key))}
    if wrong := [name for name in filters if "=" in name]:
        raise GitError(f"the filter {wrong[0]!r} in the configuration can't be turned off")
    off = {f"{name}{key}": "false" if key == "required" else "" for name in filters for key in _PARTS}
    options = ("--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=dirty", "--no-renames")
    status = _git(folder, "status", *options, config=off)
    if status.code:
        raise GitError(_reason(status))
    return Checkout(Path(top), prefix.rstrip("/") or ".", commit, _repository(config), bool(status.stdout))


def address(url: str) -> str | None:
    """Return the `url` of a repository without user, password, query and fragment; None for a folder or anything else.

    `git@host:path` becomes `ssh://host/path`.
    """
    if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or any(char in url for char in " \\"):
        return None
    if "://" not in url:
        found = _SCP.fullmatch(url)
        # `helper::address` starts a program.
        return f"ssh://{found[1]}/{found[2]}" if found and not found[2].startswith(":") else None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    # An `@` in the path: a password may contain a slash.
    if parts.scheme not in _SCHEMES or not parts.hostname or "@" in parts.path:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _repository(config: Mapping[str, str]) -> str | None:
    """Return the address of the remote `origin`, or of the only other one."""
    urls = {
        key.removeprefix("remote.").removesuffix(".url"): url
        for key, url in config.items()
        if key.startswith("remote.") and key.endswith(".url")
    }
    if "origin" not in urls and len(urls) != 1:
        return None
    return address(urls.get("origin") or next(iter(urls.values())))


def _configuration(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys and values of Git's configuration, of the user and of the repository."""
    for entry in _checked(folder, "config", "--list", "-z").split("\0"):
        key, _, value = entry.partition("\n")
        yield key, value


def _checked(folder: Path, *words: str, config: Mapping[str, str] | None = None) -> str:
    done = _git(folder, *words, config=config)
    if done.code:
        raise GitError(_reason(done))
    if done.cut:
        raise GitError(f"`git {words[0]}` printed more than {_MOST_BYTES >> 20} MiB")
    return done.stdout


def _git(folder: Path, *words: str, config: Mapping[str, str] | None = None) -> Finished:
    settings = [word for key, value in {**_NOTHING, **(config or {})}.items() for word in ("-c", f"{key}={value}")]
    # Without those of another repository, as in a hook of Git that exports. The user's configuration stays.
    theirs = {name for name in os.environ if name.startswith("GIT_") and not name.startswith("GIT_CONFIG_")}
    env = {name: value for name, value in os.environ.items() if name not in theirs}
    command = ["git", "-C", str(folder), "--no-pager", *settings, *words]
    try:
        return run(command, SECONDS, env={**env, **_ENVIRONMENT}, most=_MOST_BYTES)
    except OverTimeError:
        raise GitError(f"`git {words[0]}` did not end within {SECONDS:g} s") from None
    except OSError as error:
        raise GitError(f"`git` can't be started: {error.strerror}") from None


def _reason(done: Finished) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    text = " ".join(lines[:3]).removeprefix("fatal: ") or f"it exited with {done.code}"
    return "".join(char if char.isprintable() else "?" for char in text)[:300]
