from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.conftest import ON_SERVERS
from tfserving.foundation.compare import Tolerance
from tfserving.foundation.golden import MANIFEST, RECORDS, GoldenError, read_golden, versions_on_disk

pytestmark = ON_SERVERS


@pytest.fixture
def version(models: Path, tmp_path: Path) -> Path:
    """A version with golden requests, to be damaged."""
    folder = tmp_path / "scale" / "1"
    shutil.copytree(models / "scale" / "1" / "assets.extra", folder / "assets.extra")
    return folder


def change_manifest(version: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((version / MANIFEST).read_text())
    change(manifest)
    (version / MANIFEST).write_text(json.dumps(manifest))


def test_a_version_tells_its_requests_answers_and_tolerances(version: Path) -> None:
    golden = read_golden(version)
    assert [request.signature for request in golden.requests] == [
        *("serving_default", "serving_default"),
        *("positive", "upper", "two"),
    ]
    first = golden.requests[0]
    np.testing.assert_array_equal(first.outputs["scaled"], first.inputs["x"] * 2)
    assert golden.requests[3].inputs["s"].tolist() == [b"a", "ü".encode()]
    assert golden.tolerances == {"cpu": {"float32": Tolerance(1e-6, 1e-5)}}


@pytest.mark.parametrize("missing", [MANIFEST, RECORDS])
def test_a_missing_file_is_named(version: Path, missing: str) -> None:
    (version / missing).unlink()
    with pytest.raises(GoldenError, match=f"{version / missing}: No such file or directory"):
        read_golden(version)


def test_requests_that_are_not_the_manifests_are_refused(version: Path) -> None:
    data = bytearray((version / RECORDS).read_bytes())
    data[-1] ^= 1
    (version / RECORDS).write_bytes(data)
    with pytest.raises(
        GoldenError, match=r"golden\.tfrecord has SHA-256 \w{64}, .*manifest\.json lists \w{64}: it was changed"
    ):
        read_golden(version)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "contains no golden request"),
        (b"no record", "byte 0: the file ends within"),
        # An empty PredictionLog.
        (b"\0" * 8 + b"\x29\x03\x98\x07\xd8\xea\x82\xa2", "record 0: got another record than a predict"),
    ],
)
def test_a_file_without_golden_requests_is_refused(version: Path, data: bytes, said: str) -> None:
    import hashlib

    (version / RECORDS).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    change_manifest(version, lambda manifest: manifest["files"][RECORDS].update(sha256=digest))
    with pytest.raises(GoldenError, match=said):
        read_golden(version)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: manifest.pop("tolerances"), "manifest.json has no 'tolerances'"),
        (lambda manifest: manifest["files"].clear(), "manifest.json has no 'assets.extra/golden.tfrecord'"),
        (
            lambda manifest: manifest.update(
                tolerances={"cpu": {"float32": {"absolute": "much", "relative": 0, "scale": 0}}}
            ),
            "is no manifest",
        ),
        (lambda manifest: manifest.update(tolerances=[]), "is no manifest"),
    ],
)
def test_a_manifest_that_lacks_something_is_named_with_it(
    version: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    change_manifest(version, change)
    with pytest.raises(GoldenError, match=said):
        read_golden(version)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_a_damaged_manifest_is_named(version: Path, text: str) -> None:
    (version / MANIFEST).write_text(text)
    with pytest.raises(GoldenError, match=r"manifest\.json is no manifest"):
        read_golden(version)


def test_versions_are_folders_named_by_a_number(tmp_path: Path) -> None:
    for name in ("1", "00000123", ".tmp-3", "v2", "1.5", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("no folder")
    assert versions_on_disk(tmp_path) == {1: tmp_path / "1", 123: tmp_path / "00000123"}
