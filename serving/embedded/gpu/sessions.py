"""What a process uses of the GPUs, and TensorFlow's configuration for that.

TensorFlow's sessions allocate a part of a GPU's memory: `per_process_gpu_memory_fraction` of all of it, or, with 0,
nearly all that is free. They do that at the first load, or with `allow_growth` when they need more.
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/protobuf/config.proto
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfserving.foundation.messages import message
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import BFLOAT16, Flags

# Overrides `allow_growth` in TensorFlow:
# https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/gpu/gpu_bfc_allocator.cc
FORCED = "TF_FORCE_GPU_ALLOW_GROWTH"
# The part of a GPU that several processes share if no flag sets it. The rest is for CUDA itself.
SHARED = 0.9


@dataclass(frozen=True)
class Place:
    """A process among those of the server: its number, from 0, and how many there are."""

    number: int = 0
    of: int = 1


ALONE = Place()


@dataclass(frozen=True)
class Share:
    """What a process uses.

    `gpus` are TensorFlow's numbers of the GPUs. The process allocates at most `fraction` of the memory of each; 0 is
    nearly all. With `grows` it allocates memory when it needs it. `processes` of the server use the same GPU. With
    `unified` the fraction may exceed the GPU's memory, and the rest is in the host's.
    """

    gpus: tuple[int, ...]
    fraction: float = 0.0
    grows: bool = True
    processes: int = 1
    unified: bool = False


def share_of(
    flags: Flags, config: bytes, found: int, place: Place = ALONE, environment: Mapping[str, str] = os.environ
) -> Share | None:
    """Returns what the process at `place` uses of `found` GPUs; None without a GPU.

    `config` is the serialized ConfigProto of --tensorflow_session_config_file, whose gpu_options apply where no flag is
    set. One process uses the first GPU, or those of `visible_device_list`. Several processes are spread over the GPUs,
    and those on the same GPU share the fraction. Raises StartError if `visible_device_list` is wrong.
    """
    if not found:
        return None
    options = _read(config).gpu_options
    listed = _visible(options.visible_device_list, found)
    usable = listed or tuple(range(found))
    if place.of == 1:
        gpus, processes = listed or usable[:1], 1
    else:
        turn = place.number % len(usable)
        gpus = (usable[turn],)
        processes = len(range(turn, place.of, len(usable)))
    whole = flags.per_process_gpu_memory_fraction or options.per_process_gpu_memory_fraction
    grows = flags.gpu_memory_growth
    if grows is None:
        grows = bool(options.allow_growth or not whole)
    forced = environment.get(FORCED)
    if forced in {"true", "false"}:
        grows = forced == "true"
    fraction = whole if processes == 1 else (whole or SHARED) / processes
    return Share(gpus, fraction, grows, processes, whole > 1 or options.experimental.use_unified_memory)


def session_config(flags: Flags, config: bytes, share: Share | None) -> bytes:
    """Returns the serialized ConfigProto of the sessions of a process that uses `share`.

    `config` is the ConfigProto of --tensorflow_session_config_file.
    """
    changed = _read(config)
    if flags.mixed_precision == BFLOAT16:
        # As TensorFlow Serving does: https://github.com/tensorflow/serving/pull/2193
        rewriting = changed.graph_options.rewrite_options
        rewriting.auto_mixed_precision_onednn_bfloat16 = _ON
    if share is not None:
        options = changed.gpu_options
        options.allow_growth = share.grows
        options.per_process_gpu_memory_fraction = share.fraction
        options.visible_device_list = ",".join(map(str, share.gpus))
        if share.unified:
            options.experimental.use_unified_memory = True
    return bytes(changed.SerializeToString())


# RewriterConfig.ON
_ON = 1


def _read(config: bytes) -> Any:
    return message("tensorflow.ConfigProto").FromString(config)


def _visible(listed: str, found: int) -> tuple[int, ...]:
    where = f"--tensorflow_session_config_file: gpu_options.visible_device_list is {listed!r}"
    parts = [part.strip() for part in listed.split(",")] if listed else []
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise StartError(f"{where}, expected numbers of GPUs, such as '0' or '0,1'")
    gpus = tuple(map(int, parts))
    for gpu in gpus:
        if gpu >= found:
            last = f"from 0 to {found - 1}" if found > 1 else "0"
            raise StartError(f"{where}: there is no GPU {gpu}. TensorFlow found {found}, with the number {last}")
    if len(set(gpus)) < len(gpus):
        raise StartError(f"{where}: a GPU is listed twice")
    return gpus
