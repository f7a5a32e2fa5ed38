"""Complete and accepted versions, copied from a store to a server's folder.

    URL/MODEL/VERSION, complete ──► manifest is valid ──► FOLDER/MODEL/.tmp-…, accepted ──► FOLDER/MODEL/VERSION

The versions in the server's configuration are copied first, for all models. Then the newest ones are copied, so that a
rollout finds them on every pod. A fault in one version is reported and doesn't stop the others. What is judged is the
copy, which nobody else can write to: its files, its model and number and, with `trust`, its signature.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from google.protobuf import text_format

from tfserving.foundation.files import read_text
from tfserving.foundation.golden import is_version
from tfserving.foundation.manifest import MANIFEST, SIGNATURE
from tfserving.foundation.messages import ModelServerConfig
from tfserving.foundation.store import MODEL, Limits, Listing, Store, StoreError
from tfserving.foundation.trust import Trust, TrustError, accept
from tfserving.foundation.version_files import VersionError

_TEMPORARY = ".tmp-"
# Anybody who can write to the store can add any number of incomplete versions, and each is read at every pass.
MOST_BROKEN = 20
_LARGEST_CONFIG = 16 << 20

Log = Callable[[str], None]
# By model and number, a hash of the manifest and the signature that no key accepted, and why. As long as both stay, the
# version isn't copied again: anybody who can write to the store could have all pods copy it at every pass.
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
            trust = self.wanted.trust
            # Certificates have their time, and Sigstore may be out of reach: what they refuse may be accepted later.
            if isinstance(error, TrustError) and trust and trust == Trust(keys=trust.keys):
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
