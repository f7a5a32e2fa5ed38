from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.serving.embedded.running import ROOT
from tfserving.serving.embedded.command_line import command
from tfserving.serving.embedded.flags import MOST_WORKERS, Flags


def invoke(*arguments: str) -> tuple[Result, list[Flags]]:
    """What the command does with `arguments`, and the flags it would have run with."""
    seen: list[Flags] = []

    def run(flags: Flags) -> int:
        seen.append(flags)
        return 0

    return CliRunner().invoke(command(run), list(arguments)), seen


def read(*arguments: str) -> Flags:
    result, (flags,) = invoke("--model_base_path=/models/m", *arguments)
    assert result.exit_code == 0, result.output
    return flags


def test_the_defaults_are_those_of_tensorflow_model_server() -> None:
    flags = read()

    assert (flags.port, flags.rest_api_port, flags.model_name) == (8500, 0, "default")
    assert (flags.max_num_load_retries, flags.load_retry_interval_micros) == (5, 60_000_000)
    assert flags.file_system_poll_wait_seconds == 1
    assert flags.enable_model_warmup
    assert not flags.allow_version_labels_for_unavailable_models


def test_a_flag_that_makes_no_sense_here_is_accepted_and_said() -> None:
    result, (flags,) = invoke("--model_base_path=/models/m", "--num_load_threads=4", "--enable_profiler")

    assert result.exit_code == 0
    assert "--num_load_threads has no effect: two threads load versions" in result.output
    assert "--enable_profiler has no effect: this server has no profiler service" in result.output
    assert flags.port == 8500


def test_a_feature_that_is_missing_here_can_be_turned_off_without_a_warning() -> None:
    result, _ = invoke("--model_base_path=/models/m", "--enable_profiler=false")

    assert (result.exit_code, result.output) == (0, "")


def test_what_would_be_sent_in_plain_text_against_a_flag_is_not_served() -> None:
    result, seen = invoke("--model_base_path=/models/m", "--use_alts_credentials")

    assert (result.exit_code, seen) == (2, [])
    assert "--use_alts_credentials: this server has no ALTS. Use --ssl_config_file to encrypt gRPC." in result.output
    assert invoke("--model_base_path=/models/m", "--use_alts_credentials=false")[0].exit_code == 0


def test_only_this_machine_can_connect_unless_told_otherwise() -> None:
    assert read().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("written", "value"),
    [("", True), ("=true", True), ("=1", True), ("=false", False), ("=False", False), ("=0", False)],
)
def test_a_switch_is_written_alone_or_with_a_value(written: str, value: bool) -> None:
    assert read(f"--enable_model_warmup{written}", "--port=9000").enable_model_warmup is value


def test_a_poll_can_be_shorter_than_a_second() -> None:
    assert read("--file_system_poll_wait_seconds=0.25").file_system_poll_wait_seconds == 0.25
    assert read("--file_system_poll_wait_seconds=-1").file_system_poll_wait_seconds == -1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--prot=8500"], "No such option '--prot'. (Did you mean one of: '--host', '--port'?)"),
        (["--port=grpc"], "Invalid value for '--port': 'grpc' is not a valid integer"),
        (["--port=65536"], "65536 is not in the range 0<=x<=65535"),
        (["--rest_api_port=-1"], "-1 is not in the range"),
        (["--enable_model_warmup=perhaps"], "'perhaps' is not a valid boolean"),
        (["--grpc_max_threads=0"], "0 is not in the range"),
        (["--file_system_poll_wait_seconds=nan"], "nan is not a number of seconds"),
        (["--port=8501", "--rest_api_port=8501"], "gRPC and REST can't share port 8501"),
        (["--port=0"], "Neither gRPC nor REST has a port"),
        (["models"], "Got unexpected extra argument"),
        (["--batching_parameters_file=batch.conf"], "--batching_parameters_file requires --enable_batching"),
        (
            ["--enable_per_model_batching_parameters"],
            "--enable_per_model_batching_parameters requires --enable_batching",
        ),
        (["--grpc_channel_arguments=grpc.max_connection_age_ms"], "grpc.max_connection_age_ms is not key=value"),
        (["--trusted_proxies=10.0.0.1,10.1.0.1/16,proxy"], "10.1.0.1/16, proxy is not an address or a network"),
        (["--workers=0"], "0 is not in the range"),
        (["--workers=99999"], f"--workers=99999 is more than {MOST_WORKERS}, the limit of this machine"),
        (["--worker_timeout_seconds=0"], "0.0 is not in the range"),
        (["--workers=2", "--grpc_socket_path=/run/m"], "--grpc_socket_path and --workers can't be combined"),
        (["--request_log_sampling_rate=0.1"], "--request_log_sampling_rate requires --request_log"),
        (["--request_log=r", "--request_log_sampling_rate=2"], "2.0 is not in the range"),
        (["--request_log_max_bytes=0"], "--request_log_max_bytes requires --request_log"),
        (["--request_log=r", "--request_log_max_bytes=1000"], "is too small. Set at least 1048576, or 0"),
        (["--rest_api_enable_tls"], "--rest_api_enable_tls requires --ssl_config_file"),
        (["--model_config_file_poll_wait_seconds=1"], "requires --model_config_file"),
        (
            [
                "--tensorflow_session_parallelism=2",
                "--tensorflow_intra_op_parallelism=2",
                "--tensorflow_inter_op_parallelism=2",
            ],
            "Remove one of the three",
        ),
    ],
)
def test_a_wrong_flag_is_refused_with_exit_code_2(arguments: list[str], text: str) -> None:
    result, seen = invoke("--model_base_path=/models/m", *arguments)

    assert result.exit_code == 2
    assert text in result.output
    assert not seen


def test_some_model_has_to_be_named() -> None:
    result, seen = invoke("--port=8500")

    assert (result.exit_code, seen) == (2, [])
    assert "Set --model_base_path or --model_config_file" in result.output


def test_paths_are_paths() -> None:
    assert read("--model_config_file=/etc/models.config").model_config_file == Path("/etc/models.config")


def test_every_flag_is_in_the_help_with_examples_and_exit_codes() -> None:
    result, _ = invoke("--help")

    assert result.exit_code == 0
    for name in Flags.__dataclass_fields__:
        assert f"--{name} " in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "python -m tfserving.serving.embedded --model_name=digits" in result.output
    assert "Exit codes:" in result.output


def quickest(*command: str) -> float:
    """The seconds of a processor that `python COMMAND` takes at best."""
    seconds = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(used.ru_utime + used.ru_stime)
    return min(seconds)


@pytest.mark.alone
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_comes_without_tensorflow_and_at_once(flag: str) -> None:
    code = (
        "import sys; sys.argv = ['x', sys.argv[1]]\n"
        "from tfserving.serving.embedded.__main__ import main\n"
        "try: main()\n"
        "finally: assert not {'tensorflow', 'grpc', 'uvloop', 'numpy'} & set(sys.modules), 'too much is imported'"
    )
    # What reads the flags takes more than half of it.
    assert quickest("-c", code, flag) < 3 * quickest("-c", "import click")
