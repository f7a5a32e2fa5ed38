"""Decides what a process uses of the GPUs that TensorFlow found in it, and checks that there is memory."""

from __future__ import annotations

from tfserving.foundation.gpus import visible_gpus
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.gpu.found import FoundGpu, device_of, uses_tf32
from tfserving.serving.embedded.gpu.libraries import unusable
from tfserving.serving.embedded.gpu.memory import check_free, use_gpus
from tfserving.serving.embedded.gpu.sessions import Place, share_of
from tfserving.serving.embedded.gpu.words import Used, matched, warnings_of


def use(flags: Flags, config: bytes, found: tuple[FoundGpu, ...], place: Place) -> Used:
    """Returns what the process at `place` uses of the GPUs that TensorFlow `found` in it.

    `config` is the serialized ConfigProto of --tensorflow_session_config_file. Errors are explained by these GPUs from
    now on. Raises StartError if a GPU has nearly no free memory, or `config` names one that doesn't exist.
    """
    share = share_of(flags, config, len(found), place)
    listed = visible_gpus()
    warnings = warnings_of(flags, share, found, several=place.of > 1)
    if share is None:
        return Used(warnings=((unusable(listed),) if listed else ()) + warnings)
    pairs = matched(found, listed)
    if not share.unified:
        check_free([pair for gpu in share.gpus if (pair := pairs[gpu]) is not None])
    use_gpus(share.gpus)
    mine = tuple(found[gpu] for gpu in share.gpus)
    return Used(
        device_of(mine, flags),
        share,
        tuple(gpu.name for gpu in mine),
        tuple(None if (pair := pairs[gpu]) is None else pair.total for gpu in share.gpus),
        len(found),
        uses_tf32(mine, flags) if any(gpu.has_tf32 for gpu in mine) else None,
        flags.enable_deterministic_gpu,
        warnings,
    )
