"""manifest.json of a version, read without trust: each fault is a ManifestError of one line.

A manifest comes from a disk or an object store that others may write to, and names files and their sizes. Each part is
checked when it is read, as a reader of golden requests needs less of it than one that copies the version.
`tfserving.export.manifest` writes it, and defines all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any, NoReturn

from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import DEVICES, Device
from tfserving.foundation.files import read_bounded
from tfserving.foundation.quality import Metric, is_number

# A file takes some 150 bytes of it. Python's objects take up to 30 times as much as the text.
LARGEST_BYTES = 4 << 20
MANIFEST = "assets.extra/manifest.json"
SAVED_MODEL = "saved_model.pb"
# A Sigstore bundle of OpenSSF Model Signing.
SIGNATURE = "assets.extra/model.sig"
# The packages of TensorFlow, of which one is installed.
TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-macos", "intel-tensorflow", "tf-nightly")
# The header of REST metadata with which the embedded server names the manifest of the version, as `sha256:…`.
MANIFEST_HEADER = "tfserving-manifest"
# The longest key of S3; no SavedModel is nested this deep.
LONGEST_NAME, DEEPEST_NAME = 1024, 32
_LONGEST_REASON = 300
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RELEASE = re.compile(r"\d{1,4}\.\d{1,4}(\D|$)", re.ASCII)


class ManifestError(Exception):
    """A manifest can't be read, or isn't one; the text has the file and the reason."""


@dataclass(frozen=True)
class Entry:
    """One file in a manifest: its SHA-256 as lowercase hex, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class EvaluationEntry:
    """The labelled rows in a manifest: see `tfserving.foundation.quality.Evaluation`.

    `higher_is_better` goes with a function of one's own.
    """

    # A manifest with other keys is of another form.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic reads it
    signature: str
    output: str | None
    metric: str
    rows: int
    higher_is_better: bool | None = None
    drop: float | None = None


_EVALUATION: dict[str, tuple[type, ...]] = {
    "signature": (str,),
    "output": (str, NoneType),
    "metric": (str,),
    "rows": (int,),
    "higher_is_better": (bool, NoneType),
    "drop": (int, float, NoneType),
}


class Manifest:
    """A manifest, which errors call `where`."""

    def __init__(self, data: bytes, where: str) -> None:
        """Raises ManifestError when `data` is no JSON object in UTF-8, or too large."""
        self._data, self._where = data, where
        if len(data) > LARGEST_BYTES:
            self._refuse(f"larger than {LARGEST_BYTES} bytes")
        try:
            content = json.loads(data.decode(), object_pairs_hook=_without_twins, parse_constant=_no_number)
        except UnicodeDecodeError as error:
            self._refuse(f"it is not UTF-8 at byte {error.start}")
        except RecursionError:
            self._refuse("it is nested too deep")
        except ValueError as error:
            self._refuse("it has a number of thousands of digits" if "digits" in str(error) else str(error))
        if not isinstance(content, dict):
            self._refuse("got no JSON object")
        self._content: dict[str, Any] = content

    def files(self) -> dict[str, Entry]:
        """Every file of the version but the manifest and its signature, by its path in the version's folder.

        No path leaves the folder, none is both a file and a folder, and one is saved_model.pb. Raises ManifestError.
        """
        found = {name: self._entry(name) for name in self._object(self._content, "files")}
        for name in found:
            if reason := _wrong_name(name):
                self._refuse(f"it lists {_short(name)}, {reason}")
        folders = {str(folder) for name in found for folder in PurePosixPath(name).parents}
        if both := folders & found.keys():
            self._refuse(f"it lists {_short(min(both))} as a file and as a folder")
        if itself := found.keys() & {MANIFEST, SIGNATURE}:
            self._refuse(f"it lists {min(itself)}, which can't have a SHA-256 there")
        if SAVED_MODEL not in found:
            self._refuse(f"it does not list {SAVED_MODEL}")
        return found

    def model(self) -> str:
        """The name of the model. Raises ManifestError."""
        found = self._content.get("model")
        if not isinstance(found, str) or not found:
            self._refuse(f"model is {_short(found)}, expected a name")
        return found

    def version(self) -> int:
        """The number of the version. Raises ManifestError."""
        found = self._content.get("version")
        if type(found) is not int or found < 1:
            self._refuse(f"version is {_short(found)}, expected a number of at least 1")
        return found

    def created(self) -> datetime | None:
        """When the version was exported; None when the manifest doesn't name a time."""
        found = self._content.get("created")
        try:
            return datetime.fromisoformat(found.replace("Z", "+00:00")) if isinstance(found, str) else None
        except ValueError:
            return None

    def sha256(self, name: str) -> str:
        """The SHA-256 of one file. Raises ManifestError when it isn't listed."""
        return self._sha256(self._object(self._object(self._content, "files"), name, "files"), name)

    def tolerances(self) -> dict[Device, dict[str, Tolerance]]:
        """By kind of device and element type, how far an output may be from the golden one. Raises ManifestError."""
        found: dict[Device, dict[str, Tolerance]] = {}
        for device, dtypes in self._object(self._content, "tolerances").items():
            if device not in DEVICES:
                self._refuse(f"tolerances has {_short(device)}, expected {', '.join(DEVICES)}")
            where = f"tolerances.{device}"
            if not isinstance(dtypes, dict):
                self._refuse(f"{where} is {_short(dtypes)}, expected an object")
            found[device] = {dtype: self._tolerance(f"{where}.{_short(dtype)}", one) for dtype, one in dtypes.items()}
        return found

    def _tolerance(self, where: str, content: object) -> Tolerance:
        values = [content.get(key) if isinstance(content, dict) else None for key in ("absolute", "relative", "scale")]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) < len(values) or not all(0 <= number < inf for number in numbers):
            self._refuse(f"{where} is {_short(content)}, expected finite numbers: absolute, relative and scale")
        try:
            return Tolerance(*map(float, numbers))
        except (OverflowError, ValueError) as error:
            self._refuse(f"{where}: {error}")

    def metrics(self) -> dict[str, float | Metric]:
        """What the builder measured, by name. Raises ManifestError."""
        found: dict[str, float | Metric] = {}
        for name, content in self._object(self._content, "metrics").items():
            try:
                if isinstance(content, dict):
                    found[name] = Metric(**content)
                elif is_number(content):
                    found[name] = float(content)
                else:
                    self._refuse(f"metrics.{_short(name)} is {_short(content)}, expected a number")
            except (OverflowError, TypeError, ValueError) as error:
                self._refuse(f"metrics.{_short(name)}: {error}"[:_LONGEST_REASON])
        return found

    def evaluation(self) -> EvaluationEntry | None:
        """What is computed of the labelled rows that the version carries; None when it has none.

        Raises ManifestError.
        """
        if self._content.get("evaluation") is None:
            return None
        content = self._object(self._content, "evaluation")
        try:
            entry = EvaluationEntry(**content)
        except TypeError as error:
            self._refuse(f"evaluation: {error}"[:_LONGEST_REASON])
        for key, kinds in _EVALUATION.items():
            if not isinstance(getattr(entry, key), kinds):
                self._refuse(f"evaluation.{key} is {_short(getattr(entry, key))}")
        return entry

    def unbatched(self) -> frozenset[str]:
        """The signatures that accept one example a request. Raises ManifestError."""
        content = self._content.get("unbatched", [])
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            self._refuse(f"unbatched is {_short(content)}, expected a list of signatures")
        return frozenset(content)

    def digest(self) -> str:
        """The SHA-256 of the manifest with an empty digest, as the manifest has it.

        Raises ManifestError when the manifest has another SHA-256, or no digest.
        """
        content = self._content.get("digest")
        if not isinstance(content, str) or not _SHA256.fullmatch(content):
            self._refuse(f"its digest is {_short(content)}, expected a SHA-256")
        before, _, after = self._data.rpartition(content.encode())
        if hashlib.sha256(before + after).hexdigest() != content:
            raise ManifestError(f"{self._where} was changed: its digest does not match its contents")
        return content

    def own_sha256(self) -> str:
        """The SHA-256 of the manifest's file, which a signature lists."""
        return hashlib.sha256(self._data).hexdigest()

    def tensorflow(self) -> str | None:
        """The TensorFlow that exported the version; None when the manifest doesn't name it."""
        provenance = self._content.get("provenance")
        packages = provenance.get("packages") if isinstance(provenance, dict) else None
        found = [packages.get(name) for name in TENSORFLOWS] if isinstance(packages, dict) else []
        return next((one for one in found if isinstance(one, str) and _RELEASE.match(one)), None)

    def _object(self, content: Mapping[str, Any], key: str, of: str = "") -> dict[str, Any]:
        if key not in content:
            raise ManifestError(f"{self._where} has no {_short(key)}")
        if not isinstance(found := content[key], dict):
            self._refuse(f"{f'{of}[{_short(key)}]' if of else key} is {_short(found)}, expected an object")
        return dict(found)

    def _entry(self, name: str) -> Entry:
        content = self._object(self._content["files"], name, "files")
        size = content.get("size")
        if type(size) is not int or size < 0:
            self._refuse(f"the size of {_short(name)} is {_short(size)}, expected a number of bytes")
        return Entry(self._sha256(content, name), size)

    def _sha256(self, content: Mapping[str, Any], name: str) -> str:
        found = content.get("sha256")
        if not isinstance(found, str) or not _SHA256.fullmatch(found):
            self._refuse(f"the sha256 of {_short(name)} is {_short(found)}, expected 64 hexadecimal digits")
        return found

    def _refuse(self, reason: str) -> NoReturn:
        raise ManifestError(f"{self._where} is no manifest: {reason}")


def read_manifest_file(path: Path) -> Manifest:
    """The manifest at `path`. Raises ManifestError."""
    try:
        data = read_bounded(path, LARGEST_BYTES)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ManifestError(f"{path} is no manifest: {error}") from None
    return Manifest(data, str(path))


def _wrong_name(name: str) -> str | None:
    """Why a file can't have this name; None when it can."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "which is not Unicode"
    parts = name.split("/")
    if ".." in parts or name.startswith("/"):
        return "which is not in the version"
    if "\0" in name or "" in parts or "." in parts:
        return "which is no path of a file"
    if len(encoded) > LONGEST_NAME or len(parts) > DEEPEST_NAME:
        return f"which has more than {LONGEST_NAME} bytes or {DEEPEST_NAME} folders"
    return None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"it has {_short(name)} twice")
            seen.add(name)
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which is no JSON")


def _short(content: object) -> str:
    """A value as an error shows it. A container is named by its kind: its text may be as long as the manifest."""
    if isinstance(content, (dict, list)):
        return "an object" if isinstance(content, dict) else "a list"
    text = ascii(content) if not isinstance(content, int) or abs(content) < 1 << 64 else "a number of more than 64 bits"
    return text if len(text) <= 80 else f"{text[:79]}…"  # noqa: PLR2004 - a line has to do
