"""The images that this toolkit names: each with the digest of its index, which goes on unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.serving.fleets import GOOD, fleet
from tfserving.serving.compose.files import files, images
from tfserving.serving.config import container_config
from tfserving.serving.docker.container import arguments
from tfserving.serving.engines import Plan
from tfserving.serving.models_yaml.server import ENVOY, GRAFANA, NODE_EXPORTER, PROMETHEUS

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"[a-z][a-z0-9./-]*:[\w.-]+@sha256:[0-9a-f]{64}")
DOCKERFILES = ("k8s/Dockerfile", "serving/docker/embedded.Dockerfile")
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def python_of(dockerfile: str) -> str:
    (found,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / dockerfile).read_text(), re.M)
    return str(found)


@pytest.mark.parametrize("image", [PROMETHEUS, NODE_EXPORTER, GRAFANA, ENVOY, *map(python_of, DOCKERFILES)])
def test_an_image_is_pinned_and_the_sources_of_its_digest_are_on_the_page(image: str) -> None:
    assert PINNED.fullmatch(image)
    name, _, digest = image.partition("@")
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert digest in row
    assert len(set(re.findall(r"https://github\.com/([\w.-]+/[\w.-]+)", row))) >= 2


PAGE = (ROOT / "docs/provenance.md").read_text()


def test_both_dockerfiles_have_the_same_base() -> None:
    assert len({python_of(dockerfile) for dockerfile in DOCKERFILES}) == 1


def test_the_manifests_have_the_pinned_envoy() -> None:
    pod = yaml.safe_load((ROOT / "k8s/components/proxy/sidecar.yaml").read_text())["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["image"] == ENVOY


@pytest.mark.usefixtures("authority")
def test_attack_a_digest_is_never_dropped_on_the_way_to_docker(tmp_path: Path) -> None:
    named = {
        key: f"registry.example.com:5000/{key}:1.2@{DIGEST}"
        for key in ("server", "prometheus", "memory", "grafana", "envoy")
    }
    compose = (
        f"prometheus: '{named['prometheus']}', memory_exporter: '{named['memory']}', grafana: '{named['grafana']}', "
        f"envoy: {{image: '{named['envoy']}', certificate: server.pem, key: server.key}}"
    )
    read = fleet(tmp_path, f"{GOOD}server: {{image: '{named['server']}'}}\ncompose: {{{compose}}}\n")
    plan = Plan(read, read.select(()), "127.0.0.1", 8500, 8501)
    assert arguments(plan, container_config(read, plan.names), "up", 180, tmp_path)["image"] == named["server"]
    written = yaml.safe_load(files(plan, 180)["."]["compose.yaml"])["services"]
    assert {name: service["image"] for name, service in written.items()} == named
    # These are pulled.
    assert set(images(plan).values()) == set(named.values())


@pytest.mark.usefixtures("authority")
def test_attack_the_default_images_reach_docker_with_their_digests(tmp_path: Path) -> None:
    read = fleet(tmp_path, f"{GOOD}compose: {{envoy: {{certificate: server.pem, key: server.key}}}}\n")
    written = yaml.safe_load(files(Plan(read, read.select(()), "127.0.0.1", 8500, 8501), 180)["."]["compose.yaml"])
    found = {name: service["image"] for name, service in written["services"].items() if name != "server"}
    assert found == {"prometheus": PROMETHEUS, "memory": NODE_EXPORTER, "grafana": GRAFANA, "envoy": ENVOY}
