"""What a SavedModel may not do to the server that runs it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

from tests.serving.embedded import graphs, hostile, saved_models
from tests.serving.embedded.graphs import Bait
from tfserving.foundation.graph import INIT
from tfserving.foundation.operations import ALLOWED, DOES, reviewed
from tfserving.serving.embedded.core.loader import Runtime, Servable, load
from tfserving.serving.embedded.core.safety import check_operations
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
        ("reads", r"signature 'read' runs ReadFile \(.*\), which reads or writes files of this server"),
        ("python", r"signature 'python' runs PyFunc \(.*\), which calls Python in this server"),
        ("writes", r"loading it runs WriteFile \(.*\), which reads or writes files of this server"),
    ],
)
def test_a_model_that_can_only_be_served_with_files_or_python_is_refused(
    folder: Path, model: str, trouble: str
) -> None:
    with pytest.raises(
        RequestError,
        match=trouble + r"; --allowed_operations=\w+ allows this operation, --allow_file_and_python_ops all",
    ) as error:
        load(model, 1, folder / model / "1", Runtime())
    assert error.value.code is Code.PERMISSION_DENIED
    assert not (folder / "written").exists()


def test_of_other_models_only_the_signatures_that_do_that_are_refused(folder: Path) -> None:
    servable = load("both", 1, folder / "both" / "1", Runtime())
    (doubled,) = servable.run(servable.signatures["double"], [VALUES], ("y",))
    assert doubled.tolist() == [2, 4]
    with pytest.raises(RequestError, match="signature 'read' runs ReadFile") as error:
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


def ask(servable: Servable, signature: str, x: bytes) -> list[bytes]:
    (y,) = servable.run(servable.signatures[signature], [np.array(x, object)], ("y",))
    return list(y.ravel().tolist())


@pytest.mark.parametrize("way", [*hostile.IN_SIGNATURES, *hostile.ON_LOADING], ids=lambda way: way.__name__)
def test_no_way_leads_to_the_servers_files(version: Path, bait: Bait, way: graphs.Way) -> None:
    graphs.write(version, graphs.model(way, str(bait.path)))
    with pytest.raises(RequestError, match={**hostile.IN_SIGNATURES, **hostile.ON_LOADING}[way]) as error:
        load("m", 1, version, Runtime())
    assert error.value.code is Code.PERMISSION_DENIED
    assert not bait.release()


def test_these_ways_do_lead_there_in_tensorflow(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for way in hostile.READ:
        assert graphs.run(graphs.model(way, str(secret)), "y:0") == b"secret", way.__name__
    for way, what in [*((way, "y:0") for way in hostile.WRITE), *((way, "write") for way in hostile.WRITE_ON_LOADING)]:
        target = tmp_path / way.__name__
        graphs.run(graphs.model(way, str(target)), what)
        assert target.exists(), way.__name__


def test_every_operation_that_is_not_allowed_is_refused_by_its_name(tmp_path: Path) -> None:
    for operation, kind in reviewed().items():
        meta = graphs.model(partial(graphs.add, operation=operation, name="y"), "file")
        if kind == ALLOWED:
            assert not check_operations(meta, tmp_path)
            continue
        with pytest.raises(RequestError) as error:
            check_operations(meta, tmp_path)
        text = f"signature 'serving_default' runs {operation} (y), which {DOES[kind]}; --allowed_operations={operation}"
        assert text in str(error.value)
        assert not check_operations(meta, tmp_path, [operation])


def nested(meta: Any, count: int, calls: int, first: str = "") -> None:
    """Functions of which each calls the one before so many times; the first one copies its input, or calls `first`."""
    for index in range(count):
        made = graphs.function(meta, f"f{index}")
        before = f"f{index - 1}" if index else first
        results = [f"i{number}" for number in range(calls if before else 0)]
        for given, result in zip(["x", *(f"{one}:output:0" for one in results)], results, strict=False):
            graphs.call(made, graphs.named(before), result, given)
        graphs.add(made, "Identity", "y", f"{results[-1]}:output:0" if results else "x", T=tf.string)
    graphs.call(meta, graphs.named(f"f{count - 1}"), argument="x")


@pytest.mark.parametrize(
    ("count", "calls", "first", "text"),
    [
        (1, 1, "f0", "inf deep"),
        (3, 1, "f2", "inf deep"),
        (101, 1, "", "101 deep"),
        (20, 2, "", "20 deep, .* 1.04858e\\+06 calls"),
    ],
)
def test_functions_that_fill_a_stack_or_a_server_are_refused(
    version: Path, count: int, calls: int, first: str, text: str
) -> None:
    graphs.write(version, graphs.model(partial(nested, count=count, calls=calls, first=first), "file"))
    with pytest.raises(RequestError, match=text) as error:
        load("m", 1, version, Runtime())
    assert error.value.code is Code.PERMISSION_DENIED


def test_functions_may_call_one_another(version: Path) -> None:
    graphs.write(version, graphs.model(partial(nested, count=10, calls=2), "file"))
    servable = load("m", 1, version, Runtime())
    assert ask(servable, "serving_default", b"x") == [b"x"]
    servable.close()


def test_a_name_in_an_error_is_short_and_one_line(tmp_path: Path) -> None:
    name = "y\n\x1b[2J" + "y" * 1_000_000
    meta = graphs.model(partial(graphs.add, operation=name, name=name), "file")
    graphs.sign(meta, f"{name}:0")
    with pytest.raises(
        RequestError, match=r"y\?\?\[2Jy{194}… \(y\?\?\[2Jy{194}…\), which is not known to be safe"
    ) as error:
        check_operations(meta, tmp_path)
    assert len(str(error.value)) < 1500
    assert str(error.value).isprintable()


def constant_of_a_file(meta: Any) -> None:
    """A tensor whose shape a file gives: TensorFlow reads it to know the shape of what it imports."""
    graphs.copying(meta)
    graphs.add(meta, "ReadFile", "file", "path")
    graphs.add(meta, "DecodeRaw", "shape", "file", out_type=tf.int32)
    graphs.add(meta, "Const", "one", dtype=tf.int32, value=AttrValue(tensor=tf.make_tensor_proto(1)))
    graphs.add(meta, "Fill", "filled", "shape", "one", T=tf.int32)


def test_a_file_is_not_read_while_the_graph_is_imported(version: Path, bait: Bait) -> None:
    graphs.write(version, graphs.model(constant_of_a_file, str(bait.path)))
    servable = load("m", 1, version, Runtime())
    assert ask(servable, "serving_default", b"x") == [b"x"]
    servable.close()
    assert not bait.opened.is_set()
    load("m", 1, version, Runtime(allow_file_and_python_ops=True)).close()
    assert bait.opened.wait(10)


def test_what_training_left_in_a_graph_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    servable = load("m", 1, saved_models.trained(tmp_path / "trained"), Runtime())
    assert "the graph is loaded without FIFOQueueV2 (fifo_queue); " in caplog.text
    inputs = [np.array([b"blue", b"green"], object), np.array([1, 2], np.float32)]
    lines, products = servable.run(servable.signatures["serving_default"], inputs, ("id", "y"))
    assert (lines.tolist(), products.tolist()) == ([1, -1], [3, 6])
    servable.close()


def test_what_a_collection_names_is_not_run(version: Path, tmp_path: Path) -> None:
    graphs.write(version, graphs.model(hostile.by_a_variable_of_a_collection, str(tmp_path / "written")))
    graphs.save(version, "variable")
    load("m", 1, version, Runtime()).close()
    assert not (tmp_path / "written.index").exists()
    load("m", 1, version, Runtime(allow_file_and_python_ops=True)).close()
    assert (tmp_path / "written.index").exists()


@pytest.mark.parametrize("way", [hostile.own_table(), hostile.own_table_by_variable], ids=["constant", "variable"])
def test_a_table_reads_its_own_asset_and_nothing_else(version: Path, tmp_path: Path, way: graphs.Way) -> None:
    graphs.write(version, graphs.model(way, str(tmp_path / "secret")))
    servable = load("m", 1, version, Runtime())
    assert ask(servable, "serving_default", b"blue") == [b"1"]
    assert ask(servable, "serving_default", b"secret") == [b"-1"]
    servable.close()


def test_a_variable_with_an_assets_path_is_given_another_where_that_is_allowed(version: Path, tmp_path: Path) -> None:
    graphs.write(version, graphs.model(hostile.own_table_by_variable, str(tmp_path / "secret")))
    servable = load("m", 1, version, Runtime(allow_file_and_python_ops=True))
    assert ask(servable, "serving_default", b"secret") == [b"0"]
    servable.close()


def test_no_request_fills_a_table(version: Path) -> None:
    graphs.write(version, graphs.model(hostile.own_table_beside_a_signature_that_fills_it, ""))
    servable = load("m", 1, version, Runtime())
    assert ask(servable, "serving_default", b"blue") == [b"1"]
    for signature in ("fill", INIT):
        with pytest.raises(RequestError, match=r"InitializeTableFromTextFileV2 .* files of this server") as error:
            servable.check_allowed(servable.signatures[signature])
        assert error.value.code is Code.PERMISSION_DENIED
    servable.close()


@pytest.mark.parametrize("asset", ["../../../secret", "/etc/hostname", "link", "linked/secret", "pipe"])
def test_an_asset_is_a_file_in_the_versions_folder(version: Path, tmp_path: Path, asset: str) -> None:
    (version / "assets" / "link").symlink_to(tmp_path / "secret")
    (version / "assets" / "linked").symlink_to(tmp_path)
    os.mkfifo(version / "assets" / "pipe")
    graphs.write(version, graphs.model(hostile.own_table(asset), ""))
    with pytest.raises(
        RequestError, match=r"InitializeTableFromTextFileV2 \(fill\), which reads a file that is not an asset"
    ):
        load("m", 1, version, Runtime())


def test_an_operation_is_allowed_by_its_name(version: Path, tmp_path: Path) -> None:
    graphs.write(version, graphs.model(hostile.READ[1], str(tmp_path / "secret")))
    with pytest.raises(RequestError, match=r"ReadFile .*--allowed_operations=ReadFile allows this operation"):
        load("m", 1, version, Runtime(allowed_operations=("WriteFile",)))
    servable = load("m", 1, version, Runtime(allowed_operations=("ReadFile", "WriteFile")))
    assert ask(servable, "serving_default", b"x") == [b"secret\n"]
    servable.close()


def test_what_is_checked_is_what_tensorflow_loads(version: Path, tmp_path: Path) -> None:
    harmless, harmful = (graphs.model(way, str(tmp_path / "secret")) for way in (graphs.copying, hostile.READ[0]))
    (version / "saved_model.pbtxt").write_text("not read while there is a saved_model.pb")
    graphs.write(version, harmless, name="saved_model.cpb")
    # The first graph with the tags is loaded.
    graphs.write(version, harmful, harmless)
    with pytest.raises(RequestError, match="ReadFile"):
        load("m", 1, version, Runtime())
    graphs.write(version, harmless, harmful)
    graphs.write(version, harmful, name="saved_model.cpb")
    servable = load("m", 1, version, Runtime())
    assert ask(servable, "serving_default", b"x") == [b"x"]
    servable.close()


def test_a_graph_that_is_too_deep_to_be_read_is_not_served(version: Path) -> None:
    function = "func { attr { key: 'f' value { "
    node = f"graph_def {{ node {{ attr {{ key: 'f' value {{ {function * 200} {'} } }' * 200} }} }} }} }}"
    (version / "saved_model.pbtxt").write_text(f"meta_graphs {{ meta_info_def {{ tags: 'serve' }} {node} }}")
    with pytest.raises(RequestError):
        load("m", 1, version, Runtime())
