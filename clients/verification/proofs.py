"""The sources of a verification: models of a fleet, folders of models and versions, URLs, captured files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tfserving.clients.capture import CaptureError, read_requests
from tfserving.foundation.extras import missing_for_store
from tfserving.foundation.golden import MANIFEST, RECORDS, SAVED_MODEL, GoldenRequest, is_version, versions_on_disk
from tfserving.foundation.temporary import temporary_folder

# The files of a published version that a verification needs; the last one only for inputs with defaults.
_FILES = (MANIFEST, RECORDS, SAVED_MODEL)


class SourceError(Exception):
    """A source contains nothing to verify; the text names it."""


class ModelFolder(NamedTuple):
    """A model of a fleet on disk: its name, the folder of its versions, and one version if one was selected."""

    name: str
    folder: Path
    version: int | None = None


@dataclass(frozen=True)
class Versions:
    """A model's folder. The versions in `wanted` must be served; None selects all versions that are served."""

    folder: Path
    wanted: frozenset[int] | None = None

    def on_disk(self) -> dict[int, Path]:
        """Return the folders of the versions that exist now."""
        return versions_on_disk(self.folder)


@dataclass
class Captured:
    """Captured requests of one model with their responses, by version (None: any)."""

    requests: dict[int | None, list[GoldenRequest]] = field(default_factory=dict)


@contextmanager
def subjects(sources: Iterable[str | Path | ModelFolder]) -> Iterator[dict[str, Versions | Captured]]:
    """Return the contents of `sources` by model.

    A source is a model of a fleet, a folder of models, of a model or of a version, the URL of such a folder, or a
    captured TFRecord file. A folder with a number as name and a SavedModel inside is a version. A folder with versions
    inside is a model. Any other is a folder of models; hidden entries are skipped. Of a published model only the files
    with golden requests are downloaded, and kept until the context ends.

    Raises SourceError for any other source, and for two sources of one model.
    """
    found: dict[str, Versions | Captured] = {}
    with ExitStack() as stack:
        for source in sources:
            if isinstance(source, ModelFolder):
                entries: Mapping[str, Versions | Captured] = _from_fleet(source)
            elif "://" in str(source):
                fetched = stack.enter_context(temporary_folder("the golden requests of published versions", "verify-"))
                entries = _fetch(str(source), fetched)
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
    """Return both as one: two versions of one model's folder, or the same folder twice."""
    if isinstance(known, Versions) and isinstance(other, Versions) and known.folder == other.folder:
        both = known.wanted is None or other.wanted is None
        return Versions(known.folder, None if both else (known.wanted or frozenset()) | (other.wanted or frozenset()))
    places = [subject.folder if isinstance(subject, Versions) else "a captured file" for subject in (known, other)]
    raise SourceError(f"{places[0]} and {places[1]} both contain a model {model!r}; verify them one at a time")


def _from_fleet(model: ModelFolder) -> dict[str, Versions]:
    if not model.folder.is_dir() or not versions_on_disk(model.folder):
        raise SourceError(f"model {model.name!r} has no version in {model.folder}")
    return {model.name: Versions(model.folder, None if model.version is None else frozenset({model.version}))}


def _from_folder(folder: Path, source: str) -> dict[str, Versions]:
    if not folder.is_dir():
        raise SourceError(f"{source} is neither a folder nor a file of captured requests")
    if is_version(folder.name) and (folder / SAVED_MODEL).is_file():
        return {folder.parent.name: Versions(folder.parent, frozenset({int(folder.name)}))}
    models = [folder] if versions_on_disk(folder) else _children(folder)
    if not any(versions_on_disk(model) for model in models):
        raise SourceError(
            f"{source} contains no model: a model is a folder with versions in it, whose names are numbers"
        )
    return {model.name: Versions(model) for model in models}


def _fetch(url: str, folder: Path) -> dict[str, Versions]:
    """Download the golden requests of the models at `url` into model folders in `folder`."""
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
    except Exception as error:  # any error of the store's library
        raise SourceError(f"{url} can't be read: {type(error).__name__}: {error}") from None
    if not fetched:
        raise SourceError(f"{url} contains no published version: a folder with a number as name and {MANIFEST} in it")
    return fetched


def _from_file(path: Path) -> Iterator[tuple[str, Captured]]:
    """Return the captured requests in the file `path`, by model."""
    found: dict[str, Captured] = {}
    try:
        for one in read_requests(path):
            found.setdefault(one.model, Captured()).requests.setdefault(one.version, []).append(one.request)
    except CaptureError as error:
        raise SourceError(str(error)) from None
    if not found:
        raise SourceError(f"{path} contains no request")
    yield from found.items()


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
