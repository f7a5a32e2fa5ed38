"""With `trust`, what is served is a copy that was accepted: no change of the folder of models.yaml reaches a server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.serving.signed_versions import FILES, make_key, write_manifest, write_version
from tests.signed import sign_with
from tfserving.cli import tfserving
from tfserving.foundation.command.errors import CommandError
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE, read_manifest_file
from tfserving.k8s.rollout.plan import judged, plan
from tfserving.k8s.rollout.target import RolloutError
from tfserving.project import FoundProject
from tfserving.serving import admitted as store
from tfserving.serving import running, version_copies
from tfserving.serving.admitted import admitted, admitted_for, clean, note
from tfserving.serving.config import in_container, models_config
from tfserving.serving.config_messages import text
from tfserving.serving.engines import EngineError
from tfserving.serving.models_yaml.fleet import Fleet, read_fleet
from tfserving.serving.served import loaded

WEIGHTS = "variables/variables.data"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two keys, ours.pem and other.pem."""
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder, "ours")
    make_key(folder, "other")
    return folder


@pytest.fixture
def fleet(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A fleet that trusts ours.pub, with a signed version 1 of `digits`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_version(tmp_path / "models/digits/1", keys / "ours.key")
    trusting(tmp_path, keys / "ours.pub")
    yield read_fleet(tmp_path / "models.yaml")
    # Else this process, which is many commands, holds them until it ends.
    store.release()


def trusting(folder: Path, *keys: Path) -> Fleet:
    """models.yaml with these trusted keys."""
    listed = ", ".join(map(str, keys))
    (folder / "models.yaml").write_text(f"models: {{digits: {{builder: m:f}}}}\ntrust: {{keys: [{listed}]}}\n")
    return read_fleet(folder / "models.yaml")


def original(fleet: Fleet, version: int = 1) -> Path:
    return fleet.export_folder("digits") / str(version)


def copy_of(fleet: Fleet, version: int = 1) -> Path:
    """The copy that servers of `fleet` load, after every check of a command."""
    return admitted(fleet, {"digits": [version]}).model_folder("digits") / str(version)


def contents(version: Path) -> dict[str, bytes]:
    """The files that a server reads."""
    return {name: (version / name).read_bytes() for name in FILES}


def refusal(fleet: Fleet, version: int = 1) -> str:
    """The error of a command that would serve `version`."""
    with pytest.raises(EngineError) as caught:
        copy_of(fleet, version)
    return str(caught.value)


def serving(fleet: Fleet, *versions: int) -> None:
    """Writes the configuration of a server that serves these versions."""
    copied = fleet.with_copies(copy_of(fleet).parents[1], {"digits": versions})
    config = text(models_config(copied, ("digits",), in_container()))
    running.write_config(running.config_folder(fleet, "docker", 8500), {"models.config": config})


def test_a_server_loads_copies_whose_numbers_are_fixed(fleet: Fleet, keys: Path) -> None:
    write_version(original(fleet, 2), keys / "ours.key")
    copied = admitted_for(fleet, ("digits",))
    assert (copied.versions("digits"), copied.exported("digits")) == ([2], [1, 2])
    assert contents(copied.model_folder("digits") / "2") == FILES
    (model,) = models_config(copied, ("digits",), in_container()).model_config_list.config
    assert [*model.model_version_policy.specific.versions] == [2]
    # Another fleet, without `trust`, follows its folder.
    (model,) = models_config(fleet, ("digits",), in_container()).model_config_list.config
    assert not model.HasField("model_version_policy") or not model.model_version_policy.HasField("specific")


def test_the_copies_are_the_users_own_and_a_container_can_read_them(fleet: Fleet) -> None:
    copy = copy_of(fleet)
    assert {path.stat().st_mode & 0o777 for path in copy.rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in copy.rglob("*") if path.is_dir()} == {0o755}
    admitted_folder = copy.parents[1]
    assert {path.stat().st_mode & 0o777 for path in admitted_folder.parents[:2]} == {0o700}


def test_the_note_of_a_copy_names_the_manifest_and_who_signed_it(fleet: Fleet, keys: Path) -> None:
    digest = write_version(original(fleet), keys / "ours.key")
    assert note(fleet, "digits", 1) is None
    copy_of(fleet)
    found = note(fleet, "digits", 1)
    assert found
    assert (found.digest, "ours.pub" in str(found.signer)) == (digest, True)


def test_without_trust_nothing_is_copied(fleet: Fleet, tmp_path: Path) -> None:
    free = fleet.model_copy(update={"trust": None})
    assert admitted(free, {"digits": [1]}) is free
    assert not (tmp_path / "state").exists()
    # The manifest as it is in the folder now, which nobody vouches for.
    assert note(free, "digits", 1) == store.Note(read_manifest_file(original(free) / MANIFEST).digest(), None)


def test_a_second_command_copies_nothing_and_accepts_again(
    fleet: Fleet, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of(fleet)
    monkeypatch.setattr(version_copies, "_copy", None)
    assert contents(copy_of(fleet)) == FILES
    # A key that was removed takes effect.
    monkeypatch.undo()
    removed = trusting(fleet.file.parent, keys / "other.pub")
    monkeypatch.setenv("XDG_STATE_HOME", str(fleet.file.parent / "state"))
    assert f"{original(fleet)} is not signed" in refusal(removed)


def test_a_version_that_is_signed_anew_keeps_the_folder_that_a_server_reads(fleet: Fleet, keys: Path) -> None:
    copy = copy_of(fleet)
    serving(fleet, 1)
    before = copy.stat().st_ino, (copy / SAVED_MODEL).stat().st_ino
    sign_with(original(fleet), keys / "other.key")
    rotated = trusting(fleet.file.parent, keys / "ours.pub", keys / "other.pub")
    assert copy_of(rotated) == copy
    assert (copy.stat().st_ino, (copy / SAVED_MODEL).stat().st_ino) == before
    assert (copy / SIGNATURE).read_bytes() == (original(fleet) / SIGNATURE).read_bytes()
    found = note(rotated, "digits", 1)
    assert found
    assert "other.pub" in str(found.signer)


def test_a_number_with_other_content_waits_until_no_server_has_the_old_one(fleet: Fleet, keys: Path) -> None:
    copy = copy_of(fleet)
    serving(fleet, 1)
    write_version(original(fleet), keys / "ours.key", {**FILES, WEIGHTS: b"retrained"})
    assert "digits/1 is served with the manifest sha256:" in refusal(fleet)
    assert contents(copy) == FILES
    running.forget(fleet, "docker", 8500)
    assert contents(copy_of(fleet))[WEIGHTS] == b"retrained"


def test_copies_are_removed_when_no_server_and_no_command_uses_them(fleet: Fleet, keys: Path) -> None:
    for version in (2, 3, 4):
        write_version(original(fleet, version), keys / "ours.key")
    folder = admitted(fleet, {"digits": [1, 2, 3]}).model_folder("digits")
    serving(fleet, 1)
    # What a killed command left, and another command that is about to start a server of version 2.
    (folder.parent / ".new-killed").mkdir()
    store._release(folder / "2")
    holding = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_SH); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(folder / "2")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        clean(fleet)
        assert sorted(path.name for path in folder.iterdir()) == ["1", "1.json", "2", "2.json"]
        assert not (folder.parent / ".new-killed").exists()
        other.communicate(b"\n")
    copy_of(fleet, 4)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["1", "4"]
    running.forget(fleet, "docker", 8500)
    clean(fleet)
    assert not folder.exists()


def test_progress_of_a_large_copy_is_reported(fleet: Fleet, keys: Path) -> None:
    write_version(original(fleet), keys / "ours.key", {**FILES, WEIGHTS: bytes(20 << 20)})
    said: list[str] = []
    admitted(fleet, {"digits": [1]}, said.append)
    assert "Copying digits/1: 8 of 21 MiB" in said
    assert said[-1] == "Checking digits/1"


def test_a_version_that_does_not_fit_on_the_disk_is_an_error_before_it_is_copied(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    assert " bytes free" in refusal(fleet)


def test_a_server_from_before_trust_was_set_is_not_changed(fleet: Fleet) -> None:
    server = running.Running("embedded", "127.0.0.1", 8500, 8501, ("digits",), pid=1)
    with pytest.raises(EngineError, match=r"was started without `trust`, and .* is with it now\. Stop the server"):
        server.check_trust(fleet)


def test_files_for_a_machine_that_checks_nothing_are_not_written(fleet: Fleet, tmp_path: Path) -> None:
    done = CliRunner().invoke(tfserving, ["compose", "render", str(tmp_path / "out"), "--fleet", str(fleet.file)])
    assert done.exit_code == 2
    assert "trust: nothing would check the models on the other machine. Build an image" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_configuration_that_is_printed_names_the_copies(fleet: Fleet, tmp_path: Path) -> None:
    done = CliRunner().invoke(tfserving, ["config", "--local", "--fleet", str(fleet.file)])
    assert done.exit_code == 0
    assert f'base_path: "{tmp_path}/state/' in done.stdout
    assert str(fleet.folder) not in done.stdout


def test_a_rollout_reads_copies_and_a_cluster_is_configured_as_before(fleet: Fleet, keys: Path) -> None:
    labelled = fleet.with_labels("digits", {"stable": 1})
    for version in (2, 3):
        write_version(original(fleet, version), keys / "ours.key")
    state = plan(labelled, "digits", 2)
    read = judged(labelled, state, lambda _: None)
    assert [contents(read.model_folder("digits") / str(version)) for version in (1, 2)] == [FILES, FILES]
    assert read.model_folder("digits").is_relative_to(fleet.file.parent / "state")
    # Pods are told what models.yaml says, whichever versions this machine has copied.
    assert (read.versions("digits"), read.is_copied) == ([1, 2, 3], False)
    # In a pod, which has copies, nothing is copied.
    assert judged(labelled, state, lambda _: None, copy=False) is labelled


def test_attack_a_rollout_of_a_changed_version_is_refused_and_can_be_taken_back(fleet: Fleet, keys: Path) -> None:
    labelled = fleet.with_labels("digits", {"stable": 1})
    write_version(original(fleet, 2), keys / "ours.key")
    state = plan(labelled, "digits", 2)
    (original(fleet, 2) / WEIGHTS).write_bytes(b"WEIGHTS")
    for copy, error in ((True, EngineError), (False, RolloutError)):
        with pytest.raises(error, match="2 was changed since its export"):
            judged(labelled, state, lambda _: None, copy=copy)
    back = judged(labelled, state, lambda _: None, back=True)
    assert sorted(path.name for path in back.model_folder("digits").iterdir()) == ["1", "1.json"]


def test_attack_golden_requests_of_an_unsigned_version_are_not_sent_by_verify(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    write_version(original(fleet, 2), None)
    file = fleet.file
    file.write_text(file.read_text().replace("builder: m:f", "builder: m:f, labels: {previous: 1}"))
    project = FoundProject()
    project.use(file)
    folder = project.accepted_folder("digits", None)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["1"]
    assert f"Left out: {original(fleet, 2)} is not signed" in capsys.readouterr().err
    with pytest.raises(CommandError, match="2 is not signed") as caught:
        project.accepted_folder("digits", 2)
    assert caught.value.exit_code == 1
    # Without `trust`, as before.
    file.write_text("models: {digits: {builder: m:f}}\n")
    free = FoundProject()
    free.use(file)
    assert free.accepted_folder("digits", None) == file.parent / "models/digits"


# Attacks: somebody else can write to the folder of models.yaml.


def test_attack_a_weight_is_changed_in_the_folder_and_the_copy_is_served(fleet: Fleet) -> None:
    copy = copy_of(fleet)
    (original(fleet) / WEIGHTS).write_bytes(b"WEIGHTS")
    assert contents(copy) == FILES
    # A command reports it, and leaves what is served.
    assert f"{original(fleet)} was changed since its export:\n  {WEIGHTS}: got SHA-256" in refusal(fleet)
    assert contents(copy) == FILES


def test_attack_a_changed_file_with_its_old_size_and_time_is_not_served(fleet: Fleet) -> None:
    copy_of(fleet)
    changed = original(fleet) / WEIGHTS
    before = changed.stat()
    changed.write_bytes(b"WEIGHTS")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert contents(copy_of(fleet)) == FILES


def test_attack_an_unsigned_version_with_a_right_manifest_is_refused(fleet: Fleet) -> None:
    write_version(original(fleet, 2), None)
    assert f"{original(fleet, 2)} is not signed" in refusal(fleet, 2)


def test_attack_a_version_signed_with_another_key_is_refused(fleet: Fleet, keys: Path) -> None:
    write_version(original(fleet, 2), keys / "other.key")
    assert f"{original(fleet, 2)} is not signed" in refusal(fleet, 2)


def test_attack_an_older_signed_version_under_a_new_number_is_refused(fleet: Fleet) -> None:
    shutil.copytree(original(fleet), original(fleet, 2))
    assert "is version 1 of digits, expected version 2 of digits" in refusal(fleet, 2)


def test_attack_a_manifest_made_anew_for_changed_weights_is_refused(fleet: Fleet) -> None:
    (original(fleet) / WEIGHTS).write_bytes(b"WEIGHTS")
    write_manifest(original(fleet))
    assert re.match(rf"{original(fleet)} is not (signed|what .* signed)", refusal(fleet))


def swapped_while_copied(monkeypatch: pytest.MonkeyPatch, swap: Callable[[], object], before: str) -> None:
    """Runs `swap` once, when the checks of the original are over and `before` is about to be copied."""
    copies, swaps = version_copies._copy_file, [swap]

    def copy_file(source: Path, target: Path, name: str, size: int) -> Iterator[int]:
        if name == before and swaps:
            swaps.pop()()
        return copies(source, target, name, size)

    monkeypatch.setattr(version_copies, "_copy_file", copy_file)


def test_attack_a_file_is_changed_between_its_check_and_its_copy(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped_while_copied(monkeypatch, lambda: (original(fleet) / WEIGHTS).write_bytes(b"WEIGHTS"), WEIGHTS)
    assert f"{WEIGHTS}: got SHA-256" in refusal(fleet)


def test_attack_a_file_grows_without_end_while_it_is_copied(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped_while_copied(monkeypatch, lambda: os.truncate(original(fleet) / WEIGHTS, 1 << 40), WEIGHTS)
    assert f"{WEIGHTS} was changed while it was copied" in refusal(fleet)


def test_attack_a_file_becomes_a_pipe_or_a_link_while_it_is_copied(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, right = original(fleet) / WEIGHTS, tmp_path / "right"
    right.write_bytes(FILES[WEIGHTS])

    def becomes(make: Callable[[], object]) -> Callable[[], None]:
        def swap() -> None:
            file.unlink()
            make()

        return swap

    swapped_while_copied(monkeypatch, becomes(lambda: os.mkfifo(file)), WEIGHTS)
    assert f"{WEIGHTS} was changed while it was copied" in refusal(fleet)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file.unlink()
    file.write_bytes(FILES[WEIGHTS])
    swapped_while_copied(monkeypatch, becomes(lambda: file.symlink_to(right)), WEIGHTS)
    assert f"{original(fleet)} can't be copied" in refusal(fleet)


def test_attack_the_whole_folder_is_swapped_while_it_is_copied(
    fleet: Fleet, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Signed as well, by somebody who isn't trusted.
    write_version(original(fleet, 9), keys / "other.key", {**FILES, WEIGHTS: b"WEIGHTS"})

    def swap() -> None:
        original(fleet).rename(original(fleet, 8))
        original(fleet, 9).rename(original(fleet))

    swapped_while_copied(monkeypatch, swap, SAVED_MODEL)
    assert str(original(fleet)) in refusal(fleet)


def test_attack_the_models_folder_becomes_a_link_to_another_one(fleet: Fleet, tmp_path: Path) -> None:
    copy = copy_of(fleet)
    write_version(tmp_path / "elsewhere/digits/1", None, {**FILES, WEIGHTS: b"WEIGHTS"})
    shutil.move(tmp_path / "models/digits", tmp_path / "before")
    (tmp_path / "models/digits").symlink_to(tmp_path / "elsewhere/digits")
    assert "is not signed" in refusal(fleet)
    assert contents(copy) == FILES


def test_attack_a_link_in_a_version_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(FILES[WEIGHTS])
    (original(fleet) / WEIGHTS).unlink()
    (original(fleet) / WEIGHTS).symlink_to(tmp_path / "weights")
    assert "is a link: a version has files only" in refusal(fleet)


def test_attack_a_hard_link_to_the_original_does_not_reach_the_copy(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "mine").hardlink_to(original(fleet) / WEIGHTS)
    copy = copy_of(fleet)
    (tmp_path / "mine").write_bytes(b"WEIGHTS")
    assert contents(copy) == FILES
    assert (copy / WEIGHTS).stat().st_nlink == 1


def test_attack_a_copy_with_a_second_name_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    copy = copy_of(fleet)
    (tmp_path / "mine").hardlink_to(copy / WEIGHTS)
    assert f"{copy / WEIGHTS} may be changed by others" in refusal(fleet)


@pytest.mark.parametrize("level", range(4), ids=["the state", "the fleet", "all copies", "a model"])
def test_attack_others_can_write_to_a_folder_of_the_copies(fleet: Fleet, level: int) -> None:
    folder = [*reversed(copy_of(fleet).parents[:4])][level]
    folder.chmod(0o777)
    assert f"{folder} may be changed by others" in refusal(fleet)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder to another user")
def test_attack_another_user_made_the_folder_of_the_copies_first(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "state/tensorflow-serving-toolkit").mkdir(parents=True)
    os.chown(tmp_path / "state/tensorflow-serving-toolkit", 12345, 12345)
    assert "may be changed by others (owner 12345" in refusal(fleet)
    os.chown(tmp_path / "state/tensorflow-serving-toolkit", 0, 0)
    os.chown(tmp_path / "state", 12345, 12345)
    assert f"{tmp_path / 'state'} may be changed by others" in refusal(fleet)


def test_attack_the_folder_of_the_copies_is_a_link(fleet: Fleet, tmp_path: Path) -> None:
    copy = copy_of(fleet)
    model = copy.parent
    model.rename(tmp_path / "moved")
    model.symlink_to(tmp_path / "moved")
    assert f"{model} may be changed by others" in refusal(fleet)


def test_attack_a_newer_version_that_nobody_signed_stops_a_command_and_changes_nothing(fleet: Fleet) -> None:
    copied = admitted_for(fleet, ("digits",))
    write_version(original(fleet, 2), None)
    assert loaded(fleet, "digits") == [2]
    with pytest.raises(EngineError, match="digits/2 is not signed"):
        admitted_for(fleet, ("digits",))
    folder = copied.model_folder("digits")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "1.json"]
