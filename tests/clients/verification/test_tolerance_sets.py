"""The hints at the cause of a difference: by its size, and by what is known of the server's device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfserving.clients.verification.settings import Settings
from tfserving.clients.verification.tolerance_sets import EXACT_HINT, GPU_HINT, TF32_HINT, tolerance_set
from tfserving.foundation.compare import Tolerance, compare
from tfserving.foundation.golden import Golden

SETS = {"cpu": {"float32": Tolerance(0, 0, 1e-6)}, "gpu": {}, "gpu-tf32": {"float32": Tolerance(0, 0, 1e-5)}}


@pytest.mark.parametrize(
    ("device", "scaled", "hint"),
    [
        ("", 0.9e-6, ""),
        ("", 1e-5, GPU_HINT),
        ("cpu", 1e-5, ""),
        ("gpu", 1e-5, ""),
        *((device, scaled, TF32_HINT) for device in ("", "cpu", "gpu") for scaled in (1.1e-4, 9e-3)),
        *((device, 1.1e-2, "") for device in ("", "cpu", "gpu")),
        ("gpu-tf32", 1e-3, ""),
    ],
)
def test_float32_that_is_off_by_as_much_as_tf32_gets_a_hint(device: str, scaled: float, hint: str) -> None:
    assert hint_of(Golden((), SETS), Settings(), device, scaled) == hint  # type: ignore[arg-type]


def test_other_floats_do_not_depend_on_tf32() -> None:
    assert hint_of(Golden((), SETS), Settings(), "gpu", 1e-3, np.float64) == ""  # type: ignore[arg-type]


def test_outputs_that_must_be_equal_get_a_hint_at_two_devices() -> None:
    assert hint_of(Golden((), {}), Settings(), "", 1e-6) == EXACT_HINT
    assert hint_of(Golden((), {}), Settings(), "", 0.5) == ""
    given = Settings(tolerance=Tolerance(1e-7, 0))
    assert hint_of(Golden((), {}), given, "", 1e-3) == ""


def hint_of(golden: Golden, settings: Settings, device: str, scaled: float, dtype: Any = np.float32) -> str:
    wanted = np.array([[4.0, 1.0]], dtype)
    served = wanted + np.array([[0, 4 * scaled]], dtype)
    chosen = tolerance_set(golden, settings, device)
    return chosen.hint(compare(served, wanted, chosen.of(wanted)), wanted)
