"""The bills of materials of the images that are built here: whole, valid, and the same for the same content."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from docker import DockerClient

from tests.docker.conftest import SCALED, Fleet
from tests.docker.engine import EMBEDDED_IMAGE, OURS, PYTHON, ROOT, TOOLKIT
from tfserving import __version__
from tfserving.serving.models_yaml.server import IMAGE

FOLDER = "/usr/local/share/sbom"
NAMES = {TOOLKIT: "serving-toolkit", EMBEDDED_IMAGE: "serving-embedded"}
# What an image has of Python and Debian, in its own words.
LISTS_PYTHON = (
    "from importlib.metadata import distributions; "
    "print(*{f'{one.name.lower()} {one.version}' for one in distributions()}, sep='\\n')"
)
LISTS_DEBIAN = "dpkg-query --show --showformat '${Package} ${Version}\\n'"


def of(image: str) -> str:
    return f"{FOLDER}/{NAMES[image]}.cdx.json"


def file_in(docker: DockerClient, image: str, path: str) -> bytes:
    """A file of an image, which isn't started."""
    container = docker.containers.create(image)
    try:
        data = b"".join(container.get_archive(path)[0])
    finally:
        container.remove()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.extractfile(Path(path).name)
        assert found
        return found.read()


def valid(text: bytes) -> Any:
    assert (problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode())) is None, problem
    return json.loads(text)


def run(docker: DockerClient, image: str, command: str) -> str:
    return docker.containers.run(image, ["-c", command], entrypoint=["sh"], remove=True).decode()


@pytest.mark.parametrize("image", OURS)
def test_an_image_lists_all_that_it_contains(docker: DockerClient, image: str) -> None:
    # The build compares it with the schema.
    bill = json.loads(run(docker, image, f"cat {of(image)}"))
    by_kind = {
        kind: {
            one["name"].lower() + " " + one["version"]: one for one in bill["components"] if kind in one.get("purl", "")
        }
        for kind in ("pkg:pypi/", "pkg:deb/debian/")
    }
    assert by_kind["pkg:pypi/"].keys() == {*run(docker, image, f'python3 -c "{LISTS_PYTHON}"').splitlines()}
    assert by_kind["pkg:deb/debian/"].keys() == {*run(docker, image, LISTS_DEBIAN).splitlines()}
    # Of every package the wheel is known; not of those of the base image, which are Debian's.
    for name, one in by_kind["pkg:pypi/"].items():
        known = [hashed["alg"] for hashed in one.get("hashes", ())] == ["SHA-256"]
        assert known or f"python3-{name.split()[0]}" in {one["name"] for one in by_kind["pkg:deb/debian/"].values()}, (
            name
        )
    numpy = next(one for name, one in by_kind["pkg:pypi/"].items() if name.startswith("numpy "))
    locked = (
        (ROOT / "requirements.lock").read_text().partition(f"numpy=={numpy['version']}")[2].partition("\nnumpy==")[0]
    )
    assert f"--hash=sha256:{numpy['hashes'][0]['content']}" in locked
    assert numpy["licenses"]
    described = bill["metadata"]["component"]
    assert (described["type"], described["name"], described["version"]) == ("container", NAMES[image], __version__)
    assert described["pedigree"]["ancestors"][0]["name"] == PYTHON.partition(":")[0]
    (root,) = (one for one in bill["dependencies"] if one["ref"] == described["bom-ref"])
    assert len(root["dependsOn"]) == len(bill["components"])


@pytest.mark.parametrize("image", OURS)
def test_nothing_but_the_list_is_added_to_an_image(docker: DockerClient, image: str) -> None:
    assert run(docker, image, f"ls -A {FOLDER}; ls -d /opt/sbom /build 2> /dev/null || true").split() == [
        f"{NAMES[image]}.cdx.json"
    ]
    assert len(file_in(docker, image, of(image))) < 300_000


def test_the_same_packages_have_the_same_list_at_another_time(docker: DockerClient) -> None:
    stage, _ = docker.images.build(
        path=str(ROOT),
        dockerfile=OURS[EMBEDDED_IMAGE],
        target="sbom",
        buildargs={"PYTHON_IMAGE": PYTHON},
        network_mode="host",
        rm=True,
    )
    run_before = next(layer["CreatedBy"] for layer in stage.history() if "sbom_of_packages" in layer["CreatedBy"])
    command = "PYTHONPATH=/build" + run_before.partition("PYTHONPATH=/build")[2].replace(
        of(EMBEDDED_IMAGE), "/dev/stdout"
    )
    again = docker.containers.run(
        str(stage.id), ["-c", command], entrypoint=["sh"], environment={"PYTHON_IMAGE": PYTHON}, remove=True
    )
    assert again == file_in(docker, EMBEDDED_IMAGE, of(EMBEDDED_IMAGE))


def test_a_baked_image_lists_its_models_and_refers_to_the_list_of_its_base(fleet: Fleet) -> None:
    fleet.version(2)
    fleet.say(f"{SCALED}    labels: {{stable: 1, canary: 2}}\n")
    tag = fleet.toolkit("image", "--sbom", str(fleet.folder / "sbom.json")).stdout.split()[0]
    written = (fleet.folder / "sbom.json").read_bytes()
    assert file_in(fleet.docker, tag, f"{FOLDER}/models.cdx.json") == written
    bill = valid(written)
    assert "timestamp" not in bill["metadata"]
    labels = fleet.docker.images.get(tag).labels
    assert {
        (one["type"], one["name"], one["version"], f"sha256:{one['hashes'][0]['content']}")
        for one in bill["components"]
    } == {
        (
            "machine-learning-model",
            "scaled",
            str(version),
            labels[f"tensorflow-serving-toolkit.manifest.scaled/{version}"],
        )
        for version in (1, 2)
    }
    assert ":".join((bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"])) == tag
    (base,) = bill["metadata"]["component"]["pedigree"]["ancestors"]
    assert f"{base['name']}:{base['version']}" == IMAGE
    (reference,) = base["externalReferences"]
    # The base of these tests is built on the embedded server's image.
    named = file_in(fleet.docker, tag, of(EMBEDDED_IMAGE))
    assert reference["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(named).hexdigest()}]
    assert reference["url"] == json.loads(named)["serialNumber"].replace("urn:uuid:", "urn:cdx:") + "/1"
    assert reference["comment"] == f"{of(EMBEDDED_IMAGE)} in this image"
    fleet.toolkit("image", "--sbom", str(fleet.folder / "again.json"))
    assert (fleet.folder / "again.json").read_bytes() == written
    fleet.docker.images.remove(tag, force=True)
