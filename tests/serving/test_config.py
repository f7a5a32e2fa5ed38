"""models.yaml as TensorFlow Serving's own configuration files and flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format

from tests.authority import Authority
from tests.serving.fleets import GOOD, fleet
from tfserving.cli import tfserving
from tfserving.foundation.messages import ModelServerConfig
from tfserving.serving.config import ServerConfig, entry_point, in_container, on_host, server_config
from tfserving.serving.config_messages import (
    BatchingParameters,
    MonitoringConfig,
    SSLConfig,
)
from tfserving.serving.embedded.command_line import command as embedded
from tfserving.serving.embedded.flags import Flags


def configured(folder: Path, server: str = "", models: str = GOOD, *, embedded: bool = False) -> ServerConfig:
    read = fleet(folder, f"{models}server: {{{server}}}\n")
    return server_config(read, read.select(()), in_container(), embedded=embedded)


def test_models_become_a_model_config_list(tmp_path: Path) -> None:
    models = f"{GOOD}    labels: {{previous: 1}}\n  all:\n    builder: m:b\n    versions: all\n"
    models += "  two:\n    builder: m:b\n    versions: 2\n  these:\n    builder: m:b\n    versions: [1, 3]\n"
    text = configured(tmp_path, models=models).files["models.config"]
    listed = {model.name: model for model in text_format.Parse(text, ModelServerConfig()).model_config_list.config}
    assert {name: model.base_path for name, model in listed.items()} == {
        name: f"/models/{name}" for name in ("digits", "all", "two", "these")
    }
    assert {model.model_platform for model in listed.values()} == {"tensorflow"}
    assert dict(listed["digits"].version_labels) == {"previous": 1}
    assert list(listed["digits"].model_version_policy.specific.versions) == [1, 3]
    assert listed["all"].model_version_policy.WhichOneof("policy_choice") == "all"
    assert listed["two"].model_version_policy.latest.num_versions == 2
    assert list(listed["these"].model_version_policy.specific.versions) == [1, 3]


def test_a_canary_is_a_model_of_its_own_in_the_same_folder(tmp_path: Path) -> None:
    text = configured(tmp_path, models=f"{GOOD}    labels: {{stable: 2, canary: 3}}\n").files["models.config"]
    own, canary = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    assert (own.name, canary.name) == ("digits", "digits-canary")
    assert own.base_path == canary.base_path == "/models/digits"
    assert list(own.model_version_policy.specific.versions) == [2]
    assert list(canary.model_version_policy.specific.versions) == [3]
    assert (dict(own.version_labels), dict(canary.version_labels)) == ({"stable": 2}, {"canary": 3})


def test_flags_name_the_files_and_the_ports(tmp_path: Path) -> None:
    read = fleet(tmp_path)
    container = server_config(read, ("digits",), in_container(), embedded=False)
    assert {"--port=8500", "--rest_api_port=8501", "--model_config_file=/config/models.config"} <= set(container.flags)
    assert "--monitoring_config_file=/config/monitoring.config" in container.flags
    host = server_config(read, ("digits",), on_host(read, 9500, 9501, tmp_path / "config"), embedded=False)
    assert {"--port=9500", f"--model_config_file={tmp_path}/config/models.config"} <= set(host.flags)
    assert f'base_path: "{tmp_path}/models/digits"' in host.files["models.config"]


def test_batching_becomes_batching_parameters(tmp_path: Path) -> None:
    made = configured(
        tmp_path, "batching: {max_batch_size: 64, batch_timeout_micros: 500, allowed_batch_sizes: [8, 64]}"
    )
    parameters = text_format.Parse(made.files["batching_parameters.txt"], BatchingParameters())
    assert parameters.max_batch_size.value == 64
    assert parameters.batch_timeout_micros.value == 500
    assert list(parameters.allowed_batch_sizes) == [8, 64]
    assert not parameters.HasField("num_batch_threads")
    assert {"--enable_batching=true", "--batching_parameters_file=/config/batching_parameters.txt"} <= set(made.flags)


def test_monitoring_is_on_unless_told_otherwise(tmp_path: Path) -> None:
    monitoring = text_format.Parse(configured(tmp_path).files["monitoring.config"], MonitoringConfig())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    without = configured(tmp_path, "monitoring: false")
    assert "monitoring.config" not in without.files
    assert not [flag for flag in without.flags if "monitoring" in flag]


def test_tls_files_become_ssl_config(tmp_path: Path, authority: Authority) -> None:
    made = configured(
        tmp_path, "tls: {certificate: server.pem, key: server.key, client_ca: ca.pem, verify_clients: true}"
    )
    config = text_format.Parse(made.files["ssl.config"], SSLConfig())
    assert config.server_key == authority.text("server.key")
    assert config.server_cert == authority.text("server.pem")
    assert config.custom_ca == authority.text("ca.pem")
    assert config.client_verify
    assert "--ssl_config_file=/config/ssl.config" in made.flags


def test_batching_on_a_gpu_has_few_sizes_and_two_threads(tmp_path: Path) -> None:
    for by_embedded in (False, True):
        made = configured(tmp_path, "gpus: all, batching: {batch_timeout_micros: 500}", embedded=by_embedded)
        parameters = text_format.Parse(made.files["batching_parameters.txt"], BatchingParameters())
        assert list(parameters.allowed_batch_sizes) == [1, 2, 4, 8, 16, 32]
        assert parameters.max_execution_batch_size.value == 32
        assert parameters.enable_large_batch_splitting.value
        assert parameters.num_batch_threads.value == 2
        assert (parameters.max_batch_size.value, parameters.batch_timeout_micros.value) == (1000, 500)


def test_pods_have_gpus_by_their_component(tmp_path: Path) -> None:
    read = fleet(tmp_path, f"{GOOD}server: {{batching: {{}}}}\n")
    for gpu, sizes in ((True, 6), (False, 0), (None, 0)):
        made = server_config(read, read.select(()), in_container(), embedded=False, gpu=gpu)
        parameters = text_format.Parse(made.files["batching_parameters.txt"], BatchingParameters())
        assert len(parameters.allowed_batch_sizes) == sizes


def test_any_batch_size_can_be_chosen_for_a_gpu(tmp_path: Path) -> None:
    made = configured(tmp_path, "gpus: all, batching: {allowed_batch_sizes: []}")
    parameters = text_format.Parse(made.files["batching_parameters.txt"], BatchingParameters())
    assert not parameters.allowed_batch_sizes
    assert not parameters.HasField("enable_large_batch_splitting")


def test_without_a_gpu_batching_keeps_the_defaults_of_tensorflow_serving(tmp_path: Path) -> None:
    made = configured(tmp_path, "batching: {}")
    parameters = text_format.Parse(made.files["batching_parameters.txt"], BatchingParameters())
    assert parameters.max_batch_size.value == 1000
    others = ("max_enqueued_batches", "num_batch_threads", "enable_large_batch_splitting", "max_execution_batch_size")
    assert not any(parameters.HasField(name) for name in others)
    assert not parameters.allowed_batch_sizes


@pytest.mark.parametrize("by_embedded", [False, True])
def test_the_share_of_gpu_memory_is_a_flag_of_every_server(tmp_path: Path, by_embedded: bool) -> None:
    """Memory growth leaves all flags of TensorFlow Serving in effect."""
    server = "gpu_memory_growth: true, gpu_memory_fraction: 0.25, batching: {}"
    made = configured(tmp_path, f"{server}, flags: {{tensorflow_session_parallelism: 2}}", embedded=by_embedded)
    flags = said(made)
    assert flags["per_process_gpu_memory_fraction"] == "0.25"
    assert flags["tensorflow_session_parallelism"] == "2"
    assert flags["enable_batching"] == "true"
    assert "platform_config_file" not in flags


def test_the_embedded_server_gets_what_is_not_its_default(tmp_path: Path) -> None:
    names = {"enable_tf32", "enable_deterministic_gpu", "gpu_memory_growth"}
    assert not names & said(configured(tmp_path, "gpus: all", embedded=True)).keys()
    server = "tf32: true, deterministic: true, gpu_memory_growth: false"
    flags = said(configured(tmp_path, server, embedded=True))
    assert {name: flags[name] for name in names} == {
        "enable_tf32": "true",
        "enable_deterministic_gpu": "true",
        "gpu_memory_growth": "false",
    }
    assert not names & said(configured(tmp_path, server)).keys()


def test_more_flags_are_passed_on(tmp_path: Path) -> None:
    flags = configured(tmp_path, "flags: {max_num_load_retries: 3, enable_model_warmup: false}").flags
    assert "--max_num_load_retries=3" in flags
    assert "--enable_model_warmup=false" in flags
    assert len({flag.partition("=")[0] for flag in flags}) == len(flags)


@pytest.mark.parametrize("by_embedded", [True, False])
def test_flags_that_only_the_embedded_server_has_are_for_it_alone(tmp_path: Path, by_embedded: bool) -> None:
    said = "flags: {allowed_operations: ReadFile, enable_model_warmup: true}"
    flags = configured(tmp_path, said, embedded=by_embedded).flags
    assert ("--allowed_operations=ReadFile" in flags) == by_embedded
    assert "--enable_model_warmup=true" in flags


def said(made: ServerConfig) -> dict[str, str]:
    """Flags by their names."""
    return dict(flag.removeprefix("--").split("=", 1) for flag in made.flags)


def test_tensorflow_serving_gets_threads_for_every_call(tmp_path: Path) -> None:
    """By default it refuses more gRPC calls than 4 for each CPU, and REST metadata waits behind predictions."""
    flags = said(configured(tmp_path))
    assert flags["grpc_max_threads"] == "1024"
    assert flags["rest_api_num_threads"] == "256"
    assert flags["enable_grpc_healthcheck_service"] == "true"
    flags = said(configured(tmp_path, "grpc_max_threads: 200, rest_api_num_threads: 100"))
    assert flags["grpc_max_threads"] == "200"
    assert flags["rest_api_num_threads"] == "100"


def test_tensorflow_serving_compiles_versions_that_were_exported_with_xla(tmp_path: Path) -> None:
    """Without a flag for it, requests to them fail there. The embedded server needs none."""
    assert said(configured(tmp_path))["xla_cpu_compilation_enabled"] == "true"
    assert not [flag for flag in said(configured(tmp_path, embedded=True)) if "xla" in flag]


def test_the_embedded_server_lets_calls_wait_in_threads_of_its_own_number(tmp_path: Path) -> None:
    flags = said(configured(tmp_path, "grpc_max_threads: 200, drain_seconds: 5", embedded=True))
    assert not {"grpc_max_threads", "rest_api_num_threads"} & flags.keys()
    assert flags["drain_seconds"] == "5.0"
    assert flags["reload_base_paths"] == "/models"
    assert flags["enable_reload_config"] == "false"


def test_a_script_drains_tensorflow_serving_and_the_embedded_server_drains_by_itself(tmp_path: Path) -> None:
    made = configured(tmp_path, "drain_seconds: 2.5")
    assert "\nlongest=${DRAIN_SECONDS:-3}\n" in made.files["serve.sh"]
    places = in_container()
    assert entry_point(places, embedded=False) == ("bash", "/config/serve.sh", "tensorflow_model_server")
    assert entry_point(places, embedded=True) == ("tensorflow_model_server",)
    assert "serve.sh" not in configured(tmp_path, embedded=True).files


def test_tensorflow_serving_reads_its_configuration_again_only_where_no_call_reloads_it(
    tmp_path: Path,
    authority: Authority,  # noqa: ARG001 - its files
) -> None:
    """Each time, it logs some lines."""
    name = "model_config_file_poll_wait_seconds"
    assert said(configured(tmp_path))[name] == "0"
    assert said(configured(tmp_path, "tls: {certificate: server.pem, key: server.key}"))[name] == "10"
    assert said(configured(tmp_path, embedded=True))[name] == "1"


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ("flags: {enable_tf32: true}", "the toolkit sets the flag enable_tf32. Use `server.tf32` instead"),
        ("flags: {platform_config_file: p}", "Use `server.batching`, `server.gpu_memory_growth` and `server.flags`"),
        ("flags: {port: 1}", "server.flags: the toolkit sets the flag port. Use the option --port instead"),
        (
            "flags: {grpc_max_threads: 9}",
            "sets the flag grpc_max_threads. Use `server.grpc_max_threads` instead",
        ),
        ("grpc_max_threads: 0", "server.grpc_max_threads: got 0, expected at least 1"),
        ("pids: 64", "server.pids: got 64, expected at least 256"),
        (
            "flags: {rest_api_prt: 1}",
            "rest_api_prt is not a flag of tensorflow_model_server 2.20 to 2.22 or of the embedded server. Did you "
            "mean 'rest_api_port'?",
        ),
        ("memory: lots", "server.memory: "),
        ("memory: 1k", "server.memory: got '1k', expected a size of at least 64m"),
        (
            "gpus: 0",
            "server.gpus: got 0, expected all, a number of GPUs such as 1, or a list of devices such as [0, 1]",
        ),
        ("image: 'a b'", "server.image: "),
        ("restart: sometimes", "server.restart: "),
        ("flags: {file_system_poll_wait_seconds: 1e400}", "got '1e400', expected a number"),
        (
            "batching: {max_batch_sise: 1}",
            "server.batching.max_batch_sise: unknown key. Did you mean 'max_",
        ),
    ],
)
def test_what_a_server_cannot_be_told_is_an_error_with_its_line(tmp_path: Path, server: str, problem: str) -> None:
    (tmp_path / "models.yaml").write_text(f"{GOOD}server: {{{server}}}\n")
    done = command(tmp_path, "config")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {tmp_path}/models.yaml:4: server")
    assert problem in done.stderr


def command(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(tfserving, [*words, "--fleet", str(folder / "models.yaml")])


@pytest.mark.usefixtures("authority")
def test_the_embedded_server_takes_what_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = "gpu_memory_growth: true, gpu_memory_fraction: 0.5"
    server = f"batching: {{}}, {gpu}, tls: {{certificate: server.pem, key: server.key}}"
    made = configured(tmp_path, server, embedded=True)
    taken: list[Flags] = []

    def take(flags: Flags) -> int:
        taken.append(flags)
        return 0

    with pytest.raises(SystemExit):
        embedded(take).main(list(made.flags), standalone_mode=False)
    assert taken[0].port == 8500
    assert taken[0].ssl_config_file == Path("/config/ssl.config")
    # A warning about a flag that has no effect.
    assert not capsys.readouterr().err


def test_the_command_prints_files_and_flags_without_the_key(tmp_path: Path, authority: Authority) -> None:
    fleet(tmp_path, f"{GOOD}server: {{tls: {{certificate: server.pem, key: server.key}}}}\n")
    done = command(tmp_path, "config")
    assert done.exit_code == 0, done.stderr
    assert "# models.config\nmodel_config_list {" in done.stdout
    assert "# flags\n--port=8500\n" in done.stdout
    said = json.loads(command(tmp_path, "config", "--json").stdout)
    assert list(said["files"]) == ["models.config", "health.sh", "serve.sh", "monitoring.config", "ssl.config"]
    assert said["environment"] == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert done.stdout.endswith("\n# environment\nNVIDIA_TF32_OVERRIDE=0\n")
    for text in (done.stdout, said["files"]["ssl.config"]):
        assert "server_cert" in text
        assert authority.text("server.key").splitlines()[1] not in text


def test_a_local_server_is_told_the_folders_of_this_machine(tmp_path: Path) -> None:
    fleet(tmp_path)
    done = command(tmp_path, "config", "--local", "--port", "9500")
    assert f'base_path: "{tmp_path}/models/digits"' in done.stdout
    assert "--port=9500" in done.stdout
