"""What the tests share: a clone as a new user has it, and the server that `make serve` starts there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import STAND_IN, ModelServer, Served, install, model_servers, serve

# One Docker Engine and one cluster can run on a machine, whichever folders' tests need them.
pytest_plugins = ["tests.docker.fixtures", "tests.cluster.fixtures"]
ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow turns oneDNN on by itself on some processors only. It rewrites graphs in other ways, rounds in another way,
# and has a check that ends the process, so the tests have it everywhere.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Modules are compiled once, not by each of the hundreds of processes that tests start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The tests send Ctrl-C to what they start. A process that ignores it, as one in the background does, hands that on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What the tests run is typed by a user, not by the `make test` that they may be part of.
for _variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(_variable, None)
# `auto` is to mean the same on every machine, so the tests find no Docker Engine but the one that they start.
os.environ["DOCKER_HOST"] = "unix:///nowhere/docker.sock"


# What these fixtures start acts on the pods of all tests.
CLUSTER_WIDE = {"enforced", "metrics_server"}
# The groups of tests that take longest, which begin first: one that begins last keeps a single worker busy.
LONGEST = (
    *("samples", "servers under load", "served", "tests/k8s/test_rollout.py", "export-processes", "tests/test_docs.py"),
    *("servers", "tests/test_clients_docs.py", "clients of servers", "tests/test_main_job.py", "performance"),
    *("tests/export/test_publish.py", "tests/test_install.py", "tests/export/test_fresh.py", "tests/test_makefile.py"),
    *("tests/test_tutorial.py", "tests/init/test_project.py"),
    *("tests/serving/embedded/test_conformance.py", "tests/serving/embedded/processes/test_workers.py"),
    *("tests/serving/embedded/test_memory.py", "tests/serving/embedded/test_fuzz.py"),
    # Of Kubernetes.
    *("tests/k8s/test_cluster_rollout.py", "tests/k8s/test_by_pods.py", "tests/k8s/test_cluster.py"),
    *("tests/k8s/test_in_cluster.py", "tests/k8s/test_argo_rollouts.py", "tests/k8s/test_kserve.py"),
)


# Before pytest-xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need an engine or the cluster, and keeps the tests of a file together.

    The first of those tests waits until images are built. What needs the cluster comes last: its programs work all the
    time.
    """
    for item in items:
        names = {*getattr(item, "fixturenames", ())}
        if {"cluster", "docker_host"} & names:
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(pytest.mark.cluster if "cluster" in names else pytest.mark.docker)
        if CLUSTER_WIDE & names:
            item.add_marker(pytest.mark.alone)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))
    items.sort(key=lambda item: (item.get_closest_marker("cluster") is not None, _rank(item)))


def _rank(item: pytest.Item) -> int:
    """Where the group of a test stands among those that take long."""
    group = item.get_closest_marker("xdist_group")
    return LONGEST.index(group.args[0]) if group and group.args[0] in LONGEST else len(LONGEST)


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers that tests start leave their configuration: not where this machine's user has it."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["XDG_STATE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session", params=model_servers(), ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> ModelServer:
    """A model server that this machine has. A test of what only the embedded one has is `embedded_only`."""
    server: ModelServer = request.param
    return server


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program called tensorflow_model_server: the stand-in. TENSORFLOW_MODEL_SERVER, or PATH, leads to it."""
    return install(STAND_IN, tmp_path_factory.mktemp("stand-in"))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a clone has it, in an empty folder, with this one's environment: nothing is exported there."""
    folder = tmp_path_factory.mktemp("clone") / "toolkit"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        if name and ((ROOT / name).is_file() or (ROOT / name).is_symlink()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


@pytest.fixture(scope="session")
def served(clone: Path) -> Iterator[Served]:
    """`make serve`, the first command typed in a new clone, and its server."""
    # The engine of the tests' own, whichever others this machine has.
    with serve(["make", "serve"], clone, {"ENGINE": "embedded"}) as server:
        yield server
