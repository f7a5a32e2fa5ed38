"""What the server reports about its devices when it starts, with none, one and two GPUs."""

from __future__ import annotations

import pytest

from tfserving.foundation.gpus import AUTOTUNE, TF32_OVERRIDE, Gpu
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.gpu.found import ORDER, FoundGpu, device_of, set_environment
from tfserving.serving.embedded.gpu.sessions import FORCED, Share
from tfserving.serving.embedded.gpu.words import Used, describe, matched, warnings_of

H200 = FoundGpu("NVIDIA H200", (9, 0))
T4 = FoundGpu("Tesla T4", (7, 5))
SIZE = 143771 << 20


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (AUTOTUNE, ORDER, TF32_OVERRIDE, FORCED):
        monkeypatch.delenv(name, raising=False)


def used(share: Share, found: int = 1, **others: object) -> Used:
    names, totals = ("NVIDIA H200",) * len(share.gpus), (SIZE,) * len(share.gpus)
    return Used("gpu", share, names, totals, found, tf32=False, **others)  # type: ignore[arg-type]


def test_without_a_gpu_the_device_is_the_cpu() -> None:
    assert describe([Used(), Used()]) == "device: CPU"


@pytest.mark.parametrize(
    ("share", "memory"),
    [
        (Share((0,)), "grows"),
        (Share((0,), grows=False), "all of it allocated at the first load"),
        (Share((0,), 0.25, grows=False), "25 % allocated at the first load"),
        (Share((0,), 0.25), "grows to at most 25 %"),
        (Share((0,), 0.3, processes=3), "grows to at most 30 % in each of 3 processes"),
    ],
)
def test_the_line_names_the_gpu_its_memory_and_how_it_is_allocated(share: Share, memory: str) -> None:
    expected = f"device: NVIDIA H200 (GPU 0 of 1), 140.4 GiB, {memory}; TF32 off"
    assert describe([used(share)] * share.processes) == expected


def test_several_processes_on_two_gpus() -> None:
    processes = [used(Share((0,), 0.45, processes=2), 2), used(Share((1,)), 2), used(Share((0,), 0.45, processes=2), 2)]
    assert describe(processes) == (
        "device: NVIDIA H200 (GPU 0 of 2), 140.4 GiB, grows to at most 45 % in each of 2 processes; "
        "NVIDIA H200 (GPU 1 of 2), 140.4 GiB, grows; TF32 off"
    )


def test_what_differs_from_the_default_is_in_the_line() -> None:
    share = Share((0,))
    process = Used("gpu-tf32", share, ("NVIDIA H200",), (None,), 1, tf32=True, deterministic=True)
    assert describe([process]) == "device: NVIDIA H200 (GPU 0 of 1), grows; TF32 on; autotuning off"
    # A card without TF32 has nothing to turn off.
    assert describe([Used("gpu", share, ("Tesla T4",), (None,), 1)]) == "device: Tesla T4 (GPU 0 of 1), grows"


@pytest.mark.parametrize(
    ("gpus", "tf32", "override", "device"),
    [
        ((), True, None, "cpu"),
        ((H200,), False, None, "gpu"),
        ((H200,), True, None, "gpu-tf32"),
        ((T4,), True, None, "gpu"),
        ((T4, H200), True, None, "gpu-tf32"),
        ((FoundGpu("GPU"),), True, None, "gpu"),
        # NVIDIA's libraries obey the variable, whatever TensorFlow sets.
        ((H200,), True, "0", "gpu"),
        ((H200,), True, "1", "gpu-tf32"),
    ],
)
def test_the_kind_of_device_follows_from_the_card_the_flag_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[FoundGpu, ...], tf32: bool, override: str | None, device: str
) -> None:
    if override is not None:
        monkeypatch.setenv(TF32_OVERRIDE, override)
    assert device_of(gpus, Flags(enable_tf32=tf32)) == device


def test_the_environment_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    set_environment(Flags(enable_tf32=True))
    assert (os.environ.get(TF32_OVERRIDE), os.environ.get(AUTOTUNE)) == (None, None)
    # As nvidia-smi numbers the GPUs.
    assert os.environ[ORDER] == "PCI_BUS_ID"
    monkeypatch.setenv(ORDER, "FASTEST_FIRST")
    set_environment(Flags(enable_deterministic_gpu=True))
    assert (os.environ[TF32_OVERRIDE], os.environ[AUTOTUNE], os.environ[ORDER]) == ("0", "0", "FASTEST_FIRST")


def test_flags_for_a_gpu_have_no_effect_without_one() -> None:
    flags = Flags(
        per_process_gpu_memory_fraction=0.5,
        gpu_memory_growth=True,
        xla_gpu_compilation_enabled=True,
        enable_tf32=True,
        enable_deterministic_gpu=True,
    )
    assert warnings_of(flags, None) == (
        "--per_process_gpu_memory_fraction, --gpu_memory_growth, --xla_gpu_compilation_enabled, --enable_tf32, "
        "--enable_deterministic_gpu: no effect, because no GPU is used",
    )
    # What they turn off doesn't exist there. bfloat16 is for the CPU.
    assert warnings_of(Flags(gpu_memory_growth=False, mixed_precision="bfloat16"), None) == ()
    assert warnings_of(flags, Share((0,), 0.5), environment={}) == ()


def test_gpus_that_no_process_uses_are_named() -> None:
    (warning,) = warnings_of(Flags(), Share((0,)), [1], environment={})
    assert warning.startswith("GPU 1 is not used: each process uses one GPU. Set --workers=2 for a process on each")
    (warning,) = warnings_of(Flags(workers=2), Share((1,)), [0, 2], environment={})
    assert warning.startswith("GPU 0, 2 are not used: each process uses one GPU. Set --workers=4")


def test_a_flag_that_the_environment_overrides_is_named() -> None:
    flags = Flags(gpu_memory_growth=True)
    (warning,) = warnings_of(flags, Share((0,), grows=False), environment={FORCED: "false"})
    assert warning.startswith(f"--gpu_memory_growth=true has no effect, because {FORCED}=false is set")
    assert warnings_of(flags, Share((0,)), environment={FORCED: "true"}) == ()


def test_a_gpu_is_the_one_that_the_driver_lists_at_its_place() -> None:
    one, two = (Gpu(index, f"GPU-{index}", "NVIDIA H200", SIZE, 0) for index in range(2))
    assert matched((H200, H200), (one, two)) == (one, two)
    # The driver lists the whole GPU of a part (MIG), and more GPUs than TensorFlow can use.
    assert matched((FoundGpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0)),), (one,)) == (None,)
    assert matched((H200,), (one, two)) == (None,)
    assert matched((H200,), ()) == (None,)
