"""The package, installed into fresh environments of a project whose folders are called as the rooms are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

import tfserving
from tfserving.cli import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("clients", "export", "k8s", "serving")


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

    def install(self, *what: str) -> None:
        """Installs `what`, other packages in the versions of this repository's lock."""
        command = ["uv", "pip", "install", "--quiet", "--python", str(self.python), *what]
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
    """A folder with folders, and a file, of the project's own: importing any of them by mistake would fail."""
    for name in ROOMS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the project\\'s own {name} was imported')\n")
    (folder / "export.py").write_text("print('the project\\'s own export.py ran')\n")
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
    """A project where it is installed with TensorFlow for CPUs and all that goes with it."""
    project = make_project(tmp_path_factory.mktemp("everything"))
    project.install(f"{wheel}[cpu]", "pytest")
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


def test_the_page_on_installation_has_every_extra_and_the_makefiles_sizes(wheel: Path) -> None:
    page = (ROOT / "docs/install.md").read_text()
    metadata = zipfile.ZipFile(wheel).read(f"tfserving-{tfserving.__version__}.dist-info/METADATA").decode()
    extras = {*re.findall(r"^Provides-Extra: (\w+)$", metadata, re.M)} - {"clone"}
    assert {*re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]+)\|", page, re.M)))} == extras
    assert {*re.findall(r"repository\[(\w+)\]", page)} <= extras
    size = re.search(r"^RUN_SIZE := (\d+ MB) to download, (\d GB) on disk$", (ROOT / "Makefile").read_text(), re.M)
    assert size
    assert f"It downloads {size[1]} and needs {size[2]} of disk." in page


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
        for words in (["metadata"], ["serve", "status"], ["labels", "list"]):
            done = light.run(*command, *words, "own", "--server", "grpc://127.0.0.1:9")
            assert done.returncode == 3, done.stderr
            assert "no gRPC server is listening on 127.0.0.1:9" in done.stderr
    assert light.run("tfserving", "--version").stdout == f"tfserving {tfserving.__version__}\n"


def test_a_command_whose_extra_is_missing_names_it(light: Project) -> None:
    """Every command of the tree, with --help and with what it requires: none ends with a traceback."""
    done = light.run(str(light.python), str(ROOT / "tests/every_command.py"))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    named = {}
    for result in results:
        assert result["raised"] is None, result
        name = result["command"][0]
        if "needs the Python module" in result["stderr"]:
            extra = result["stderr"].partition("Install the extra '")[2].partition("'")[0]
            # What signs or reads signatures needs them beside the rest.
            assert (result["exit_code"], extra) in {(2, ENTRIES[name].extra), (2, "sign")}
            if extra == "sign":
                assert result["command"][:2] in (["export", "sign"], ["export", "provenance"]), result
                continue
            assert re.search(rf": `pip install '?/\S+\.whl\[{extra}\]'?`[.,]", result["stderr"]), result
            named[name] = extra
    expected = ("export", "serve", "labels", "config", "image", "compose", "bench", "rollout", "k8s")
    assert named.keys() >= {*expected}
    assert not named.keys() & {"doctor", "metadata", "completion"}


def test_a_project_is_created_without_tensorflow(light: Project) -> None:
    done = light.run("tfserving", "init", "new", "--from", "keras-file")
    assert done.returncode == 0, done.stderr
    assert "TensorFlow is not installed here, so the model is not trained yet." in done.stderr
    assert "  python train.py\n" in done.stdout
    done = light.run("tfserving", "doctor", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["serve"]["engine"] is None
    hints = {check["name"]: check["hint"] for check in report["checks"] if check["state"] == "missing"}
    assert hints["tfserving"].startswith("Not installed: clients: ")
    assert "[cpu]" in hints["TensorFlow"]


def test_the_embedded_server_names_its_extra_too(light: Project) -> None:
    done = light.run(str(light.python), "-m", "tfserving.serving.embedded", "--model_name=own", "--model_base_path=/m")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "Install the extra 'serving': `pip install '" in line


def test_the_extra_clients_has_no_tensorflow_and_all_of_the_client(clients: Project) -> None:
    assert installed(clients, ["tensorflow", "keras", "docker", "pydantic", "matplotlib"]) == ["pydantic", "matplotlib"]
    for command in ("predict", "verify", "bench", "tune", "capture"):
        done = clients.run("tfserving", command, "--help")
        assert done.returncode == 0, done.stderr
    done = clients.run("tfserving", "bench", "own", "--server", "grpc://127.0.0.1:9")
    assert done.returncode == 3, done.stderr
    assert "needs the Python module" not in done.stderr


def test_a_project_of_ones_own_serves_and_verifies_beside_folders_of_the_toolkits_names(everything: Project) -> None:
    """`tfserving init`, then the project's own tests, with TensorFlow for CPUs and no package of this repository's."""
    assert installed(everything, ["sklearn", "tensorflow_serving", "hatchling"]) == []
    done = everything.run("tfserving", "init", "--name", "own")
    assert done.returncode == 0, done.stderr
    done = everything.run(str(everything.python), "-m", "pytest", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "own export.py" not in done.stdout
    (everything.folder / "models/own/1/saved_model.pb").stat()
    done = everything.run("tfserving", "rollout", "status", "own")
    assert "needs the Python module" not in done.stderr
    assert "Traceback" not in done.stderr
