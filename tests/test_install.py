"""The package, installed into fresh environments of a project whose folders are called as the rooms are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

import tfserving
from tests.servers import serve

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("clients", "export", "k8s", "serving")
# Folders, and a file, of the project's own; importing any of them by mistake would fail.
FOLDERS = (*ROOMS, "tests")
BUILDER = '''\
"""The project's own model."""

import numpy as np

from tfserving.export.servable import Servable, Signature, TensorSpec


def build() -> Servable:
    import tensorflow as tf

    module = tf.Module()
    module.scale = tf.Variable(3.0)
    signature = Signature(
        lambda rows: {"sums": tf.reduce_sum(rows, axis=1) * module.scale},
        {"rows": TensorSpec("float32", (None, 3))},
        ("sums",),
    )
    rows = np.eye(12, 3, dtype=np.float32)
    return Servable(module, {"serving_default": signature}, {"serving_default": {"rows": rows}})
'''


@dataclass(frozen=True)
class Project:
    """Somebody's project, with an environment of its own where the package is installed."""

    folder: Path
    python: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a user's shell: nothing of the tests' own gets in."""
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return {**bare, "PATH": f"{self.python.parent}:{os.environ['PATH']}"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command, typed in the project's folder."""
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)

    def install(self, what: str) -> None:
        """Installs `what`, other packages in the versions of this repository's lock."""
        command = ["uv", "pip", "install", "--quiet", "--python", str(self.python), what]
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [*command, "--constraint", str(ROOT / "requirements-dev.lock")],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def make_project(folder: Path) -> Project:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the project\\'s own {name} was imported')\n")
    (folder / "export.py").write_text("print('the project\\'s own export.py ran')\n")
    (folder / "train.py").write_text(BUILDER)
    (folder / "models.yaml").write_text("models:\n  own:\n    builder: train:build\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
    return Project(folder, folder / ".venv/bin/python")


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built in a clone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "toolkit"
    mine = ("models", ".venv", ".cache")
    shutil.copytree(clone, source, symlinks=True, ignore=lambda at, _: mine if Path(at) == clone else ())
    before = listed(source)
    command = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "built")]
    subprocess.run([sys.executable, *command], cwd=source, check=True, capture_output=True)
    assert listed(source) == before, "building leaves nothing in the clone"
    (built,) = (folder / "built").glob("*.whl")
    return built


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project where the package is installed without any extra."""
    project = make_project(tmp_path_factory.mktemp("light"))
    project.install(str(wheel))
    return project


@pytest.fixture(scope="module")
def clients(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project where it is installed with the extra `clients` alone."""
    project = make_project(tmp_path_factory.mktemp("clients"))
    project.install(f"{wheel}[clients]")
    return project


@pytest.fixture(scope="module")
def everything(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project where it is installed with all extras."""
    project = make_project(tmp_path_factory.mktemp("everything"))
    project.install(f"{wheel}[all]")
    return project


def test_the_wheel_has_the_rooms_files_below_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"tfserving", f"tfserving-{tfserving.__version__}.dist-info"}
    assert "tfserving/py.typed" in names
    tracked = subprocess.run(
        ["git", "ls-files", *ROOMS, "tfserving"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    wanted = {name if name.startswith("tfserving/") else f"tfserving/{name}" for name in tracked}
    assert wanted - {f"tfserving/{room}" for room in ROOMS} <= set(names)


def installed(project: Project, modules: Iterable[str]) -> list[str]:
    code = f"import importlib.util as u; print(*[m for m in {[*modules]} if u.find_spec(m)])"
    done = project.run(str(project.python), "-I", "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_client_works_without_any_extra(light: Project) -> None:
    assert installed(light, ["numpy", "tensorflow", "pydantic", "matplotlib", "docker", "keras"]) == ["numpy"]
    code = "import tfserving.clients as c; c.connect('grpc://127.0.0.1:9').close(); print(c.connect.__module__)"
    assert light.run(str(light.python), "-c", code).stdout == "tfserving.clients.client\n"
    for command in (["tfserving"], [str(light.python), "-m", "tfserving"]):
        done = light.run(*command, "client", "status", "--model", "own", "--server", "grpc://127.0.0.1:9")
        assert done.returncode == 3, done.stderr
        assert "UNAVAILABLE" in done.stderr
    assert light.run("tfserving", "--version").stdout == f"tfserving {tfserving.__version__}\n"
    assert "export" in light.run("tfserving", "--help").stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["export", "build"], "export"),
        (["serve"], "serving"),
        (["rollout", "status", "own"], "k8s"),
        (["client", "bench", "--model", "own"], "clients"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_command_whose_extra_is_missing_names_it_in_a_line(light: Project, command: list[str], extra: str) -> None:
    done = light.run("tfserving", *command)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: `tfserving {command[0]}` needs the Python module ")
    assert f"Install the extra '{extra}': pip install 'tfserving[{extra}]'" in line


def test_the_embedded_server_names_its_extra_too(light: Project) -> None:
    done = light.run(str(light.python), "-m", "tfserving.serving.embedded", "--model_name=own", "--model_base_path=/m")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "Install the extra 'serving': pip install 'tfserving[serving]'" in line


def test_the_extra_clients_has_no_tensorflow_and_all_of_the_client(clients: Project) -> None:
    assert installed(clients, ["tensorflow", "keras", "pydantic", "docker", "matplotlib"]) == ["matplotlib"]
    for command in ("predict", "verify", "bench", "tune", "capture"):
        done = clients.run("tfserving", "client", command, "--help")
        assert done.returncode == 0, done.stderr
    done = clients.run("tfserving", "client", "bench", "--model", "own", "--server", "grpc://127.0.0.1:9")
    assert done.returncode == 3, done.stderr
    assert "needs the Python module" not in done.stderr


def test_all_extras_do_the_whole_job_beside_folders_of_the_same_names(everything: Project) -> None:
    done = everything.run("tfserving", "export", "build")
    assert done.returncode == 0, done.stderr
    assert "own export.py" not in done.stdout
    (everything.folder / "models/own/1/saved_model.pb").stat()
    command = ["tfserving", "serve", "--engine", "embedded", "--port", "{port}", "--rest-port", "{rest_port}"]
    with serve(command, everything.folder, everything.env) as server:
        addresses = ["--grpc", f"127.0.0.1:{server.grpc_port}", "--rest", f"127.0.0.1:{server.rest_port}"]
        done = everything.run("tfserving", "client", "verify", "models", *addresses)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "golden requests of 1 model equal" in done.stdout
    done = everything.run("tfserving", "rollout", "status", "own")
    assert "needs the Python module" not in done.stderr
    assert "Traceback" not in done.stderr
