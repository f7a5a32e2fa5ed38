"""A server with GPUs, as clients and its log see it. What TensorFlow found is pretended: no test has a GPU."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.driver import Driver
from tests.servers import GRPCIO, ModelServer
from tests.serving.embedded.conftest import starting
from tests.serving.embedded.running import Asker, Process, both_embedded, embedded_only, together
from tests.serving.embedded.saved_models import rows, warmup
from tfserving.foundation.messages import GetModelMetadataRequest, GetModelStatusRequest, PredictRequest
from tfserving.foundation.tensors import Array, to_proto

H200 = ["NVIDIA H200", [9, 0]]
EMPTY = "{}, GPU-{}, NVIDIA H200, 143771, 4, 580.95.05, 9.0"
FULL = "0, GPU-0, NVIDIA H200, 143771, 143500, 580.95.05, 9.0"
KEY = "tfserving-device"

Pretend = Callable[..., Process]


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


@pytest.fixture
def pretend(prepared: ModelServer, models: Path, tmp_path: Path) -> Iterator[Pretend]:
    """Starts servers of one model for which TensorFlow has found GPUs, and ends them with the test."""
    module = "tests.serving.embedded.pretended"
    engine = dataclasses.replace(prepared, command=(*prepared.command[:-1], module))
    with contextmanager(starting)(engine) as start:

        def run(*flags: str, gpus: int = 1, **others: str) -> Process:
            pretended = {"gpus": [H200] * gpus, "path": str(tmp_path), **others}
            return start(f"--model_base_path={models}/scale", f"--pretend={json.dumps(pretended)}", *flags)

        yield run


def grpc_device(ask: Asker, method: str, request: Any) -> str | None:
    """The device in the initial metadata of a gRPC response."""
    call: Any = ask.channel.unary_unary(
        f"/tensorflow.serving.{method}", request_serializer=type(request).SerializeToString
    )
    _, done = call.with_call(request, timeout=60)
    return {str(key): str(value) for key, value in done.initial_metadata()}.get(KEY)


def devices(ask: Asker, model: str) -> dict[str, str | None]:
    """The device that each kind of response names."""
    status, metadata, predict = GetModelStatusRequest(), GetModelMetadataRequest(), PredictRequest()
    for request in (status, metadata, predict):
        request.model_spec.name = model
    metadata.metadata_field.append("signature_def")
    predict.inputs["x"].CopyFrom(to_proto(rows(1)))
    body = {"inputs": rows(1).tolist()}
    return {
        "gRPC status": grpc_device(ask, "ModelService/GetModelStatus", status),
        "gRPC metadata": grpc_device(ask, "PredictionService/GetModelMetadata", metadata),
        "gRPC predict": grpc_device(ask, "PredictionService/Predict", predict),
        "REST status": ask.rest.get(f"/v1/models/{model}").headers.get(KEY),
        "REST metadata": ask.rest.get(f"/v1/models/{model}/metadata").headers.get(KEY),
        "REST predict": ask.rest.post(f"/v1/models/{model}:predict", json=body).headers.get(KEY),
    }


def named(device: str) -> dict[str, str | None]:
    """What `devices` returns for a server that names `device`."""
    kinds = ("status", "metadata", "predict")
    return {f"{what} {kind}": device if kind != "predict" else None for what in ("gRPC", "REST") for kind in kinds}


@both_embedded
@together
def test_status_and_metadata_name_the_device(ask: Asker) -> None:
    assert devices(ask, "scale") == named("cpu")


@embedded_only
@together
def test_a_server_without_a_gpu(server: Process) -> None:
    assert "; device: CPU\n" in server.output


@together
def test_a_gpu_that_tensorflow_can_not_use_is_named_with_the_reason(driver: Driver, pretend: Pretend) -> None:
    """TensorFlow here is built with CUDA, whose libraries aren't installed."""
    driver.lists(EMPTY.format(0, 0))
    server = pretend("--enable_tf32", "--per_process_gpu_memory_fraction=0.5", gpus=0).ready()
    assert "warning: the driver lists NVIDIA H200, which TensorFlow can't use: libcudart.so.12, " in server.output
    assert "libcudnn.so.9 can't be loaded. Run `pip install 'tensorflow[and-cuda]==" in server.output
    assert "warning: --per_process_gpu_memory_fraction, --enable_tf32: no effect, because no GPU" in server.output
    assert "; device: CPU\n" in server.output
    assert devices(Asker(server), "default") == named("cpu")


@together
def test_two_workers_on_two_gpus(driver: Driver, pretend: Pretend, tmp_path: Path) -> None:
    driver.lists(EMPTY.format(0, 0), EMPTY.format(1, 1))
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    server = pretend("--workers=2", f"--monitoring_config_file={monitoring}", GRPCIO.flags[0], gpus=2).ready()
    assert server.output.rstrip().endswith(
        "; device: NVIDIA H200 (GPU 0 of 2), 140.4 GiB, grows; NVIDIA H200 (GPU 1 of 2), 140.4 GiB, grows; TF32 off"
    )
    assert "not used" not in server.output
    ask = Asker(server)
    assert devices(ask, "default") == named("gpu")
    page = ask.rest.get("/monitoring/prometheus/metrics").text.splitlines()
    at = page.index("# TYPE :tensorflow:serving:device gauge")
    assert page[at + 1] == ':tensorflow:serving:device{device="gpu",name="NVIDIA H200"} 1'


@together
def test_one_process_with_tf32_on_the_first_of_two_gpus(driver: Driver, pretend: Pretend) -> None:
    driver.lists(EMPTY.format(0, 0), EMPTY.format(1, 1))
    server = pretend("--enable_tf32", "--per_process_gpu_memory_fraction=0.25", gpus=2).ready()
    assert "device: NVIDIA H200 (GPU 0 of 2), 140.4 GiB, 25 % allocated at the first load; TF32 on" in server.output
    assert "warning: GPU 1 is not used: each process uses one GPU. Set --workers=2" in server.output
    assert devices(Asker(server), "default") == named("gpu-tf32")


@together
@pytest.mark.parametrize("workers", [1, 2])
def test_a_gpu_without_free_memory_ends_the_start_before_anything_loads(
    driver: Driver, pretend: Pretend, workers: int
) -> None:
    driver.lists(FULL, processes=("GPU-0, 4242, /usr/bin/python3, 141000",))
    server = pretend(f"--workers={workers}")
    assert server.wait() == 1
    assert "GPU 0 (NVIDIA H200) is taken: 140.1 of 140.4 GiB (by python3, process 4242: 137.7 GiB). " in server.output
    assert "loading model" not in server.output
    assert "Traceback" not in server.output


@together
def test_a_load_that_fails_for_lack_of_memory_names_who_has_it(driver: Driver, pretend: Pretend) -> None:
    driver.lists(EMPTY.format(0, 0).replace(" 4,", " 143000,"), processes=("GPU-0, 7, python3, 142000",))
    server = pretend("--max_num_load_retries=0", fails="No Blas support for stream")
    assert server.wait() == 1
    assert "INTERNAL: No Blas support for stream; the memory of GPU 0 (NVIDIA H200) is taken: " in server.output
    assert "(by python3, process 7: 138.7 GiB)" in server.output


@together
def test_a_gpu_that_the_session_configuration_names_must_exist(
    driver: Driver, pretend: Pretend, tmp_path: Path
) -> None:
    driver.lists(EMPTY.format(0, 0))
    config = tmp_path / "session.config"
    config.write_text("gpu_options { visible_device_list: '3' }")
    server = pretend(f"--tensorflow_session_config_file={config}")
    assert server.wait() == 1
    assert "visible_device_list is '3': there is no GPU 3. TensorFlow found 1, with the number 0" in server.output


@together
def test_batching_without_parameters_has_few_sizes_which_the_warm_up_runs(
    driver: Driver, pretend: Pretend, models: Path, tmp_path: Path
) -> None:
    driver.lists(EMPTY.format(0, 0))
    version = Path(shutil.copytree(models / "scale" / "1", tmp_path / "batched" / "1"))
    warmup(version, {"x": rows(3)})
    server = pretend("--enable_batching", f"--model_base_path={version.parent}").ready()
    assert "batching on the GPU: batches of 1, 2, 4, 8, 16, 32 rows, 2 at a time" in server.output
    assert "model 'default' version 1: the warm-up ran 5 batch sizes in" in server.output

    def outputs(sent: Array) -> list[Any]:
        response = Asker(server).rest.post("/v1/models/default:predict", json={"inputs": sent.tolist()})
        return response.json()["outputs"]["y"]  # type: ignore[no-any-return]

    # A larger request is split.
    many = outputs(rows(200))
    assert len(many) == 200
    assert outputs(rows(200)[150:153]) == many[150:153]
