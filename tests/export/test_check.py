"""A version is what was exported, to the last bit, or `check` says what is not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tensorflow as tf

from tests.export.conftest import Project
from tfserving.export.check import CheckError, check_files
from tfserving.export.errors import ExportError
from tfserving.export.manifest import hash_files, read_manifest
from tfserving.export.proof import FreshProcess
from tfserving.foundation.golden import MANIFEST

FLIPS = 25


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_single_flipped_bit_is_found_in_every_file(copied: Path) -> None:
    check_files(copied)
    chosen = random.Random(41)  # noqa: S311
    files = [path for path in sorted(copied.rglob("*")) if path.is_file()]
    assert copied / MANIFEST in files
    for path in files:
        size = 8 * path.stat().st_size
        bits = range(size) if size < FLIPS else sorted(chosen.sample(range(size), FLIPS))
        for bit in bits:
            flip(path, bit)
            with pytest.raises(ExportError) as found:
                check_files(copied)
            assert str(path.relative_to(copied)) in str(found.value)
            flip(path, bit)
    check_files(copied)


def test_a_file_more_or_less_or_cut_short_is_found(copied: Path) -> None:
    golden = copied / "assets.extra/golden.tfrecord"
    (copied / "notes.txt").write_text("more")
    (copied / "fingerprint.pb").unlink()
    golden.write_bytes(golden.read_bytes()[:-1])
    with pytest.raises(CheckError) as found:
        check_files(copied)
    size = golden.stat().st_size
    assert str(found.value).splitlines() == [
        f"{copied} was changed since its export:",
        "  fingerprint.pb is missing",
        f"  assets.extra/golden.tfrecord: got {size} bytes, expected {size + 1}",
        "  notes.txt is not in the manifest",
    ]


def test_whole_versions_pass_and_are_asked_again(exported: Project) -> None:
    done = exported.run("check", "scale/1", "models/scale/1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["versions"]
    assert [(one["intact"], one["golden_requests"], one["device"]) for one in found] == 2 * [(True, 5, "cpu")]


def test_a_damaged_version_is_told_and_the_others_are_checked_all_the_same(exported: Project, copied: Path) -> None:
    flip(copied / "variables/variables.data-00000-of-00001", 12)
    done = exported.run("check", str(copied), "scale/1")
    assert done.returncode == 1
    assert f"Error: {copied}: {copied} was changed since its export:" in done.stderr
    assert "  variables/variables.data-00000-of-00001: got SHA-256 " in done.stderr
    assert "models/scale/1: 6 files intact, 5 golden requests equal (tolerances: cpu)\n" in done.stdout
    assert "Traceback" not in done.stderr


def test_files_whose_hashes_were_made_to_fit_are_still_asked(copied: Path, project: Project) -> None:
    # Somebody who changes a weight and the manifest with it has a whole version of another model.
    saved = tf.train.load_checkpoint(str(copied / "variables/variables"))
    tensors = {name: saved.get_tensor(name) for name in saved.get_variable_to_shape_map()}
    (factor,) = (name for name in tensors if "factor" in name)
    tensors[factor] *= 2
    tf.raw_ops.SaveV2(
        prefix=str(copied / "variables/variables"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    manifest = read_manifest(copied).model_copy(update={"files": hash_files(copied)})
    (copied / MANIFEST).write_text(manifest.text())
    check_files(copied)
    done = project.run("check", str(copied))
    assert done.returncode == 1
    assert (
        "signature 'serving_default', output 'scaled': for a batch of 1, the version run as a function" in done.stderr
    )


def test_what_something_else_wrote_has_nothing_to_be_checked_by(project: Project, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/saved_model.pb").write_bytes(b"")
    done = project.run("check", str(tmp_path / "foreign"))
    assert done.returncode == 1
    assert "has no assets.extra/manifest.json: this toolkit did not export it" in done.stderr


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process has a GPU, as far as it reports."""
    monkeypatch.setattr(FreshProcess, "gpus", lambda _: ("NVIDIA H200",))


def test_on_a_gpu_the_set_of_a_gpu_without_tf32_is_used(exported: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch)
    done = exported.run("check", "scale/1")
    assert done.returncode == 0, done.stderr
    assert "golden requests equal (tolerances: gpu)\n" in done.stdout
    assert json.loads(exported.run("check", "scale/1", "--json").stdout)["versions"][0]["device"] == "gpu"


def test_a_version_without_a_set_for_the_device_is_not_compared(
    copied: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(copied)
    only = manifest.model_copy(update={"tolerances": {"cpu": manifest.tolerances["cpu"]}})
    (copied / MANIFEST).write_text(only.text())
    on_a_gpu(monkeypatch)
    done = project.run("check", str(copied))
    assert done.returncode == 1
    assert (
        "this machine runs it on NVIDIA H200, the kind 'gpu', and the manifest has only the tolerances of cpu. "
        "Set CUDA_VISIBLE_DEVICES=-1 to check it on the processor" in done.stderr
    )
