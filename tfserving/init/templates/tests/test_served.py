"""The served model: `pytest` exports it when it must, starts a server and tests it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tfserving.clients import connect

from iris_data import SPECIES, load

PROJECT = Path(__file__).resolve().parents[1]
TFSERVING = (sys.executable, "-m", "tfserving")
MODEL = "__model__"
LOWEST_ACCURACY = 0.9


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Start a server of this project on free ports; return its URLs."""
    subprocess.run([*TFSERVING, "export", "build", MODEL, "--missing"], cwd=PROJECT, check=True)
    grpc, rest = free_port(), free_port()
    url = f"grpc://127.0.0.1:{grpc},http://127.0.0.1:{rest}"
    # The embedded server runs everywhere. `--engine docker` runs TensorFlow Serving.
    options = ("--engine", "embedded", "--port", str(grpc), "--rest-port", str(rest))
    process = subprocess.Popen([*TFSERVING, "serve", MODEL, *options], cwd=PROJECT)
    try:
        with connect(url.split(",")[0]) as client:
            client.wait_until_available(MODEL, timeout=120)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_server_returns_what_the_model_returned(server: str) -> None:
    """Compare every golden request of the exported version, over gRPC and REST."""
    subprocess.run([*TFSERVING, "verify", MODEL, "--server", server], cwd=PROJECT, check=True)


@pytest.mark.parametrize("protocol", [0, 1], ids=["grpc", "rest"])
def test_the_served_model_is_accurate(server: str, protocol: int) -> None:
    _, flowers = load()
    with connect(server.split(",")[protocol]) as client:
        outputs = client.predict(MODEL, flowers.inputs()).outputs
    labels = outputs["scores"].argmax(axis=1)
    assert np.mean(labels == flowers.labels) >= LOWEST_ACCURACY
    assert [name.decode() for name in outputs["species"]] == [SPECIES[label] for label in labels]
