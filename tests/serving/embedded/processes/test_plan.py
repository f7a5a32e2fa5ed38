"""What the flags' files can be: anything."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tfserving.foundation import given
from tfserving.serving.config_messages import LARGEST_FILE
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.processes.plan import read_plan

FILES = {
    "model_config_file": "ModelServerConfig",
    "batching_parameters_file": "BatchingParameters",
    "monitoring_config_file": "MonitoringConfig",
    "ssl_config_file": "SSLConfig",
    "tensorflow_session_config_file": "ConfigProto",
}


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, str]:
    """Files that are no configuration, and what is wrong with each."""
    monkeypatch.setattr(given, "LONGEST_SILENCE", 0.01)
    written = {
        "utf-16": (
            "prometheus_config { enable: true }".encode("utf-16"),
            "it is not UTF-8: byte 0xff at position 0. It looks like UTF-16",
        ),
        "binary": (b"a\xff\x00\x01", "it is not UTF-8: byte 0xff at position 1"),
        "nonsense": (b"\x1b[31m nonsense", "line 1, column 1"),
        "nested": (b"prometheus_config { " * 20_000, "line 1, column "),
    }
    wrong = {}
    for name, (data, why) in written.items():
        (tmp_path / name).write_bytes(data)
        wrong[tmp_path / name] = why
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    return wrong | {
        tmp_path / "folder": "Is a directory",
        tmp_path / "missing": "No such file or directory",
        tmp_path / "pipe": "no data arrived on this pipe for 0.01 s",
        tmp_path / "huge": f"larger than {LARGEST_FILE} bytes",
    }


@pytest.mark.parametrize(("flag", "message"), FILES.items(), ids=FILES)
def test_a_file_that_is_no_configuration_is_refused_in_a_line(wrong: dict[Path, str], flag: str, message: str) -> None:
    for path, why in wrong.items():
        flags = Flags(model_base_path="/models/m", enable_batching=True)
        with pytest.raises(StartError) as failure:
            read_plan(dataclasses.replace(flags, **{flag: path}))  # type: ignore[arg-type]
        text = str(failure.value)
        could_be_one = path.name not in ("binary", "utf-16", "nonsense", "nested")
        named = "" if could_be_one else f"Invalid protobuf file: '{path}'; "
        assert text.startswith(f"--{flag}={path}: {named}{why}"), text
        assert text.isprintable(), "a line, with nothing that a terminal obeys"
        assert len(text) < 1000
        assert text.endswith(f"Expected a text-format {message}") != could_be_one


def test_a_request_log_without_its_folder_is_refused_before_tensorflow_is_imported(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"--request_log={tmp_path}/none/r: can't write to {tmp_path}/none: no such"):
        read_plan(Flags(model_base_path="/models/m", request_log=tmp_path / "none" / "r"))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "monitoring.config"
    path.write_text("prometheus_config { enable: true }", encoding="utf-8-sig")

    plan = read_plan(Flags(model_base_path="/models/m", monitoring_config_file=path))

    assert plan.metrics_path == b"/monitoring/prometheus/metrics"


def test_what_is_in_a_session_configuration_reaches_tensorflow(tmp_path: Path) -> None:
    path = tmp_path / "session.config"
    path.write_text("intra_op_parallelism_threads: 3 allow_soft_placement: true")

    plan = read_plan(Flags(model_base_path="/models/m", tensorflow_session_config_file=path))

    from tensorflow.core.protobuf.config_pb2 import ConfigProto

    config = ConfigProto.FromString(plan.session_config)
    assert (config.intra_op_parallelism_threads, config.allow_soft_placement) == (3, True)
