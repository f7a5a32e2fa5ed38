"""What `config --check` finds wrong with a fleet before anything starts."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.authority import Authority
from tests.serving.fleets import GOOD, fleet
from tfserving.cli import tfserving
from tfserving.foundation.messages import ModelServerConfig, PredictionLog
from tfserving.foundation.records import write_records
from tfserving.serving import threads
from tfserving.serving.docker.image_names import version_of
from tfserving.serving.embedded.release import KNOWN, minor
from tfserving.serving.lint import Problem, models_config_problems, problems
from tfserving.serving.models_yaml.server import TENSORFLOW_SERVING


def found(folder: Path, text: str, **how: Any) -> list[Problem]:
    read = fleet(folder, text, **how)
    return problems(read, read.select(()))


def errors(folder: Path, text: str, **how: Any) -> str:
    return "\n".join(str(problem) for problem in found(folder, text, **how) if not problem.warning)


def test_nothing_is_wrong_with_a_fleet_that_is_right(tmp_path: Path) -> None:
    assert found(tmp_path, GOOD) == []


def test_a_model_without_versions_is_named_with_what_to_do(tmp_path: Path) -> None:
    said = errors(tmp_path, GOOD, versions=0)
    assert "models.digits: model 'digits' has no version in" in said
    assert "export build digits --fleet" in said


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (
            "labels: {stable: 7}",
            "models.digits.labels: model 'digits': label 'stable' is for version 7, which is not in",
        ),
        (
            "labels: {old: 1}\n    versions: 2",
            "label 'old' is for version 1, which is not served, because of `versions: 2`. Served: 2, 3",
        ),
        ("labels: {old: 1}\n    versions: [2, 3]", "which is not served, because of `versions: [2, 3]`. Served: 2, 3"),
        ("versions: [2, 9]", "models.digits.versions: [9] is not in"),
    ],
)
def test_labels_and_versions_must_be_ones_that_are_kept(tmp_path: Path, model: str, problem: str) -> None:
    assert problem in errors(tmp_path, f"{GOOD}    {model}\n")


@pytest.mark.parametrize(
    ("batching", "problem"),
    [
        (
            "allowed_batch_sizes: [8, 4], max_batch_size: 8",
            "allowed_batch_sizes: got [8, 4], expected increasing",
        ),
        (
            "allowed_batch_sizes: [4, 8], max_batch_size: 16",
            "allowed_batch_sizes [4, 8] must end with the maximum, 16",
        ),
        (
            "max_batch_size: 8, enable_large_batch_splitting: true, max_execution_batch_size: 16",
            "max_execution_batch_size 16 is above max_batch_size 8",
        ),
    ],
)
def test_batching_parameters_must_fit_together(tmp_path: Path, batching: str, problem: str) -> None:
    assert f"server.batching: {problem}" in errors(tmp_path, f"{GOOD}server: {{batching: {{{batching}}}}}\n")


def test_batching_that_fits_is_right(tmp_path: Path) -> None:
    batching = "{allowed_batch_sizes: [4, 16], max_batch_size: 64, enable_large_batch_splitting: true, "
    assert found(tmp_path, f"{GOOD}server: {{batching: {batching}max_execution_batch_size: 16}}}}\n") == []


def test_the_three_parallelism_flags_contradict_one_another(tmp_path: Path) -> None:
    flags = ", ".join(f"tensorflow_{name}_parallelism: 2" for name in ("session", "intra_op", "inter_op"))
    assert "are all set" in errors(tmp_path, f"{GOOD}server: {{flags: {{{flags}}}}}\n")


def test_a_version_without_warm_up_is_a_warning(tmp_path: Path) -> None:
    (warning,) = found(tmp_path, GOOD, warm=False)
    assert warning.warning
    assert str(warning).startswith("Warning: models.digits: version 3 has no warm-up requests")


def test_a_warm_up_request_must_fit_a_batch(tmp_path: Path) -> None:
    text = f"{GOOD}server: {{batching: {{max_batch_size: 16}}}}\n"
    read = fleet(tmp_path, text)
    log = PredictionLog()
    log.predict_log.request.inputs["x"].tensor_shape.dim.add(size=17)
    warmup = tmp_path / "models/digits/3/assets.extra/tf_serving_warmup_requests"
    write_records(warmup, [log.SerializeToString()])
    (problem,) = problems(read, ("digits",))
    assert str(problem) == (
        "models.digits: version 3 has a warm-up request of 17 rows, but max_batch_size is 16. Raise it"
    )
    # It is the limit of a request, split or not: ValidateBatchTaskQueueCapacity in shared_batch_scheduler.h.
    assert "has a warm-up request of 17 rows" in errors(
        tmp_path, text.replace("}}", ", enable_large_batch_splitting: true}}")
    )
    assert errors(tmp_path, text.replace("16", "17")) == ""
    warmup.write_bytes(warmup.read_bytes()[:-1])
    assert "version 3: the warm-up requests can't be read: " in errors(tmp_path, text)


def test_two_versions_must_fit_the_memory_limit(tmp_path: Path) -> None:
    text = f"{GOOD}server: {{memory: 400m}}\n"
    read = fleet(tmp_path, text)
    with (tmp_path / "models/digits/3/variables").open("wb") as file:
        file.truncate(20 << 20)
    assert problems(read, ("digits",)) == []
    with (tmp_path / "models/digits/3/variables").open("wb") as file:
        file.truncate(30 << 20)
    (problem,) = problems(read, ("digits",))
    assert str(problem).startswith("server.memory: got 400 MiB, expected at least 410 MiB: the server needs about ")
    assert str(problem).endswith("The largest model is 'digits' with 60 MiB")


def test_tls_files_must_be_there_and_belong_together(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "utf16.pem").write_bytes(authority.text("ca.pem").encode("utf-16"))
    os.mkfifo(tmp_path / "pipe.pem")
    with (tmp_path / "large.pem").open("wb") as file:
        file.truncate(2 << 20)
    for files, problem in (
        ("certificate: server.pem, key: server.key, client_ca: ca.pem", ""),
        ("certificate: server.pem, key: nothing.key", f"server.tls.key: {tmp_path}/nothing.key: No such file"),
        ("certificate: server.pem, key: client.key", "do not match: key values mismatch"),
        ("certificate: server.pem, key: server.key, client_ca: empty.pem", "empty.pem contains no certificates"),
        ("certificate: server.pem, key: server.key, client_ca: utf16.pem", "utf16.pem contains no certificates"),
        ("certificate: utf16.pem, key: server.key", "utf16.pem and"),
        ("certificate: pipe.pem, key: server.key", "server.tls.certificate: "),
        ("certificate: server.pem, key: large.pem", "large.pem: it has more than 1048576 bytes"),
        ("certificate: server.pem, key: server.key, verify_clients: true", "verify_clients needs client_ca"),
    ):
        said = errors(tmp_path, f"{GOOD}server: {{tls: {{{files}}}}}\n")
        assert problem in said
        assert bool(problem) == bool(said)
        assert authority.text("server.key").splitlines()[1] not in said


def test_the_image_is_the_release_whose_messages_the_toolkit_speaks() -> None:
    assert minor(version("tensorflow-serving-api")) == minor(TENSORFLOW_SERVING)
    assert minor(TENSORFLOW_SERVING) in KNOWN


@pytest.mark.parametrize(
    ("server", "warning"),
    [
        ("image: 'tensorflow/serving:2.19.1'", "tensorflow/serving:2.19.1 is TensorFlow Serving 2.19.1, but this"),
        (f"image: 'tensorflow/serving:2.21.0@sha256:{64 * '0'}'", ""),
        ("image: 'tensorflow/serving:2.22.0-rc0-gpu'", "is TensorFlow Serving 2.22.0-rc0, but this toolkit"),
        ("image: 'registry:5000/mine'", ""),
    ],
)
def test_an_image_of_another_release_is_a_warning(tmp_path: Path, server: str, warning: str) -> None:
    said = "\n".join(map(str, found(tmp_path, f"{GOOD}server: {{{server}}}\n")))
    assert warning in said
    assert bool(warning) == bool(said)


def test_an_export_by_a_newer_tensorflow_than_the_images_is_a_warning(tmp_path: Path) -> None:
    fleet(tmp_path)
    manifest = {"provenance": {"packages": {"tensorflow": "2.22.0"}}}
    (tmp_path / "models/digits/3/assets.extra/manifest.json").write_text(json.dumps(manifest))
    (warning,) = found(tmp_path, GOOD)
    text = "version 3 was exported with TensorFlow 2.22.0, which is newer than tensorflow/serving:2.21.0"
    assert text in str(warning)
    assert warning.warning


def test_a_signature_without_a_batch_is_not_for_tensorflow_serving_with_batching(tmp_path: Path) -> None:
    fleet(tmp_path)
    version = tmp_path / "models/digits/3"
    (version / "assets.extra/manifest.json").write_text(json.dumps({"unbatched": ["name"]}))
    text = f"{GOOD}server: {{batching: {{}}}}\n"
    said = errors(tmp_path, text)
    assert "models.digits: version 3 has no batch dimension (signature 'name'), so TensorFlow Serving with" in said
    assert said.endswith("Serve it from a fleet without server.batching, or on the embedded server")
    assert not errors(tmp_path, GOOD)
    assert not errors(tmp_path, f"{GOOD}server: {{batching: {{}}, image: 'serving-embedded:1'}}\n")
    read = fleet(tmp_path, text)
    assert [problem.warning for problem in problems(read, ("digits",), container=False)] == [True]
    assert problems(read, ("digits",), container=False, engine="embedded") == []
    assert not problems(read, ("digits",), container=False, engine="native")[0].warning
    # What isn't batched may be longer than a batch: a recording.
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "name"
    log.predict_log.request.inputs["sound"].tensor_shape.dim.add(size=16_000)
    write_records(version / "assets.extra/tf_serving_warmup_requests", [log.SerializeToString()])
    assert not errors(tmp_path, f"{GOOD}server: {{batching: {{}}, image: 'serving-embedded:1'}}\n")
    # With that flag only versions with parameters of their own are batched.
    text = f"{GOOD}server: {{batching: {{}}, flags: {{enable_per_model_batching_parameters: true}}}}\n"
    assert not errors(tmp_path, text)
    (version / "batching_params.pbtxt").touch()
    assert "Remove batching_params.pbtxt from the version" in errors(tmp_path, text)


@pytest.mark.parametrize("key", ["grpc_max_threads", "rest_api_num_threads"])
def test_too_few_threads_are_a_warning(tmp_path: Path, key: str) -> None:
    (warning,) = found(tmp_path, f"{GOOD}server: {{{key}: 16}}\n")
    assert warning.where == f"server.{key}"
    assert "Set at least 64" in warning.text
    assert warning.warning
    assert found(tmp_path, f"{GOOD}server: {{{key}: 64}}\n") == []


def test_threads_of_versions_that_load_fit_into_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow Serving aborts when it can't make one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    models = "".join(f"  m{number}: {{builder: 'm:b'}}\n" for number in range(10))
    text = f"models:\n{models}server: {{pids: 2048}}\n"
    needed = 8 * 256 + 1024 + 256 + 2 * 16 + 128
    assert f"server.pids: got 2048, expected at least {needed}: the server creates up to {needed}" in errors(
        tmp_path, text
    )
    assert found(tmp_path, text.replace("2048", str(needed))) == []
    read = fleet(tmp_path, text.replace("pids: 2048", ""))
    assert threads.pids(read, read.select(())) == 4096
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert threads.pids(read, read.select(())) == 10 * 256 + 1024 + 256 + 64 * 16 + 128
    assert found(tmp_path, f"{GOOD}server: {{pids: 512, image: 'serving-embedded:1'}}\n") == []


@pytest.mark.parametrize(
    ("exported", "image", "newer"),
    [
        ("2.22.0-rc0", "2.21.0", True),
        ("2.22.0rc0", "2.21.0", True),
        ("2.22.0", "2.22.0-rc0", False),
        ("2.22.0-rc0", "2.22.0-rc0-gpu", False),
        ("2.21.0", "2.22.0-rc0", False),
        ("2.23.0", "2.22.0-rc0", True),
    ],
)
def test_release_candidates_are_compared_by_their_minor_version(
    tmp_path: Path, exported: str, image: str, newer: bool
) -> None:
    fleet(tmp_path)
    manifest = {"provenance": {"packages": {"tensorflow": exported}}}
    (tmp_path / "models/digits/3/assets.extra/manifest.json").write_text(json.dumps(manifest))
    said = "\n".join(map(str, found(tmp_path, f"{GOOD}server: {{image: 'tensorflow/serving:{image}'}}\n")))
    text = f"version 3 was exported with TensorFlow {exported}, which is newer than tensorflow/serving:{image}"
    assert (text in said) is newer


@pytest.mark.parametrize(
    ("image", "labels", "release"),
    [
        ("tensorflow/serving:2.22.0-rc0", {}, "2.22.0-rc0"),
        ("tensorflow/serving:2.20.0-devel-gpu", {}, "2.20.0"),
        ("registry:5000/serving:2.21", {}, "2.21"),
        ("tensorflow/serving:latest", {}, None),
        ("tensorflow/serving:nightly", {"tensorflow_serving_github_branchtag": "2.22.0-rc0"}, "2.22.0-rc0"),
        ("mine", {"tensorflow_serving_github_branchtag": "r2.20"}, "2.20"),
        ("serving-embedded:1", {"tensorflow.version": "2.22.0rc0"}, "2.22.0rc0"),
    ],
)
def test_an_images_labels_or_its_tag_have_the_release(image: str, labels: dict[str, str], release: str | None) -> None:
    assert version_of(image, labels) == release


@pytest.mark.parametrize(
    ("image", "better"),
    [
        ("tensorflow/serving:2.21.0", "tensorflow/serving:2.21.0-gpu"),
        ("docker.io/tensorflow/serving:latest", "docker.io/tensorflow/serving:latest-gpu"),
        (f"tensorflow/serving:2.21.0@sha256:{64 * '0'}", "tensorflow/serving:2.21.0-gpu"),
        ("serving-embedded:2.21.0", "serving-embedded:2.21.0-gpu"),
        ("registry:5000/team/serving-embedded:1", "registry:5000/team/serving-embedded:1-gpu"),
        ("tensorflow/serving:2.21.0-gpu", None),
        ("tensorflow/serving:2.21.0-devel-gpu", None),
        ("serving-embedded:2.21.0-gpu", None),
        # A name that doesn't tell.
        (f"serving-embedded@sha256:{64 * '0'}", None),
        ("registry:5000/mine:1", None),
    ],
)
def test_gpus_need_an_image_that_has_them(tmp_path: Path, image: str, better: str | None) -> None:
    said = errors(tmp_path, f"{GOOD}server: {{gpus: 1, image: '{image}'}}\n")
    if better:
        assert said == f"server.image: {image} has no GPU support, which server.gpus needs. Use {better}"
    else:
        assert not said
    assert found(tmp_path, f"{GOOD}server: {{gpus: 1}}\n") == []


def test_a_container_sees_only_what_lies_in_the_models_folder(tmp_path: Path) -> None:
    fleet(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(tmp_path / "models/digits/3", elsewhere)
    (tmp_path / "models/digits/3").symlink_to(elsewhere)
    assert f"models/digits/3 is a link to {elsewhere}, outside of {tmp_path}/models" in errors(tmp_path, GOOD)


@pytest.mark.skipif(os.getuid() != 0, reason="whom a container runs as differs only where the tests run as root")
def test_what_the_containers_user_cannot_read_is_named(tmp_path: Path) -> None:
    fleet(tmp_path)
    (tmp_path / "models/digits/3/assets.extra").chmod(0o700)
    said = errors(tmp_path, GOOD)
    assert "the container's user, who isn't root, can't read" in said
    assert "models/digits/3/assets.extra. Run `chmod -R a+rX " in said


def test_a_model_config_list_has_a_name_once_and_absolute_paths() -> None:
    config = ModelServerConfig()
    for _ in range(2):
        config.model_config_list.config.add(name="m", base_path="models/m")
    said = [str(problem) for problem in models_config_problems(config)]
    assert said[0] == "models.config: m: got base_path 'models/m', expected an absolute path"
    assert said[1] == "models.config: m: this name appears twice"


def test_the_command_exits_with_2_for_errors_and_0_for_warnings(tmp_path: Path) -> None:
    def check(*words: str) -> Result:
        return CliRunner().invoke(tfserving, ["config", "--check", "--fleet", str(tmp_path / "models.yaml"), *words])

    fleet(tmp_path, warm=False)
    done = check()
    assert done.exit_code == 0
    assert done.stdout.startswith("Warning: ")
    assert "models.yaml: no errors for digits." in done.stderr
    fleet(tmp_path, f"{GOOD}    labels: {{previous: 9}}\n", warm=False)
    done = check("--json")
    assert done.exit_code == 2
    said = json.loads(done.stdout)["problems"]
    assert [(one["where"], one["warning"]) for one in said] == [
        ("models.digits.labels", False),
        ("models.digits", True),
    ]
