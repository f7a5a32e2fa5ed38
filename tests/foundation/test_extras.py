"""What a message recommends to install names where the toolkit came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfserving.foundation.extras import how_to_install, missing_for_store, repository
from tfserving.init.project import project_files

GIT = {"vcs_info": {"vcs": "git", "commit_id": "abc"}}


def install(folder: Path, patch: pytest.MonkeyPatch, origin: dict[str, Any], *packages: str) -> None:
    """Has an environment with what an installer notes of the toolkit, and of other packages."""
    for name in ("tfserving", *packages):
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "direct_url.json").write_text(json.dumps(origin))
    patch.setattr("sys.path", [str(folder)])
    patch.setattr("sys.prefix", str(folder))


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///home/me/toolkit", "dir_info": {"editable": True}}, "pip install '/home/me/toolkit[k8s]'"),
        ({"url": "file:///home/my%20own/t.whl", "archive_info": {}}, "pip install '/home/my own/t.whl[k8s]'"),
        ({"url": "https://host/t", **GIT}, "pip install 'tfserving[k8s] @ git+https://host/t@abc'"),
        ({}, "pip install 'tfserving[k8s]'"),
    ],
    ids=["clone", "wheel", "repository", "index"],
)
def test_the_command_names_where_the_toolkit_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any], command: str
) -> None:
    install(tmp_path, monkeypatch, origin)
    assert how_to_install("k8s") == f"`{command}`"


@pytest.mark.parametrize(
    ("there", "asked", "named"), [("tensorflow-cpu", "export", "cpu"), ("tensorflow", "cpu", "export,serving")]
)
def test_no_command_brings_a_second_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, asked: str, named: str
) -> None:
    install(tmp_path, monkeypatch, {}, there)
    assert how_to_install(asked) == f"`pip install 'tfserving[{named}]'`"


@pytest.mark.parametrize(
    ("mark", "program"), [("uv-receipt.toml", "uv tool install"), ("pipx_metadata.json", "pipx install")]
)
def test_an_environment_of_a_tool_is_made_again_by_that_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, program: str
) -> None:
    install(tmp_path, monkeypatch, {"url": "file:///toolkit"})
    (tmp_path / mark).touch()
    assert how_to_install("k8s") == f"`{program} --force '/toolkit[all]'`"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("s3://bucket/x", "Install the extra 's3': `pip install 'tfserving[s3]'`."),
        ("az://bucket/x", "Install adlfs."),
        ("hdfs://x", "Install a file system of fsspec for hdfs://."),
    ],
)
def test_an_object_store_names_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, remedy: str
) -> None:
    install(tmp_path, monkeypatch, {})
    assert missing_for_store(url).endswith(f"needs a Python package that is not installed. {remedy}")


@pytest.mark.parametrize(
    ("origin", "named"),
    [
        ({"url": "https://host/t", **GIT}, "git+https://host/t@abc"),
        ({"url": "ssh://git@host/t", **GIT}, "git+ssh://git@host/t@abc"),
        ({"url": "ssh://me:secret@host/t", **GIT}, "${TFSERVING}"),
        ({"url": "https://token@host/t", **GIT}, "${TFSERVING}"),
        ({"url": "file:///home/me/toolkit", "dir_info": {}}, "${TFSERVING}"),
    ],
    ids=["https", "ssh", "password", "token", "clone"],
)
def test_the_requirements_of_a_new_project_have_no_path_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any], named: str
) -> None:
    install(tmp_path, monkeypatch, origin)
    assert f"\ntfserving[cpu] @ {named}\n" in project_files("function", "iris")["requirements.txt"]
    assert (repository() is None) == ("vcs_info" not in origin)
