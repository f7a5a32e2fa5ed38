from __future__ import annotations

from pathlib import Path

import pytest

from tfserving.serving.embedded.core.model_config import Model, VersionPolicy, read_config, single_model
from tfserving.serving.embedded.errors import StartError


def written(folder: Path, text: str) -> Path:
    path = folder / "models.config"
    path.write_text(text)
    return path


def one(folder: Path, more: str = "", name: str = "m", base_path: str = "/models/m") -> Path:
    entry = f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" {more} }}'
    return written(folder, f"model_config_list {{ {entry} }}")


@pytest.mark.parametrize(
    ("more", "policy", "chosen"),
    [
        ("", VersionPolicy(), [9]),
        ("model_version_policy { latest { num_versions: 2 } }", VersionPolicy(latest=2), [5, 9]),
        ("model_version_policy { latest { num_versions: 0 } }", VersionPolicy(latest=1), [9]),
        ("model_version_policy { all {} }", VersionPolicy(latest=None), [1, 2, 5, 9]),
        (
            "model_version_policy { specific { versions: 2 versions: 77 } }",
            VersionPolicy(latest=None, specific=(2, 77)),
            [2],
        ),
    ],
)
def test_a_policy_says_which_versions_are_served(
    tmp_path: Path, more: str, policy: VersionPolicy, chosen: list[int]
) -> None:
    (model,) = read_config(one(tmp_path, more))

    assert model.policy == policy
    assert model.policy.choose([1, 2, 5, 9]) == chosen


def test_labels_name_versions(tmp_path: Path) -> None:
    (model,) = read_config(one(tmp_path, 'version_labels { key: "stable" value: 4 }'))

    assert model == Model("m", Path("/models/m"), VersionPolicy(), {"stable": 4})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("model_config_list { config { nam", "Invalid protobuf file: '{path}'; line 1, column 30: "),
        ("", "contains no model_config_list"),
        (
            'model_config_list { config { name: "a" base_path: "a" model_platform: "tensorflow" } }',
            "Expected model a to have an absolute path or URI; got base_path()=a",
        ),
        ('model_config_list { config { name: "a" } }', "Expected model a to have an absolute path or URI"),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } '
            'config { name: "a" base_path: "/b" model_platform: "tensorflow" } }',
            "two models are called 'a'",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "onnx" } }',
            "Model a requests unsupported platform onnx; model 'a' requires model_platform: 'tensorflow'",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_type: OTHER } }',
            "ModelServerConfig::model_type choice 2 not supported.; model 'a' requires model_platform: 'tensorflow'",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_type: TENSORFLOW model_platform: "x" } }',
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform.",
        ),
        # Names and base paths come first, of all models.
        (
            'model_config_list { config { name: "a" base_path: "/a" } config { name: "b" base_path: "b" } }',
            "Expected model b to have an absolute path or URI; got base_path()=b",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" } }',
            "model 'a' requires model_platform: 'tensorflow'",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" '
            "model_version_policy { specific {} } } }",
            "model_version_policy is specific, but names no version",
        ),
    ],
)
def test_a_configuration_that_says_nonsense_is_refused(tmp_path: Path, text: str, error: str) -> None:
    path = written(tmp_path, text)

    with pytest.raises(StartError) as failure:
        read_config(path)

    assert str(failure.value).startswith(f"--model_config_file={path}: ")
    assert error.replace("{path}", str(path)) in str(failure.value)


def test_the_deprecated_type_may_name_the_platform(tmp_path: Path) -> None:
    path = written(tmp_path, 'model_config_list { config { name: "m" base_path: "/m" model_type: TENSORFLOW } }')
    assert read_config(path) == (Model("m", Path("/m")),)


def test_a_model_that_is_served_keeps_its_platform(tmp_path: Path) -> None:
    """It is refused before one that is new."""
    entries = "".join(
        f'config {{ name: "{name}" base_path: "/m" model_platform: "{platform}" }}'
        for name, platform in (("new", "onnx"), ("m", "torch"))
    )
    path = written(tmp_path, f"model_config_list {{ {entries} }}")
    with pytest.raises(StartError, match="Model new requests unsupported platform onnx"):
        read_config(path)
    changed = (
        "Illegal to change a model's platform. For model m platform was tensorflow and new platform requested is torch"
    )
    with pytest.raises(StartError, match=changed):
        read_config(path, {"m"})


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("", "model name '' can't be used: it is empty"),
        (r"a\033[31m", r"model name 'a\x1b[31m' can't be used: it contains a character that can't be printed"),
        ("x" * 1_000_000, f"model name '{'x' * 300}…' can't be used: it has 1000000 characters; at most 255"),
    ],
    ids=("empty", "escape", "long"),
)
def test_a_name_that_no_log_and_no_metric_can_carry_is_refused(tmp_path: Path, name: str, trouble: str) -> None:
    with pytest.raises(StartError) as failure:
        read_config(one(tmp_path, name=name))
    assert trouble in str(failure.value)
    with pytest.raises(StartError, match="label name '' can't be used"):
        read_config(one(tmp_path, 'version_labels { key: "" value: 1 }'))


@pytest.mark.parametrize("uri", ["file:///models/m", "file://localhost/models/m", "FILE:///models/m"])
def test_a_base_path_may_be_a_uri_of_a_file(tmp_path: Path, uri: str) -> None:
    (model,) = read_config(one(tmp_path, base_path=uri))

    assert model.base_path == single_model("m", uri).base_path == Path("/models/m")


@pytest.mark.parametrize("uri", ["s3://bucket/m", "gs://bucket/m", "hdfs://host:9000/m"])
def test_a_uri_of_something_else_is_refused_with_what_to_do(tmp_path: Path, uri: str) -> None:
    error = (
        f"File system scheme '{uri.partition(':')[0]}' not implemented (file: '{uri}'); this server reads only local"
    )
    with pytest.raises(StartError) as in_file:
        read_config(one(tmp_path, base_path=uri))
    with pytest.raises(StartError) as in_flag:
        single_model("m", uri)

    assert str(in_file.value).startswith(f"--model_config_file={tmp_path}/models.config: {error}")
    assert str(in_flag.value).startswith(f"--model_base_path={uri}: {error}")
    assert "tfserving export publish" in str(in_flag.value)


@pytest.mark.parametrize("path", ["file://models", "/a\\000b", "/" + "x" * 5000])
def test_a_base_path_that_no_folder_can_have_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(StartError, match=r"Expected model m to have an absolute path|can't be the path of a folder"):
        read_config(one(tmp_path, base_path=path))


def test_a_relative_base_path_is_answered_with_the_absolute_one() -> None:
    with pytest.raises(StartError, match=f"must be absolute. Did you mean {Path.cwd()}/models/m"):
        single_model("m", "models/m")


def test_a_name_of_the_command_line_is_checked_too() -> None:
    with pytest.raises(StartError, match="--model_name: model name '' can't be used"):
        single_model("", "/models/m")
