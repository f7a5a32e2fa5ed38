"""What the embedded server's tests share: SavedModels, and one server that serves them all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tests.serving.embedded import saved_models
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
    saved_models.broken(folder / "broken", 1, folder / "scale" / "1")
    bad = saved_models.scale(folder / "badwarm", 1, 1.0)
    saved_models.warmup(bad, {"x": saved_models.rows(1)}, {"nope": saved_models.rows(1)})
    return folder


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts embedded servers, and ends them with the test."""
    started: list[Process] = []

    def run(*flags: str, **ports: int) -> Process:
        started.append(Process(*flags, **ports))
        return started[-1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models whose versions come and go; each has version 1, which multiplies by one."""
    folder = tmp_path_factory.mktemp("live")
    for name in LIVE:
        saved_models.scale(folder / name, 1, 1.0)
    return folder


@pytest.fixture(scope="session")
def server(models: Path, live: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One server of all models, with which tests don't do anything that others could notice."""
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
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text("model_config_list {" + "".join(entries) + "}")
    process = Process(
        f"--model_config_file={config}",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=0",
        "--allow_version_labels_for_unavailable_models",
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
