"""SavedModels that are exported as they are: their files are copied, and proven like what a builder makes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.export import found, zoo
from tests.export.conftest import Project, digest, export_to, is_complete
from tfserving.export import copied
from tfserving.export.chain import Use, links
from tfserving.export.errors import BuilderError
from tfserving.export.existing import load_existing
from tfserving.export.manifest import Manifest, read_manifest
from tfserving.export.records import prediction_log
from tfserving.export.servable import Evaluation, Servable
from tfserving.foundation.evaluation import read_evaluation
from tfserving.foundation.golden import WARMUP, GoldenRequest, read_golden
from tfserving.foundation.records import write_records

REAL = [{"inputs": {"x": [1.5, -2], "word": ["blue", "green"]}, "outputs": {"y": [4.5, -6], "id": [1, -1]}}]


@pytest.fixture(scope="module")
def tf1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of TensorFlow 1, with a reference variable, a table and an asset; to be read."""
    return found.tf1(tmp_path_factory.mktemp("tf1") / "old")


def adopt(project: Project, folder: Path, *more: str) -> Path:
    """The version that `folder` becomes, as model `adopted`."""
    done = project.run("build", f"adopted={folder}", *more)
    assert done.returncode == 0, done.stderr
    return Path(project.folder / "models/adopted" / done.stdout.split(": version ")[1].split()[0])


def refusal(project: Project, folder: Path, *more: str) -> str:
    """Why `folder` becomes no version; nothing is left of it."""
    done = project.run("build", f"adopted={folder}", *more)
    assert done.returncode in (1, 2), done.stdout
    assert project.names("adopted") == set()
    return done.stderr.partition("Error: adopted was not exported: ")[2]


def test_a_savedmodel_of_tensorflow_1_is_copied_and_proven_with_its_table_and_asset(
    project: Project, tf1: Path
) -> None:
    (project.folder / "real.json").write_text(json.dumps(REAL))
    (project.folder / "models.yaml").write_text(
        f"models:\n  adopted: {{saved_model: '{os.path.relpath(tf1, project.folder)}', golden: [real.json]}}\n"
    )
    assert project.run("lint", str(tf1)).stdout.endswith("old/1: no findings\n")
    done = project.run("build")
    assert done.returncode == 0, done.stderr
    version = project.folder / "models/adopted/1"
    copied = digest(version)
    assert digest(tf1).items() <= copied.items()
    assert {name for name in copied if name not in digest(tf1)} == {
        "assets.extra/golden.tfrecord",
        "assets.extra/manifest.json",
        "assets.extra/tf_serving_warmup_requests",
    }
    assert is_complete(version)
    manifest = read_manifest(version)
    assert (manifest.builder, manifest.saved_model, manifest.made_requests) == (None, str(tf1), ())
    golden = read_golden(version)
    assert {len(request.inputs["x"]) for request in golden.requests} >= {1, 2, 7, 32}
    for request in golden.requests:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(request.outputs["y"], request.inputs["x"] * 3)
    (given,) = (request for request in golden.requests if request.inputs["word"].tolist() == [b"blue", b"green"])
    assert given.outputs["id"].tolist() == [1, -1]
    assert project.run("check").returncode == 0
    assert project.run("lint").stdout == "models/adopted/1: no findings\n"
    assert "none: the SavedModel" in project.run("inspect", "adopted").stdout


def test_a_wrong_answer_that_is_given_is_told(project: Project, tf1: Path) -> None:
    (project.folder / "wrong.json").write_text(json.dumps([{**REAL[0], "outputs": {"y": [4.5, 6]}}]))
    said = refusal(project, tf1, "--golden", str(project.folder / "wrong.json"))
    assert "wrong.json, request 0 expects other outputs than the model returns" in said


def test_without_real_requests_some_are_made_and_that_is_told(project: Project, tmp_path: Path) -> None:
    done = project.run("build", f"adopted={found.keras_export(tmp_path / 'keras')}")
    assert done.returncode == 0, done.stderr
    # Names that Keras made up can't be changed any more, so they are only noted.
    assert "[made-up-name] signature 'serve', output 'output_0'" in done.stderr
    assert "golden requests of 'serve', 'serving_default' contain random values" in done.stderr
    version = project.folder / "models/adopted/1"
    assert read_manifest(version).made_requests == ("serve", "serving_default")
    loaded = tf.saved_model.load(str(version)).signatures["serving_default"]
    for request in read_golden(version).requests:
        (answer,) = request.outputs.values()
        np.testing.assert_array_equal(loaded(features=request.inputs["features"])["output_0"], answer)
    linted = project.run("lint", "adopted")
    assert (linted.returncode, linted.stdout.splitlines()[0]) == (0, "models/adopted/1: no findings")
    assert "  note: [made-up-name] signature 'serving_default', output 'output_0'" in linted.stdout
    moved = (tmp_path / "keras").rename(tmp_path / "moved")
    again = project.run("build", f"adopted={moved}", "--if-changed")
    assert again.stdout == "adopted: unchanged, version 1 in models/adopted/1 is the same\n"


def test_tf_examples_are_made_of_the_features_that_the_graph_parses(project: Project, tmp_path: Path) -> None:
    golden = read_golden(adopt(project, found.classifier(tmp_path / "classifier"))).requests
    assert {(request.signature, request.method) for request in golden} == {
        ("serving_default", "classify"),
        ("regress", "regress"),
        ("predict", "predict"),
    }
    (first,) = (one for one in golden if one.signature == "regress" and len(one.inputs["inputs"]) == 1)
    features = tf.train.Example.FromString(first.inputs["inputs"][0]).features.feature
    assert {name: len(getattr(one, one.WhichOneof("kind")).value) for name, one in features.items()} == {
        "age": 1,
        "counts": 2,
        "job": 2,
    }


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (found.embedded, {"ids": (tf.int32, [None, None]), "kinds": (tf.int32, [None, None])}),
        (
            lambda jpeg: {"size": tf.map_fn(lambda one: tf.size(tf.io.decode_jpeg(one)), jpeg, tf.int32)},
            {"jpeg": (tf.string, [None])},
        ),
        (
            lambda image: {"mean": tf.nn.avg_pool2d(image, 9, 1, "VALID")},
            {"image": (tf.float32, [None, None, None, 1])},
        ),
        (lambda x, scale: {"y": x * scale}, {"x": (tf.float32, [None]), "scale": (tf.float32, [])}),
        (lambda x: {"y": x * 2}, {"x": (tf.float32, None)}),
        (lambda x: {"y": x * 2}, {"x": (tf.float32, [4, 2])}),
    ],
    ids=["indices", "pictures", "large", "no batch", "any rank", "fixed batch"],
)
def test_what_a_signature_takes_is_found_out(project, tmp_path, function, inputs) -> None:  # type: ignore[no-untyped-def]
    version = adopt(project, found.saved(tmp_path / "saved", function, **inputs))
    assert read_golden(version).requests


@pytest.mark.parametrize(
    "function",
    [lambda x: {"y": x - tf.reduce_mean(x)}, lambda x: {"y": x * 2, "scale": tf.constant(2.0)}],
    ids=["rows that depend on others", "an output without rows"],
)
def test_what_is_not_answered_row_by_row_takes_one_example_a_request(project, tmp_path, function) -> None:  # type: ignore[no-untyped-def]
    done = project.run("build", f"adopted={found.saved(tmp_path / 'saved', function, x=(tf.float32, [None]))}")
    assert done.returncode == 0, done.stderr
    assert "[unbatched] signature 'serving_default': the output of a row depends on the other rows" in done.stderr
    version = project.folder / "models/adopted/1"
    assert read_manifest(version).unbatched == ("serving_default",)
    assert any(len(request.inputs["x"]) > 1 for request in read_golden(version).requests)


def test_a_signature_that_takes_nothing_that_was_made_needs_real_requests(project: Project, tmp_path: Path) -> None:
    numbers = found.saved(
        tmp_path / "numbers",
        lambda text: {"number": tf.strings.to_number(text)},
        text=(tf.string, [None]),
    )
    said = refusal(project, numbers)
    assert said == (
        "no golden request can be generated for signature 'serving_default': it rejects random values of its dtypes "
        "and shapes (InvalidArgumentError: StringToNumberOp could not correctly convert string: the cat sat on the "
        "mat). Give real requests: use `golden: [FILE.json]` in models.yaml or --golden FILE.json.\n"
    )
    real = project.folder / "real.json"
    real.write_text('{"instances": ["1.5", "cat"]}')
    assert (
        f"{real}: signature 'serving_default' rejects this request: InvalidArgumentError: StringToNumberOp"
        in refusal(project, numbers, "--golden", str(real))
    )
    real.write_text('{"instances": ["1.5", "-2"]}')
    golden = read_golden(adopt(project, numbers, "--golden", str(real))).requests
    assert {value for request in golden for value in request.outputs["number"].tolist()} == {1.5, -2.0}


def test_the_warm_up_requests_of_a_savedmodel_become_golden(project: Project, tf1: Path, tmp_path: Path) -> None:
    warm = Path(shutil.copytree(tf1, tmp_path / "warm"))
    (warm / WARMUP).parent.mkdir()
    words = np.array([b"red", b"blue", b"\xff"], np.object_)
    asked = GoldenRequest("serving_default", {"x": np.array([1, 2, 3], np.float32), "word": words}, {})
    write_records(warm / WARMUP, [prediction_log(asked, "anything").SerializeToString()])
    (warm / "README.md").write_text("Not part of it.")
    done = project.run("build", f"adopted={warm}")
    assert "not copied, because a SavedModel has no such files: README.md" in done.stderr
    version = project.folder / "models/adopted/1"
    assert not read_manifest(version).made_requests
    assert not (version / "README.md").exists()
    (found_again,) = (one for one in read_golden(version).requests if one.inputs["word"].tolist() == words.tolist())
    assert found_again.outputs["id"].tolist() == [0, 1, -1]
    write_records(warm / WARMUP, [prediction_log(GoldenRequest("serving_default", {}, {}), "").SerializeToString()])
    assert "tf_serving_warmup_requests, record 0: inputs['" in project.run("build", f"other={warm}").stderr


def test_a_version_of_this_toolkit_keeps_its_requests_metrics_and_labelled_rows(
    project: Project, tmp_path: Path
) -> None:
    def scored() -> Servable:
        made = zoo.scale()
        rows = Evaluation({"rows": zoo.ROWS}, zoo.ROWS.sum(axis=1), metric="mae")
        return Servable(made.module, made.signatures, made.examples, {"score": 0.5}, rows)

    original = export_to(tmp_path / "other/scale", scored).path
    version = adopt(project, original)
    for one, other in zip(read_golden(version).requests, read_golden(original).requests, strict=True):
        assert [array.tobytes() for array in one.inputs.values()] == [
            array.tobytes() for array in other.inputs.values()
        ]
        np.testing.assert_array_equal(one.outputs["scaled"], other.outputs["scaled"])
    assert read_manifest(version).metrics == {"score": 0.5}
    kept = read_evaluation(version)
    assert kept is not None
    np.testing.assert_array_equal(kept.labels, zoo.ROWS.sum(axis=1))
    (original / "variables/variables.index").write_bytes(b"")
    assert "variables/variables.index: got 0 bytes, expected" in project.run("build", f"x={original}").stderr


def test_lint_and_build_agree(project: Project, tmp_path: Path) -> None:
    kernel = tf.ones((3, 3, 1, 2))
    conv = found.saved(
        tmp_path / "conv",
        lambda inputs_0: {"maps": tf.nn.conv2d(inputs_0, kernel, 1, "SAME")},
        inputs_0=(tf.float32, [None, 4, 4, 1]),
    )
    linted = project.run("lint", str(conv))
    assert linted.returncode == 1
    finding = linted.stdout.splitlines()[1].strip()
    assert finding.startswith("[unchecked-rank] signature 'serving_default', input 'inputs_0': its rank is not checked")
    said = refusal(project, conv)
    assert said.splitlines()[0] == finding
    assert "`allow: [RULE]` in models.yaml accepts a broken rule" in said
    adopt(project, conv, "--allow", "unchecked-rank")


def test_what_no_request_can_carry_is_found_and_the_rest_is_served_when_that_is_allowed(
    project: Project, tmp_path: Path
) -> None:
    sparse = found.sparse(tmp_path / "sparse")
    finding = "[not-servable] signature 'serving_default', input 'values': it is a sparse tensor"
    assert finding in project.run("lint", str(sparse)).stdout
    assert refusal(project, sparse).startswith(finding)
    golden = read_golden(adopt(project, sparse, "--allow", "not-servable")).requests
    assert {request.signature for request in golden} == {"double"}


@pytest.mark.parametrize(
    ("tags", "told"), [(("train",), "['train']"), (("serve", "gpu"), "['gpu', 'serve']"), ((), "[]")]
)
def test_a_graph_with_other_tags_than_servers_load_is_told(
    project: Project, tmp_path: Path, tags: tuple[str, ...], told: str
) -> None:
    folder = found.tagged(tmp_path / "tagged", *tags)
    wanted = f"has no graph for serving: expected one with the tag 'serve' alone, got {told}"
    assert wanted in refusal(project, folder)
    assert wanted in project.run("lint", str(folder)).stderr


def link(folder: Path) -> None:
    (folder / "variables").rename(folder.parent / "elsewhere")
    (folder / "variables").symlink_to(folder.parent / "elsewhere")


def pipe(folder: Path) -> None:
    (folder / "assets").mkdir(exist_ok=True)
    os.mkfifo(folder / "assets/pipe")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda folder: (folder / "saved_model.pb").unlink(),
            "model/1 is not a SavedModel: it has no file saved_model.pb",
        ),
        (lambda folder: folder.rename(folder.parent / "2") and None, "2: it contains versions"),
        (
            lambda folder: (folder / "saved_model.pb").write_bytes(b"?"),
            "saved_model.pb is damaged, or it is not a SavedModel",
        ),
        (lambda folder: (folder / "variables/variables.index").unlink(), "can't be loaded in a session: "),
        (link, "variables is a link. Export a copy without links: cp -rL "),
        (pipe, "assets/pipe is not a regular file; a SavedModel contains only files and folders"),
    ],
    ids=["empty", "versions", "damaged", "no variables", "link", "pipe"],
)
def test_a_folder_that_is_no_savedmodel_to_copy_is_told(project, tf1, tmp_path, change, told) -> None:  # type: ignore[no-untyped-def]
    folder = Path(shutil.copytree(tf1, tmp_path / "model/1"))
    change(folder)
    if told.startswith("2"):
        said = refusal(project, folder.parent)
        assert said.endswith(f"it contains versions. Name one of them: {folder.parent / '2'}\n")
        return
    assert told in refusal(project, folder)


def test_more_files_than_a_manifest_lists_are_told(
    project: Project, tf1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied, "MOST_FILES", 3)
    assert "has more than 3 files; a manifest can't list more" in refusal(project, tf1)


def test_what_is_neither_a_builder_nor_a_named_folder_is_wrong_usage(project: Project, tf1: Path) -> None:
    done = project.run("build", "adopted=nowhere/here")
    assert done.returncode == 2
    assert "expected NAME=MODULE:FUNCTION, NAME=FOLDER with the folder of a SavedModel or " in done.stderr
    assert "NAME=models:/NAME/VERSION, got 'nowhere/here'" in done.stderr
    nameless = project.run("build", str(tf1))
    assert nameless.returncode == 2
    assert f"{tf1} is the folder of a SavedModel. Give it a name: NAME={tf1}" in nameless.stderr


def test_its_graph_stays_as_it_is(project: Project, tf1: Path) -> None:
    assert refusal(project, tf1, "--freeze").startswith(
        f"--freeze can't be used with the SavedModel {tf1}, which is served as it is."
    )


def test_a_lookup_that_says_less_of_its_shape_as_a_function_is_proven(project: Project, tmp_path: Path) -> None:
    golden = read_golden(adopt(project, found.lookup(tmp_path / "lookup"))).requests
    assert {number for request in golden for number in request.outputs["number"].tolist()} == {-1, 4}


def test_one_that_tensorflow_cannot_save_again_names_the_way_that_works(tf1: Path) -> None:
    with pytest.raises(BuilderError) as refused:
        load_existing(tf1)
    assert str(refused.value) == (
        f"{tf1} was written by TensorFlow 1, and TensorFlow can't save the contents of its VariableV2 (factor) again. "
        f"Write `saved_model: {tf1}` in models.yaml to serve it as it is."
    )


def test_manifests_say_a_builder_or_a_savedmodel(version: Path) -> None:
    said = json.loads((version / "assets.extra/manifest.json").read_text())
    assert "saved_model" not in said
    assert dict(links(Manifest.model_validate(said), "no", Use()))["builder"].startswith("zoo:scale, ")
