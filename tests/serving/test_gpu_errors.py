"""What the errors of the Docker Engine about GPUs mean."""

from __future__ import annotations

from http import HTTPStatus

import pytest
import requests
from docker.errors import APIError

from tfserving.serving.docker.daemon import explained
from tfserving.serving.engines import EngineError

_CLI = "OCI runtime create failed: error running prestart hook #0: nvidia-container-cli: "


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "the engine has no GPU support."),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", "the engine has no GPU support."),
        (f"{_CLI}device error: 7: unknown device: unknown", "a GPU of server.gpus does not exist."),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7",
            "a GPU of server.gpus does not exist.",
        ),
        (
            f"{_CLI}requirement error: unsatisfied condition: cuda>=12.5, please update your driver to a newer version",
            "NVIDIA's driver is too old for the CUDA release of the image.",
        ),
        (
            f"{_CLI}initialization error: nvml error: driver not loaded: unknown",
            "NVIDIA's driver does not work on the engine's machine.",
        ),
        (
            f"{_CLI}initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file",
            "NVIDIA's driver does not work on the engine's machine.",
        ),
    ],
)
def test_an_error_about_gpus_says_what_to_do(error: str, words: str) -> None:
    response = requests.Response()
    response.status_code = HTTPStatus.INTERNAL_SERVER_ERROR
    with pytest.raises(EngineError) as caught, explained("it can't be started"):
        raise APIError("500 Server Error", response, error)
    assert str(caught.value).startswith(f"it can't be started: {words}")
    assert str(caught.value).endswith(f"({error})")
