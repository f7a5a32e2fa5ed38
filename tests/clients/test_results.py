from __future__ import annotations

import pytest

from tfserving.clients.results import TensorInfo, VersionStatus


@pytest.mark.parametrize(
    ("wanted", "shape", "fits"),
    [
        ((None, 3), (7, 3), True),
        ((None, 3), (0, 3), True),
        ((None, 3), (3,), False),
        ((None, 3), (7, 4), False),
        ((), (), True),
        ((), (1,), False),
        (None, (1, 2, 3), True),
    ],
)
def test_a_shape_fits_when_every_known_size_does(
    wanted: tuple[int | None, ...] | None, shape: tuple[int, ...], fits: bool
) -> None:
    assert TensorInfo("float32", wanted).fits(shape) is fits


def test_a_tensor_is_shown_as_its_users_write_it() -> None:
    assert str(TensorInfo("float32", (None, 3))) == "float32 (?, 3)"
    assert str(TensorInfo("string", None)) == "string of any shape"


def test_a_version_that_was_unloaded_has_not_failed() -> None:
    assert not VersionStatus(1, "END").failed
    assert VersionStatus(1, "END", "NOT_FOUND", "gone").failed
    assert str(VersionStatus(1, "END", "NOT_FOUND", "gone")) == "version 1 END (NOT_FOUND: gone)"
    assert str(VersionStatus(2, "AVAILABLE")) == "version 2 AVAILABLE"
