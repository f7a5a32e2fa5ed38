"""Versions that `export publish` registered in MLflow, by their tags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfserving.export.errors import ExportError
from tfserving.export.mlflow.client import download, mlflow_client
from tfserving.export.mlflow.register import SCHEME, TAG, check_name
from tfserving.export.mlflow.written import SAVED_MODEL_FOLDER
from tfserving.export.published.source import Contents, Numbers, Progress, Wanted
from tfserving.foundation.files import read_bounded
from tfserving.foundation.golden import is_version
from tfserving.foundation.manifest import LARGEST_BYTES, MANIFEST, SIGNATURE, Manifest
from tfserving.foundation.store import Limits, StoreError
from tfserving.foundation.temporary import temporary_folder
from tfserving.foundation.version_files import BESIDE, differences

# The registered versions that are read.
_MOST = 10_000


class InMlflow:
    """The versions of a registered model, models:/NAME. See `Source`.

    The tags only say which one to read: what it is, its manifest says, and with `trust` its signature.
    """

    def __init__(self, url: str) -> None:
        with _readable():
            self._name = check_name(url)
        self.url = f"{SCHEME}{self._name}"

    def models(self) -> list[str] | None:
        """See `Source`."""
        return sorted({model for model, _ in self._registered()})

    def versions(self, model: str) -> Numbers:
        """See `Source`."""
        found = {number for name, number in self._registered() if name == model}
        return Numbers(tuple(sorted(found, reverse=True)))

    def contents(self, model: str, version: Wanted, limits: Limits) -> Contents:
        """See `Source`."""
        uri = self._uri(model, version)
        sizes = self._sizes(uri, limits)
        data = self._read(uri, MANIFEST, sizes)
        if data is None:
            raise StoreError(f"{uri} has no {SAVED_MODEL_FOLDER}/{MANIFEST}: this toolkit did not register it")
        manifest = Manifest(data, f"{uri}/{SAVED_MODEL_FOLDER}/{MANIFEST}")
        listed = manifest.files()
        # The hashes can't be compared without the files, the sizes can.
        problems = differences(manifest, sizes, lambda name: listed[name].sha256)
        signature = self._read(uri, SIGNATURE, sizes)
        return Contents(data, manifest, signature, sum(sizes.values()), problems=tuple(problems))

    def fetch(self, model: str, version: Wanted, contents: Contents, into: Path, progress: Progress) -> None:
        """See `Source`."""
        with _readable():
            copy = download(f"{self._uri(model, version)}/{SAVED_MODEL_FOLDER}", into.parent / "downloaded")
        for name in (*contents.manifest.files(), MANIFEST, *((SIGNATURE,) if contents.signature else ())):
            if (copy / name).exists():
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).rename(into / name)
        progress(contents.size)

    def _registered(self) -> dict[tuple[str, int], str]:
        """Return the newest registered version of each model and number, by these."""
        with _readable(), mlflow_client(self.url) as mlflow:
            found = mlflow.MlflowClient().search_model_versions(f"name='{self._name}'", max_results=_MOST)
        ready = sorted((one for one in found if one.status == "READY"), key=lambda one: int(one.version))
        return {
            (one.tags[f"{TAG}.model"], int(number)): str(one.version)
            for one in ready
            if f"{TAG}.model" in one.tags and is_version(number := one.tags.get(f"{TAG}.version", ""))
        }

    def _uri(self, model: str, version: Wanted) -> str:
        if isinstance(version, str):
            raise StoreError(f"{self.url} is no OCI registry, so no version is found there by the digest {version}")
        if (found := self._registered().get((model, version))) is None:
            raise StoreError(f"{self.url} has no version {version} of {model}")
        return f"{self.url}/{found}"

    def _sizes(self, uri: str, limits: Limits) -> dict[str, int]:
        """Return the bytes of each file of the version, by path. Raises StoreError beyond the `limits`."""
        sizes: dict[str, int] = {}
        with _readable(), mlflow_client(uri) as mlflow:
            below = [SAVED_MODEL_FOLDER]
            while below:
                for one in mlflow.artifacts.list_artifacts(f"{uri}/{below.pop()}") or ():
                    path = _below(uri, one)
                    if one.is_dir:
                        below.append(path)
                    else:
                        sizes[path.removeprefix(f"{SAVED_MODEL_FOLDER}/")] = int(one.file_size or 0)
                    if len(sizes) + len(below) > limits.files:
                        raise StoreError(f"{uri} has more files than --max-files, {limits.files}")
        if (size := sum(sizes.values())) > limits.size:
            raise StoreError(f"{uri} has {size} bytes; --max-bytes is {limits.size}")
        return sizes

    def _read(self, uri: str, name: str, sizes: dict[str, int]) -> bytes | None:
        """Return a file that a manifest doesn't list; None without it."""
        if (size := sizes.get(name)) is None:
            return None
        if size > BESIDE.get(name, LARGEST_BYTES):
            raise StoreError(f"{uri}: {name} has {size} bytes, expected at most {BESIDE[name]}")
        with _readable(), temporary_folder("the manifest") as folder, mlflow_client(uri) as mlflow:
            where = f"{uri}/{SAVED_MODEL_FOLDER}/{name}"
            return read_bounded(Path(mlflow.artifacts.download_artifacts(where, dst_path=str(folder))), BESIDE[name])


def _below(uri: str, one: Any) -> str:
    """Return the path of a listed artifact below the model. Raises StoreError when it is elsewhere."""
    path = str(one.path)
    if not path.startswith(f"{SAVED_MODEL_FOLDER}/") or ".." in path.split("/"):
        raise StoreError(f"{uri}: MLflow lists {path!r:.200}, which is not in {SAVED_MODEL_FOLDER}/")
    return path


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except ExportError as error:
        raise StoreError(str(error)) from None
    except ValueError as error:
        # A file that is larger than it was listed.
        raise StoreError(str(error)) from None
