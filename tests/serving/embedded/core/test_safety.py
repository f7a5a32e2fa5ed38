"""What a SavedModel may not do to the server that runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.serving.embedded import saved_models
from tfserving.serving.embedded.core.loader import Runtime, load
from tfserving.serving.embedded.errors import Code, RequestError

VALUES = np.array([1, 2], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unsafe")
    saved_models.unsafe(folder / "both", "read", "double")
    saved_models.unsafe(folder / "reads", "read")
    saved_models.unsafe(folder / "python", "python")
    saved_models.writes_when_loaded(folder / "writes", folder / "written")
    return folder


@pytest.mark.parametrize(
    ("model", "trouble"),
    [
        ("reads", r"signature 'read': when it is asked ReadFile \(.*\) reads or writes files of this server"),
        ("python", r"signature 'python': when it is asked PyFunc \(.*\) calls Python in this server"),
        ("writes", r"as soon as it is loaded WriteFile \(.*\) reads or writes files of this server"),
    ],
)
def test_a_model_that_can_only_be_served_with_files_or_python_is_refused(
    folder: Path, model: str, trouble: str
) -> None:
    with pytest.raises(RequestError, match=trouble + "; --allow_file_and_python_ops allows that") as error:
        load(model, 1, folder / model / "1", Runtime())
    assert error.value.code is Code.PERMISSION_DENIED
    assert not (folder / "written").exists()


def test_of_other_models_only_the_signatures_that_do_that_are_refused(folder: Path) -> None:
    servable = load("both", 1, folder / "both" / "1", Runtime())
    (doubled,) = servable.run(servable.signatures["double"], [VALUES], ("y",))
    assert doubled.tolist() == [2, 4]
    with pytest.raises(RequestError, match="signature 'read': when it is asked ReadFile") as error:
        servable.run(servable.signatures["read"], [np.array([b"/etc/hostname"], object)], ("y",))
    assert error.value.code is Code.PERMISSION_DENIED
    servable.close()


def test_a_flag_allows_them(folder: Path, tmp_path: Path) -> None:
    read = tmp_path / "file"
    read.write_text("contents")
    servable = load("reads", 1, folder / "reads" / "1", Runtime(allow_file_and_python_ops=True))
    (contents,) = servable.run(servable.signatures["read"], [np.array([str(read).encode()], object)], ("y",))
    assert contents.tolist() == [b"contents"]
    servable.close()


def test_vocabularies_and_variables_are_the_models_own_files(models: Path) -> None:
    for model in ("lookup", "scale", "examples"):
        load(model, 1, models / model / "1", Runtime()).close()
