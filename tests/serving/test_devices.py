"""The kind of device that the servers of a models.yaml compute on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.fleets import GOOD, fleet
from tfserving.serving.devices import fleet_device


@pytest.mark.parametrize(
    ("settings", "engine", "device"),
    [
        ("", "docker", "cpu"),
        ("server: {gpus: all}", "docker", "gpu"),
        ("server: {gpus: 1, tf32: true}", "compose", "gpu-tf32"),
        ("server: {tf32: true}", "compose", "cpu"),
        # A process uses the GPUs that this machine has.
        ("", "native", None),
        ("", "embedded", None),
        ("", None, None),
        ("server: {gpus: [0]}", "native", "gpu"),
        ("server: {gpus: [0], tf32: true}", "embedded", "gpu-tf32"),
        ("server: {gpus: [0]}", None, "gpu"),
        # Pods have those of their component.
        ("server: {gpus: all}", "kubernetes", "cpu"),
        ("kubernetes: {components: [gpu, volume]}", "kubernetes", "gpu"),
        ("kubernetes: {components: [gpu, volume]}\nserver: {tf32: true}", "kubernetes", "gpu-tf32"),
        ("kubernetes: {components: [gpu, volume]}", "docker", "cpu"),
    ],
)
def test_models_yaml_determines_the_device(tmp_path: Path, settings: str, engine: str | None, device: str) -> None:
    assert fleet_device(fleet(tmp_path, f"{GOOD}{settings}\n"), engine) == device
