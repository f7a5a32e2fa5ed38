"""`python -m tfserving.k8s.sync URL FOLDER`: whole versions from an object store, to where a server looks.

    URL/MODEL/VERSION, complete ──► its manifest is right ──► FOLDER/MODEL/.tmp-…, compared ──► FOLDER/MODEL/VERSION

What is brought are the versions that the server's configuration names, of all models first, and then the newest ones,
so that a rollout finds them on every pod. Whatever is wrong with a version is reported, and keeps no other away. This
runs in an image of its own (k8s/Dockerfile), without TensorFlow.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from google.protobuf import text_format

from tfserving.foundation.files import read_text
from tfserving.foundation.golden import is_version
from tfserving.foundation.messages import ModelServerConfig
from tfserving.k8s.store import MODEL, Limits, Store, SyncError

_TEMPORARY = ".tmp-"
# Whoever can write to a store can make any number of versions that aren't whole; each is read at every look.
MOST_BROKEN = 20
_LARGEST_CONFIG = 16 << 20
_LONGEST_LINE = 2000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is brought: the newest versions of each model, and those that a models.config names.

    Models that it doesn't name aren't brought; without one all are.
    """

    newest: int = 2
    config: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def named(self) -> dict[str, set[int]] | None:
        """The versions that the configuration names, by model; None without one. Raises SyncError."""
        if self.config is None:
            return None
        try:
            text = read_text(self.config, _LARGEST_CONFIG)
            said = text_format.Parse(text, ModelServerConfig()).model_config_list.config
        except (OSError, ValueError, RecursionError, text_format.ParseError) as error:
            raise SyncError(f"{self.config} can't be read: {error}") from None
        found: dict[str, set[int]] = {}
        for model in said:
            # A model's canary is served under another name, from the same folder.
            folder = PurePosixPath(model.base_path).name or model.name
            found.setdefault(folder, set()).update(model.model_version_policy.specific.versions)
        return found


@dataclass
class _Look:
    """One look at the store; `problems` is what was wrong."""

    store: Store
    folder: Path
    wanted: Wanted
    say: Say
    problems: list[str] = field(default_factory=list)
    # What is known to be wrong, by model and version: it isn't tried twice in a look.
    broken: set[tuple[str, int]] = field(default_factory=set)

    def bring(self, model: str, version: int) -> bool:
        """Brings a version that isn't here yet; whether it is here now. None that is still being published is wrong."""
        target = self.folder / model / str(version)
        if target.is_dir():
            return True
        if (model, version) in self.broken:
            return False
        try:
            if self.store.complete(model, version):
                self._copy(model, version, target)
                self.say(f"{self.store.url}/{model}/{version} is there")
                return True
        except SyncError as error:
            self._wrong(model, version, str(error))
        except OSError as error:
            self._wrong(model, version, f"{target} can't be written: {error.strerror or error}")
        return False

    def at(self, model: str, step: Callable[[str, set[int]], None], versions: set[int]) -> bool:
        """Takes a step with a model, and reports what is wrong with the model as a whole; whether nothing is."""
        try:
            step(model, versions)
        except SyncError as error:
            self.problems.append(str(error))
            return False
        except OSError as error:
            self.problems.append(f"{self.folder / model} can't be written: {error.strerror or error}")
            return False
        return True

    def named(self, model: str, versions: set[int]) -> None:
        """Brings the versions that the configuration names."""
        (self.folder / model).mkdir(parents=True, exist_ok=True)
        _sweep(self.folder / model)
        for version in sorted(versions):
            if not self.bring(model, version) and (model, version) not in self.broken:
                self.problems.append(f"{self.store.url}/{model} has no complete version {version}")

    def newest(self, model: str, named: set[int]) -> None:
        """Brings the newest versions of a model that are whole, and removes what is neither named nor among them."""
        kept: set[int] = set()
        for version in reversed(self.store.versions(model)):
            if len(kept) >= self.wanted.newest:
                break
            here = (self.folder / model / str(version)).is_dir()
            failed = sum(name == model for name, _ in self.broken)
            if here or (failed < MOST_BROKEN and self.bring(model, version)):
                kept.add(version)
        for path in sorted((self.folder / model).iterdir()):
            if is_version(path.name) and int(path.name) not in kept | named:
                _remove(path)
                self.say(f"{model}/{path.name} is not wanted any more")

    def _copy(self, model: str, version: int, target: Path) -> None:
        listing = self.store.listing(model, version, self.wanted.limits)
        here = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        if here + listing.size > self.wanted.limits.size:
            raise SyncError(
                f"{self.store.url}/{model}/{version} does not fit: it has {listing.size} bytes, {self.folder} has "
                f"{here}, and --max-bytes is {self.wanted.limits.size}"
            )
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=target.parent))
        try:
            self.store.fetch(model, version, listing, temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _wrong(self, model: str, version: int, problem: str) -> None:
        self.broken.add((model, version))
        self.problems.append(problem)


def sync(store: Store, folder: Path, wanted: Wanted, say: Say) -> list[str]:
    """Brings what is wanted and isn't there, and removes what isn't wanted; returns what was wrong.

    A version that isn't whole never gets the name by which a server finds it. Raises SyncError when the store can't be
    listed or the configuration can't be read: then nothing changes.
    """
    named, there = wanted.named(), store.models()
    models = {name: set[int]() for name in there} if named is None else named
    look = _Look(store, folder, wanted, say)
    for model in [name for name in models if not MODEL.fullmatch(name)]:
        look.problems.append(f"{wanted.config} names {model!r}, which is no name of a folder")
        del models[model]
    # Those that are served first, of all models: there may not be room for the others.
    usable = [model for model in models if look.at(model, look.named, models[model])]
    for model in usable:
        look.at(model, look.newest, models[model])
    return look.problems


def _remove(version_folder: Path) -> None:
    """Takes the name first, so that half of a version is nowhere a version."""
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=version_folder.parent))
    version_folder.rename(temporary / "removed")
    shutil.rmtree(temporary, ignore_errors=True)


def _sweep(model_folder: Path) -> None:
    """Removes what an earlier process, which was killed, has left."""
    for path in model_folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _say(text: str) -> None:
    """One line, whatever names of a store are in it."""
    line = "".join(char if char.isprintable() else "?" for char in text)
    with contextlib.suppress(OSError):
        print(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…", file=sys.stderr, flush=True)


def _count(least: int) -> Callable[[str], int]:
    def number(said: str) -> int:
        if (found := int(said)) < least:
            raise ValueError
        return found

    number.__name__ = f"number of at least {least}"
    return number


def _seconds(said: str) -> float:
    if not 0 <= (found := float(said)) < math.inf:
        raise ValueError
    return found


_seconds.__name__ = "number of seconds"


def main(words: Sequence[str] | None = None) -> int:
    """Does it once, or again and again; returns the exit code: 1 when it was to be once and something is missing."""
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m tfserving.k8s.sync", description="Brings whole versions from an object store."
    )
    parser.add_argument("url", help="Where MODEL/VERSION is: s3://bucket/prefix, gs://…, or what else fsspec knows.")
    parser.add_argument("folder", type=Path, help="Where a server looks.")
    parser.add_argument("--config", type=Path, help="The server's models.config: its models and versions are brought.")
    parser.add_argument("--newest", type=_count(0), default=2, help="So many of the newest versions, too.")
    parser.add_argument(
        "--max-bytes",
        type=_count(1),
        default=limits.size,
        help="Bytes that FOLDER may have in all; a version that doesn't fit isn't brought. %(default)s if not given.",
    )
    parser.add_argument(
        "--max-files",
        type=_count(1),
        default=limits.files,
        help="Files that a version may have; one with more isn't brought. %(default)s if not given.",
    )
    parser.add_argument("--interval", type=_seconds, default=30.0, help="Seconds between two looks.")
    parser.add_argument("--once", action="store_true", help="Look once.")
    parser.add_argument("--alive", type=Path, help="A file to touch at every look.")
    said = parser.parse_args(words)
    wanted = Wanted(said.newest, said.config, Limits(said.max_bytes, said.max_files))
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
            with contextlib.suppress(OSError):
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
