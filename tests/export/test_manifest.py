"""manifest.json: what it says of a version, and the schema it follows."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import tensorflow as tf

from tests.export.conftest import ROOT, is_complete
from tfserving.export.manifest import Manifest, ManifestError, hash_files, read_manifest


def test_the_published_schema_is_current() -> None:
    published = json.loads((ROOT / "docs/manifest.schema.json").read_text())
    assert published == Manifest.model_json_schema(), "run `make generated`"


def test_the_manifest_says_what_made_the_version(version: Path) -> None:
    manifest = read_manifest(version)
    assert (manifest.format, manifest.model, manifest.version) == (3, "scale", 1)
    assert manifest.builder == "zoo:scale"
    assert manifest.metrics == {"rows": 40}
    made = manifest.provenance
    assert (made.packages["tensorflow"], made.python) == (tf.__version__, platform.python_version())
    assert timedelta(0) <= datetime.now(timezone.utc) - manifest.created < timedelta(hours=1)


def test_the_manifest_says_what_can_be_asked_and_how_exactly_it_is_answered(version: Path) -> None:
    manifest = json.loads((version / "assets.extra/manifest.json").read_text())
    assert manifest["signatures"] == {
        "serving_default": {
            "method": "predict",
            "inputs": {"rows": {"dtype": "float32", "shape": [None, 3]}},
            "optional": [],
            "outputs": {"scaled": {"dtype": "float32", "shape": [None, 3]}},
        }
    }
    assert manifest["tolerances"]["cpu"] == {"float32": {"absolute": 1e-5, "relative": 1e-5, "scale": 0.0}}
    assert manifest["tolerances"].keys() == {"cpu", "gpu", "gpu-tf32"}


def test_every_other_file_has_its_size_and_hash(version: Path) -> None:
    files = read_manifest(version).files
    there = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}
    assert there == {*files, "assets.extra/manifest.json"}
    assert {"saved_model.pb", "fingerprint.pb", "assets.extra/golden.tfrecord", "variables/variables.index"} < set(
        files
    )
    for name, entry in files.items():
        content = (version / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert is_complete(version)


def test_a_manifest_that_was_changed_is_refused(version: Path, tmp_path: Path) -> None:
    path = tmp_path / "assets.extra/manifest.json"
    path.parent.mkdir()
    text = (version / "assets.extra/manifest.json").read_text()
    for changed in (text.replace('"absolute": 0.00001', '"absolute": 0.1'), text.replace('"rows": 40', '"rows": 41')):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ManifestError, match="was changed: its digest does not match its contents"):
            read_manifest(tmp_path)


def test_a_changed_byte_changes_the_hash(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_bytes(b"abc")
    before = hash_files(tmp_path)
    (tmp_path / "sub/file").write_bytes(b"abd")
    assert before.keys() == {"sub/file"}
    assert before != hash_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "this toolkit did not export it"),
        ("{", "is not valid JSON"),
        ("{}", "model is missing. docs/manifest.schema.json"),
        ('{"format": 2}', "format has the invalid value 2."),
    ],
    ids=["missing", "no json", "empty", "other format"],
)
def test_a_manifest_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "assets.extra/manifest.json"
    path.parent.mkdir()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ManifestError) as error:
        read_manifest(tmp_path)
    assert str(path if text else tmp_path) in str(error.value)
    assert problem in str(error.value)
