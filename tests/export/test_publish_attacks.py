"""Whoever can write to the destination can keep a version from being published, but never changes what is reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fsspec.implementations.memory import MemoryFileSystem

from tests.export.publishers import SMALL
from tests.export.test_publishers import content, different
from tfserving.export import publish_objects
from tfserving.export.objects import Objects
from tfserving.export.outgoing import PublishError, key_of
from tfserving.export.publish import Published, publish
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE
from tfserving.foundation.store import Store
from tfserving.foundation.trust import Trust

LARGE, SMALL_FILE = "variables/large", "assets/small ä #+%20.txt"


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def sign(version: Path, key: Path) -> Path:
    """Signs with the library that other tools use, too."""
    from model_signing import hashing, signing

    new = version.parent / "signature"
    (version / SIGNATURE).unlink(missing_ok=True)
    config: Any = signing.Config
    ignored: Any = hashing.Config
    config().use_elliptic_key_signer(private_key=key).set_hashing_config(
        ignored().set_ignored_paths(paths=[version / SIGNATURE], ignore_git_paths=False)
    ).sign(version, new)
    new.rename(version / SIGNATURE)
    return version


@dataclass(frozen=True)
class Signed:
    """A version that the owner's key signed, one of another content that an attacker's key signed, and the trust."""

    version: Path
    forged: Path
    trust: Trust
    # The owner's second key is trusted as well.
    second: Path


@pytest.fixture(scope="module")
def made(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    folder = tmp_path_factory.mktemp("attacks")
    (owner, public), (second, second_public), (attacker, _) = (make_key(folder, name) for name in ("one", "two", "bad"))
    ours, theirs = (different(version, folder, number) for number in (0, 1))
    return Signed(sign(ours, owner), sign(theirs, attacker), Trust(keys=(public, second_public)), second)


@pytest.fixture
def signed(made: Signed, tmp_path: Path) -> Signed:
    """Copies, to be changed."""
    return replace(
        made,
        version=Path(shutil.copytree(made.version, tmp_path / "ours/scale/1")),
        forged=Path(shutil.copytree(made.forged, tmp_path / "theirs/scale/1")),
    )


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What an attacker reads and writes: the objects below memory://bucket, by path."""
    monkeypatch.setattr(publish_objects, "SMALL", SMALL)
    system = MemoryFileSystem()
    system.store.clear()

    class Bucket(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            return bytes(system.cat_file(f"/bucket/{name}"))

        def __setitem__(self, name: str, data: bytes) -> None:
            system.pipe_file(f"/bucket/{name}", data)

        def __delitem__(self, name: str) -> None:
            system.rm_file(f"/bucket/{name}")

        def __iter__(self) -> Iterator[str]:
            return iter([name.removeprefix("/bucket/") for name in system.store])

        def __contains__(self, name: object) -> bool:
            return f"/bucket/{name}" in system.store

    yield Bucket()
    system.store.clear()


def run(signed: Signed, trust: bool = True) -> Published:
    return publish(signed.version, "scale", 1, "memory://bucket", trust=signed.trust if trust else None)


def refused(signed: Signed, *words: str, trust: bool = True) -> None:
    with pytest.raises(PublishError) as caught:
        run(signed, trust)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def visible() -> bool:
    return Store("memory://bucket").complete("scale", 1)


def upload(store: dict[str, bytes], version: Path, place: str) -> None:
    for name, data in content(version).items():
        store[f"{place}/{name}"] = data


def at(monkeypatch: pytest.MonkeyPatch, operation: str, attack: Callable[[str], None], after: bool = True) -> None:
    """Runs the attack after (or before) each of these operations on the store, with the path that it writes."""
    original = getattr(Objects, operation)

    def attacked(self: Objects, *arguments: Any) -> Any:
        path = arguments[1] if operation in ("send", "copy") else arguments[0]
        if not after:
            attack(path)
        result = original(self, *arguments)
        if after:
            attack(path)
        return result

    monkeypatch.setattr(Objects, operation, attacked)


def test_a_signed_version_is_published_and_its_signer_reported(signed: Signed, store: dict[str, bytes]) -> None:
    published = run(signed)
    assert published.created
    assert str(signed.trust.keys[0]) in str(published.signer)
    assert {name: store[f"scale/1/{name}"] for name in content(signed.version)} == content(signed.version)
    assert {*store} == {f"scale/1/{name}" for name in content(signed.version)}
    assert not run(signed).created


def test_attack_a_version_without_a_trusted_signature_is_not_published(signed: Signed, store: dict[str, bytes]) -> None:
    (signed.version / SIGNATURE).write_bytes((signed.forged / SIGNATURE).read_bytes())
    refused(signed, "is not signed by anyone who is trusted")
    (signed.version / SIGNATURE).unlink()
    refused(signed)
    assert not [*store]


def test_attack_files_in_the_place_of_a_version_to_come_are_refused(signed: Signed, store: dict[str, bytes]) -> None:
    store["scale/1/variables/large"] = b"of the attacker"
    refused(signed, "has files but no assets.extra/manifest.json", "variables/large")
    assert [*store] == ["scale/1/variables/large"], "nothing was written, so the number isn't decided"


def test_attack_a_file_put_there_after_the_check_is_found_before_the_version_is_visible(
    signed: Signed, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack(path: str) -> None:
        if path.endswith(f"scale/1/{MANIFEST}"):
            store[f"scale/1/{LARGE}"] = b"x" * len(content(signed.version)[LARGE])
            store["scale/1/assets.extra/more"] = b"x"

    at(monkeypatch, "create", attack)
    refused(signed, f"{LARGE}: got SHA-256", "assets.extra/more is not in the manifest")
    assert not visible()


def test_attack_an_own_upload_changed_after_it_was_read_back_is_found_before_the_version_is_visible(
    signed: Signed, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack(path: str) -> None:
        if path.endswith(f"scale/1/{MANIFEST}"):
            for name in [name for name in store if ".publishing" in name and name.endswith(LARGE)]:
                store[name] = b"x" * len(store[name])

    at(monkeypatch, "create", attack)
    refused(signed, f"{LARGE}: got SHA-256")
    assert not visible()


@pytest.mark.parametrize("name", [SMALL_FILE, LARGE, SAVED_MODEL])
def test_attack_an_upload_named_as_the_decided_one_with_other_content_is_passed_over(
    signed: Signed, store: dict[str, bytes], name: str
) -> None:
    ours = content(signed.version)
    key = key_of(ours[MANIFEST])
    store[f"scale/1/{MANIFEST}"] = ours[MANIFEST]
    for upload_id in ("0", "f"):
        upload(store, signed.version, f"scale/.publishing/{key}-{upload_id}")
    store[f"scale/.publishing/{key}-0/{name}"] = b"x" * len(ours[name])
    # Another publisher completes it, from the upload that has what the manifest lists.
    with pytest.raises(PublishError, match="is another version"):
        publish(signed.forged, "scale", 1, "memory://bucket")
    assert {file: store[f"scale/1/{file}"] for file in ours} == ours


def test_attack_a_decided_version_with_forged_uploads_only_is_completed_by_its_publisher(
    signed: Signed, store: dict[str, bytes]
) -> None:
    ours = content(signed.version)
    store[f"scale/1/{MANIFEST}"] = ours[MANIFEST]
    for name, data in ours.items():
        store[f"scale/.publishing/{key_of(ours[MANIFEST])}-0/{name}"] = b"x" * len(data)
    with pytest.raises(PublishError, match=r"It is incomplete: no upload in \.publishing has its"):
        publish(signed.forged, "scale", 1, "memory://bucket")
    assert not visible()
    assert run(signed).created
    assert {name: store[f"scale/1/{name}"] for name in ours} == ours


def test_attack_saved_model_is_compared_before_it_is_written_and_never_visible_changed(
    signed: Signed, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, attacks = content(signed.version), []

    def attack(path: str) -> None:
        attacks.append(path)
        if len(attacks) < len(ours):
            for name in [name for name in store if ".publishing" in name and name.endswith(SAVED_MODEL)]:
                store[name] = b"x" * len(store[name])
        assert not visible() or store[f"scale/1/{SAVED_MODEL}"] == ours[SAVED_MODEL]

    at(monkeypatch, "create_from", attack, after=False)
    at(monkeypatch, "create_from", attack)
    # It is uploaded again.
    assert run(signed).created
    assert {name: store[f"scale/1/{name}"] for name in ours} == ours


@pytest.mark.parametrize("trust", [True, False], ids=["trust", "no trust"])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_attack_another_manifest_in_the_place_of_the_version_is_never_reported_as_published(
    signed: Signed, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, when: str, trust: bool
) -> None:
    theirs = content(signed.forged)

    def attack(path: str) -> None:
        if path.endswith(f"scale/1/{MANIFEST}"):
            store[f"scale/1/{MANIFEST}"] = theirs[MANIFEST]

    if when == "before":
        upload(store, signed.forged, "scale/1")
    elif when == "during":
        at(monkeypatch, "create", attack)
    else:
        run(signed)
        attack(f"scale/1/{MANIFEST}")
    refused(signed, "manifest.json was changed" if when == "during" else "is another version, of digest", trust=trust)
    assert visible() == (when != "during")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (b"{", "is no manifest"),
        (b"", "is no manifest"),
        (b" " * (5 << 20), "is larger than"),
        (
            lambda found: found["files"].update({"../2/saved_model.pb": found["files"][SAVED_MODEL]}),
            "not in the version",
        ),
        (lambda found: found.update(version=2), "was changed"),
        (lambda found: found["files"].update({str(n): found["files"][LARGE] for n in range(20_000)}), "is no manifest"),
    ],
    ids=["no JSON", "empty", "large", "path", "number", "files"],
)
def test_attack_a_manifest_that_decides_for_nonsense_is_an_error_and_nothing_is_copied(
    signed: Signed, store: dict[str, bytes], manifest: Any, words: str
) -> None:
    data = content(signed.version)[MANIFEST]
    if callable(manifest):
        found = json.loads(data)
        manifest(found)
        manifest = json.dumps(found).encode()
        words = "was changed" if words == "is no manifest" else words
    store[f"scale/1/{MANIFEST}"] = manifest
    refused(signed, words)
    assert [*store] == [f"scale/1/{MANIFEST}"]


@pytest.mark.parametrize("name", [SMALL_FILE, LARGE, SAVED_MODEL])
def test_attack_a_changed_version_is_not_reported_as_the_same(
    signed: Signed, store: dict[str, bytes], name: str
) -> None:
    run(signed)
    store[f"scale/1/{name}"] = b"x" * len(store[f"scale/1/{name}"])
    refused(signed, f"{name}: got SHA-256", "publish a new number")
    store[f"scale/1/{name}"] = b"x"
    refused(signed, f"{name}: got 1 bytes", trust=False)
    del store[f"scale/1/{name}"]
    # It was removed, and is there again.
    assert run(signed).created == (name == SAVED_MODEL)
    assert store[f"scale/1/{name}"] == content(signed.version)[name]


@pytest.mark.parametrize("forged", [True, False], ids=["of the attacker", "none"])
def test_attack_a_signature_that_was_replaced_is_written_again(
    signed: Signed, store: dict[str, bytes], forged: bool
) -> None:
    run(signed)
    if forged:
        store[f"scale/1/{SIGNATURE}"] = content(signed.forged)[SIGNATURE]
    else:
        del store[f"scale/1/{SIGNATURE}"]
    assert not run(signed).created
    assert store[f"scale/1/{SIGNATURE}"] == content(signed.version)[SIGNATURE]


def test_attack_a_signature_replaced_while_it_is_published_is_not_reported(
    signed: Signed, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack(path: str) -> None:
        if path.endswith(f"scale/1/{SIGNATURE}"):
            store[f"scale/1/{SIGNATURE}"] = content(signed.forged)[SIGNATURE]

    at(monkeypatch, "create", attack)
    refused(signed, "is not signed by anyone who is trusted")


def test_a_version_is_signed_again_with_another_trusted_key(signed: Signed, store: dict[str, bytes]) -> None:
    first = run(signed)
    sign(signed.version, signed.second)
    again = run(signed)
    assert not again.created
    assert first.signer != again.signer
    assert store[f"scale/1/{SIGNATURE}"] == content(signed.version)[SIGNATURE]


def test_an_unsigned_publisher_leaves_the_signature(signed: Signed, store: dict[str, bytes]) -> None:
    run(signed)
    before = store[f"scale/1/{SIGNATURE}"]
    (signed.version / SIGNATURE).unlink()
    assert not run(signed, trust=False).created
    assert store[f"scale/1/{SIGNATURE}"] == before


def test_attack_a_changed_or_linked_file_in_a_folder_is_not_reported_as_the_same(
    signed: Signed, tmp_path: Path
) -> None:
    def again() -> Published:
        return publish(signed.version, "scale", 1, str(tmp_path / "served"), trust=signed.trust)

    target = tmp_path / "served/scale/1"
    assert again().created
    assert not again().created
    (target / SIGNATURE).write_bytes((signed.forged / SIGNATURE).read_bytes())
    assert not again().created
    assert content(target) == content(signed.version)
    (target / LARGE).rename(tmp_path / "large")
    (target / LARGE).symlink_to(tmp_path / "large")
    with pytest.raises(PublishError, match="is a link"):
        again()
    (target / LARGE).unlink()
    (target / LARGE).write_bytes(b"x" * (tmp_path / "large").stat().st_size)
    with pytest.raises(PublishError, match=f"{LARGE}: got SHA-256"):
        again()
    shutil.rmtree(target)
    shutil.copytree(signed.forged, target)
    with pytest.raises(PublishError, match="is another version, of digest"):
        again()
    assert content(target) == content(signed.forged)


def test_attack_nobody_else_can_write_to_a_version_before_it_is_in_its_folder(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    copy = shutil.copyfile

    def seen(source: Path, target: Path) -> None:
        modes.append(target.relative_to(tmp_path / "served/scale").parts[0])
        assert (tmp_path / "served/scale" / modes[-1]).stat().st_mode & 0o077 == 0
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", seen)
    publish(signed.version, "scale", 1, str(tmp_path / "served"), trust=signed.trust)
    assert modes
