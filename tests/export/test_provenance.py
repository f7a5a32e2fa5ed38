"""The provenance of a version: what an export records, how versions differ in it, and the chain that it begins."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import socket
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import tfserving
from tests.export import zoo
from tests.export.conftest import Project, export_to, make_project
from tests.export.repositories import commit, git
from tests.signed import make_key, sign_with, tiny_version
from tfserving.export.differences import diff_versions
from tfserving.export.manifest import ManifestError, read_manifest
from tfserving.export.provenance import Provenance, SourceCommit
from tfserving.foundation.manifest import MANIFEST, read_manifest_file
from tfserving.foundation.trust import Trust, TrustError, accept
from tfserving.foundation.version_files import VersionError, judge

BUILDER = """\
import helpers
import zoo
from dataclasses import replace
from pathlib import Path
from tfserving.export.training_data import digest_of


def build():
    return replace(zoo.scale(), training_data={"rows": digest_of(Path("data")), "labels": "git:" + 40 * "a"})
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in a folder of a repository, with version 1 of its commit."""
    top = tmp_path_factory.mktemp("repository")
    (top / "team").mkdir()
    project = make_project(top / "team")
    (project.folder / "trained.py").write_text(BUILDER)
    (project.folder / "helpers.py").write_text("")
    (project.folder / "data").mkdir()
    (project.folder / "data/rows.csv").write_text("1,2\n")
    (project.folder / "models.yaml").write_text("models: {scale: {builder: 'trained:build', labels: {stable: 1}}}\n")
    (top / ".gitignore").write_text("models/\n")
    commit(top)
    git(top, "remote", "add", "origin", "https://me:hunter2@example.com/team/models.git")
    export(project)
    return project


def export(project: Project, *options: str) -> Provenance:
    """The provenance of a new version."""
    done = project.run("build", "scale", *options, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["models"]
    return read_manifest(Path(result["path"])).provenance


def made(project: Project, number: int) -> Provenance:
    return read_manifest(project.folder / f"models/scale/{number}").provenance


def test_the_commit_the_builder_and_the_data_are_recorded(project: Project) -> None:
    found = made(project, 1)
    assert found.source is not None
    assert found.source.model_dump() == {
        "repository": "https://example.com/team/models.git",
        "commit": git(project.folder, "rev-parse", "HEAD"),
        "dirty": False,
        "path": "team",
    }
    assert found.builder_file is not None
    assert found.builder_file.path == "team/trained.py"
    # Anybody can compare it with the commit.
    there = git(project.folder, "show", f"{found.source.commit}:{found.builder_file.path}") + "\n"
    assert found.builder_file.sha256 == hashlib.sha256(there.encode()).hexdigest()
    rows = hashlib.sha256(f"{hashlib.sha256(b'1,2' + bytes([10])).hexdigest()}  rows.csv\n".encode()).hexdigest()
    assert found.training_data == {"rows": f"dirHash:{rows}", "labels": "git:" + 40 * "a"}


def test_packages_python_and_platform_are_recorded(project: Project) -> None:
    found = made(project, 1)
    assert (found.toolkit, found.python) == (tfserving.__version__, platform.python_version())
    for name in ("tensorflow", "keras", "numpy", "protobuf", "pydantic"):
        assert found.packages[name] == installed(name)
    assert "tfserving" not in found.packages
    # It is installed here, and no export imports it.
    assert installed("ruff")
    assert "ruff" not in found.packages
    assert list(found.packages) == sorted(found.packages)
    assert (found.platform.system, found.platform.machine) == (platform.system(), platform.machine())
    assert timedelta(0) <= datetime.now(timezone.utc) - found.started < timedelta(hours=1)
    read = read_manifest_file(project.folder / "models/scale/1" / MANIFEST)
    assert read.tensorflow() == installed("tensorflow")


def test_attack_no_secret_user_host_or_home_is_in_a_manifest(project: Project) -> None:
    text = (project.folder / "models/scale/1" / MANIFEST).read_text()
    for secret in ("hunter2", "me:", socket.gethostname(), str(Path.home()), str(project.folder), sys.prefix):
        assert secret not in text
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)


@pytest.mark.parametrize(
    ("name", "content", "dirty"),
    [
        ("helpers.py", "CHANGED = 1\n", True),
        ("../other.txt", "in the repository\n", True),
        ("notes.py", "imported by nobody\n", False),
        ("models.yaml", None, False),
    ],
    ids=["a module", "another file", "an untracked file", "nothing"],
)
def test_a_source_is_dirty_when_the_commit_alone_does_not_make_the_version(
    project: Project, name: str, content: str | None, dirty: bool
) -> None:
    if name == "../other.txt" and not (project.folder / name).exists():
        (project.folder / name).write_text("committed\n")
        git(project.folder, "add", name)
        git(project.folder, "commit", "--quiet", "--message", "other")
    before = (project.folder / name).read_text() if (project.folder / name).exists() else None
    if content is not None:
        (project.folder / name).write_text(content)
    try:
        found = export(project).source
    finally:
        if before is None:
            (project.folder / name).unlink()
        else:
            (project.folder / name).write_text(before)
    assert found is not None
    assert (found.dirty, found.commit) == (dirty, git(project.folder, "rev-parse", "HEAD"))


@pytest.mark.parametrize("ignored", [False, True])
def test_a_module_that_the_repository_lacks_makes_it_dirty(project: Project, ignored: bool) -> None:
    extra = project.folder / "models/extra.py" if ignored else project.folder / "extra.py"
    extra.write_text("")
    (project.folder / "trained.py").write_text(f"import {'models.' if ignored else ''}extra\n{BUILDER}")
    commit_of_it = git(project.folder, "commit", "--quiet", "--message", "imports", "trained.py")
    try:
        found = export(project).source
    finally:
        extra.unlink()
        (project.folder / "trained.py").write_text(BUILDER)
        git(project.folder, "commit", "--quiet", "--message", "as before", "trained.py")
    assert commit_of_it == ""
    assert found is not None
    assert found.dirty


def test_the_same_content_of_another_commit_is_the_same_version(project: Project) -> None:
    export(project)
    newest = max(int(path.name) for path in (project.folder / "models/scale").iterdir())
    (project.folder / "README").write_text("another commit\n")
    commit(project.folder.parent)
    done = project.run("build", "scale", "--if-changed", "--json")
    (result,) = json.loads(done.stdout)["models"]
    assert (result["status"], result["version"]) == ("unchanged", newest)
    # It is from the commit that made it.
    source = made(project, newest).source
    assert source is not None
    assert source.commit != git(project.folder, "rev-parse", "HEAD")
    # Without the option there is one of this commit, and the difference is that.
    after = export(project)
    (change,) = diff_versions(
        project.folder / f"models/scale/{newest}", project.folder / f"models/scale/{newest + 1}"
    ).provenance
    assert after.source is not None
    assert (change.what, change.old, change.new) == ("commit", source.commit, after.source.commit)


def test_two_exports_of_one_commit_differ_in_number_and_times_only(project: Project) -> None:
    export(project)
    export(project)
    two = sorted(int(path.name) for path in (project.folder / "models/scale").iterdir())[-2:]
    texts = []
    for number in two:
        content = json.loads((project.folder / f"models/scale/{number}" / MANIFEST).read_text())
        for name in ("version", "created", "digest", "files"):
            content.pop(name)
        content["provenance"].pop("started")
        texts.append(content)
    assert texts[0] == texts[1]


def test_without_git_an_export_records_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(tmp_path)
    commit(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = export(project)
    assert found.source is None
    assert found.builder_file is not None
    assert found.builder_file.path == "zoo.py"
    assert found.training_data == {}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_repository_that_git_refuses_is_reported_and_not_recorded(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    commit(tmp_path)
    for path in (tmp_path, tmp_path / ".git"):
        os.chown(path, 12345, -1)
    done = project.run("build", "scale")
    assert done.returncode == 0, done.stderr
    assert "scale: the source commit is not recorded: detected dubious ownership" in done.stderr
    assert made(project, 1).source is None


def test_a_saved_model_is_of_the_commit_of_models_yaml_and_keeps_the_data_of_a_version(project: Project) -> None:
    done = project.run("build", "again=models/scale/1")
    assert done.returncode == 0, done.stderr
    found = read_manifest(project.folder / "models/again/1").provenance
    assert found.source is not None
    assert (found.source.path, found.builder_file) == ("team", None)
    assert found.training_data == made(project, 1).training_data


def test_attack_no_part_of_the_provenance_can_be_changed_unnoticed(copied: Path) -> None:
    lines = (copied / MANIFEST).read_text().splitlines(keepends=True)
    begin, end = lines.index('  "provenance": {\n'), lines.index("  },\n", lines.index('  "provenance": {\n'))
    values = [number for number in range(begin, end) if re.search(r'": ("|true|false|null)', lines[number])]
    assert len(values) > 40
    for number in values:
        line = lines[number]
        other = re.sub(r"(\w)(\"?,?\n)$", lambda found: ("1" if found[1] == "0" else "0") + found[2], line)
        assert other != line
        (copied / MANIFEST).write_text("".join([*lines[:number], other, *lines[number + 1 :]]))
        with pytest.raises(VersionError):
            judge(copied)
        with pytest.raises(ManifestError):
            read_manifest(copied)


def test_attack_another_commit_with_a_new_digest_is_not_what_was_signed(tmp_path: Path) -> None:
    key, public = make_key(tmp_path, "team")
    trust = Trust(keys=(public,))
    version = sign_with(tiny_version(tmp_path), key)
    digest = accept(version, "scaled", 1, trust).digest
    manifest = read_manifest(version)
    source = SourceCommit(repository="https://example.com/good", commit=40 * "a", dirty=False, path=".")
    better = manifest.provenance.model_copy(update={"source": source})
    (version / MANIFEST).write_text(manifest.model_copy(update={"provenance": better}).text())
    # Without trust it is a version like any other, of another digest.
    assert accept(version, "scaled", 1, None).digest != digest
    with pytest.raises(TrustError):
        accept(version, "scaled", 1, trust)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("toolkit", "\x1b]0;title\x07"),
        ("python", "3\n12"),
        ("packages", {"a": "\x9b2J"}),
        ("packages", {"\r": "1"}),
        ("training_data", {"rows": "sha256:\n"}),
        ("training_data", {"x" * 300: "sha256:" + 64 * "0"}),
    ],
)
def test_attack_a_manifest_with_a_terminals_commands_is_refused(version: Path, name: str, value: object) -> None:
    content = read_manifest(version).provenance.model_dump() | {name: value}
    with pytest.raises(ValidationError):
        Provenance.model_validate(content)


def test_what_changed_of_the_provenance_is_printed(tmp_path: Path, version: Path) -> None:
    def other() -> Any:
        return replace(zoo.scale(), training_data={"rows": 64 * "0"})

    path = export_to(tmp_path / "models/model", other).path
    manifest = read_manifest(path)
    packages = {**manifest.provenance.packages, "tensorflow": "2.99.0", "mine": "1.0"}
    (path / MANIFEST).write_text(
        manifest.model_copy(update={"provenance": manifest.provenance.model_copy(update={"packages": packages})}).text()
    )
    diff = diff_versions(version, path)
    found = {change.what: (change.old, change.new) for change in diff.provenance}
    assert found["data rows"] == (None, f"sha256:{64 * '0'}")
    assert found["package mine"] == (None, "1.0")
    assert found["package tensorflow"] == (installed("tensorflow"), "2.99.0")
    assert "package numpy" not in found
    assert diff.as_json()["provenance"][-1]["what"] == diff.provenance[-1].what
    assert diff_versions(path, path).provenance == ()


def test_inspect_shows_the_chain_from_the_commit_to_the_labels(project: Project) -> None:
    done = project.run("inspect", "scale/1")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(project.folder / "models/scale/1")
    source, file = manifest.provenance.source, manifest.provenance.builder_file
    assert source is not None
    assert file is not None
    lines = [
        rf"commit +{source.commit} of https://example\.com/team/models\.git, folder team",
        rf"builder +trained:build, team/trained\.py, sha256:{file.sha256}",
        rf"training data +labels, git:{40 * 'a'}",
        rf"training data +rows, {manifest.provenance.training_data['rows']}",
        r"exported +\d{4}-\S+ with tfserving \S+, Python \S+, tensorflow \S+, keras \S+ and \d+ more packages, on .+",
        rf"manifest +sha256:{manifest.digest}",
        r"signed +no",
        r"labels +stable",
    ]
    assert re.search("\n".join(rf" *{line} *" for line in lines), done.stdout), done.stdout
    shown = json.loads(project.run("inspect", "scale/1", "--json").stdout)
    assert (shown["labels"], shown["served"]) == (["stable"], None)
    assert shown["manifest"]["provenance"]["source"]["commit"] == source.commit


def test_a_server_that_cannot_be_reached_is_an_error_of_its_own(project: Project) -> None:
    done = project.run("inspect", "scale/1", "--server", "grpc://127.0.0.1:9")
    assert done.returncode == 3
    assert "cannot list the versions on grpc://127.0.0.1:9" in done.stderr
