"""Versions that servers of this machine load with `trust`: copies that nobody else can write to.

    <folder>/MODEL/VERSION ──copy──► .new-…/MODEL/VERSION ──accept──► MODEL/VERSION ──► servers, golden requests
     others may write to it           nobody else can write             its files never change

    <state>/<fleet>/admitted/         see tfserving.serving.running; <state> has the mode 0700
        MODEL/VERSION/                a copy
        MODEL/VERSION.json            its note: the digest of its manifest, and who signed it

A command admits the versions that servers load because of it. Each is accepted then, also a copy that was there
before: a key that was removed from `trust` takes effect. A copy that no server uses any more is removed by the next
command.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tfserving.foundation.files import written_whole
from tfserving.foundation.golden import is_version
from tfserving.foundation.manifest import MANIFEST, SIGNATURE, ManifestError, read_manifest_file
from tfserving.foundation.trust import Accepted, Trust, accept
from tfserving.foundation.version_files import VersionError, judge
from tfserving.serving import kept
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.engines import EngineError
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.private_folders import check_private, make_private, private_folder
from tfserving.serving.running import fleet_folder, read_models_config
from tfserving.serving.served import configured, loaded
from tfserving.serving.version_copies import Report, accepted_as, copy_accepted, is_current

FOLDER = "admitted"
_NEW = ".new-"
# The copies that this process uses, each with an open file that holds its lock. They are released when it ends.
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class Note:
    """What is known of an admitted version: the digest of its manifest, and who signed it."""

    digest: str
    signer: str | None


def admitted(fleet: Fleet, versions: Mapping[str, Iterable[int]], report: Report = lambda _: None) -> Fleet:
    """Return `fleet` with copies of `versions`, by model, each accepted now; without `trust` the same fleet.

    `report` receives the current state. Copies that nothing uses any more are removed. Raises EngineError when a
    version isn't accepted, or others can write to the folder of the copies. All other copies are unchanged then.
    """
    trust = fleet.trusted
    if trust is None:
        return fleet
    wanted = {name: sorted({*numbers}) for name, numbers in versions.items()}
    with _locked(fleet, report) as store:
        for name, numbers in wanted.items():
            for number in numbers:
                try:
                    _admit(fleet, store, name, number, trust, report)
                except VersionError as error:
                    raise EngineError(str(error)) from None
        _clean(fleet, store, {store / name / str(number) for name, numbers in wanted.items() for number in numbers})
    return fleet.with_copies(store, wanted)


def admitted_for(fleet: Fleet, names: Iterable[str], report: Report = lambda _: None) -> Fleet:
    """Return `fleet` with copies of the versions that servers of the models `names` load. See `admitted`."""
    return admitted(fleet, {name: loaded(fleet, name) for name in names}, report)


def without_copying(fleet: Fleet, names: Iterable[str]) -> Fleet:
    """Return what `admitted_for` would, to show it. Nothing is checked, and there may be no copies."""
    if fleet.trust is None:
        return fleet
    return fleet.with_copies(fleet_folder(fleet) / FOLDER, {name: loaded(fleet, name) for name in names})


def check(fleet: Fleet, names: Iterable[str]) -> None:
    """Raise EngineError when a version isn't accepted that servers of the models `names` would load with `trust`."""
    for name in names if fleet.trust else ():
        for number in loaded(fleet, name):
            try:
                accept(fleet.export_folder(name) / str(number), name, number, fleet.trusted)
            except VersionError as error:
                raise EngineError(str(error)) from None


def release() -> None:
    """Keep copies only as long as servers use them. A server that this process started must have its configuration."""
    for path in [*_held]:
        _release(path)


def clean(fleet: Fleet) -> None:
    """Remove the copies that no server and no other process uses, where there are any."""
    release()
    if (fleet_folder(fleet) / FOLDER).is_dir():
        with _locked(fleet, lambda _: None) as store:
            _clean(fleet, store, set())


def note(fleet: Fleet, model: str, version: int) -> Note | None:
    """Return what is known of a version that servers load: of the copy with `trust`, else of the one in `folder`.

    None when there is none.
    """
    if fleet.trust is None:
        with contextlib.suppress(ManifestError):
            return Note(read_manifest_file(fleet.model_folder(model) / str(version) / MANIFEST).digest(), None)
        return None
    with contextlib.suppress(FileNotFoundError, kept.KeptError):
        return kept.parsed(kept.read(_note_of(fleet_folder(fleet) / FOLDER / model / str(version))), Note)
    return None


def _admit(fleet: Fleet, store: Path, name: str, number: int, trust: Trust, report: Report) -> None:
    source, copy = fleet.export_folder(name) / str(number), store / name / str(number)
    make_private(copy.parent)
    _hold(copy)
    accepted = None
    if there := os.path.lexists(copy):
        check_private(copy)
        if is_current(source, copy):
            report(f"Checking {name}/{number}")
            # Another copy may be accepted. Else its error is this one.
            with contextlib.suppress(VersionError):
                accepted = accepted_as(source, copy, name, number, trust)
    if accepted is None:
        with tempfile.TemporaryDirectory(prefix=_NEW, dir=store) as staging:
            new = Path(staging) / name / str(number)
            accepted = copy_accepted(source, new, name, number, trust, report)
            _place(fleet, new, copy, accepted, there)
        _hold(copy)
    with written_whole(_note_of(copy)) as file:
        file.write(json.dumps(asdict(Note(accepted.digest, accepted.signer))).encode())


def _place(fleet: Fleet, new: Path, copy: Path, accepted: Accepted, there: bool) -> None:
    """Move `new` to `copy`. Of the same version in there, only the signature changes, as servers may be reading it."""
    if there and _digest(copy) == accepted.digest:
        (new / SIGNATURE).replace(copy / SIGNATURE)
        for path in copy.rglob("*"):
            if path.is_file() and path != copy / SIGNATURE:
                found = (new / path.relative_to(copy)).stat()
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        return
    if there:
        _release(copy)
        if copy in _used(fleet, copy.parents[1]) or not _is_free(copy):
            raise VersionError(
                f"{copy.parent.name}/{copy.name} is served with the manifest sha256:{_digest(copy)}, and "
                f"{fleet.export_folder(copy.parent.name) / copy.name} now has sha256:{accepted.digest}. A version "
                "never changes: export another one, or stop the server first"
            )
        _remove(copy)
    new.rename(copy)


def _digest(copy: Path) -> str | None:
    """Return the digest of a copy's manifest; None when a file of the copy isn't what it lists."""
    try:
        return judge(copy).digest()
    except VersionError:
        return None


def _clean(fleet: Fleet, store: Path, wanted: set[Path]) -> None:
    """Remove copies that are neither `wanted` nor used, and what a command left that was killed."""
    used = wanted | _used(fleet, store)
    for path in sorted(store.iterdir()):
        if path.name.startswith(_NEW):
            shutil.rmtree(path)
            continue
        for copy in sorted(path.iterdir()):
            if is_version(copy.name) and copy not in used and copy not in _held and _is_free(copy):
                _remove(copy)
            elif copy.suffix == ".json" and not copy.with_suffix("").exists():
                copy.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.rmdir()


def _used(fleet: Fleet, store: Path) -> set[Path]:
    """Return the copies that the configurations of running servers name."""
    found: set[Path] = set()
    for path in fleet_folder(fleet).glob(f"*/config/{MODELS_CONFIG}"):
        try:
            configuration = configured(read_models_config(path))
        except EngineError:
            return {*store.glob("*/*")}
        for one in configuration:
            # A server without a list of versions has all of them.
            folder = store / one.model
            found |= {folder / str(number) for number in one.versions} or {*folder.glob("*")}
    return found


def _hold(copy: Path) -> None:
    """Keep other commands from removing a copy before this process has ended, if it exists."""
    _release(copy)
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(copy, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        _lock(handle, fcntl.LOCK_SH)
        _held[copy] = handle


def _release(copy: Path) -> None:
    if (handle := _held.pop(copy, None)) is not None:
        os.close(handle)


def _is_free(copy: Path) -> bool:
    """Return whether no process uses a copy."""
    handle = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def _lock(handle: int, how: int) -> bool:
    """Lock a folder, and return whether no other process has it locked. Not every file system has locks of folders."""
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove(copy: Path) -> None:
    _note_of(copy).unlink(missing_ok=True)
    # A server that lists the folder finds the whole copy or none.
    with tempfile.TemporaryDirectory(prefix=_NEW, dir=copy.parents[1]) as folder:
        copy.rename(Path(folder) / copy.name)


def _note_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.json")


@contextlib.contextmanager
def _locked(fleet: Fleet, report: Report) -> Iterator[Path]:
    """Return the folder of the copies, which one command changes at a time. Raises EngineError."""
    try:
        # Of the fleet, and of this toolkit.
        store = private_folder(fleet_folder(fleet) / FOLDER, own=2)
        handle = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            report("Waiting for another command that copies versions")
            _lock(handle, fcntl.LOCK_EX)
            yield store
        finally:
            os.close(handle)
    except OSError as error:
        raise EngineError(
            f"{error.filename or fleet_folder(fleet)} can't be used for copies of versions: {error.strerror or error}. "
            "Set XDG_STATE_HOME to a folder of your own"
        ) from None
