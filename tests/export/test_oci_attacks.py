"""What somebody with write access to a registry, or a registry itself, tries: nothing of it is fetched.

Each attack ends with an error of one line that says what is wrong, and the folder of versions stays as it was.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.export.registries import REPOSITORY, Attacker, changed, fetched, left, link, push, started, tar_of
from tests.signed import make_key, sign_with, tiny_version
from tfserving.export.oci.errors import RegistryError
from tfserving.export.oci.layout import (
    Copies,
    Descriptor,
    Image,
    descriptor_of,
    digest_of,
    make_config,
    make_manifest,
    read_image,
)
from tfserving.export.oci.place import Place
from tfserving.export.outgoing import PublishError
from tfserving.export.published.fetch import FetchError
from tfserving.export.published.listing import Known, listed
from tfserving.export.published.source import opened
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL, SIGNATURE
from tfserving.foundation.store import Limits
from tfserving.foundation.trust import Trust


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
def attacker(address: str) -> Attacker:
    return Attacker(address)


class Signed:
    """The owner of the model, who signs: versions 1 and 2 of `scaled`, and version 2 of another model."""

    def __init__(self, folder: Path) -> None:
        self.key, public = make_key(folder, "owner")
        self.trust = Trust(keys=(public,))
        self.versions = {
            number: sign_with(tiny_version(folder / "models", number=number, graph=b"graph %d" % number), self.key)
            for number in (1, 2)
        }
        self.other = sign_with(tiny_version(folder / "models", model="other", number=2), self.key)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("owner"))


def refused(address: str, folder: Path, reason: str, trust: Trust | None, wanted: int | str | None = 2) -> str:
    """The error of a fetch, which leaves nothing."""
    with pytest.raises(FetchError, match=reason) as raised:
        fetched(address, wanted, folder, trust)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 1000
    assert left(folder) == set()
    return str(raised.value)


def test_attack_a_tag_is_moved_to_an_older_signed_version(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path
) -> None:
    attacker.push_version("2", owner.versions[1])
    refused(address, tmp_path / "got", "is version 1 of scaled, expected version 2 of scaled", owner.trust)


def test_attack_a_tag_is_moved_to_a_signed_version_of_another_model(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path
) -> None:
    attacker.push_version("2", owner.other)
    refused(address, tmp_path / "got", "is version 2 of other, expected version 2 of scaled", owner.trust)


def test_attack_a_version_is_pushed_again_by_somebody_else(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path
) -> None:
    """With files, manifest and digests that fit, and another's signature, or none."""
    other = tiny_version(tmp_path / "theirs", number=2, graph=b"evil")
    attacker.push_version("2", other)
    refused(address, tmp_path / "got", r"is not signed: it has no assets\.extra/model\.sig", owner.trust)
    key, _ = make_key(tmp_path, "theirs")
    attacker.push_version("2", sign_with(other, key))
    refused(address, tmp_path / "got", "is not signed by anyone who is trusted", owner.trust)
    (other / SIGNATURE).write_bytes((owner.versions[2] / SIGNATURE).read_bytes())
    attacker.push_version("2", other)
    refused(address, tmp_path / "got", "is not what the key .* signed", owner.trust)


def test_attack_the_tag_is_moved_between_listing_and_fetching(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path
) -> None:
    """What was read by the tag first is what is fetched: the layer of that digest."""
    attacker.push_version("2", owner.versions[2])
    with opened(f"oci://{address}/{REPOSITORY}") as source:
        contents = source.contents("scaled", 2, Limits())
        attacker.push_version("2", owner.versions[1])
        source.fetch("scaled", 2, contents, tmp_path, lambda _: None)
    assert (tmp_path / SAVED_MODEL).read_bytes() == b"graph 2"


def test_attack_the_layer_has_other_weights_of_the_same_size(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path
) -> None:
    attacker.push_version("2", owner.versions[2], lambda files: files.update({SAVED_MODEL: b"gra?h 2"}))
    with pytest.raises(FetchError, match=r"(?s)was changed since its export:.*saved_model\.pb: got SHA-256"):
        fetched(address, 2, tmp_path / "got", owner.trust)
    assert left(tmp_path / "got") == set()


def pax_of(size: int) -> bytes:
    """A header of a tar that announces `size` bytes of longer names."""
    member = tarfile.TarInfo("././@PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, size
    return member.tobuf(tarfile.GNU_FORMAT)


def device() -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo()
    member.type = tarfile.CHRTYPE
    return member, b""


Files = dict[str, Any]
LAYERS: dict[str, tuple[Callable[[Files], object], str]] = {
    "a path out of the folder": (lambda files: files.update({"../evil": b"x"}), r"has '\.\./evil', which the version"),
    "an absolute path": (lambda files: files.update({"/evil": b"x"}), "has '/evil', which the version"),
    "a symbolic link": (lambda files: files.update({SAVED_MODEL: link(tarfile.SYMTYPE, "/etc/passwd")}), "plain file"),
    "a hard link": (lambda files: files.update({SAVED_MODEL: link(tarfile.LNKTYPE, "/etc/passwd")}), "plain file"),
    "a link as a folder": (
        lambda files: files.update({"variables": link(tarfile.SYMTYPE, "/")}),
        "has 'variables', which the version",
    ),
    "a device": (lambda files: files.update({SAVED_MODEL: device()}), "plain file"),
    "a file too many": (lambda files: files.update({"evil.py": b"x"}), "has 'evil.py', which the version"),
    "a name to trick a terminal": (lambda files: files.update({"\x1b[2J": b"x"}), re.escape(r"'\x1b[2J'")),
    "a file too few": (lambda files: files.pop(SAVED_MODEL), r"has no saved_model\.pb"),
    "a longer file": (lambda files: files.update({SAVED_MODEL: b"x" * 100}), "with 100 bytes, expected 7"),
    "another manifest": (
        lambda files: files.update({MANIFEST: files[MANIFEST].replace(b"tests.scaled:build", b"tests.scaled:evils")}),
        "in its layer is not the one in its config",
    ),
}


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("attack", LAYERS)
def test_attack_a_layer_with_what_the_manifest_does_not_list(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path, attack: str, trusted: bool
) -> None:
    change, reason = LAYERS[attack]
    attacker.push_version("2", owner.versions[2], change)
    refused(address, tmp_path / "got", reason, owner.trust if trusted else None)
    assert not (tmp_path / "evil").exists()


def copies_of(version: Path, diff_id: str) -> Copies:
    return Copies((version / MANIFEST).read_bytes(), (version / SIGNATURE).read_bytes(), diff_id)


def test_attack_a_layer_is_a_bomb(address: str, attacker: Attacker, owner: Signed, tmp_path: Path) -> None:
    """One of a file of 1 GiB in 1 MB, one behind the end of a good tar, and one in the header of a tar."""
    version = owner.versions[2]
    files = {path.relative_to(version).as_posix(): path.read_bytes() for path in version.rglob("*") if path.is_file()}
    zeros = gzip.compress(bytes(1 << 24), 9) * 64
    bombs = {
        "a member": (gzip.compress(tar_of({})[:0]) + zeros, "has no|no compressed tar|unpacks to more"),
        "the end": (gzip.compress(tar_of(files)) + zeros, "unpacks to more than the version's manifest lists"),
        "a header": (gzip.compress(pax_of(1 << 33)) + zeros, "has a header of more than"),
    }
    for layer, reason in bombs.values():
        attacker.push("2", copies_of(version, digest_of(tar_of(files))), layer)
        refused(address, tmp_path / "got", reason, owner.trust)


@pytest.mark.parametrize(
    "layer",
    [b"no gzip", gzip.compress(b"no tar" * 1000), gzip.compress(pax_of(0) * 3000), gzip.compress(b"cut")[:-4]],
    ids=["no gzip", "no tar", "headers of headers", "cut"],
)
def test_attack_a_layer_that_is_none(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path, layer: bytes
) -> None:
    attacker.push("2", copies_of(owner.versions[2], digest_of(b"")), layer)
    refused(address, tmp_path / "got", "its layer (is no compressed tar|has headers of headers|has no )", owner.trust)


def test_attack_a_sparse_file_in_the_layer(address: str, attacker: Attacker, owner: Signed, tmp_path: Path) -> None:
    """It would be read as gigabytes of zeros."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(SAVED_MODEL)
        member.size = 7
        member.pax_headers = {"GNU.sparse.map": "0,7", "GNU.sparse.size": str(1 << 40)}
        tar.addfile(member, io.BytesIO(b"graph 2"))
    attacker.push("2", copies_of(owner.versions[2], digest_of(made.getvalue())), gzip.compress(made.getvalue()))
    refused(address, tmp_path / "got", r"saved_model\.pb as something else than a plain file", owner.trust)


def test_attack_the_manifest_lies_about_sizes(address: str, attacker: Attacker, owner: Signed, tmp_path: Path) -> None:
    """A size that no disk has, of a file or of the layer, is refused before anything is fetched."""
    version = owner.versions[2]
    huge = changed((version / MANIFEST).read_bytes(), lambda it: it["files"][SAVED_MODEL].update(size=1 << 62))
    attacker.push_version("2", version, manifest=huge)
    refused(address, tmp_path / "got", "was changed: its digest does not match", owner.trust)
    config = make_config(copies_of(version, digest_of(b"")))
    for size, reason in ((1 << 49, "--max-bytes is"), (1 << 60, "expected a number of bytes"), (-1, "of bytes")):
        image = Image(descriptor_of(config), Descriptor(digest_of(b"layer"), size))
        # The registry compares no sizes.
        attacker.put("2", make_manifest(image, {}), config, b"layer")
        refused(address, tmp_path / "got", reason, owner.trust)


def test_attack_a_config_that_describes_other_files_than_the_layer(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path
) -> None:
    """It shows a list with good metrics, a good signature and a good manifest, above another version's layer."""
    attacker.push_version("2", owner.versions[1], **copies_of(owner.versions[2], digest_of(b"")).__dict__)
    with opened(f"oci://{address}/{REPOSITORY}") as source:
        (one,) = listed(source, "scaled", 1, Known(owner.trust), Limits()).versions
        # The list claims what it has compared, and no more.
        assert "signature matches the manifest: the key" in one.line()
    refused(
        address, tmp_path / "got", "model.pb with|tar of its layer|not the one in its config|with .* bytes", owner.trust
    )
    good = owner.versions[2]
    attacker.push_version("2", good, diff_id=digest_of(b"another"))
    refused(address, tmp_path / "got", "the tar of its layer has the digest sha256:.*, its config says", owner.trust)


MANIFESTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "another type of image": (lambda it: it.update(artifactType="application/x-evil"), "artifactType is"),
    "two layers": (lambda it: it.update(layers=it["layers"] * 2), "not exactly one layer"),
    "no layer": (lambda it: it.update(layers=[]), "not exactly one layer"),
    "another layer's type": (
        lambda it: it["layers"][0].update(mediaType="application/vnd.oci.image.layer.v1.tar"),
        r"layers\[0\]\.mediaType is",
    ),
    "another config": (lambda it: it["config"].update(mediaType="application/x-evil"), r"config\.mediaType is"),
    "huge annotations": (lambda it: it.update(annotations={"x": "y" * (1 << 20)}), ""),
}


@pytest.mark.parametrize("attack", MANIFESTS)
def test_attack_an_image_that_is_no_version(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path, attack: str
) -> None:
    change, reason = MANIFESTS[attack]
    attacker.push_version("2", owner.versions[2])
    attacker.put("2", changed(attacker.image("2"), change))
    if not reason:
        # Nothing relies on annotations.
        assert fetched(address, 2, tmp_path / "got", owner.trust).fetched
        return
    refused(address, tmp_path / "got", reason, owner.trust)


CONFIGS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "is no JSON"),
    "deep": (b"[" * 200_000, "is nested too deep|is no JSON"),
    "a list": (b"[]", "config is a list"),
    "no version": (b"{}", "config.dev.tfserving.version is None"),
    "no digest": (b'{"dev.tfserving.version": {}, "rootfs": {"diff_ids": []}}', "diff_ids is not one digest"),
    "a number": (
        b'{"dev.tfserving.version": {"manifest": 1}, "rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64),
        "the manifest in its config is 1, expected a text",
    ),
    "half of a character": (
        b'{"dev.tfserving.version": {"manifest": "\\ud800"}, "rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64),
        "is not Unicode",
    ),
    "no manifest": (
        b'{"dev.tfserving.version": {"manifest": "x"}, "rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64),
        "is no manifest",
    ),
}


@pytest.mark.parametrize("attack", CONFIGS)
def test_attack_a_hostile_config_is_one_line_of_a_list_and_is_not_fetched(
    address: str, owner: Signed, attack: str
) -> None:
    config, reason = CONFIGS[attack]
    attacker = Attacker(address, f"{REPOSITORY}/hostile/scaled")
    attacker.put("2", make_manifest(Image(descriptor_of(config), descriptor_of(b"layer")), {}), config, b"layer")
    attacker.push_version("1", owner.versions[1])
    with opened(f"oci://{address}/{REPOSITORY}/hostile") as source:
        found = listed(source, "scaled", 10, Known(owner.trust), Limits())
        assert [one.state for one in found.versions] == ["broken", "complete"]
        line = next(found.lines())
        assert re.search(reason, line)
        assert len(line) < 1000
        assert line.isprintable()


def test_attack_an_existing_tag_is_never_overwritten_by_a_publish(
    address: str, attacker: Attacker, owner: Signed
) -> None:
    """Not even one that isn't a version: somebody may use it."""
    attacker.push_version("2", owner.versions[2])
    image = changed(attacker.image("2"), lambda it: it.update(artifactType="application/x-other"))
    attacker.put("2", image)
    with pytest.raises(PublishError, match="is not a version: its artifactType is"):
        push(owner.versions[2], Place(address, REPOSITORY))
    assert attacker.image("2") == image
    with pytest.raises(RegistryError):
        read_image(image, "")


def test_attack_a_manifest_without_a_signature_beside_one_with_it(
    address: str, attacker: Attacker, owner: Signed, tmp_path: Path
) -> None:
    """The layer has a signature, which the config leaves out, so that a list shows none: both must be the same."""
    attacker.push_version("2", owner.versions[2], signature=None)
    refused(
        address,
        tmp_path / "got",
        r"has 'assets\.extra/model\.sig', which the version's manifest does not list",
        owner.trust,
    )
