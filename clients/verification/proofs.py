"""Where the requests of a verification come from: folders of models, versions, published URLs, captured files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tfserving.clients.capture import CaptureError, read_requests
from tfserving.foundation.extras import missing_for_store
from tfserving.foundation.golden import MANIFEST, RECORDS, SAVED_MODEL, GoldenRequest, is_version, versions_on_disk
from tfserving.foundation.temporary import temporary_folder

# What of a published version is needed to verify it; the last one only for inputs that have defaults.
_FILES = (MANIFEST, RECORDS, SAVED_MODEL)


class SourceError(Exception):
    """A source holds nothing to verify with; the text names it."""


@dataclass(frozen=True)
class Versions:
    """A model's folder; `wanted` are its versions that must be served, all that are served where it is None."""

    folder: Path
    wanted: frozenset[int] | None = None

    def on_disk(self) -> dict[int, Path]:
        """The versions that are there now."""
        return versions_on_disk(self.folder)


@dataclass
class Captured:
    """Requests of one model from a captured file, with the answers that were captured, by version (None: any)."""

    requests: dict[int | None, list[GoldenRequest]] = field(default_factory=dict)


@contextmanager
def subjects(sources: Iterable[str | Path]) -> Iterator[dict[str, Versions | Captured]]:
    """What is in `sources`, by model: folders of models, of one, of a version; URLs of these; captured TFRecord files.

    A folder whose name is a number and that holds a SavedModel is a version, one with versions in it is a model's, any
    other is a folder of models, whose hidden entries don't count. Of what is published only the proofs are fetched, for
    as long as the context lasts.

    Raises SourceError for a source that is none of these, and for two of one model.
    """
    found: dict[str, Versions | Captured] = {}
    with ExitStack() as stack:
        for source in sources:
            if "://" in str(source):
                fetched = stack.enter_context(temporary_folder("the proofs of published versions", "verify-"))
                entries: Mapping[str, Versions | Captured] = _fetch(str(source), fetched)
            elif Path(source).is_file():
                entries = dict(_from_file(Path(source)))
            else:
                entries = _from_folder(Path(source).resolve(), str(source))
            for model, subject in entries.items():
                known = found.setdefault(model, subject)
                if known is not subject:
                    found[model] = _joined(model, known, subject)
        yield found


def _joined(model: str, known: Versions | Captured, other: Versions | Captured) -> Versions:
    """Two versions of one model's folder; the same folder twice is it once."""
    if isinstance(known, Versions) and isinstance(other, Versions) and known.folder == other.folder:
        both = known.wanted is None or other.wanted is None
        return Versions(known.folder, None if both else (known.wanted or frozenset()) | (other.wanted or frozenset()))
    places = [subject.folder if isinstance(subject, Versions) else "a captured file" for subject in (known, other)]
    raise SourceError(f"{places[0]} and {places[1]} are both for a model called {model!r}")


def _from_folder(folder: Path, source: str) -> dict[str, Versions]:
    if not folder.is_dir():
        raise SourceError(f"{source} is no folder, nor a file of captured requests")
    if is_version(folder.name) and (folder / SAVED_MODEL).is_file():
        return {folder.parent.name: Versions(folder.parent, frozenset({int(folder.name)}))}
    models = [folder] if versions_on_disk(folder) else _children(folder)
    if not any(versions_on_disk(model) for model in models):
        raise SourceError(
            f"{source} holds no model: a model is a folder with versions in it, folders named by a number"
        )
    return {model.name: Versions(model) for model in models}


def _fetch(url: str, folder: Path) -> dict[str, Versions]:
    """Fetches the proofs of the models at `url` into model folders in `folder`."""
    try:
        import fsspec

        store, root = fsspec.core.url_to_fs(url)
    except ImportError:
        raise SourceError(missing_for_store(url)) from None
    except ValueError as error:
        raise SourceError(f"{url}: {error}") from None
    fetched: dict[str, Versions] = {}
    try:
        for manifest in store.glob(f"{root.rstrip('/')}/**/{MANIFEST}"):
            version = manifest.removesuffix(f"/{MANIFEST}")
            *_, model, number = version.split("/")
            if not is_version(number) or model.startswith("."):
                continue
            for file in _FILES:
                if store.exists(f"{version}/{file}"):
                    (folder / model / number / file).parent.mkdir(parents=True, exist_ok=True)
                    store.get_file(f"{version}/{file}", str(folder / model / number / file))
            only = frozenset({int(number)}) if version == root.rstrip("/") else None
            fetched[model] = Versions(folder / model, only)
    except Exception as error:  # whatever the store's library raises
        raise SourceError(f"{url} can't be read: {type(error).__name__}: {error}") from None
    if not fetched:
        raise SourceError(f"{url} holds no published version: a folder named by a number, with {MANIFEST} in it")
    return fetched


def _from_file(path: Path) -> Iterator[tuple[str, Captured]]:
    """The captured requests of the file `path`, by model."""
    found: dict[str, Captured] = {}
    try:
        for asked in read_requests(path):
            found.setdefault(asked.model, Captured()).requests.setdefault(asked.version, []).append(asked.request)
    except CaptureError as error:
        raise SourceError(str(error)) from None
    if not found:
        raise SourceError(f"{path} has no request in it")
    yield from found.items()


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
