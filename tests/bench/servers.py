"""The servers that are compared: this project's own, TensorFlow Serving, naive ones, and those of other projects.

Each runs with its defaults, without an access log; MLServer and BentoML have a process of their own for the model.
FastAPI, MLServer and BentoML are installed in the versions of tests/bench/others/*/requirements.lock, each into an
environment of its own under the user's cache folder, which is kept between runs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.bench.formats import BENTOML, FASTAPI, GRPC, MLSERVER, REST
from tests.bench.load import Server, say
from tests.bench.saved_models import Model
from tests.serving.embedded.running import ROOT, free_port
from tfserving.foundation.messages import PredictResponse
from tfserving.foundation.model_server import find_model_server
from tfserving.foundation.tensors import Array, to_proto

OTHERS = Path(__file__).with_name("others")


def embedded(model: Model, *flags: str, rest: bool = False, checkout: Path = ROOT) -> Server:
    """The embedded server of this or another checkout of the repository."""
    program = (sys.executable, "-m", "tfserving.serving.embedded")
    return _like_tensorflow_serving(model, program, *flags, rest=rest, checkout=checkout)


def tensorflow_serving(model: Model, *, rest: bool = False) -> Server:
    """The tensorflow_model_server that this machine has."""
    program = find_model_server()
    assert program
    return _like_tensorflow_serving(model, (program,), rest=rest)


def _like_tensorflow_serving(
    model: Model, program: tuple[str, ...], *flags: str, rest: bool, checkout: Path = ROOT
) -> Server:
    port = free_port()
    ports = ("--port=0", f"--rest_api_port={port}") if rest else (f"--port={port}",)
    where = (f"--model_name={model.name}", f"--model_base_path={model.base}")
    return Server(model, REST if rest else GRPC, port, *program, *ports, *where, *flags, checkout=checkout)


def echo(model: Model) -> Server:
    """grpcio alone, which returns the bytes of the right response without a look at the request."""
    response = model.base.with_suffix(".response")
    response.write_bytes(predict_response(model.name, model.expected))
    return _baseline(model, "echo", response)


def naive(model: Model, *, rest: bool = False) -> Server:
    """A server as tutorials write it: grpcio and `make_tensor_proto`, or Python's http.server and json."""
    return _baseline(model, "naive-rest" if rest else "naive-grpc", model.version)


def _baseline(model: Model, kind: str, argument: Path) -> Server:
    port = free_port()
    sent = REST if kind == "naive-rest" else GRPC
    return Server(model, sent, port, sys.executable, "-m", "tests.bench.baselines", kind, str(port), str(argument))


def fastapi(model: Model) -> Server:
    """A FastAPI application, run by uvicorn."""
    port = free_port()
    command = ("-m", "uvicorn", "tests.bench.others.fastapi.app:app", "--port", str(port), "--no-access-log")
    return Server(model, FASTAPI, port, str(environment("fastapi")), *command, VERSION=str(model.version))


def mlserver(model: Model) -> Server:
    """MLServer with a runtime for SavedModels."""
    folder = model.base.with_suffix(".mlserver")
    folder.mkdir()
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "debug": False, **ports}))
    settings = {
        "name": model.name,
        "implementation": "tests.bench.others.mlserver.runtime.SavedModel",
        "parameters": {"uri": str(model.version)},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    program = environment("mlserver").with_name("mlserver")
    return Server(model, MLSERVER, ports["http_port"], str(program), "start", str(folder))


def bentoml(model: Model) -> Server:
    """A BentoML service."""
    port = free_port()
    command = (
        "-m",
        "bentoml",
        "serve",
        "tests.bench.others.bentoml.service:Model",
        "--host=127.0.0.1",
        f"--port={port}",
    )
    return Server(
        model,
        BENTOML,
        port,
        str(environment("bentoml")),
        *command,
        VERSION=str(model.version),
        BENTOML_HOME=str(model.base.with_suffix(".bentoml")),
        BENTOML_DO_NOT_TRACK="True",
    )


@functools.cache
def environment(name: str) -> Path:
    """The Python of the environment of one of tests/bench/others, which is made where it isn't there yet."""
    lock = OTHERS / name / "requirements.lock"
    made_from = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tensorflow-serving-toolkit/bench"
    folder = cache / f"{name}-{made_from}"
    python = folder / "bin/python"
    if not folder.is_dir():
        say(f"Making {folder} …")
        uv, part = sysconfig.get_path("scripts") + "/uv", folder.with_suffix(".part")
        make = ("venv", "--quiet", "--relocatable", "--clear", "--python", sys.executable, str(part))
        install = ("pip", "install", "--quiet", "--compile-bytecode", "--python", f"{part}/bin/python", "-r", str(lock))
        for command in (make, install):
            subprocess.run([uv, *command], check=True)
        part.rename(folder)
    return python


def version(name: str) -> str:
    """The version of the package `name` in the environment of that name."""
    code = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
    return subprocess.check_output([environment(name), "-c", code], text=True).strip()


def predict_response(model: str, values: Array) -> bytes:
    """A PredictResponse of `model` with the output `y`, in the field that TensorFlow Serving uses."""
    response = PredictResponse()
    response.model_spec.name, response.model_spec.version.value = model, 1
    response.model_spec.signature_name = "serving_default"
    response.outputs["y"].CopyFrom(to_proto(values, typed=True))
    return bytes(response.SerializeToString())
