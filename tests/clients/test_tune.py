"""Tuning batching parameters: the search, and the command with real servers."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.clients.conftest import UNDER_LOAD
from tests.driver import Driver
from tests.serving.embedded.running import ROOT
from tfserving.cli import tfserving
from tfserving.clients.bench.load import Load, Step, Window, step_of
from tfserving.clients.commands.tune import _show as shown
from tfserving.clients.reports.tuning import write
from tfserving.clients.tune import (
    ON_A_GPU,
    Candidate,
    Parameters,
    Space,
    StartError,
    best,
    default_command,
    running_server,
    search,
)
from tfserving.clients.tune import _device as device_of
from tfserving.foundation.batch_sizes import powers_of_two
from tfserving.foundation.gpus import TF32_OVERRIDE
from tfserving.serving.embedded.core.batch_parameters import read_parameters

pytestmark = UNDER_LOAD
SPACE = Space(max_batch_size=(4, 16, 64), batch_timeout_micros=(0, 1000, 5000), num_batch_threads=(1, 4))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(tfserving, ["tune", *map(str, arguments)])


def step(throughput: float, milliseconds: float, failed: int = 0) -> Step:
    window = Window(1.0)
    window.latencies.record_value(round(1000 * milliseconds), round(throughput))
    if failed:
        window.errors["UNAVAILABLE"] = failed
    return step_of(Load(concurrency=1), [window], processes=1, steady=True, server_ms=None)


def pretended(parameters: Parameters | None) -> Step:
    """Larger batches give more, and take longer; 1000 µs and four threads are best, padding is no use."""
    if parameters is None:
        return step(100, 2)
    throughput = 100 + 5 * parameters.max_batch_size - abs(parameters.batch_timeout_micros - 1000) / 50
    throughput += 10 * parameters.num_batch_threads - 20 * bool(parameters.allowed_batch_sizes)
    return step(throughput, parameters.max_batch_size / 2)


def searched(measure: Callable[[Parameters | None], Step], limit: tuple[str, float] | None = None) -> list[Candidate]:
    found: dict[Parameters | None, Candidate] = {}
    search(measure, SPACE, limit, found)
    return list(found.values())


def test_the_search_finds_the_most_throughput() -> None:
    candidates = searched(pretended)
    winner = best(candidates, None)
    assert winner is not None
    assert winner.parameters == Parameters(64, 1000, 4)
    assert len({candidate.parameters for candidate in candidates}) == len(candidates), "each is measured once"
    assert len(candidates) < 3 * 3 * 2 * 2


def test_the_search_keeps_a_limit() -> None:
    limit = ("p99", 10.0)
    winner = best(searched(pretended, limit), limit)
    assert winner is not None
    assert winner.parameters == Parameters(16, 1000, 4)
    assert best(searched(pretended, ("p99", 1.0)), ("p99", 1.0)) is None


def test_without_batching_may_be_best() -> None:
    candidates = searched(lambda parameters: step(200 if parameters is None else 100, 1))
    winner = best(candidates, None)
    assert winner is not None
    assert winner.parameters is None


def test_a_candidate_that_fails_requests_is_not_best() -> None:
    candidates = searched(lambda parameters: step(100, 1) if parameters is None else step(900, 1, failed=1))
    winner = best(candidates, None)
    assert winner is not None
    assert winner.parameters is None


def test_a_candidate_that_can_not_be_served_is_not_best_and_ends_nothing() -> None:
    def measure(parameters: Parameters | None) -> Step:
        if parameters is not None and parameters.max_batch_size < 64:
            raise StartError("Task size 7 is larger than maximum input batch size")
        return pretended(parameters)

    candidates = searched(measure)
    winner = best(candidates, None)
    assert winner is not None
    assert winner.parameters == Parameters(64, 1000, 4)
    assert {one.trouble for one in candidates if one.step is None} == {
        "Task size 7 is larger than maximum input batch size"
    }


def test_padded_sizes_end_with_the_largest() -> None:
    padded = [one for many in SPACE.changes(Parameters(48, 0, 1)) for one in many if one.allowed_batch_sizes]
    assert [one.allowed_batch_sizes for one in padded] == [(1, 2, 4, 8, 16, 32, 48)]
    changed = SPACE.changes(padded[0])[0]
    assert [one.allowed_batch_sizes[-1] for one in changed] == [4, 16, 64]


def test_the_text_is_what_a_server_reads(tmp_path: Path) -> None:
    (tmp_path / "batching").write_text(Parameters(48, 2000, 3, (16, 48)).text())
    read, threads = read_parameters(tmp_path / "batching")
    assert (read.max_batch_size, read.batch_timeout_micros, threads) == (48, 2000, 3)
    assert list(read.allowed_batch_sizes) == [16, 48]


def test_on_a_gpu_all_candidates_have_padded_sizes_and_at_most_two_threads() -> None:
    found: dict[Parameters | None, Candidate] = {}
    search(pretended, ON_A_GPU, None, found)
    tried = [parameters for parameters in found if parameters is not None]
    assert len(tried) > 3
    assert all(one.allowed_batch_sizes == powers_of_two(one.max_batch_size) for one in tried)
    assert {one.num_batch_threads for one in tried} == {1, 2}
    assert max(one.max_batch_size for one in tried) == 128


LOG = (
    "I0000 gpu_device.cc:2019] Created device /job:localhost/replica:0/task:0/device:GPU:0 with 136000 MB memory:  -> …"
)
FOUND = "0, GPU-0, NVIDIA H200, 143771, 4, 580.95.05, 9.0"


@pytest.mark.parametrize(
    ("log", "gpus", "environment", "device"),
    [
        ("Running gRPC ModelServer", (FOUND,), {TF32_OVERRIDE: "0"}, "cpu"),
        (LOG, (FOUND,), {TF32_OVERRIDE: "0"}, "gpu"),
        (LOG, (FOUND,), {TF32_OVERRIDE: ""}, "gpu-tf32"),
        ("", (FOUND,), {TF32_OVERRIDE: "0", "TF_CPP_MIN_LOG_LEVEL": "2"}, "gpu"),
        ("", (), {TF32_OVERRIDE: "0", "TF_CPP_MIN_LOG_LEVEL": "2"}, "cpu"),
    ],
)
def test_the_device_of_tensorflow_serving_is_read_from_its_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: str,
    gpus: tuple[str, ...],
    environment: dict[str, str],
    device: str,
) -> None:
    Driver(tmp_path).lists(*gpus)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "log").write_text(log)
    assert device_of(tmp_path / "log", environment) == device


@pytest.mark.parametrize(
    ("given", "flags", "wanted"),
    [(None, [], "0"), ("", [], ""), (None, ["--enable_tf32=true"], None)],
)
def test_a_server_computes_without_tf32_unless_the_user_wants_it(
    models: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, flags: list[str], wanted: str | None
) -> None:
    monkeypatch.delenv(TF32_OVERRIDE, raising=False)
    if given is not None:
        monkeypatch.setenv(TF32_OVERRIDE, given)
    words = [sys.executable, "-c", f"import os, sys; sys.exit(repr(os.environ.get({TF32_OVERRIDE!r})))", *flags]
    with pytest.raises(StartError) as ended, running_server(words, "scale", models / "scale", None):
        pass
    assert str(ended.value).endswith(repr(wanted))


def test_a_server_that_does_not_start_says_why(models: Path) -> None:
    wrong = [*default_command(), "--no_such_flag=1"]
    said = r"ended with exit code [12]. The end of its log:\n(.*\n)*.*no_such_flag"
    with pytest.raises(StartError, match=said), running_server(wrong, "scale", models / "scale", None):
        pass


def test_a_server_gets_more_threads_than_requests_unless_its_command_says_how_many(models: Path) -> None:
    words = [sys.executable, "-c", "import sys; sys.exit(str(sys.argv))"]
    with pytest.raises(StartError) as own, running_server(words, "scale", models / "scale", None):
        pass
    assert "'--grpc_max_threads=1024', '--rest_api_num_threads=256'" in str(own.value)
    with (
        pytest.raises(StartError) as given,
        running_server([*words, "--grpc_max_threads=8"], "scale", models / "scale", None),
    ):
        pass
    assert "'--grpc_max_threads=8'" in str(given.value)
    assert "1024" not in str(given.value)


def test_what_failed_is_named_with_its_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    window = Window(1.0)
    window.latencies.record_value(1000, 10)
    window.errors["RESOURCE_EXHAUSTED: Server Threadpool Exhausted"] = 7
    refused = step_of(Load(concurrency=32), [window], processes=1, steady=True, server_ms=None)
    candidates = [Candidate(None, refused), Candidate(Parameters(8, 0, 2), step(100, 1))]
    shown(candidates, candidates[1])
    said = "7 failed with RESOURCE_EXHAUSTED: Server Threadpool Exhausted; all threads of the server are busy"
    assert f"none: {said}" in capsys.readouterr().err
    write(tmp_path / "tune.html", "scale", candidates, candidates[1], None)
    assert f"none: {said}" in (tmp_path / "tune.html").read_text()


class TestCommand:
    """`tfserving tune`."""

    QUICK = ("--window", "0.1", "--concurrency", "2", "--max-batch-size", "8", "--batch-timeout-micros", "0")

    def test_it_writes_the_best_parameters_and_a_report(self, models: Path, tmp_path: Path) -> None:
        output, page = tmp_path / "batching_parameters.txt", tmp_path / "tune.html"
        options = (*self.QUICK, "--num-batch-threads", "2", "--no-padding", "--output", output, "--report", page)
        result = run(models / "scale", *options, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["device"] == "cpu"
        asked = [
            candidate["parameters"] and candidate["parameters"]["max_batch_size"] for candidate in found["candidates"]
        ]
        assert asked == [None, 8]
        assert all(candidate["requests"] > 10 and not candidate["errors"] for candidate in found["candidates"])
        assert output.exists() == (found["best"]["parameters"] is not None)
        if output.exists():
            assert "max_batch_size { value: 8 }" in output.read_text()
        assert page.read_text().count("<svg") == 1

    def test_on_a_gpu_it_pads_batches_and_says_so(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Driver(tmp_path).lists(FOUND)
        pretended = json.dumps({"gpus": [["NVIDIA H200", [9, 0]]], "path": str(tmp_path)})
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        command = shlex.join([sys.executable, "-m", "tests.serving.embedded.pretended", f"--pretend={pretended}"])
        options = (*self.QUICK, "--num-batch-threads", "2", "--server-command", command)
        result = run(models / "scale", *options, "--output", tmp_path / "batching")
        assert result.exit_code == 0, result.output
        said = "The server computes on a GPU (gpu): batches are padded to powers of two, and 2 of them run at a time."
        assert result.stdout.splitlines()[0] == said
        assert "up to 8 in 0 µs, 2 threads, sizes 1/2/4/8" in result.stdout

    def test_a_limit_that_nothing_keeps_is_code_1(self, models: Path, tmp_path: Path) -> None:
        options = (*self.QUICK, "--concurrency", "1", "--num-batch-threads", "1", "--no-padding")
        result = run(
            models / "scale", *options, "--output", tmp_path / "batching", "--limit", "p50=1us", "--protocol", "rest"
        )
        assert result.exit_code == 1, result.output
        assert result.stdout.splitlines()[-1] == "No candidate is within the limit."
        assert list(tmp_path.iterdir()) == []

    def test_a_wrong_folder_is_refused_before_a_server_starts(self, models: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for folder, said in (
            (models, f"It contains models: tune one of them, for example {models}/"),
            (models / "scale" / "2", f"is one version; tune its model, {models}/scale."),
            (tmp_path / "empty", "has no version: a folder with a number as name and a SavedModel."),
            ("nothing", "no model is called 'nothing', and there is no folder nothing; the fleet has digits, dense."),
        ):
            result = run(folder, "--server-command", "no such command")
            assert result.exit_code == 2
            assert said in " ".join(result.stderr.split())

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--max-batch-size", "0"], "'0' is not a list of numbers above 0"),
            (["--batch-timeout-micros", "-1"], "'-1' is not a list of numbers from 0"),
            (["--output", "nowhere/batching"], "the folder nowhere does not exist"),
            (["--limit", "soon"], "is not a limit on"),
            (["--server-command", f"{sys.executable} -c pass"], "the model server ended with exit code 0"),
        ],
    )
    def test_what_can_not_be_meant_is_refused(self, models: Path, options: list[str], said: str) -> None:
        result = run(models / "scale", *options)
        assert result.exit_code in (1, 2)
        assert said in " ".join(result.stderr.split())
