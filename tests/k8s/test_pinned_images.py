"""The images of pods: a digest in models.yaml, or of a default, is in the manifests as it is."""

from __future__ import annotations

from pathlib import Path

from tests.k8s.needed import KUBECTL
from tests.k8s.test_manifests import STORE, made, pod
from tfserving.serving.models_yaml.server import ENVOY

pytestmark = KUBECTL
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def images(folder: Path, settings: str) -> dict[str, str]:
    """The image of each container."""
    spec = pod(made(folder, settings))
    return {one["name"]: one["image"] for one in [*spec["initContainers"], *spec["containers"]]}


def test_attack_a_digest_is_never_dropped_on_the_way_to_kubernetes(tmp_path: Path) -> None:
    ours, toolkit, envoy = (f"registry.example.com:5000/{name}:1.2@{DIGEST}" for name in ("fleet", "toolkit", "envoy"))
    settings = f"components: [object-store, proxy], {STORE}, image: '{ours}', toolkit_image: '{toolkit}'"
    found = images(tmp_path, settings)
    assert found.pop("proxy") == ENVOY
    assert ours in found.values()
    assert set(found.values()) == {ours, toolkit}
    found = images(tmp_path, f"{settings}, proxy: {{image: '{envoy}'}}")
    assert found["proxy"] == envoy
