"""`python -m tfserving.k8s.sync URL FOLDER`: whole versions from an object store, to where a server looks.

    URL/MODEL/VERSION, complete ──► FOLDER/MODEL/.tmp-… ──► compared with its manifest ──► FOLDER/MODEL/VERSION

`tfserving export publish` writes saved_model.pb last, so a version without it isn't complete. What is brought are the
versions that the server's configuration names, and the newest ones, so that a rollout finds them on every pod. This
runs in an image of its own (k8s/Dockerfile), without TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import text_format

from tfserving.foundation.golden import MANIFEST, SAVED_MODEL
from tfserving.foundation.messages import ModelServerConfig
from tfserving.serving.proven import ProofError, prove

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TEMPORARY = ".tmp-"
# A store that isn't there is told within a minute, not within botocore's ten.
_S3 = {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3, "mode": "standard"}}}

Say = Callable[[str], None]


class SyncError(Exception):
    """The store can't be read, or a version there isn't whole; the text says which."""


@dataclass(frozen=True)
class Wanted:
    """What is brought: the newest versions of each model, and those that a models.config names.

    Models that it doesn't name aren't brought; without one all are.
    """

    newest: int = 2
    config: Path | None = None

    def named(self) -> dict[str, set[int]] | None:
        """The versions that the configuration names, by model; None without one. Raises SyncError."""
        if self.config is None:
            return None
        try:
            said = text_format.Parse(self.config.read_text(), ModelServerConfig()).model_config_list.config
        except (OSError, text_format.ParseError) as error:
            raise SyncError(f"{self.config} can't be read: {error}") from None
        return {model.name: set(model.model_version_policy.specific.versions) for model in said}


class Store:
    """The versions below a URL that fsspec knows."""

    def __init__(self, url: str) -> None:
        """Raises SyncError when the URL is none, or needs a package that isn't installed."""
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        try:
            self._system, root = url_to_fs(self.url, **(_S3 if url.startswith("s3://") else {}))
        except (ImportError, ValueError) as error:
            raise SyncError(f"{url}: {error}") from None
        self._root = str(root).rstrip("/")

    def models(self) -> dict[str, list[int]]:
        """The complete versions of every model, oldest first. Raises SyncError."""
        self._system.invalidate_cache()
        found: dict[str, list[int]] = {}
        for model in self._folders(self._root):
            if _MODEL.fullmatch(model):
                versions = [int(name) for name in self._folders(f"{self._root}/{model}") if _is_version(name)]
                found[model] = sorted(version for version in versions if self._complete(model, version))
        return found

    def fetch(self, model: str, version: int, into: Path) -> None:
        """Copies every file that the version's manifest lists, and compares it. Raises SyncError."""
        remote = f"{self._root}/{model}/{version}"
        where = f"{self.url}/{model}/{version}"
        self._copy(f"{remote}/{MANIFEST}", into / MANIFEST, where)
        try:
            files: dict[str, Any] = json.loads((into / MANIFEST).read_bytes())["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise SyncError(f"{where}/{MANIFEST} is no manifest: {error}") from None
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise SyncError(f"{where}/{MANIFEST} lists {name!r}, which is not in the version")
            self._copy(f"{remote}/{name}", into / name, where)
        try:
            prove(into)
        except ProofError as error:
            raise SyncError(f"{where} is not whole: {str(error).replace(str(into), where)}") from None

    def _folders(self, path: str) -> list[str]:
        try:
            found = self._system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:  # whatever the store's library raises
            raise SyncError(f"{self.url} can't be read: {_words(error)}") from error
        return [str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]

    def _complete(self, model: str, version: int) -> bool:
        try:
            return bool(self._system.exists(f"{self._root}/{model}/{version}/{SAVED_MODEL}"))
        except Exception as error:  # as above
            raise SyncError(f"{self.url} can't be read: {_words(error)}") from error

    def _copy(self, remote: str, local: Path, where: str) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._system.get_file(remote, str(local))
        except FileNotFoundError:
            raise SyncError(f"{where} is not whole: {remote} isn't there") from None
        except Exception as error:  # as above
            raise SyncError(f"{where} can't be read: {_words(error)}") from error


def sync(store: Store, folder: Path, wanted: Wanted, say: Say) -> list[str]:
    """Brings what is wanted and isn't there, and removes what isn't wanted; returns what was wrong.

    A version that isn't whole never gets the name by which a server finds it. Raises SyncError when the store can't be
    listed or the configuration can't be read: then nothing changes.
    """
    named, there = wanted.named(), store.models()
    problems = []
    for model, versions in there.items() if named is None else ((name, there.get(name, [])) for name in named):
        kept = set(versions[-wanted.newest :]) | (named or {}).get(model, set())
        (folder / model).mkdir(parents=True, exist_ok=True)
        _sweep(folder / model)
        for version in sorted(kept):
            target = folder / model / str(version)
            if target.is_dir():
                continue
            if version not in versions:
                problems.append(f"{store.url}/{model} has no complete version {version}")
                continue
            try:
                _bring(store, model, version, target)
                say(f"{store.url}/{model}/{version} is there")
            except SyncError as error:
                problems.append(str(error))
        for path in (folder / model).iterdir():
            if _is_version(path.name) and int(path.name) not in kept:
                _remove(path)
                say(f"{model}/{path.name} is not wanted any more")
    return problems


def _bring(store: Store, model: str, version: int, target: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=target.parent))
    try:
        store.fetch(model, version, temporary)
        temporary.chmod(0o755)
        temporary.rename(target)
    except OSError as error:
        raise SyncError(f"{target} can't be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(version_folder: Path) -> None:
    """Takes the name first, so that half of a version is nowhere a version."""
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=version_folder.parent))
    version_folder.rename(temporary / "removed")
    shutil.rmtree(temporary, ignore_errors=True)


def _sweep(model_folder: Path) -> None:
    """Removes what an earlier process, which was killed, has left."""
    for path in model_folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdecimal() and not name.startswith("0")


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Does it once, or again and again; returns the exit code: 1 when it was to be once and something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m tfserving.k8s.sync", description="Brings whole versions from an object store."
    )
    parser.add_argument("url", help="Where MODEL/VERSION is: s3://bucket/prefix, gs://…, or what else fsspec knows.")
    parser.add_argument("folder", type=Path, help="Where a server looks.")
    parser.add_argument("--config", type=Path, help="The server's models.config: its models and versions are brought.")
    parser.add_argument("--newest", type=int, default=2, help="So many of the newest versions, too.")
    parser.add_argument("--interval", type=float, default=30.0, help="Seconds between two looks.")
    parser.add_argument("--once", action="store_true", help="Look once.")
    parser.add_argument("--alive", type=Path, help="A file to touch at every look.")
    said = parser.parse_args(words)
    wanted = Wanted(said.newest, said.config)
    told: list[str] = []
    while True:
        try:
            problems = sync(Store(said.url), said.folder, wanted, _say)
        except SyncError as error:
            problems = [str(error)]
        if problems != told:
            for problem in problems:
                _say(f"Error: {problem}")
        told = problems
        if said.once:
            return _once(wanted, said.folder, problems)
        if said.alive:
            said.alive.touch()
        time.sleep(said.interval)


def _once(wanted: Wanted, folder: Path, problems: list[str]) -> int:
    """Whether a server can start: with what its configuration names, whatever a newer version is like."""
    try:
        named = wanted.named()
    except SyncError:
        return 1
    if named is None:
        return int(bool(problems))
    missing = [
        f"{name}/{one}"
        for name, versions in named.items()
        for one in versions
        if not (folder / name / str(one)).is_dir()
    ]
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
