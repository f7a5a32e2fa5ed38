"""The tolerances of a verification: those of the kind of device that the server computes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tfserving.clients.verification.settings import Settings
from tfserving.foundation.compare import Difference, Tolerance
from tfserving.foundation.devices import DEVICES, Device
from tfserving.foundation.golden import Golden
from tfserving.foundation.tensors import Array, dtype_of

# How far float32 outputs of TF32 are from golden ones, as a part of the largest value in a row: measured on an H200.
TF32_LEAST, TF32_MOST = 1e-4, 1e-2
TF32_HINT = (
    "A server that computes in TF32 differs like this. Set `server.tf32: false` in models.yaml, set "
    "NVIDIA_TF32_OVERRIDE=0 in the server's environment, or verify with --device gpu-tf32."
)
GPU_HINT = "The server names no device. If it has a GPU, verify with --device gpu."
EXACT_HINT = (
    "Two kinds of device or processor differ like this. Set how far outputs may differ by --absolute, --relative or "
    "--scale."
)


class NoToleranceError(Exception):
    """A version has no tolerances for the server's device, or the device is unknown; the text says what to do."""


@dataclass(frozen=True)
class ToleranceSet:
    """The tolerances for outputs, and their source.

    `device` is the kind of device that they are for, None for tolerances that were given and when outputs must be
    equal; it is `assumed` when nothing names it. `source` has it and the reason, such as `cpu, since the server names
    no device`.
    """

    source: str
    device: Device | None = None
    by_dtype: Mapping[str, Tolerance] = field(default_factory=dict)
    given: Tolerance | None = None
    assumed: bool = False

    def of(self, output: Array) -> Tolerance | None:
        """Return the tolerance of `output`; None if it must be equal."""
        return self.given or self.by_dtype.get(dtype_of(output).name)

    def hint(self, difference: Difference, expected: Array) -> str:
        """Return the probable cause of a difference; "" if it isn't known."""
        if difference.verdict != "different" or not difference.scaled or difference.scaled > TF32_MOST or self.given:
            return ""
        if self.device is None:
            return EXACT_HINT
        if difference.scaled < TF32_LEAST:
            return GPU_HINT if self.assumed else ""
        is_tf32 = dtype_of(expected).name == "float32" and self.device != "gpu-tf32"
        return TF32_HINT if is_tf32 else ""


_ASSUMED = "since the server names no device"
EXACT = ToleranceSet("none: outputs must be equal")


def tolerance_set(golden: Golden, settings: Settings, named: str = "") -> ToleranceSet:
    """Return the tolerances for a server that names the device `named`, "" for none.

    They are those given in `settings`, else those in `golden` for the server's device. Raises NoToleranceError when
    `golden` has none for it, and for a device of another name.
    """
    given = settings.tolerance
    if given is not None:
        text = f"given: absolute {given.absolute:g}, relative {given.relative:g}, scale {given.scale:g}"
        return ToleranceSet(text, given=given)
    if settings.against is not None or not golden.tolerances:
        return EXACT
    device, why = _device(settings, named)
    if device not in golden.tolerances:
        has = ", ".join(golden.tolerances)
        advice = "export the version again"
        if device == "gpu-tf32":
            advice = "they are measured only by an export on a GPU. Turn TF32 off (`server.tf32: false`)"
        raise NoToleranceError(
            f"the version has no tolerances for {device}, {why}; it has those for {has}: {advice}, or give --absolute, "
            "--relative or --scale"
        )
    return ToleranceSet(f"{device}, {why}", device, golden.tolerances[device], assumed=why is _ASSUMED)


def _device(settings: Settings, named: str) -> tuple[Device, str]:
    if settings.device is not None:
        return settings.device, "the given device"
    if named:
        device = next((device for device in DEVICES if device == named), None)
        if device is None:
            raise NoToleranceError(
                f"the server names the device {named!r}, expected {', '.join(DEVICES)}. Give the device by --device"
            )
        expected = settings.fleet_device
        other = f"; that of models.yaml is {expected}" if expected not in (None, device) else ""
        return device, f"the device that the server names{other}"
    if settings.fleet_device is not None:
        return settings.fleet_device, "the device of `server` in models.yaml"
    return "cpu", _ASSUMED
