"""Operations that TensorFlow Serving has and TensorFlow hasn't: the libraries that bring them, and what errors say."""

from __future__ import annotations

import sys

import pytest
from tensorflow.python.framework import load_library, op_def_registry

from tfserving.foundation import served_ops


def test_the_library_of_an_operation_is_found_without_importing_its_package() -> None:
    before = {*sys.modules}
    served_ops.libraries.cache_clear()
    (library,) = served_ops.libraries_for(["SimpleMLInferenceOpWithHandle", "MatMul", "SimpleMLCreateModelResource"])
    assert library.is_file()
    assert library.name == "inference.so"
    # A test before this one may have imported it.
    assert not {"ydf_tf", "tensorflow_text"} & ({*sys.modules} - before)
    assert not served_ops.libraries_for(["MatMul"])


def test_the_library_registers_the_operations_that_are_listed() -> None:
    there = served_ops.libraries()
    load_library.load_op_library(str(there["SimpleMLInferenceOp"]))
    listed = [name for name, path in there.items() if path == there["SimpleMLInferenceOp"]]
    assert [name for name in listed if op_def_registry.get(name) is None] == []


def test_a_package_that_is_not_installed_has_no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_ops, "find_spec", lambda _: None)
    assert served_ops.libraries.__wrapped__() == {}


@pytest.mark.parametrize(
    ("error", "package"),
    [
        ("Op type not registered 'SimpleMLInferenceOp' in binary running on host.", "ydf-tf"),
        ("NotFoundError: Op type not registered 'TFText>RoundRobinTrim' in binary", "tensorflow-text"),
        ("Op type not registered 'CompanyFusedMul' in binary", None),
        ("Table not initialized.", None),
    ],
    ids=["forest", "text", "company", "other"],
)
def test_the_error_of_an_unknown_operation_names_the_package(error: str, package: str | None) -> None:
    hint = served_ops.hint(error)
    assert hint.endswith(f"pip install {package}") if package else hint == ""
