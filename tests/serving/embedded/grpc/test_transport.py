"""Which library carries gRPC, and what pygrpc-native makes of calls."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import grpc
import numpy as np
import pytest

from tests.serving.embedded.running import Asker, Gate, Start, embedded_only, together
from tests.serving.embedded.saved_models import rows
from tfserving.foundation.messages import PredictRequest, PredictResponse
from tfserving.foundation.tensors import to_proto
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.grpc.transport import choose

TLS = Path("tls.config")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_pygrpc_native_carries_grpc_on_loopback(host: str) -> None:
    assert str(choose(Flags(host=host))) == "pygrpc-native"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (Flags(host=EVERYWHERE), "does not limit incomplete messages, and other machines can reach 0.0.0.0"),
        (Flags(ssl_config_file=TLS), "does not support TLS"),
        (Flags(grpc_socket_path="/run/grpc.sock"), "does not support --grpc_socket_path"),
        (Flags(grpc_receive_timeout_in_ms=1), "does not support --grpc_receive_timeout_in_ms"),
        (
            Flags(grpc_channel_arguments="grpc.max_connection_age_ms=1"),
            "does not support the setting grpc.max_connection_age_ms=1",
        ),
        (
            Flags(grpc_channel_arguments="grpc.keepalive_time_ms=-1"),
            "does not support the setting grpc.keepalive_time_ms=-1",
        ),
    ],
)
def test_grpcio_carries_it_where_pygrpc_native_can_not_do_what_the_flags_say(flags: Flags, why: str) -> None:
    assert str(choose(flags)) == f"grpcio: pygrpc-native {why}"


def test_grpcio_carries_it_where_there_is_no_folder_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/long" * 20)
    assert str(choose(Flags())).endswith(
        "requires a temporary folder for a socket, and the path " + "/long" * 20 + " is too long"
    )
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", Mock(side_effect=FileNotFoundError))
    assert str(choose(Flags())).endswith("and none is writable")


def test_a_flag_names_the_library() -> None:
    assert str(choose(Flags(grpc_transport="grpcio"))) == "grpcio"
    assert str(choose(Flags(grpc_transport="native", host=EVERYWHERE))) == "pygrpc-native"
    with pytest.raises(StartError, match=r"=native: pygrpc-native does not support TLS\. Use --grpc_transport=grpcio"):
        choose(Flags(grpc_transport="native", ssl_config_file=TLS))


@embedded_only
@together
def test_what_it_can_not_do_is_refused_before_anything_starts(start: Start, models: Path) -> None:
    server = start(f"--model_base_path={models}/scale", "--grpc_transport=native", "--grpc_socket_path=/tmp/x.sock")
    assert server.wait() == 2
    assert "--grpc_transport=native: pygrpc-native does not support --grpc_socket_path" in server.output


@embedded_only
@together
def test_settings_of_grpc_are_its_too(start: Start, models: Path) -> None:
    settings = "grpc.keepalive_time_ms=60000,grpc.keepalive_permit_without_calls=1,grpc.max_concurrent_streams=1"
    server = start(f"--model_base_path={models}/scale", f"--grpc_channel_arguments={settings}").ready()
    assert Asker(server).predict("default", {"x": rows(1)})["version"].tolist() == [2]
    assert "(pygrpc-native)" in server.output


@embedded_only
@together
def test_calls_whose_clients_have_gone_are_not_run(start: Start, models: Path, tmp_path: Path) -> None:
    flags = ("--allow_file_and_python_ops", "--grpc_max_threads=1")
    ask = Asker(start(f"--model_base_path={models}/gated", *flags).ready())
    gates = [Gate(folder(tmp_path / str(number))) for number in range(6)]
    with ThreadPoolExecutor(len(gates)) as pool:
        first, *gone = [pool.submit(over_grpc, gate, ask, 1 if number else 30) for number, gate in enumerate(gates)]
        assert [one.result() for one in gone] == ["DEADLINE_EXCEEDED"] * 5
        gates[0].open()
        assert first.result() == "OK"
    # Any of those would keep the only thread.
    last = Gate(folder(tmp_path / "last"))
    last.open()
    assert last.over_grpc(ask) == Gate.OPEN


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def over_grpc(gate: Gate, ask: Asker, seconds: float) -> str:
    """The code of a request that waits for `gate`, so many seconds at most."""
    request = PredictRequest()
    request.model_spec.name = "default"
    request.inputs["path"].CopyFrom(to_proto(np.array([str(gate.path).encode()], object)))
    try:
        ask.call("PredictionService/Predict", request, PredictResponse, seconds)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
