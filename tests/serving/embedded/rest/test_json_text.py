from __future__ import annotations

import math

import numpy as np
import pytest

from tfserving.serving.embedded.rest.json_text import LONGEST_SHOWN, float_texts, flush_denormals, quote, show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (100000.0, "100000.0"),
        (1e6, "1e+06"),
        (1234567.0, "1234567.0"),
        (1e-5, "1e-05"),
        (0.1068136944860032, "0.106813692"),
        (3.4028234e38, "3.40282347e+38"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (1e-40, "0.0"),
        (-1e-40, "-0.0"),
    ],
)
def test_a_float_is_written_with_six_digits_or_nine(value: float, text: str) -> None:
    assert float_texts(np.array([value], np.float32)) == [text.encode()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (0.1068136944860032, "0.1068136944860032"),
        (1.0000000000000001e23, "1.0000000000000001e+23"),
        (1e15, "1e+15"),
    ],
)
def test_a_double_is_written_with_fifteen_digits_or_seventeen(value: float, text: str) -> None:
    assert float_texts(np.array([value])) == [text.encode()]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_number_that_is_written_reads_back_as_itself(dtype: type) -> None:
    bits = np.random.default_rng(0).integers(0, 2**63, 20000).astype(np.uint64)
    values = (
        bits.view(np.float64) if dtype is np.float64 else (bits >> np.uint64(32)).astype(np.uint32).view(np.float32)
    )
    values = flush_denormals(values[np.isfinite(values)])

    texts = float_texts(values)

    assert np.array_equal(np.array([float(text) for text in texts]).astype(dtype), values)
    assert all(b"." in text or b"e" in text for text in texts)


def test_only_control_characters_quotes_and_backslashes_are_escaped() -> None:
    assert quote('a"\\/\b\f\n\r\t\x00\x1fé<') == '"a\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001Fé<"'.encode()
    assert quote(b"\xff") == b'"\xff"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (12, "12"),
        ("a", '"a"'),
        ([], "[]"),
        ([1, [2, "b"]], '[1, [2, "b"]]'),
        ({}, "{}"),
        ({"a": 1, "b": [1, 2]}, '{\n    "a": 1,\n    "b": [1, 2]\n}'),
        ({"a": {"b": {}}}, '{\n    "a": {\n        "b": {}\n    }\n}'),
        ([{"f": 1.0}], '[{\n        "f": 1.0\n    }]'),
        (100.0, "100.0"),
        (0.5, "0.5"),
        (0.00001, "0.00001"),
        (1.5e-7, "1.5e-7"),
        (1e39, "1e39"),
        (1.2345678901234568e22, "1.2345678901234568e22"),
        (-9223372036854775808.0, "-9223372036854776000.0"),
        (123456.75, "123456.75"),
        (-0.0, "-0.0"),
        (math.nan, ""),
        ([1, math.nan, 2], "[1, "),
    ],
)
def test_a_value_in_an_error(value: object, text: str) -> None:
    assert show(value) == text


def test_a_value_in_an_error_is_cut_after_the_token_that_makes_it_long() -> None:
    assert show([1] * 1_000_000) == "[" + ", ".join(["1"] * 86)
    assert len(show([1] * 1_000_000)) == LONGEST_SHOWN + 1
    assert show("x" * 1000) == '"' + "x" * 1000 + '"'


def test_a_deep_value_in_an_error() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]

    assert show(value) == "[" * (LONGEST_SHOWN + 1)


def test_nan_beside_a_denormal_and_a_small_number_keep_their_texts() -> None:
    values = np.array([np.nan, 1e-310, 1e-30, 1.5, -np.inf])
    assert float_texts(values) == [b"NaN", b"0.0", b"1e-30", b"1.5", b"-Infinity"]
    assert float_texts(values[[0, 2]]) == [b"NaN", b"1e-30"]
