"""Models that MLflow saved become versions: from a folder, from the registry, from a run.

MLflow itself wrote the folders in mlflow_folders (`record.py`). The registry is a store of MLflow in a folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.export import mlflow_store
from tests.export.conftest import ROOT, Project, digest
from tests.export.mlflow_store import log
from tfserving.export.errors import ExportError
from tfserving.export.manifest import read_manifest
from tfserving.export.mlflow.model import MLMODEL, read_model
from tfserving.foundation.golden import read_golden

FOLDERS = Path(__file__).parent / "mlflow_folders"
EXAMPLE = [[1.0, 2.0], [0.5, -1.0], [0.0, 4.0]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of MLflow, which commands find as MLflow's own tools do."""
    mlflow_store.use(monkeypatch, tmp_path / "mlflow")
    return tmp_path / "mlflow"


def build(project: Project, source: str | Path, *more: str) -> Path:
    """The version that `source` becomes, as the model `adopted`."""
    done = project.run("build", f"adopted={source}", *more)
    assert done.returncode == 0, done.stderr
    return project.folder / "models/adopted/1"


def refusal(project: Project, source: str | Path) -> str:
    """Why `source` becomes no version; nothing is left of it."""
    done = project.run("build", f"adopted={source}")
    assert done.returncode == 2, done.stdout
    assert project.names("adopted") == set()
    return done.stderr.removeprefix("Error: adopted was not exported: ").strip()


def changed(tmp_path: Path, name: str, **changes: object) -> Path:
    """A copy of a recorded folder whose MLmodel has these changes."""
    folder = Path(shutil.copytree(FOLDERS / name, tmp_path / "changed", dirs_exist_ok=True))
    content = yaml.safe_load((folder / MLMODEL).read_text())
    (folder / MLMODEL).write_text(yaml.safe_dump({**content, **changes}))
    return folder


def example_in(version: Path) -> bool:
    """Whether MLflow's input example is a golden request of the version."""
    return any(
        np.array_equal(next(iter(request.inputs.values())), EXAMPLE) for request in read_golden(version).requests
    )


def test_the_savedmodel_of_a_module_is_copied_as_it_is_with_the_input_example_as_a_golden_request(
    project: Project,
) -> None:
    version = build(project, FOLDERS / "module")
    assert digest(FOLDERS / "module/tf2model").items() <= digest(version).items()
    manifest = read_manifest(version)
    model = yaml.safe_load((FOLDERS / "module" / MLMODEL).read_text())["model_uuid"]
    assert manifest.saved_model == f"{FOLDERS / 'module'}: tf2model of the MLflow model {model}"
    assert (manifest.builder, manifest.made_requests) == (None, ())
    assert example_in(version)
    assert project.run("check", "adopted").returncode == 0


def test_a_keras_model_becomes_a_version_with_the_names_of_its_layers(project: Project) -> None:
    version = build(project, FOLDERS / "keras_model")
    manifest = read_manifest(version)
    signature = manifest.signatures["serving_default"]
    assert (list(signature.inputs), list(signature.outputs)) == (["features"], ["score"])
    assert "data/model.keras of the MLflow model" in str(manifest.saved_model)
    assert manifest.made_requests == ("serving_default",)
    # Neither the file nor the commit of the toolkit is the model's.
    assert (manifest.provenance.source, manifest.provenance.builder_file) == (None, None)
    assert f", loading {manifest.saved_model}" in project.run("inspect", "adopted").stdout
    assert example_in(version)
    for request in read_golden(version).requests:
        rows = request.inputs["features"].astype(np.float64)
        if np.abs(rows).max(initial=0) < 100:
            np.testing.assert_allclose(request.outputs["score"], rows.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("name", "path"), [("keras_flavor", "data/model.keras"), ("exported", "data/model")])
def test_the_flavor_keras_has_a_keras_file_or_a_savedmodel(name: str, path: str) -> None:
    found = read_model(FOLDERS / name, "there")
    assert (found.path, found.is_keras, found.example) == (FOLDERS / name / path, path.endswith(".keras"), None)


def test_an_exported_keras_model_is_a_savedmodel_as_it_is(project: Project) -> None:
    version = build(project, FOLDERS / "exported")
    assert digest(FOLDERS / "exported/data/model").items() <= digest(version).items()


@pytest.mark.usefixtures("store")
def test_models_yaml_names_a_folder_or_a_registered_version(project: Project) -> None:
    registered, run = log(FOLDERS / "module", "tripled")
    (project.folder / "theirs").symlink_to(FOLDERS / "module")
    (project.folder / "models.yaml").write_text(
        f"models:\n  folder: {{saved_model: theirs}}\n  version: {{saved_model: '{registered}'}}\n"
        f"  alias: {{saved_model: 'models:/tripled@best'}}\n  run: {{saved_model: '{run}'}}\n"
        f"  inside: {{saved_model: '{registered}/tf2model'}}\n"
    )
    done = project.run("build")
    assert done.returncode == 0, done.stderr
    found = {name: read_manifest(project.folder / f"models/{name}/1") for name in ("version", "alias", "run", "inside")}
    # An alias is another version tomorrow, so the number is recorded.
    of = "tf2model of the MLflow model"
    assert str(found["version"].saved_model).startswith(f"{registered}: version 1, {of}")
    assert str(found["alias"].saved_model).startswith(f"models:/tripled@best: version 1, {of}")
    assert str(found["run"].saved_model).startswith(f"{run}: {of}")
    assert found["inside"].saved_model == f"{registered}/tf2model"
    assert len({manifest.files["saved_model.pb"].sha256 for manifest in found.values()}) == 1


def test_a_uri_without_a_model_says_where_it_was_searched(project: Project, store: Path) -> None:
    log(FOLDERS / "module", "tripled")
    searched = f"MLFLOW_TRACKING_URI is {store.as_uri()}."
    assert refusal(project, "models:/tripled/7") == (
        f"models:/tripled/7: Model Version (name=tripled, version=7) not found. {searched}"
    )
    assert "models:/nothing/1: Registered Model with name=nothing not found." in refusal(project, "models:/nothing/1")
    assert refusal(project, "models:/tripled/1/MLmodel").startswith("models:/tripled/1/MLmodel is a file.")
    assert "it has no MLmodel" in refusal(project, "models:/tripled/1/tf2model/variables")
    done = project.run("build", "models:/tripled/1")
    assert (done.returncode, "Give it a name: NAME=models:/tripled/1" in done.stderr) == (2, True)


def test_an_unset_server_is_named(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "MLFLOW_TRACKING_URI is not set" in refusal(project, "models:/tripled/7")


def test_without_mlflow_a_uri_names_the_extra_and_a_folder_needs_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said = refusal(project, "models:/tripled/7")
    assert said.startswith("models:/tripled/7 needs a Python package that is not installed. Install the extra 'mlflow'")
    build(project, FOLDERS / "module")


def test_models_of_other_flavors_are_refused_by_name(project: Project, tmp_path: Path) -> None:
    folder = changed(tmp_path, "module", flavors={"sklearn": {"code": None}, "python_function": {}})
    assert refusal(project, folder) == (
        f"{folder} is an MLflow model with the flavors python_function, sklearn. Only models that mlflow.tensorflow or "
        "mlflow.keras saved can be exported."
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a mapping, got None"),
        ("[1]", "expected a mapping, got [1]"),
        ("flavors: [", "can't be read as YAML"),
        ("[" * 5000, "can't be read as YAML"),
        ("flavors: !!python/object/apply:os.system ['true']", "can't be read as YAML"),
        ("flavors: 3", "with no flavor"),
        ("flavors: {tensorflow: null}", "with the flavors tensorflow"),
        ("flavors: {tensorflow: {}}", "has neither `saved_model_dir` nor `data`"),
        ("flavors: {tensorflow: {data: tf2model/variables}}", "has neither a SavedModel nor model.keras or model.h5"),
        ("x: " + "a" * (4 << 20), "can't be read as YAML: it has more than 4194304 bytes"),
    ],
    ids=["empty", "list", "yaml", "nested", "object", "number", "null", "nothing", "no-model", "large"],
)
def test_an_mlmodel_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    folder = changed(tmp_path, "module")
    (folder / MLMODEL).write_text(text)
    with pytest.raises(ExportError) as refused:
        read_model(folder, "there")
    assert said in str(refused.value)


@pytest.mark.parametrize("path", ["../secret", "/etc", "tf2model/../../secret", "link", "a\0b", "a\nb"])
def test_attack_an_mlmodel_that_leads_out_of_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    shutil.copytree(FOLDERS / "module/tf2model", tmp_path / "secret")
    folder = changed(tmp_path, "module", flavors={"tensorflow": {"saved_model_dir": path}})
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ExportError, match="is not in the model's folder"):
        read_model(folder, "there")
    (folder / MLMODEL).write_text(
        yaml.safe_dump(
            {
                "flavors": {"tensorflow": {"saved_model_dir": "tf2model"}},
                "saved_input_example_info": {"serving_input_path": path},
            }
        )
    )
    with pytest.raises(ExportError, match="is not in the model's folder"):
        read_model(folder, "there")


def test_attack_code_and_pickled_objects_of_an_mlflow_model_are_never_run(project: Project, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = changed(tmp_path, "keras_model")
    (folder / "code").mkdir()
    (folder / "code/custom.py").write_text(f"open({str(ran)!r}, 'w')\n")
    flavors = yaml.safe_load((folder / MLMODEL).read_text())["flavors"]
    flavors["tensorflow"]["code"] = flavors["python_function"]["code"] = "code"
    folder = changed(tmp_path, "keras_model", flavors=flavors)
    # A pickle that creates the file when it is loaded.
    pickled = f"cbuiltins\nopen\n(V{ran}\nVw\ntR.".encode()
    for name in ("custom_objects.cloudpickle", "global_custom_objects.cloudpickle"):
        (folder / "data" / name).write_bytes(pickled)
    build(project, folder)
    assert not ran.exists()


def test_an_input_example_that_is_no_request_is_left_out(project: Project, tmp_path: Path) -> None:
    folder = changed(tmp_path, "module")
    (folder / "serving_input_example.json").write_text('{"dataframe_split": {"columns": ["x"], "data": [[1]]}}')
    done = project.run("build", f"adopted={folder}")
    assert done.returncode == 0, done.stderr
    assert "the input example of the MLflow model is no golden request" in done.stderr
    assert read_manifest(project.folder / "models/adopted/1").made_requests == ("serving_default",)


def test_importing_the_command_imports_no_mlflow_and_reading_a_folder_neither() -> None:
    code = (
        "import sys; from pathlib import Path;"
        "import tfserving.export.commands.publish, tfserving.export.mlflow.register;"
        "from tfserving.export.mlflow.model import read_model;"
        f"read_model(Path({str(FOLDERS / 'module')!r}), ''); print('mlflow' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True) == "False\n"
