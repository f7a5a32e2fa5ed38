"""The tolerances of a rollout: those of the versions for the kinds of device of their servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tfserving.foundation.compare import Tolerance
from tfserving.foundation.devices import Device
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.manifest import ManifestError, read_manifest_file
from tfserving.k8s.hints import recommended
from tfserving.k8s.rollout.pairs import Pair
from tfserving.k8s.rollout.target import GateError, RolloutError
from tfserving.serving.models_yaml.fleet import Fleet


def check(fleet: Fleet, model: str, version: int, devices: Iterable[Device | None]) -> None:
    """Raise RolloutError when a version has no tolerances for one of these devices; None is an unknown one."""
    try:
        found = _of(fleet, model, version)
    except ManifestError as error:
        raise RolloutError(str(error)) from None
    for device in devices:
        if device is not None and device not in found:
            remedy = (
                "Set `server.tf32: false`, or export it on a GPU, which measures them"
                if device == "gpu-tf32"
                else "Export it again"
            )
            raise RolloutError(
                f"{model} version {version} has no tolerances for {device}, the device of the servers. It has some for "
                f"{', '.join(found)}. {remedy}, with `{recommended(f'export build {model}')}`."
            )


def between(fleet: Fleet, model: str, pair: Pair) -> dict[str, Tolerance]:
    """Return the wider tolerances of two served versions, each for the device of its server. See `wider`.

    Raises GateError when a manifest can't be read, or a version isn't served.
    """
    try:
        return wider(fleet, model, [(one.reached.version, one.device) for one in (pair.old, pair.new)])
    except ManifestError as error:
        raise GateError(str(error)) from None


def wider(fleet: Fleet, model: str, served: Iterable[tuple[int, Device]]) -> dict[str, Tolerance]:
    """Return by element type the widest tolerance of versions, each for its device.

    Outputs of two versions are compared with it: one may run on a CPU, and the other one on a GPU. A version without
    tolerances for its device has none here. Raises ManifestError.
    """
    made: dict[str, Tolerance] = {}
    for version, device in served:
        for dtype, one in _of(fleet, model, version).get(device, {}).items():
            other = made.get(dtype, one)
            made[dtype] = Tolerance(
                max(one.absolute, other.absolute), max(one.relative, other.relative), max(one.scale, other.scale)
            )
    return made


def _of(fleet: Fleet, model: str, version: int) -> Mapping[Device, Mapping[str, Tolerance]]:
    return read_manifest_file(fleet.model_folder(model) / str(version) / MANIFEST).tolerances()
