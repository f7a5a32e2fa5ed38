"""What each process uses of the GPUs, for any number of GPUs and processes, and TensorFlow's configuration for that."""

from __future__ import annotations

from typing import Any

import pytest

from tfserving.foundation.messages import message
from tfserving.serving.embedded.errors import StartError
from tfserving.serving.embedded.flags import Flags
from tfserving.serving.embedded.gpu.sessions import FORCED, Place, Share, session_config, share_of

ConfigProto = message("tensorflow.ConfigProto")


def file(**options: Any) -> bytes:
    """The ConfigProto of a --tensorflow_session_config_file that contains these gpu_options."""
    config = ConfigProto(intra_op_parallelism_threads=3)
    for name, value in options.items():
        setattr(config.gpu_options, name, value)
    return bytes(config.SerializeToString())


def shares(flags: Flags, config: bytes = b"", *, found: int, processes: int = 1) -> list[Share | None]:
    """The shares of all processes, in an environment without variables of TensorFlow."""
    return [share_of(flags, config, found, Place(number, processes), {}) for number in range(processes)]


def sessions(flags: Flags, config: bytes, share: Share | None) -> Any:
    """The ConfigProto of the sessions."""
    return ConfigProto.FromString(session_config(flags, config, share))


def test_without_a_gpu_the_configuration_is_that_of_the_file() -> None:
    flags = Flags(per_process_gpu_memory_fraction=0.5, gpu_memory_growth=True)
    assert shares(flags, found=0, processes=2) == [None, None]
    assert session_config(flags, file(allow_growth=True), None) == file(allow_growth=True)
    assert session_config(flags, b"", None) == b""


def test_by_default_memory_grows_without_a_limit() -> None:
    (share,) = shares(Flags(), found=1)
    assert share == Share((0,), fraction=0.0, grows=True)
    options = sessions(Flags(), b"", share).gpu_options
    assert (options.allow_growth, options.per_process_gpu_memory_fraction) == (True, 0.0)


@pytest.mark.parametrize(
    ("fraction", "growth", "file_options", "expected"),
    [
        (0.0, None, {}, (0.0, True)),
        (0.0, True, {}, (0.0, True)),
        (0.0, False, {}, (0.0, False)),
        # As in TensorFlow Serving, a fraction is allocated at once.
        (0.25, None, {}, (0.25, False)),
        (0.25, True, {}, (0.25, True)),
        (1.0, None, {}, (1.0, False)),
        # The file applies where no flag is set.
        (0.0, None, {"per_process_gpu_memory_fraction": 0.3}, (0.3, False)),
        (0.0, None, {"per_process_gpu_memory_fraction": 0.3, "allow_growth": True}, (0.3, True)),
        (0.25, None, {"per_process_gpu_memory_fraction": 0.3, "allow_growth": True}, (0.25, True)),
        (0.0, False, {"allow_growth": True}, (0.0, False)),
    ],
)
def test_a_flag_is_stronger_than_the_file(
    fraction: float, growth: bool | None, file_options: dict[str, Any], expected: tuple[float, bool]
) -> None:
    flags = Flags(per_process_gpu_memory_fraction=fraction, gpu_memory_growth=growth)
    (share,) = shares(flags, file(**file_options), found=1)
    assert share is not None
    assert (share.fraction, share.grows) == expected


@pytest.mark.parametrize(("forced", "grows"), [("true", True), ("false", False), ("yes", True)])
def test_the_environment_is_stronger_than_both(forced: str, grows: bool) -> None:
    """TensorFlow knows `true` and `false`, and ignores other values."""
    share = share_of(Flags(gpu_memory_growth=True), b"", 1, environment={FORCED: forced})
    assert share is not None
    assert share.grows is grows


def test_the_file_keeps_its_other_settings() -> None:
    config = ConfigProto.FromString(file(polling_inactive_delay_msecs=7, allow_growth=True))
    config.gpu_options.experimental.internal_fragmentation_fraction = 0.5
    changed = sessions(Flags(), config.SerializeToString(), Share((0,)))
    assert changed.intra_op_parallelism_threads == 3
    assert changed.gpu_options.polling_inactive_delay_msecs == 7
    assert changed.gpu_options.experimental.internal_fragmentation_fraction == 0.5


@pytest.mark.parametrize(
    ("fraction", "processes", "expected"), [(0.0, 2, 0.45), (0.0, 3, 0.3), (0.8, 2, 0.4), (1.0, 4, 0.25)]
)
def test_the_processes_on_a_gpu_share_the_fraction(fraction: float, processes: int, expected: float) -> None:
    for share in shares(Flags(per_process_gpu_memory_fraction=fraction), found=1, processes=processes):
        assert share is not None
        assert share.fraction == pytest.approx(expected)
        assert (share.gpus, share.processes, share.grows) == ((0,), processes, not fraction)


def test_processes_are_spread_over_the_gpus_and_share_only_with_those_on_the_same() -> None:
    spread = shares(Flags(), found=2, processes=3)
    assert spread == [
        Share((0,), 0.45, grows=True, processes=2),
        Share((1,), 0.0, grows=True, processes=1),
        Share((0,), 0.45, grows=True, processes=2),
    ]
    listed = [sessions(Flags(), b"", share).gpu_options.visible_device_list for share in spread]
    assert listed == ["0", "1", "0"]


def test_one_process_uses_the_first_gpu_only() -> None:
    (share,) = shares(Flags(), found=2)
    assert share is not None
    assert share.gpus == (0,)
    assert sessions(Flags(), b"", share).gpu_options.visible_device_list == "0"


def test_the_file_chooses_gpus() -> None:
    (several,) = shares(Flags(), file(visible_device_list="2, 0"), found=3)
    assert several is not None
    assert several.gpus == (2, 0)
    spread = shares(Flags(), file(visible_device_list="2,0"), found=3, processes=2)
    assert [share.gpus for share in spread if share] == [(2,), (0,)]


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        ("1", "there is no GPU 1. TensorFlow found 1, with the number 0"),
        ("0,0", "a GPU is listed twice"),
        ("all", "expected numbers of GPUs, such as '0' or '0,1'"),
        ("-1", "expected numbers of GPUs"),
        ("0,", "expected numbers of GPUs"),
    ],
)
def test_a_gpu_that_does_not_exist_is_refused(listed: str, text: str) -> None:
    with pytest.raises(
        StartError, match=r"--tensorflow_session_config_file: gpu_options.visible_device_list"
    ) as raised:
        shares(Flags(), file(visible_device_list=listed), found=1)
    assert text in str(raised.value)


def test_more_than_the_gpu_has_is_unified_memory_also_when_it_is_shared() -> None:
    """TensorFlow uses unified memory for a fraction above 1, which a share may be below."""
    flags = Flags(per_process_gpu_memory_fraction=1.5)
    for share in shares(flags, found=1, processes=2):
        assert share is not None
        assert share.fraction == 0.75
        assert sessions(flags, b"", share).gpu_options.experimental.use_unified_memory
    (whole,) = shares(Flags(per_process_gpu_memory_fraction=1.0), found=1)
    assert whole is not None
    assert not whole.unified


@pytest.mark.parametrize("share", [None, Share((0,))])
def test_mixed_precision_is_a_rewrite_of_the_graph(share: Share | None) -> None:
    rewriting = sessions(Flags(mixed_precision="bfloat16"), b"", share).graph_options.rewrite_options
    field = rewriting.DESCRIPTOR.fields_by_name["auto_mixed_precision_onednn_bfloat16"]
    assert field.enum_type.values_by_number[rewriting.auto_mixed_precision_onednn_bfloat16].name == "ON"
    assert not sessions(Flags(), b"", share).graph_options.HasField("rewrite_options")
