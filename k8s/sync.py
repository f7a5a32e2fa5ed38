"""`python -m tfserving.k8s.sync URL FOLDER`: copy complete versions from an object store to a server's folder.

    URL/MODEL/VERSION, complete ──► manifest is valid ──► FOLDER/MODEL/.tmp-…, accepted ──► FOLDER/MODEL/VERSION

The versions in the server's configuration are copied first, for all models. Then the newest ones are copied, so that a
rollout finds them on every pod. A fault in one version is reported and doesn't stop the others. What is judged is the
copy, which nobody else can write to: its files, its model and number and, with `--trust`, its signature. This runs in
the toolkit's image (k8s/Dockerfile), without TensorFlow.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
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
from tfserving.foundation.manifest import MANIFEST, SIGNATURE
from tfserving.foundation.store import MODEL, Limits, Listing, Store, StoreError
from tfserving.foundation.trust import Trust, TrustError, accept
from tfserving.foundation.version_files import VersionError
from tfserving.k8s.trust_files import TrustFileError, read_trust

_TEMPORARY = ".tmp-"
# Anybody who can write to the store can add any number of incomplete versions, and each is read at every pass.
MOST_BROKEN = 20
_LARGEST_CONFIG = 16 << 20
_LONGEST_LINE = 2000

Log = Callable[[str], None]
# By model and number, a hash of the manifest and the signature that weren't accepted, and why. As long as both stay,
# the version isn't copied again: anybody who can write to the store could have all pods copy it at every pass.
Refused = dict[tuple[str, int], tuple[str, str]]


class SyncError(StoreError):
    """The wanted versions can't be read, or there is no room for one."""


@dataclass(frozen=True)
class Wanted:
    """The versions to copy: the newest ones of each model, and those in a models.config or in `paths`.

    With a models.config or paths, only their models are copied; without them, all are. With `trust`, only signed
    versions are.
    """

    newest: int = 2
    config: Path | None = None
    limits: Limits = field(default_factory=Limits)
    paths: tuple[tuple[str, int], ...] | None = None
    trust: Trust | None = None

    def named(self) -> dict[str, set[int]] | None:
        """Return the versions in the configuration by model; None without a configuration. Raises SyncError."""
        if self.paths is not None:
            return {model: {number for name, number in self.paths if name == model} for model, _ in self.paths}
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
    refused: Refused = field(default_factory=dict)

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
                signer = self._copy(model, version, target)
                self.log(f"{self.store.url}/{model}/{version} is copied{f', signed by {signer}' if signer else ''}")
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

    def _copy(self, model: str, version: int, target: Path) -> str | None:
        """Copy a version, and return who signed it; None without `trust`."""
        listing = self.store.listing(model, version, self.wanted.limits)
        self._check_refused(model, version, listing)
        here = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        if here + listing.size > self.wanted.limits.size:
            raise SyncError(
                f"{self.store.url}/{model}/{version} does not fit: it is {listing.size} bytes, {self.folder} contains "
                f"{here} bytes, and --max-bytes is {self.wanted.limits.size}"
            )
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=target.parent))
        try:
            self.store.fetch(model, version, listing, temporary)
            signer = self._accepted(model, version, temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return signer

    def _accepted(self, model: str, version: int, copied: Path) -> str | None:
        """Return who signed a copy. Raises SyncError when it isn't accepted."""
        try:
            return accept(copied, model, version, self.wanted.trust).signer
        except VersionError as error:
            reason = _line(error).replace(str(copied), f"{self.store.url}/{model}/{version}")
            if isinstance(error, TrustError):
                signature = (copied / SIGNATURE).read_bytes() if (copied / SIGNATURE).is_file() else None
                self.refused[model, version] = _state((copied / MANIFEST).read_bytes(), signature), reason
            raise SyncError(reason) from None

    def _check_refused(self, model: str, version: int, listing: Listing) -> None:
        """Raise SyncError when the version has the manifest and the signature that weren't accepted before."""
        before, reason = self.refused.get((model, version), ("", ""))
        if before and before == _state(listing.manifest, self.store.signature(model, version)):
            raise SyncError(reason)

    def _failed(self, model: str, version: int, problem: str) -> None:
        self.broken.add((model, version))
        self.problems.append(problem)


def _state(manifest: bytes, signature: bytes | None) -> str:
    return hashlib.sha256(hashlib.sha256(manifest).digest() + (signature or b"")).hexdigest()


def sync(store: Store, folder: Path, wanted: Wanted, log: Log, refused: Refused | None = None) -> list[str]:
    """Copy the wanted versions that are missing, and remove the others; return the faults.

    A version that is incomplete or not accepted never gets the name under which a server finds it. `refused` is kept
    from pass to pass. Raises StoreError when the store can't be listed or the configuration can't be read: then nothing
    changes.
    """
    refused = {} if refused is None else refused
    named, there = wanted.named(), store.models()
    models = {name: set[int]() for name in there} if named is None else named
    one = _Pass(store, folder, wanted, log, refused=refused)
    for model in [name for name in models if not MODEL.fullmatch(name)]:
        one.problems.append(f"{wanted.config}: {model!r} is not a valid name of a folder")
        del models[model]
    # The served versions of all models first: there may be no room for the others.
    usable = [model for model in models if one.run(one.named, model, models[model])]
    for model in usable:
        one.run(one.newest, model, models[model])
    for gone in refused.keys() - one.broken:
        del refused[gone]
    return one.problems


def remove_unaccepted(folder: Path, trust: Trust, log: Log) -> None:
    """Remove the versions of an earlier process that aren't accepted, such as those of a key that is no longer trusted.

    Raises OSError when one can't be removed.
    """
    for path in sorted(folder.glob("*/*")):
        if not is_version(path.name):
            continue
        try:
            accept(path, path.parent.name, int(path.name), trust)
        except VersionError as error:
            _remove(path)
            log(f"{path} is removed: {_line(error)}")


def _remove(version_folder: Path) -> None:
    """Rename the folder first, so that half of a version never has the name of a version."""
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=version_folder.parent))
    version_folder.rename(temporary / "removed")
    shutil.rmtree(temporary, ignore_errors=True)


def _sweep(model_folder: Path) -> None:
    """Remove the temporary folders of an earlier process that was killed."""
    for path in model_folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _line(error: VersionError) -> str:
    """Return an error, which has a line for each difference, in one line."""
    return " ".join(line.strip() for line in str(error).splitlines())


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


def _paths(given: str) -> tuple[tuple[str, int], ...]:
    found = [PurePosixPath(one) for one in given.split()]
    if not found or not all(MODEL.fullmatch(one.parent.name) and is_version(one.name) for one in found):
        raise ValueError
    return tuple((one.parent.name, int(one.name)) for one in found)


_paths.__name__ = "list of FOLDER/MODEL/VERSION"


def main(words: Sequence[str] | None = None) -> int:
    """Run passes; return the exit code.

    It is 1 when a served version is missing after `--once`, and 2 when nobody is known who is trusted.
    """
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m tfserving.k8s.sync", description="Copy complete versions from an object store."
    )
    parser.add_argument("url", help="The folder above MODEL/VERSION: s3://bucket/prefix, gs://… or another fsspec URL.")
    parser.add_argument("folder", type=Path, help="The folder of models of a server.")
    parser.add_argument("--config", type=Path, help="The server's models.config: its models and versions are copied.")
    parser.add_argument(
        "--paths", type=_paths, help="Copy these versions instead: their paths in FOLDER, separated by spaces."
    )
    parser.add_argument(
        "--trust",
        type=Path,
        help="A folder with public keys (key-*), root certificates (certificate-*) and identities.json: only versions "
        "that one of them signed are copied.",
    )
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
    try:
        trust = read_trust(options.trust) if options.trust else None
        if trust:
            remove_unaccepted(options.folder, trust, _log)
    except (TrustFileError, OSError) as error:
        # Nothing may be served by mistake.
        _log(f"Error: {error}")
        return WRONG
    limits = Limits(options.max_bytes, options.max_files)
    wanted = Wanted(options.newest, options.config, limits, options.paths, trust)
    reported: list[str] = []
    refused: Refused = {}
    while True:
        try:
            problems = sync(Store(options.url), options.folder, wanted, _log, refused)
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
