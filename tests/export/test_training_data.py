"""The digests of training data: what a builder may report, and what `digest_of` returns."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.export import zoo
from tfserving.export.errors import ServableError
from tfserving.export.training_data import digest_of, with_algorithms

SHA256 = hashlib.sha256(b"data").hexdigest()


def check(training_data: Any) -> None:
    replace(zoo.scale(), training_data=training_data).check()


def test_digests_of_any_algorithm_are_accepted_and_a_bare_one_is_sha256() -> None:
    reported = {
        "rows.csv": SHA256,
        "images": f"dirHash:{SHA256}",
        "of DVC": f"md5:{'0' * 32}",
        "labels": f"git:{'a' * 40}",
        "features": f"blake2b:{'1' * 128}",
    }
    check(reported)
    assert list(with_algorithms(reported)) == ["features", "images", "labels", "of DVC", "rows.csv"]
    assert with_algorithms(reported)["rows.csv"] == f"sha256:{SHA256}"
    assert with_algorithms(reported)["of DVC"] == f"md5:{'0' * 32}"


class Raising(Mapping[Any, Any]):
    def __getitem__(self, key: Any) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 1 << 40


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


NAN = float("nan")


@pytest.mark.parametrize(
    ("reported", "problem"),
    [
        ({NAN: SHA256}, "training_data: the name nan is a float, expected a text"),
        ({b"rows": SHA256}, "the name b'rows' is a bytes"),
        ({"": SHA256}, "the name '' must have 1 to 200 characters"),
        ({"x" * 201: SHA256}, "must have 1 to 200 characters"),
        ({"a\nb": SHA256}, r"the name 'a\nb' must have 1 to 200 characters, and be of one line"),
        ({"\x1b[2J": SHA256}, "of one line"),
        ({"rows": NAN}, "training_data['rows']: got nan, expected a SHA-256 or ALGORITHM:DIGITS"),
        ({"rows": None}, "got None, expected a SHA-256"),
        ({"rows": "latest"}, "got 'latest', expected a SHA-256"),
        ({"rows": SHA256.upper()}, "in lower case"),
        ({"rows": f"sha256:{SHA256[:-1]}"}, "expected a SHA-256"),
        ({"rows": f"git:{SHA256[:39]}"}, "expected a SHA-256"),
        ({"rows": "sha256:" + "0" * 10_000_000}, "got 'sha256:0000"),
        ({"rows": Unprintable()}, "got a Unprintable, expected"),
        ({f"rows {number}": SHA256 for number in range(1001)}, "got 1001 names, expected at most 1000"),
        (Raising(), f"got {1 << 40} names, expected at most 1000"),
        ([("rows", SHA256)], "got a list, expected a dict of digests by name"),
        (None, "got a NoneType, expected a dict"),
    ],
    ids=range(18),
)
def test_attack_weird_training_data_are_refused_with_their_reason(reported: Any, problem: str) -> None:
    with pytest.raises(ServableError) as error:
        check(reported)
    assert problem in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"data")
    assert digest_of(tmp_path / "rows.csv") == f"sha256:{SHA256}"


def test_the_digest_of_a_folder_is_what_in_totos_specification_computes(tmp_path: Path) -> None:
    for name in ("b/2.csv", "a.csv", "b/ü.csv", "B.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    command = "find . -type f | cut -c3- | LC_ALL=C sort | xargs -r sha256sum | sha256sum | cut -f1 -d' '"
    expected = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert digest_of(tmp_path) == f"dirHash:{expected.stdout.strip()}"
    check({"folder": digest_of(tmp_path)})
    before = digest_of(tmp_path)
    (tmp_path / "a.csv").rename(tmp_path / "c.csv")
    assert digest_of(tmp_path) != before


def test_a_folder_without_a_clear_list_of_files_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no files"):
        digest_of(tmp_path)
    (tmp_path / "a\nb").write_text("x")
    with pytest.raises(ValueError, match="has a line break"):
        digest_of(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a link to a folder"):
        digest_of(tmp_path)
    with pytest.raises(FileNotFoundError):
        digest_of(tmp_path / "nowhere")
