"""An error of the user's code names what went wrong and the line of the user's file, whatever is put around it."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export import zoo
from tfserving.export import savedmodel
from tfserving.export.builders import run_builder
from tfserving.export.errors import BuilderError, ServableError
from tfserving.export.user_code import MOST_LINES, raised

ROWS = tf.constant(zoo.ROWS)


def product(rows: Any) -> Any:
    return tf.matmul(rows, [1.0, 2.0])  # line: product


class Multiplies(keras.layers.Layer):  # type: ignore[misc]
    def call(self, rows: Any) -> Any:
        return product(rows)


class Silent(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no text")


@tf.function  # type: ignore[untyped-decorator]
def loop(rows: Any) -> Any:
    for _ in tf.range(3):
        rows = product(rows)
    return rows


@tf.function(input_signature=[tf.TensorSpec([1, 3], tf.float32, name="rows")])  # type: ignore[untyped-decorator] # line: one_row
def one_row(rows: Any) -> Any:
    return {"scaled": rows}


def in_a_graph() -> None:
    loop(ROWS)


def in_a_layer() -> None:
    keras.Sequential([keras.Input((3,)), Multiplies()])


def in_a_library() -> None:
    collections.namedtuple("pair", "1x")  # line: in_a_library


def in_a_text() -> None:
    exec("1 / 0")  # line: in_a_text  # noqa: S102


def in_a_thread() -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(without_a_message).result()


def without_a_message() -> None:
    raise ValueError  # line: without_a_message


def that_cannot_be_shown() -> None:
    raise Silent  # line: that_cannot_be_shown


def in_a_dataset() -> None:
    list(tf.data.Dataset.range(3).map(lambda row: tf.py_function(lambda _: 1 / 0, [row], tf.float32)))


def of_several_lines() -> None:
    raise ValueError("\n".join(["first", *map(str, range(20))]))


def endless() -> None:
    endless()  # line: endless


def ends() -> None:
    sys.exit("no data")  # line: ends


RANK = "Shape must be rank 2 but is rank 1 for"


@pytest.mark.parametrize(
    ("builder", "text", "line"),
    [
        (in_a_graph, f"ValueError: {RANK}", "product"),
        (in_a_layer, f"ValueError: {RANK}", "product"),
        (in_a_library, "ValueError: Type names and field names must be valid identifiers: '1x'", "in_a_library"),
        (in_a_text, "ZeroDivisionError: division by zero", "in_a_text"),
        (in_a_thread, "ValueError", "without_a_message"),
        (without_a_message, "ValueError", "without_a_message"),
        (that_cannot_be_shown, "Silent: its message can't be shown, __str__ raised RuntimeError", None),
        (in_a_dataset, "UnknownError: Error in user-defined function passed to MapDataset", None),
        (endless, "RecursionError: maximum recursion depth exceeded", "endless"),
        (ends, "SystemExit: no data", "ends"),
    ],
)
def test_what_a_builder_raised_is_told_with_the_users_line(
    builder: Callable[[], Any], text: str, line: str | None
) -> None:
    with pytest.raises(BuilderError) as error:
        run_builder("mine:build", builder)
    first, *_, last = str(error.value).splitlines()
    assert first.startswith(f"builder 'mine:build' raised {text}")
    assert last.startswith(f"  at {__file__}:")
    assert line is None or last.endswith(f"# line: {line}") or f"# line: {line} " in last
    assert len(str(error.value).splitlines()) == 2
    assert "\x1b" not in str(error.value)


def test_keras_says_in_which_layer_and_not_what_it_was_called_with() -> None:
    with pytest.raises(BuilderError) as error:
        run_builder("mine:build", in_a_layer)
    assert "(in Multiplies.call())\n" in str(error.value)
    assert "Exception encountered" not in str(error.value)
    assert "Arguments received" not in str(error.value)


def test_a_long_message_is_cut() -> None:
    with pytest.raises(BuilderError) as error:
        run_builder("mine:build", of_several_lines)
    lines = str(error.value).splitlines()
    assert lines[MOST_LINES] == "  … 13 more lines"
    assert len(lines) == MOST_LINES + 2


def test_ctrl_c_in_a_builder_stays_ctrl_c() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_builder("mine:build", interrupted)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups and notes are of Python 3.11")
def test_the_errors_of_a_group_and_notes_are_told() -> None:
    group = __builtins__["ExceptionGroup"]("both", [ValueError("a"), KeyError("b")])  # type: ignore[index]
    group.add_note("while reading train.csv")
    assert raised(group).splitlines() == [
        "ExceptionGroup: both (2 sub-exceptions); ValueError: a; KeyError: 'b'",
        "  while reading train.csv",
    ]


@pytest.mark.parametrize(
    ("function", "text", "line"),
    [
        (lambda rows: {"scaled": product(rows)}, f"ValueError: {RANK}", "product"),
        (lambda rows: {"scaled": loop(rows)}, f"ValueError: {RANK}", "product"),
        (lambda rows: {"scaled": Multiplies()(rows)}, f"ValueError: {RANK}", "product"),
        (one_row, "TypeError: Binding inputs to tf.function failed", "one_row"),
    ],
    ids=["function", "graph", "layer", "inputs"],
)
def test_what_a_signatures_function_raised_is_told_with_the_users_line(
    function: Callable[..., Any], text: str, line: str
) -> None:
    with pytest.raises(ServableError) as error:
        savedmodel.trace(zoo.servable(zoo.Scale(), function))
    first, last = str(error.value).splitlines()
    assert first.startswith(
        f"signature 'serving_default': its function can't be traced with rows: float32 (?, 3): {text}"
    )
    assert last.startswith(f"  at {__file__}:")
    assert last.endswith(f"# line: {line}")


def test_what_the_live_model_raised_is_told_with_the_users_line(export_here: Callable[..., Any]) -> None:
    def builder() -> Any:
        def scaled(rows: Any) -> Any:
            if len(rows) == 7 if tf.executing_eagerly() else False:
                np.zeros(3).reshape(2, 2)  # line: live
            return {"scaled": rows * 2.0}

        return zoo.servable(zoo.Scale(), scaled)

    with pytest.raises(ServableError) as error:
        export_here(builder)
    assert "fails for a batch of 7: ValueError: cannot reshape array" in str(error.value)
    assert str(error.value).endswith("# line: live")
