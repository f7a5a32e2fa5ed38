"""What the tests of servers share: SavedModels, and one server that serves them all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tests.servers import ModelServer
from tests.serving.embedded import running, saved_models
from tests.serving.embedded.graphs import Bait
from tests.serving.embedded.running import Asker, Process, Start

# Models of the shared server, each with a first version that tests may add others to.
LIVE = ("swapped", "halfway", "outlived", "badly-warmed", "removed", "returned")
CONFIG = """
config {{
  name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow"
  model_version_policy {{ {policy} }} {labels}
}}
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models; what is in it stays as it is."""
    folder = tmp_path_factory.mktemp("models")
    saved_models.scale(folder / "scale", 1, 2.0)
    saved_models.scale(folder / "scale", 2, -2.0)
    saved_models.kinds(folder / "kinds")
    saved_models.pair(folder / "pair")
    saved_models.lookup(folder / "lookup")
    saved_models.examples(folder / "examples")
    saved_models.slow(folder / "slow")
    saved_models.gated(folder / "gated")
    saved_models.endless(folder / "endless")
    saved_models.broken(folder / "broken", 1, folder / "scale" / "1")
    bad = saved_models.scale(folder / "badwarm", 1, 1.0)
    saved_models.warmup(bad, {"x": saved_models.rows(1)}, {"nope": saved_models.rows(1)})
    return folder


@pytest.fixture(scope="session")
def prepared() -> Iterator[ModelServer]:
    """The embedded server, quickly started."""
    with running.prepared() as server:
        yield server


@pytest.fixture(scope="session")
def quick(engine: ModelServer, request: pytest.FixtureRequest) -> ModelServer:
    """The model server of this test, as quickly started as it can be."""
    if not engine.embedded:
        return engine
    server: ModelServer = request.getfixturevalue("prepared")
    return dataclasses.replace(engine, command=server.command)


def starting(engine: ModelServer) -> Iterator[Start]:
    started: list[Process] = []

    def run(*flags: str, **ports: int) -> Process:
        started.append(Process(*flags, **ports, engine=engine))
        return started[-1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture
def start(quick: ModelServer) -> Iterator[Start]:
    """Starts model servers, and ends them with the test."""
    yield from starting(quick)


@pytest.fixture
def start_command(engine: ModelServer) -> Iterator[Start]:
    """Starts model servers by their own command, for tests of starting and ending."""
    yield from starting(engine)


@pytest.fixture(scope="session")
def live(engine: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models whose versions come and go, for one engine; each has version 1, which multiplies by one."""
    folder = tmp_path_factory.mktemp(f"live-{engine.name}")
    for name in LIVE:
        saved_models.scale(folder / name, 1, 1.0)
    return folder


@pytest.fixture(scope="session")
def configured(models: Path, live: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration files of the server of all models."""
    entries = [
        CONFIG.format(
            name="scale",
            folder=models,
            policy="all {}",
            labels='version_labels { key: "stable" value: 1 } version_labels { key: "gone" value: 77 }',
        )
    ]
    entries += [
        CONFIG.format(name=name, folder=models, policy="latest {}", labels="")
        for name in ("examples", "kinds", "pair", "lookup", "slow")
    ]
    for name in LIVE:
        policy = "all {}" if name in ("removed", "returned") else "latest {}"
        entries.append(CONFIG.format(name=name, folder=live, policy=policy, labels=""))
    folder = tmp_path_factory.mktemp("config")
    (folder / "models.config").write_text("model_config_list {" + "".join(entries) + "}")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    return folder


@pytest.fixture(scope="session")
def server(quick: ModelServer, configured: Path) -> Iterator[Process]:
    """One server of all models, with which tests don't do anything that others could notice."""
    # The real server refuses what exceeds its threads.
    threads = () if quick.embedded else ("--grpc_max_threads=256", "--rest_api_num_threads=256")
    process = Process(
        f"--model_config_file={configured}/models.config",
        f"--monitoring_config_file={configured}/monitoring.config",
        quick.polls(0.1),
        "--max_num_load_retries=0",
        "--allow_version_labels_for_unavailable_models",
        *threads,
        engine=quick,
    )
    try:
        yield process.ready()
    finally:
        process.stop()


@pytest.fixture
def ask(server: Process) -> Iterator[Asker]:
    """Asks the shared server."""
    asker = Asker(server)
    yield asker
    asker.close()


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[Bait]:
    made = Bait(tmp_path)
    yield made
    if not made.opened.is_set():
        made.release()


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version's folder with the asset `words`, and beside it another file, `secret`."""
    assets = tmp_path / "m" / "1" / "assets"
    assets.mkdir(parents=True)
    (assets / "words").write_text("red\nblue\n")
    (tmp_path / "secret").write_text("secret\n")
    return assets.parent
