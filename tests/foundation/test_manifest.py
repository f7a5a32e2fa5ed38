"""A manifest is read without trust by all that read one: what is wrong with it is one line of their own error."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.manifests import PROVENANCE
from tfserving.export.manifest import Manifest, ManifestError, hash_files, read_manifest
from tfserving.foundation.golden import MANIFEST, RECORDS, SAVED_MODEL, GoldenError, read_golden
from tfserving.foundation.version_files import VersionError, judge
from tfserving.serving.lint import version_problems
from tfserving.serving.models_yaml.fleet import read_fleet

WRONG = {
    "a list": b"[]",
    "an entry is a string": b'{"files": {"assets.extra/golden.tfrecord": "x"}, "tolerances": {}, "provenance": 5}',
    "files is a list": b'{"files": ["x"], "tolerances": {}, "provenance": {"packages": {"tensorflow": {}}}}',
    "a tolerance is no number": json.dumps(
        {
            "files": {RECORDS: {"sha256": "0" * 64}},
            "tolerances": {"cpu": {"float32": {"absolute": True, "relative": 1, "scale": 0}}},
        }
    ).encode(),
    "a tolerance is too large": b'{"files": {"assets.extra/golden.tfrecord": {"sha256": "%s"}}, "tolerances": '
    b'{"cpu": {"float32": {"absolute": 1%s, "relative": 1, "scale": 0}}}}' % (b"0" * 64, b"0" * 400),
    "a tolerance is infinite": b'{"files": {"assets.extra/golden.tfrecord": {"sha256": "%s"}}, "tolerances": '
    b'{"cpu": {"float32": {"absolute": 1e400, "relative": 0, "scale": 0}}}}' % (b"0" * 64),
    "an unknown device": b'{"files": {"assets.extra/golden.tfrecord": {"sha256": "%s"}}, "tolerances": {"tpu": {}}}'
    % (b"0" * 64),
    "unbatched is no list": b'{"files": {"assets.extra/golden.tfrecord": {"sha256": "%s"}}, "tolerances": {}, '
    b'"unbatched": "x"}' % (b"0" * 64),
    "deep": b'{"provenance":' * 100_000,
    "digits": b'{"files": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"\xff": 1}',
    "UTF-16": '{"files": {}}'.encode("utf-16"),
    "NaN": b'{"files": {}, "x": NaN}',
    "too large": b" " * (5 << 20) + b"{}",
    "empty": b"",
}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version of one file, with its manifest."""
    folder = tmp_path / "models/scaled/1"
    (folder / MANIFEST).parent.mkdir(parents=True)
    (folder / SAVED_MODEL).write_bytes(b"graph")
    manifest = Manifest(
        model="scaled",
        version=1,
        created=datetime.now(timezone.utc),
        builder="tests.scaled:build",
        provenance=PROVENANCE,
        metrics={},
        signatures={},
        tolerances={},
        files=hash_files(folder),
        digest="",
    )
    (folder / MANIFEST).write_text(manifest.text())
    (tmp_path / "models.yaml").write_text("models: {scaled: {builder: tests.scaled:build}}\n")
    return folder


def refused(version: Path) -> None:
    for read, error in ((read_golden, GoldenError), (judge, VersionError), (read_manifest, ManifestError)):
        with pytest.raises(error) as caught:
            read(version)
        assert str(version / MANIFEST) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 600
    # It is a warning at most, so what isn't known is no warning.
    fleet = read_fleet(version.parents[2] / "models.yaml")
    assert list(version_problems("image", "2.21.0", fleet, ("scaled",))) == []


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_no_manifest_is_refused_by_every_reader(version: Path, fault: str) -> None:
    (version / MANIFEST).write_bytes(WRONG[fault])
    refused(version)


def test_a_pipe_and_a_folder_are_no_manifest(version: Path) -> None:
    (version / MANIFEST).unlink()
    os.mkfifo(version / MANIFEST)
    refused(version)
    (version / MANIFEST).unlink()
    (version / MANIFEST).mkdir()
    refused(version)


def test_a_manifest_that_was_changed_proves_nothing(version: Path) -> None:
    assert len(judge(version).digest()) == 64
    path = version / MANIFEST
    text = path.read_text()
    path.write_text(text.replace('"model": "scaled"', '"model": "scales"'))
    with pytest.raises(VersionError, match="was changed: its digest does not match its contents"):
        judge(version)
    path.write_text(json.dumps({**json.loads(text), "digest": ""}))
    with pytest.raises(VersionError, match="its digest is '', expected a SHA-256"):
        judge(version)
    path.write_text(Manifest(**{**json.loads(text), "files": {}}).text())
    with pytest.raises(VersionError, match=r"does not list saved_model\.pb"):
        judge(version)
