"""`python -m tfserving.k8s.sync URL FOLDER`: copy complete versions from an object store to a server's folder.

    URL/MODEL/VERSION, complete ──► manifest is valid ──► FOLDER/MODEL/.tmp-…, checked ──► FOLDER/MODEL/VERSION

The versions in the server's configuration are copied first, for all models. Then the newest ones are copied, so that a
rollout finds them on every pod. A fault in one version is reported and doesn't stop the others. This runs in the
toolkit's image (k8s/Dockerfile), without TensorFlow.
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
from tfserving.foundation.store import MODEL, Limits, Store, StoreError

_TEMPORARY = ".tmp-"
# Anybody who can write to the store can add any number of incomplete versions, and each is read at every pass.
MOST_BROKEN = 20
_LARGEST_CONFIG = 16 << 20
_LONGEST_LINE = 2000

Log = Callable[[str], None]


class SyncError(StoreError):
    """The wanted versions can't be read, or there is no room for one."""


@dataclass(frozen=True)
class Wanted:
    """The versions to copy: the newest ones of each model, and those in a models.config.

    With a models.config, only its models are copied; without one, all are.
    """

    newest: int = 2
    config: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def named(self) -> dict[str, set[int]] | None:
        """Return the versions in the configuration by model; None without a configuration. Raises SyncError."""
        if self.config is None:
            return None
        try:
            text = read_text(self.config, _LARGEST_CONFIG)
            models = text_format.Parse(text, ModelServerConfig()).model_config_list.config
        except (OSError, ValueError, RecursionError, text_format.ParseError) as error:
            raise SyncError(f"cannot read {self.config}: {error}") from None
        found: dict[str, set[int]] = {}
        for model in models:
            # A model's canary is served under another name, from the same folder.
            folder = PurePosixPath(model.base_path).name or model.name
            found.setdefault(folder, set()).update(model.model_version_policy.specific.versions)
        return found


@dataclass
class _Pass:
    """One pass over the store; `problems` lists the faults that it found."""

    store: Store
    folder: Path
    wanted: Wanted
    log: Log
    problems: list[str] = field(default_factory=list)
    # Faulty versions, by model and number: a pass doesn't try one twice.
    broken: set[tuple[str, int]] = field(default_factory=set)

    def copy(self, model: str, version: int) -> bool:
        """Copy a version that isn't here yet; return whether it is here now.

        A version that is still being published is skipped without a problem.
        """
        target = self.folder / model / str(version)
        if target.is_dir():
            return True
        if (model, version) in self.broken:
            return False
        try:
            if self.store.complete(model, version):
                self._copy(model, version, target)
                self.log(f"{self.store.url}/{model}/{version} is copied")
                return True
        except StoreError as error:
            self._failed(model, version, str(error))
        except OSError as error:
            self._failed(model, version, f"cannot write {target}: {error.strerror or error}")
        return False

    def run(self, step: Callable[[str, set[int]], None], model: str, versions: set[int]) -> bool:
        """Run a step for a model, and report a fault of the model as a whole; return whether there is none."""
        try:
            step(model, versions)
        except StoreError as error:
            self.problems.append(str(error))
            return False
        except OSError as error:
            self.problems.append(f"cannot write {self.folder / model}: {error.strerror or error}")
            return False
        return True

    def named(self, model: str, versions: set[int]) -> None:
        """Copy the versions in the configuration."""
        (self.folder / model).mkdir(parents=True, exist_ok=True)
        _sweep(self.folder / model)
        for version in sorted(versions):
            if not self.copy(model, version) and (model, version) not in self.broken:
                self.problems.append(f"{self.store.url}/{model} has no complete version {version}")

    def newest(self, model: str, named: set[int]) -> None:
        """Copy the newest complete versions of a model; remove those that are neither `named` nor among them."""
        kept: set[int] = set()
        for version in reversed(self.store.versions(model)):
            if len(kept) >= self.wanted.newest:
                break
            here = (self.folder / model / str(version)).is_dir()
            failed = sum(name == model for name, _ in self.broken)
            if here or (failed < MOST_BROKEN and self.copy(model, version)):
                kept.add(version)
        for path in sorted((self.folder / model).iterdir()):
            if is_version(path.name) and int(path.name) not in kept | named:
                _remove(path)
                self.log(f"{model}/{path.name} is removed")

    def _copy(self, model: str, version: int, target: Path) -> None:
        listing = self.store.listing(model, version, self.wanted.limits)
        here = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        if here + listing.size > self.wanted.limits.size:
            raise SyncError(
                f"{self.store.url}/{model}/{version} does not fit: it is {listing.size} bytes, {self.folder} contains "
                f"{here} bytes, and --max-bytes is {self.wanted.limits.size}"
            )
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=target.parent))
        try:
            self.store.fetch(model, version, listing, temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _failed(self, model: str, version: int, problem: str) -> None:
        self.broken.add((model, version))
        self.problems.append(problem)


def sync(store: Store, folder: Path, wanted: Wanted, log: Log) -> list[str]:
    """Copy the wanted versions that are missing, and remove the others; return the faults.

    An incomplete version never gets the name under which a server finds it. Raises SyncError when the store can't be
    listed or the configuration can't be read: then nothing changes.
    """
    named, there = wanted.named(), store.models()
    models = {name: set[int]() for name in there} if named is None else named
    one = _Pass(store, folder, wanted, log)
    for model in [name for name in models if not MODEL.fullmatch(name)]:
        one.problems.append(f"{wanted.config}: {model!r} is not a valid name of a folder")
        del models[model]
    # The served versions of all models first: there may be no room for the others.
    usable = [model for model in models if one.run(one.named, model, models[model])]
    for model in usable:
        one.run(one.newest, model, models[model])
    return one.problems


def _remove(version_folder: Path) -> None:
    """Rename the folder first, so that half of a version never has the name of a version."""
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=version_folder.parent))
    version_folder.rename(temporary / "removed")
    shutil.rmtree(temporary, ignore_errors=True)


def _sweep(model_folder: Path) -> None:
    """Remove the temporary folders of an earlier process that was killed."""
    for path in model_folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _log(text: str) -> None:
    """Print one line; names from the store can't break it."""
    line = "".join(char if char.isprintable() else "?" for char in text)
    with contextlib.suppress(OSError):
        print(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…", file=sys.stderr, flush=True)


def _count(least: int) -> Callable[[str], int]:
    def number(given: str) -> int:
        if (found := int(given)) < least:
            raise ValueError
        return found

    number.__name__ = f"number of at least {least}"
    return number


def _seconds(given: str) -> float:
    if not 0 <= (found := float(given)) < math.inf:
        raise ValueError
    return found


_seconds.__name__ = "number of seconds"


def main(words: Sequence[str] | None = None) -> int:
    """Run passes; return the exit code: 1 when a served version is missing after `--once`."""
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m tfserving.k8s.sync", description="Copy complete versions from an object store."
    )
    parser.add_argument("url", help="The folder above MODEL/VERSION: s3://bucket/prefix, gs://… or another fsspec URL.")
    parser.add_argument("folder", type=Path, help="The folder of models of a server.")
    parser.add_argument("--config", type=Path, help="The server's models.config: its models and versions are copied.")
    parser.add_argument(
        "--newest", type=_count(0), default=2, help="How many of the newest versions to copy. [default: %(default)s]"
    )
    parser.add_argument(
        "--max-bytes",
        type=_count(1),
        default=limits.size,
        help="Limit of all bytes in FOLDER; a version that doesn't fit is skipped. [default: %(default)s]",
    )
    parser.add_argument(
        "--max-files",
        type=_count(1),
        default=limits.files,
        help="Limit of the number of files in a version; one with more is skipped. [default: %(default)s]",
    )
    parser.add_argument(
        "--interval", type=_seconds, default=30.0, help="Seconds between two passes. [default: %(default)s]"
    )
    parser.add_argument("--once", action="store_true", help="Run one pass.")
    parser.add_argument("--alive", type=Path, help="A file to touch after every pass.")
    options = parser.parse_args(words)
    wanted = Wanted(options.newest, options.config, Limits(options.max_bytes, options.max_files))
    reported: list[str] = []
    while True:
        try:
            problems = sync(Store(options.url), options.folder, wanted, _log)
        except StoreError as error:
            problems = [str(error)]
        if problems != reported:
            for problem in problems:
                _log(f"Error: {problem}")
        reported = problems
        if options.once:
            return _once(wanted, options.folder, problems)
        if options.alive:
            with contextlib.suppress(OSError):
                options.alive.touch()
        time.sleep(options.interval)


def _once(wanted: Wanted, folder: Path, problems: list[str]) -> int:
    """Return 0 when a server can start: all versions in its configuration are here. Newer ones don't matter."""
    try:
        named = wanted.named()
    except StoreError:
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
