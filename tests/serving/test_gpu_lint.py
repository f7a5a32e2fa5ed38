"""What `config --check` reports for a fleet on GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.nvidia_smi import H200, SECOND, write_nvidia_smi
from tests.serving.fleets import GOOD, fleet
from tfserving.cli import tfserving
from tfserving.foundation.messages import PredictionLog
from tfserving.foundation.records import write_records
from tfserving.serving.lint import Problem, problems

COST = "cuDNN measures its algorithms (0.2 to 0.5 s for ResNet50 on an H200), and XLA compiles (7 to 13 s)"


def found(
    folder: Path, server: str, rows: Iterable[int] = (), *, gpu: bool | None = None, container: bool = True
) -> list[Problem]:
    """Return the problems of a model with warm-up requests of these `rows`."""
    read = fleet(folder, f"{GOOD}server: {{{server}}}\n", versions=1)
    logs = []
    for number in rows:
        log = PredictionLog()
        log.predict_log.request.inputs["x"].tensor_shape.dim.add(size=number)
        logs.append(log.SerializeToString())
    write_records(folder / "models/digits/1/assets.extra/tf_serving_warmup_requests", logs)
    return problems(read, ("digits",), gpu=gpu, container=container)


def texts(made: list[Problem]) -> list[str]:
    assert all(problem.warning for problem in made)
    return [f"{problem.where}: {problem.text}" for problem in made]


def test_a_warm_up_that_fills_every_batch_is_right(tmp_path: Path) -> None:
    assert found(tmp_path, "gpus: 1, batching: {}", (1, 2, 4, 8, 16, 32)) == []
    # A request is padded to the next size, and a larger one is split.
    assert found(tmp_path, "gpus: 1, batching: {max_execution_batch_size: 4}", (1, 2, 3)) == []
    assert found(tmp_path, "gpus: 1, batching: {max_execution_batch_size: 4}", (1, 6)) == []


def test_batches_that_no_warm_up_request_fills_are_slow_once(tmp_path: Path) -> None:
    (said,) = texts(found(tmp_path, "gpus: 1, batching: {}", (1, 2, 4, 7, 16)))
    assert said == (
        "models.digits: version 1 has no warm-up request for batches of 32 rows, so the first batch of this size is "
        f"slow on a GPU: {COST}. Export it with `batch_sizes: [32]`, or set "
        "server.batching.max_execution_batch_size to 16"
    )
    (said,) = texts(found(tmp_path, "gpus: 1, batching: {max_batch_size: 16}", (1, 2, 7, 16)))
    assert "no warm-up request for batches of 4 rows" in said
    assert said.endswith("Export it with `batch_sizes: [4]`")
    sizes = "allowed_batch_sizes: [1, 8, 16], max_batch_size: 16"
    (said,) = texts(found(tmp_path, f"gpus: 1, batching: {{{sizes}}}", (1,)))
    assert "for batches of 8, 16 rows, so the first batch of each of these sizes is slow on a GPU" in said


def test_the_examples_of_a_classification_are_rows(tmp_path: Path) -> None:
    read = fleet(tmp_path, f"{GOOD}server: {{gpus: 1, batching: {{max_batch_size: 2}}}}\n", versions=1)
    logs = [PredictionLog(), PredictionLog()]
    for _ in range(2):
        logs[0].classify_log.request.input.example_list.examples.add()
    logs[1].regress_log.request.input.example_list_with_context.examples.add()
    warmup = tmp_path / "models/digits/1/assets.extra/tf_serving_warmup_requests"
    write_records(warmup, [log.SerializeToString() for log in logs])
    assert problems(read, ("digits",)) == []


def test_the_embedded_server_runs_the_sizes_that_the_file_lacks(tmp_path: Path) -> None:
    assert found(tmp_path, "gpus: 1, batching: {}, image: 'serving-embedded:2.21.0-gpu'", (1,)) == []


def test_without_a_gpu_each_size_costs_the_same(tmp_path: Path) -> None:
    server = "batching: {num_batch_threads: 16, allowed_batch_sizes: [8, 1000]}"
    assert found(tmp_path, server, (1,)) == []
    assert len(found(tmp_path, server, (1,), gpu=True)) == 2


def test_any_size_is_slow_again_and_again(tmp_path: Path) -> None:
    (said,) = texts(found(tmp_path, "gpus: all, batching: {allowed_batch_sizes: []}", (1,)))
    assert said == (
        f"server.batching: batches have any size, and on a GPU each new size is slow once: {COST}. List sizes in "
        "allowed_batch_sizes. Without this key, server.batching has powers of two"
    )


def test_the_embedded_server_uses_sizes_in_any_case(tmp_path: Path) -> None:
    server = "gpus: 1, batching: {allowed_batch_sizes: []}, image: 'serving-embedded:2.21.0-gpu'"
    assert found(tmp_path, server, (1,)) == []


def test_a_version_with_parameters_of_its_own_is_checked_with_them(tmp_path: Path) -> None:
    """With that flag TensorFlow Serving batches no others. The toolkit doesn't complete such a file."""
    server = "gpus: 1, batching: {}, flags: {enable_per_model_batching_parameters: true}"
    assert found(tmp_path, server, (1,)) == []
    own = tmp_path / "models/digits/1/batching_params.pbtxt"
    own.write_text("max_batch_size { value: 2 } allowed_batch_sizes: 1 allowed_batch_sizes: 2")
    (said,) = texts(found(tmp_path, server, (1,)))
    assert said.startswith("models.digits: version 1 has no warm-up request for batches of 2 rows")
    assert found(tmp_path, server, (1, 2)) == []
    (problem,) = found(tmp_path, server, (1, 2, 3))
    assert problem.text == "version 1 has a warm-up request of 3 rows, but max_batch_size is 2. Raise it"
    own.write_text("max_batch_size { value: 2 }")
    (said,) = texts(found(tmp_path, server, (1,)))
    assert said.startswith("models.digits: batching_params.pbtxt of version 1: batches have any size")
    own.write_text("max_batch_size { value: none }")
    (problem,) = found(tmp_path, server, (1,))
    assert "Invalid protobuf file" in problem.text
    assert not problem.warning


def test_more_than_two_threads_make_small_batches(tmp_path: Path) -> None:
    server = "gpus: 1, batching: {max_batch_size: 1, num_batch_threads: %d}"
    assert found(tmp_path, server % 2, (1,)) == []
    (said,) = texts(found(tmp_path, server % 3, (1,)))
    assert said.startswith("server.batching: num_batch_threads: got 3, expected 1 or 2 on a GPU.")


def test_a_request_must_fit_the_queue_of_its_parts(tmp_path: Path) -> None:
    server = "batching: {enable_large_batch_splitting: true, max_execution_batch_size: %d, max_enqueued_batches: 9}"
    (said,) = texts(found(tmp_path, server % 64, (1,)))
    assert said == (
        "server.batching: 9 batches of 64 rows may wait, so TensorFlow Serving always refuses a request of 1000 rows. "
        "Raise max_enqueued_batches, or lower max_batch_size"
    )
    assert found(tmp_path, server % 100, (1,)) == []


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(tmp_path, (H200, SECOND))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("gpus", ["all", "2", "[0, 1]"])
def test_tensorflow_serving_uses_the_first_gpu(tmp_path: Path, gpus: str) -> None:
    (said,) = texts(found(tmp_path, f"gpus: {gpus}", (1,)))
    assert said == (
        "server.gpus: TensorFlow Serving computes on the first GPU only, so 1 of 2 stay unused. Set `gpus: 1`, and run "
        "a server for each GPU"
    )


@pytest.mark.usefixtures("two_gpus")
def test_each_worker_of_the_embedded_server_uses_one_gpu(tmp_path: Path) -> None:
    server = "gpus: all, image: 'serving-embedded:2.21.0-gpu'"
    (said,) = texts(found(tmp_path, server, (1,)))
    assert said.startswith("server.gpus: each worker computes on one GPU, so 1 of 2 stay unused.")
    assert found(tmp_path, f"{server}, flags: {{workers: 2}}", (1,)) == []


def check(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(tfserving, ["config", "--check", "--fleet", str(folder / "models.yaml"), *words])


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_a_process_can_not_have_are_an_error_before_it_starts(tmp_path: Path) -> None:
    fleet(tmp_path, f"{GOOD}server: {{gpus: [3]}}\n")
    done = check(tmp_path, "--local")
    assert done.exit_code == 2
    assert done.stdout.startswith("server.gpus: this machine has no GPU '3'. Here are 0 (NVIDIA H200, GPU-1a2b), ")
    # For a container, the engine checks them.
    assert check(tmp_path).exit_code == 0
