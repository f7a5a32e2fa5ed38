"""The commit of a folder: what is recorded of a repository, and that nothing of it is run."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.repositories import commit, git
from tfserving.export.git import Checkout, GitError, address, checkout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two files, one in a folder."""
    folder = tmp_path / "repository"
    (folder / "train").mkdir(parents=True)
    (folder / "models.yaml").write_text("models: {}\n")
    (folder / "train/spam.py").write_text("RATE = 1\n")
    commit(folder)
    return folder


def read(folder: Path) -> Checkout:
    found = checkout(folder)
    assert found is not None
    return found


def test_a_folder_has_the_commit_that_is_checked_out(repository: Path) -> None:
    top = read(repository)
    assert top == Checkout(repository.resolve(), ".", git(repository, "rev-parse", "HEAD"), None, changed=False)
    assert read(repository / "train").path == "train"


def test_a_change_of_a_file_in_the_repository_shows_staged_or_not(repository: Path) -> None:
    (repository / "notes.txt").write_text("not in the repository\n")
    assert not read(repository).changed
    (repository / "train/spam.py").write_text("RATE = 2\n")
    assert read(repository).changed
    # Of another folder of it, too: code there may be imported.
    git(repository, "add", "train")
    assert read(repository).changed
    before = read(repository).commit
    commit(repository)
    assert (read(repository).changed, read(repository).commit == before) == (False, False)


def test_files_that_the_repository_does_not_contain_are_found_ignored_or_not(repository: Path) -> None:
    (repository / ".gitignore").write_text("made.py\n")
    commit(repository)
    for name in ("made.py", "new.py", "star*.py"):
        (repository / name).write_text("")
    files = [repository.resolve() / name for name in ("made.py", "new.py", "models.yaml", "train/spam.py", "star*.py")]
    assert read(repository).untracked(files) == ["made.py", "new.py", "star*.py"]
    assert read(repository).untracked([]) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://github.com/o/r.git", "https://github.com/o/r.git"),
        ("git@github.com:o/r.git", "ssh://github.com/o/r.git"),
        ("ssh://git@host:2222/o/r", "ssh://host:2222/o/r"),
        ("https://[2001:db8::1]/o/r", "https://[2001:db8::1]/o/r"),
        ("/home/me/r.git", None),
        ("../r.git", None),
        ("file:///home/me/r.git", None),
        ("C:/Users/me/r", None),
        ("ext::sh -c touch% x", None),
        ("codecommit::eu-west-1://profile@r", None),
        ("https://host/" + "x" * 600, None),
    ],
)
def test_the_address_of_a_repository_is_one_that_others_can_reach(url: str, expected: str | None) -> None:
    assert address(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@github.com/o/r.git",
        "https://hunter2@github.com/o/r.git",
        "https://me:hunter2%40x@github.com/o/r.git",
        "https://me:a@hunter2@github.com/o/r.git",
        "https://me:a/hunter2@github.com/o/r.git",
        "https://me:12/hunter2@github.com/o/r.git",
        "https://github.com/o/r.git?private_token=hunter2",
        "https://github.com/o/r.git#hunter2",
        "me:hunter2@github.com:o/r.git",
        "hunter2@github.com:o/r.git",
        "ssh://me:hunter2@host/r",
        "https://me:a\\hunter2@github.com/o/r.git",
    ],
)
def test_attack_no_password_of_a_repository_is_recorded(repository: Path, url: str) -> None:
    git(repository, "remote", "add", "origin", url)
    assert read(repository).repository in (
        None,
        "https://github.com/o/r.git",
        "ssh://github.com/o/r.git",
        "ssh://host/r",
    )
    assert "hunter2" not in repr(read(repository))


def test_the_remote_is_origin_or_the_only_one(repository: Path) -> None:
    git(repository, "remote", "add", "upstream", "https://host/upstream")
    assert read(repository).repository == "https://host/upstream"
    git(repository, "remote", "add", "fork", "https://host/fork")
    assert read(repository).repository is None
    git(repository, "remote", "add", "origin", "https://host/origin")
    assert read(repository).repository == "https://host/origin"


@pytest.fixture
def trap(tmp_path: Path) -> tuple[str, Path]:
    """A program, and the file that is there when it was run."""
    sprung, program = tmp_path / "sprung", tmp_path / "trap"
    program.write_text(f"#!/bin/sh\ntouch {sprung}\ncat 2>/dev/null\n")
    program.chmod(0o755)
    return str(program), sprung


def _monitor(repository: Path, program: str) -> None:
    git(repository, "config", "core.fsmonitor", program)


def _filter(repository: Path, program: str) -> None:
    (repository / ".gitattributes").write_text("* filter=Trap.x\n")
    git(repository, "add", ".gitattributes")
    git(repository, "commit", "--quiet", "--message", "attributes")
    git(repository, "config", "filter.Trap.x.clean", program)
    git(repository, "config", "filter.Trap.x.required", "true")


def _process(repository: Path, program: str) -> None:
    _filter(repository, program)
    git(repository, "config", "filter.Trap.x.process", program)
    # It breaks off a longer conversation with Git.
    git(repository, "config", "filter.Trap.x.required", "false")


def _included(repository: Path, program: str) -> None:
    _filter(repository, program)
    git(repository, "config", "--unset", "filter.Trap.x.clean")
    (repository / ".git/more").write_text(f'[filter "Trap.x"]\n\tclean = {program}\n')
    git(repository, "config", "include.path", "more")


def _hook(repository: Path, program: str) -> None:
    hook = repository / ".git/hooks/post-index-change"
    hook.parent.mkdir(exist_ok=True)
    shutil.copy(program, hook)


def _diff(repository: Path, program: str) -> None:
    (repository / ".gitattributes").write_text("* diff=trap\n")
    git(repository, "add", ".gitattributes")
    git(repository, "commit", "--quiet", "--message", "attributes")
    git(repository, "config", "diff.trap.textconv", program)
    git(repository, "config", "diff.external", program)


def _submodule(repository: Path, program: str) -> None:
    inner = repository.parent / "inner"
    inner.mkdir()
    (inner / "file").write_text("x")
    commit(inner)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "inner")
    git(repository, "commit", "--quiet", "--message", "submodule")
    _monitor(repository / "inner", program)


# What a plain `git status` runs. The others are for `git diff`, and for the day on which it is used.
STATUS = [_monitor, _filter, _process, _included, _hook, _submodule]


@pytest.mark.parametrize("attack", [*STATUS, _diff], ids=lambda attack: attack.__name__)
def test_attack_no_program_of_a_repositorys_configuration_is_run(
    repository: Path, trap: tuple[str, Path], attack: Callable[[Path, str], None]
) -> None:
    program, sprung = trap
    attack(repository, program)
    sprung.unlink(missing_ok=True)
    # Git compares the content of a file whose time is another one than in its index.
    os.utime(repository / "train/spam.py", (1, 1))
    found = read(repository)
    assert found.untracked([repository.resolve() / "train/spam.py"]) == []
    assert not found.changed
    assert not sprung.exists()
    if attack in STATUS:
        git(repository, "status")
        assert sprung.exists(), "the attack works where nothing is done against it"


def test_attack_a_bare_repository_among_the_files_is_not_read(repository: Path, trap: tuple[str, Path]) -> None:
    # A clone brings such a folder along, and Git would use the configuration in it.
    program, sprung = trap
    git(repository, "clone", "--quiet", "--bare", str(repository), "data")
    git(repository / "data", "config", "core.fsmonitor", program)
    git(repository / "data", "config", "core.bare", "false")
    git(repository / "data", "config", "core.worktree", str(repository))
    with pytest.raises(GitError, match=r"safe\.bareRepository"):
        checkout(repository / "data")
    assert not sprung.exists()


def test_attack_a_filter_that_cannot_be_turned_off_ends_the_look(repository: Path, trap: tuple[str, Path]) -> None:
    with (repository / ".git/config").open("a") as file:
        file.write(f'[filter "a=b"]\n\tclean = {trap[0]}\n')
    with pytest.raises(GitError, match="can't be turned off"):
        checkout(repository)
    assert not trap[1].exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_attack_a_repository_of_another_user_is_refused_unless_this_one_trusts_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (repository, repository / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(GitError, match="dubious ownership"):
        checkout(repository)
    for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", str(repository))):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert not read(repository).changed


def test_attack_the_environment_turns_nothing_on(
    repository: Path, trap: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("COUNT", "1"), ("KEY_0", "core.fsmonitor"), ("VALUE_0", trap[0])):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert not read(repository).changed
    assert not trap[1].exists()


def test_the_repository_of_a_hook_that_exports_is_not_taken_for_this_one(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert read(repository).commit == git(repository, "rev-parse", "HEAD")


def test_without_a_repository_a_commit_or_git_there_is_nothing_to_record(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkout(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert checkout(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout(repository) is None


def test_a_git_that_does_not_end_is_ended(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("tfserving.export.git.SECONDS", 0.2)
    with pytest.raises(GitError, match=r"`git rev-parse` did not end within 0\.2 s"):
        checkout(repository)
