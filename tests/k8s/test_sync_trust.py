"""With `trust`, only what a trusted key signed gets into a server's folder, whoever can write to the store."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.test_sync import FILES, Places, config, listed, version
from tests.signed import Authority, make_key, sign_with
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE
from tfserving.foundation.store import Store
from tfserving.foundation.trust import Identity, Trust
from tfserving.foundation.version_files import BESIDE
from tfserving.k8s.copying import MOST_BROKEN, Refused, Wanted, sync
from tfserving.k8s.sync import main
from tfserving.k8s.trust_files import NAMES, TrustFileError, read_trust, trust_files

CHANGED = b"changed!"


@dataclasses.dataclass(frozen=True)
class Keys:
    """A key pair in files."""

    private: Path
    public: Path

    def sign(self, target: Path) -> Path:
        return sign_with(target, self.private)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(*make_key(tmp_path_factory.mktemp("release"), "release"))


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(*make_key(tmp_path_factory.mktemp("attacker"), "attacker"))


class Trusting(Places):
    """A store with a signed version 1 of two models, and where a server looks, which trusts one key."""

    def __init__(self, folder: Path, release: Keys) -> None:
        super().__init__(folder)
        self.release = release
        self.wanted = Wanted(trust=Trust(keys=(release.public,)))
        self.refused: Refused = {}
        for model in ("digits", "other"):
            release.sign(version(self.remote, 1, model))

    def sync(self, wanted: Wanted | None = None) -> list[str]:
        return sync(Store(f"file://{self.remote}"), self.local, wanted or self.wanted, self.said.append, self.refused)

    def signed(self, number: int, model: str = "digits") -> Path:
        return self.release.sign(version(self.remote, number, model))

    def copied(self, number: int = 1, model: str = "digits") -> dict[str, bytes]:
        target = self.local / model / str(number)
        return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.fixture
def places(tmp_path: Path, release: Keys) -> Trusting:
    return Trusting(tmp_path, release)


def test_a_signed_version_is_copied_with_its_signature_and_the_log_names_who_signed_it(places: Trusting) -> None:
    assert places.sync() == []
    assert places.there() == {"digits/1", "other/1"}
    assert set(places.copied()) == {*FILES, MANIFEST, SIGNATURE}
    assert all("is copied, signed by the key " in line and "release.pub" in line for line in places.said)


def resealed(target: Path) -> None:
    """Changes a file, and makes the manifest and its digest anew."""
    (target / SAVED_MODEL).write_bytes(CHANGED)
    listed(target, {name: (target / name).read_bytes() for name in FILES})


def changed_file(target: Path, _: Keys) -> None:
    (target / SAVED_MODEL).write_bytes(b"graph8")


def changed_file_and_manifest(target: Path, _: Keys) -> None:
    resealed(target)


def unsigned(target: Path, _: Keys) -> None:
    (target / SIGNATURE).unlink()


def changed_and_unsigned(target: Path, _: Keys) -> None:
    resealed(target)
    (target / SIGNATURE).unlink()


def own_signature(target: Path, attacker: Keys) -> None:
    resealed(target)
    attacker.sign(target)


def signature_of_another_version(target: Path, _: Keys) -> None:
    shutil.copyfile(target.parent / "1" / SIGNATURE, target / SIGNATURE)


def replayed(target: Path, _: Keys) -> None:
    shutil.rmtree(target)
    shutil.copytree(target.parent / "1", target)


def another_model(target: Path, _: Keys) -> None:
    shutil.rmtree(target)
    shutil.copytree(target.parents[1] / "other/1", target)


def relabelled_replay(target: Path, _: Keys) -> None:
    """An older version whose manifest names the new number: the signature is that of the old manifest."""
    replayed(target, _)
    listed(target, {name: (target / name).read_bytes() for name in FILES})


def listed_way_out(target: Path, _: Keys) -> None:
    listed(target, {"../../../escaped": b"x", **{name: (target / name).read_bytes() for name in FILES}})
    (target / "../../../escaped").write_bytes(b"x")


def link_out(target: Path, _: Keys) -> None:
    (target.parents[2] / "secret").write_bytes((target / SAVED_MODEL).read_bytes())
    (target / SAVED_MODEL).unlink()
    (target / SAVED_MODEL).symlink_to("../../../secret")


def linked_signature(target: Path, _: Keys) -> None:
    (target / SIGNATURE).unlink()
    (target / SIGNATURE).symlink_to("../../1/assets.extra/model.sig")


def huge_signature(target: Path, _: Keys) -> None:
    with (target / SIGNATURE).open("wb") as file:
        file.truncate(BESIDE[SIGNATURE] + 1)


def no_signature_at_all(target: Path, _: Keys) -> None:
    (target / SIGNATURE).write_text("{}")


ATTACKS: dict[str, tuple[Callable[[Path, Keys], None], str]] = {
    "changes a file": (changed_file, "'saved_model.pb': got 6 bytes of SHA-256"),
    "changes a file and the manifest with its digest": (changed_file_and_manifest, "is not what the key"),
    "removes the signature": (unsigned, "is not signed: it has no assets.extra/model.sig"),
    "changes a file and removes the signature": (changed_and_unsigned, "is not signed"),
    "signs with a key of its own": (own_signature, "is not signed by anyone who is trusted"),
    "swaps the signature": (signature_of_another_version, "is not what the key"),
    "puts an older signed version under a new number": (replayed, "is version 1 of digits, expected version 7"),
    "puts a signed version of another model there": (another_model, "is version 1 of other, expected version 7 of dig"),
    "puts an older version under a new number in its manifest": (relabelled_replay, "is not what the key"),
    "lists a path out of the version": (listed_way_out, "lists '../../../escaped', which is not in the version"),
    "makes a file a link out of the version": (link_out, "'saved_model.pb' is a link out of the version"),
    "makes the signature a link to that of another version": (linked_signature, "is a link out of the version"),
    "makes the signature huge": (huge_signature, "is larger than 8388608 bytes"),
    "makes the signature nonsense": (no_signature_at_all, "is no signature"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_who_can_write_to_the_store(places: Trusting, attacker: Keys, attack: str) -> None:
    """The version is refused in one line; the others are served. Not one byte of it is left."""
    run, reason = ATTACKS[attack]
    run(places.signed(7), attacker)
    (problem,) = places.sync()
    assert reason in problem, problem
    assert problem.startswith(f"file://{places.remote}/digits/7")
    assert len(problem.splitlines()) == 1
    assert places.there() == {"digits/1", "other/1"}
    assert places.copied()[SAVED_MODEL] == b"graph1"
    # Nor does the server start with it.
    path = config(places.local / "models.config", 7)
    folder = folder_of(places)
    assert main([f"file://{places.remote}", str(places.local), "--once", f"--config={path}", f"--trust={folder}"]) == 1
    # It is copied as soon as it is what was signed.
    shutil.rmtree(places.remote / "digits/7")
    places.signed(7)
    assert places.sync() == []
    assert "digits/7" in places.there()


def folder_of(places: Trusting) -> Path:
    """The folder of a ConfigMap with whom the pod trusts."""
    folder = places.local.parent / "trust"
    folder.mkdir(exist_ok=True)
    assert places.wanted.trust
    for name, text in trust_files(places.wanted.trust).items():
        (folder / name).write_text(text)
    return folder


def test_attack_an_object_is_added_to_a_signed_version(places: Trusting) -> None:
    """It is not copied: the server has the signed files, and no other."""
    target = places.signed(7)
    (target / "assets.extra/tf_serving_warmup_requests").write_bytes(CHANGED)
    (target / "variables/more").write_bytes(CHANGED)
    assert places.sync() == []
    assert set(places.copied(7)) == {*FILES, MANIFEST, SIGNATURE}


def test_attack_a_version_is_changed_after_it_was_copied(places: Trusting) -> None:
    """By who can write to the bucket, or to the volume of a claim: the server has a copy of its own."""
    places.sync()
    before = places.copied()
    resealed(places.remote / "digits/1")
    assert places.sync() == []
    assert places.copied() == before
    # A pod that starts later doesn't get it.
    shutil.rmtree(places.local / "digits")
    (problem,) = places.sync()
    assert "digits/1 is not what the key" in problem
    assert places.there() == {"other/1"}


@pytest.mark.parametrize("name", [SAVED_MODEL, SIGNATURE, MANIFEST])
def test_attack_the_store_sends_other_bytes_the_second_time(
    places: Trusting, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is judged is the copy that the server gets: no second read can be another."""
    good = places.signed(7)
    target = Store(f"file://{places.remote}")
    opens = target._system.open
    count = 0

    def other(path: str, *words: Any, **more: Any) -> Any:
        nonlocal count
        if path.endswith(f"digits/7/{name}"):
            count += 1
            if count > 1:
                (good / name).write_bytes(bytes(len(good.joinpath(name).read_bytes())))
        return opens(path, *words, **more)

    monkeypatch.setattr(target._system, "open", other)
    before = {path.relative_to(good).as_posix(): path.read_bytes() for path in good.rglob("*") if path.is_file()}
    assert sync(target, places.local, places.wanted, places.said.append) == []
    assert places.copied(7) == before
    assert sync(target, places.local, places.wanted, places.said.append) == []
    assert places.copied(7) == before


def test_attack_many_unsigned_versions(places: Trusting, monkeypatch: pytest.MonkeyPatch) -> None:
    """They don't push out a signed one, and aren't copied again at every pass."""
    places.sync()
    for number in range(100, 130):
        version(places.remote, number)
    target = Store(f"file://{places.remote}")
    opens, read = target._system.open, list[str]()

    def noted(path: str, *words: Any, **more: Any) -> Any:
        read.append(path)
        return opens(path, *words, **more)

    monkeypatch.setattr(target._system, "open", noted)
    problems = sync(target, places.local, places.wanted, places.said.append, places.refused)
    assert len(problems) == MOST_BROKEN
    assert places.there() == {"digits/1", "other/1"}
    read.clear()
    assert sync(target, places.local, places.wanted, places.said.append, places.refused) == problems
    assert {Path(path).name for path in read} == {Path(MANIFEST).name}
    # Who else may have signed, by a certificate or at Sigstore, is looked at again: both change with time.
    root, others = Authority(places.local.parent).root, Refused()
    more = dataclasses.replace(places.wanted, trust=Trust(keys=(places.release.public,), certificates=(root,)))
    for _ in range(2):
        read.clear()
        assert len(sync(target, places.local, more, places.said.append, others)) == MOST_BROKEN
    assert Path(SAVED_MODEL).name in {Path(path).name for path in read}
    # A signature is noticed.
    places.release.sign(places.remote / "digits/129")
    assert len(sync(target, places.local, places.wanted, places.said.append, places.refused)) == MOST_BROKEN
    assert "digits/129" in places.there()


def test_a_key_can_be_replaced_and_one_that_is_no_longer_trusted_counts_at_the_next_start(
    places: Trusting, tmp_path: Path
) -> None:
    later = Keys(*make_key(tmp_path, "later"))
    later.sign(version(places.remote, 2))
    both = dataclasses.replace(places.wanted, trust=Trust(keys=(places.release.public, later.public)))
    assert places.sync(both) == []
    assert places.there() == {"digits/1", "digits/2", "other/1"}
    places.wanted = dataclasses.replace(places.wanted, trust=Trust(keys=(later.public,)))
    folder, path = folder_of(places), config(tmp_path / "models.config", 2)
    # The store is gone; what is here and signed by the new key is enough to start.
    nowhere = f"file://{tmp_path}/nowhere"
    assert main([nowhere, str(places.local), "--once", f"--config={path}", f"--trust={folder}"]) == 0
    assert places.there() == {"digits/2"}


def test_attack_a_copy_is_changed_before_the_process_starts_again(places: Trusting) -> None:
    places.sync()
    (places.local / "digits/1" / SAVED_MODEL).write_bytes(CHANGED)
    folder = folder_of(places)
    assert main([f"file://{places.remote}", str(places.local), "--once", f"--trust={folder}"]) == 0
    assert places.copied()[SAVED_MODEL] == b"graph1"


@pytest.mark.parametrize("left", [{}, {NAMES: "{}"}, {NAMES: "[" * 100_000}, {"key-1": "no key"}, {"no": "folder"}])
def test_without_anybody_to_trust_nothing_is_copied(places: Trusting, left: dict[str, str]) -> None:
    """Not even what was there before may be served: the pod doesn't start."""
    folder = places.local.parent / "trust"
    if left != {"no": "folder"}:
        folder.mkdir()
        if "key-1" in left:
            (folder / NAMES).write_text(json.dumps({"identities": [], "certificate_names": []}))
        for name, text in left.items():
            (folder / name).write_text(text)
    assert main([f"file://{places.remote}", str(places.local), "--once", f"--trust={folder}"]) == 2
    assert places.there() == set()


def test_the_files_of_a_pod_mean_what_models_yaml_says(tmp_path: Path, release: Keys) -> None:
    """Every field of Trust: one that got lost could widen whom a pod trusts."""
    root, sigstore = tmp_path / "my root.pem", tmp_path / "sigstore.json"
    root.write_text("A root:\n-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n")
    sigstore.write_text("{}")
    given = Trust((release.public,), (root,), (Identity("me@b.test", "https://i.test"),), ("cn",), sigstore)
    assert all(getattr(given, field.name) for field in dataclasses.fields(Trust))
    made = trust_files(given)
    assert sorted(made) == ["certificate-1-my_root.pem", "key-1-release.pub", "sigstore.json", "trust.json"]
    assert "A root" not in made["certificate-1-my_root.pem"]
    for name, text in made.items():
        (tmp_path / "pod").mkdir(exist_ok=True)
        (tmp_path / "pod" / name).write_text(text)
    read = read_trust(tmp_path / "pod")
    assert [path.name for path in (*read.keys, *read.certificates)] == [
        "key-1-release.pub",
        "certificate-1-my_root.pem",
    ]
    assert read.keys[0].read_text() == release.public.read_text()
    assert (read.identities, read.certificate_names) == (given.identities, given.certificate_names)
    assert read.sigstore_config == tmp_path / "pod/sigstore.json"


def test_a_private_key_never_gets_into_a_config_map(tmp_path: Path, release: Keys) -> None:
    for text in (release.private.read_text(), release.public.read_text() + release.private.read_text()):
        (tmp_path / "key").write_text(text)
        for trust in (Trust(keys=(tmp_path / "key",)), Trust(certificates=(tmp_path / "key",))):
            with pytest.raises(TrustFileError, match="key has a private key, which must not leave this machine"):
                trust_files(trust)
    with pytest.raises(TrustFileError, match=r"trust\.keys: .*: No such file"):
        trust_files(Trust(keys=(tmp_path / "nowhere",)))
    with pytest.raises(TrustFileError, match="contains PUBLIC KEY; expected blocks 'CERTIFICATE'"):
        trust_files(Trust(certificates=(release.public,)))
