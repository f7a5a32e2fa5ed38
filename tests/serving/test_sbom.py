"""Bills of materials: names of images as package URLs, and a text that depends on the content alone."""

from __future__ import annotations

import json

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tfserving.foundation.manifest import Manifest
from tfserving.foundation.trust import Accepted
from tfserving.serving.docker.sbom import image_bom, image_of, written
from tfserving.serving.docker.sbom_of_models import model_component

DIGEST = f"sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    ("name", "purl"),
    [
        (
            f"python:3.13@{DIGEST}",
            f"pkg:oci/python@sha256:{'ab' * 32}?repository_url=docker.io/library/python&tag=3.13",
        ),
        (f"grafana/grafana@{DIGEST}", f"pkg:oci/grafana@sha256:{'ab' * 32}?repository_url=docker.io/grafana/grafana"),
        (
            f"registry.example.com:5000/a/b:1@{DIGEST}",
            f"pkg:oci/b@sha256:{'ab' * 32}?repository_url=registry.example.com:5000/a/b&tag=1",
        ),
        # Nothing tells such an image from another of the same name.
        ("python:3.13", None),
    ],
)
def test_an_image_with_a_digest_has_a_package_url(name: str, purl: str | None) -> None:
    found = image_of(name)
    assert (found.purl and found.purl.to_string().replace("%2F", "/")) == purl
    assert [one.content for one in found.hashes] == (["ab" * 32] if purl else [])


def bill(base: str = f"python:3.13@{DIGEST}") -> str:
    return written(image_bom(image_of("demo:1"), image_of(base), [image_of("part:1")], Bom()))


def test_the_text_depends_on_the_content_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    text = bill()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert bill() == text
    assert "timestamp" not in json.loads(text)["metadata"]
    assert json.loads(bill("python:3.14"))["serialNumber"] != json.loads(text)["serialNumber"]


def test_the_time_is_that_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert json.loads(bill())["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("signer", ["the key release.pem", None])
def test_a_version_is_listed_with_the_digest_of_its_manifest_and_its_signer(signer: str | None) -> None:
    accepted = Accepted(Manifest(b"{}", "manifest.json"), "cd" * 32, signer)
    text = written(image_bom(image_of("demo:1"), image_of("base:1"), [model_component("digits", 7, accepted)], Bom()))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    (one,) = json.loads(text)["components"]
    assert (one["type"], one["name"], one["version"]) == ("machine-learning-model", "digits", "7")
    assert one["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
    properties = {item["name"].partition(":")[2]: item["value"] for item in one["properties"]}
    assert properties == {"manifest": f"sha256:{'cd' * 32}"} | ({"signer": signer} if signer else {})
