"""Batching: who runs with whom, and that nobody gets another's answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.embedded import saved_models
from tfserving.foundation.golden import MANIFEST
from tfserving.foundation.tensors import Array
from tfserving.serving.embedded.core.batch import LARGE_ROW_BYTES
from tfserving.serving.embedded.core.batch_memory import ALIGNMENT
from tfserving.serving.embedded.core.batch_parameters import Parameters, own_parameters, read_parameters
from tfserving.serving.embedded.core.batching import Scheduler
from tfserving.serving.embedded.core.deadline import deadline
from tfserving.serving.embedded.core.loader import Batching, Runtime, load
from tfserving.serving.embedded.errors import Code, RequestError, StartError
from tfserving.serving.embedded.observability import metrics

FOUR = Parameters(max_batch_size=4, max_enqueued_batches=100)


class Doubler:
    """Doubles rows, notes how many it was given at a time, and can be made to wait."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Semaphore(0)

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        self.sizes.append(len(arrays[0]))
        self.running.release()
        assert self.gate.wait(30)
        if (arrays[0] < 0).any():
            raise RequestError(Code.INVALID_ARGUMENT, "negative")
        return [arrays[0] * 2]


def ask(scheduler: Scheduler, execute: Doubler, rows: Array, parameters: Parameters = FOUR, key: str = "m") -> Array:
    return scheduler.run(key, [rows], execute, parameters)[0]


def together(execute: Doubler, requests: Sequence[Array], parameters: Parameters = FOUR) -> list[Array | RequestError]:
    """The answers to `requests` that all came while the only thread was busy with another one."""
    scheduler = Scheduler(1)
    execute.gate.clear()

    def asked(rows: Array) -> Array | RequestError:
        try:
            return ask(scheduler, execute, rows, parameters)
        except RequestError as error:
            return error

    with ThreadPoolExecutor(len(requests) + 1) as pool:
        busy = pool.submit(ask, scheduler, execute, np.zeros(1), parameters)
        execute.running.acquire()
        answers = []
        for number, rows in enumerate(requests, 1):
            answers.append(pool.submit(asked, rows))
            # One after the other, so that they wait in this order.
            while scheduler.waiting < number and not answers[-1].done():
                pass
        execute.gate.set()
        busy.result()
        return [answer.result() for answer in answers]


def test_a_request_that_is_alone_runs_at_once_in_its_own_thread() -> None:
    execute = Doubler()
    threads: list[int] = []

    def noted(arrays: Sequence[Array]) -> list[Array]:
        threads.append(threading.get_ident())
        return execute(arrays)

    (answer,) = Scheduler(1).run("m", [np.arange(3)], noted, FOUR)
    assert answer.tolist() == [0, 2, 4]
    assert threads == [threading.get_ident()]


def test_what_waits_together_runs_together_as_far_as_it_fits() -> None:
    execute = Doubler()
    answers = together(execute, [np.array([1.0]), np.array([2.0, 3.0]), np.array([4.0]), np.array([5.0, 6.0])])
    assert [answer.tolist() for answer in answers if isinstance(answer, np.ndarray)] == [[2], [4, 6], [8], [10, 12]]
    assert execute.sizes == [1, 4, 2]


def test_a_bad_request_does_not_fail_those_it_was_put_together_with() -> None:
    execute = Doubler()
    one, bad, two = together(execute, [np.array([1.0]), np.array([-1.0]), np.array([2.0])])
    assert isinstance(one, np.ndarray)
    assert isinstance(two, np.ndarray)
    assert (one.tolist(), two.tolist()) == ([2], [4])
    assert isinstance(bad, RequestError)
    assert bad.text == "negative"


def test_other_shapes_run_by_themselves() -> None:
    execute = Doubler()
    one, two = together(execute, [np.ones((1, 2)), np.ones((1, 3))])
    assert isinstance(one, np.ndarray)
    assert isinstance(two, np.ndarray)
    assert (one.shape, two.shape) == ((1, 2), (1, 3))
    assert execute.sizes == [1, 1, 1]


def test_other_shapes_are_padded_when_that_is_wanted() -> None:
    execute = Doubler()
    padding = Parameters(max_batch_size=4, pad_variable_length_inputs=True)
    one, two = together(execute, [np.ones((1, 2)), np.ones((1, 3))], padding)
    assert isinstance(one, np.ndarray)
    assert isinstance(two, np.ndarray)
    assert (one.tolist(), two.tolist()) == ([[2, 2, 0]], [[2, 2, 2]])
    assert execute.sizes == [1, 2]


def test_a_batch_is_filled_up_to_an_allowed_size() -> None:
    execute = Doubler()
    answer = ask(Scheduler(1), execute, np.array([1.0, 2.0, 3.0]), Parameters(8, allowed_batch_sizes=(2, 4, 8)))
    assert answer.tolist() == [2, 4, 6]
    assert execute.sizes == [4]


def test_a_large_request_is_cut_when_that_is_allowed() -> None:
    execute = Doubler()
    answer = ask(Scheduler(1), execute, np.arange(7.0), Parameters(8, max_execution_batch_size=3))
    assert answer.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert execute.sizes == [3, 3, 1]


def test_a_request_waits_for_others_no_longer_than_it_may() -> None:
    execute = Doubler()
    scheduler = Scheduler(1)
    patient = Parameters(max_batch_size=2, batch_timeout_micros=20_000_000)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, scheduler, execute, np.array([value]), patient) for value in (1.0, 2.0)]
        # Two of them fill the batch, so nobody waits 20 s.
        assert [answer.result(10).tolist() for answer in answers] == [[2], [4]]
    assert execute.sizes == [2]
    assert ask(scheduler, execute, np.array([3.0]), Parameters(2, batch_timeout_micros=1000)).tolist() == [6]


def test_too_much_waiting_is_refused() -> None:
    execute = Doubler()
    few = Parameters(max_batch_size=2, max_enqueued_batches=1)
    *waiting, refused = together(execute, [np.ones(2), np.ones(1)], few)
    assert all(isinstance(answer, np.ndarray) for answer in waiting)
    assert isinstance(refused, RequestError)
    assert refused.code is Code.UNAVAILABLE
    assert "currently 1 batches enqueued and max_enqueued_batches is 1" in refused.text


@pytest.mark.parametrize(
    ("arrays", "outputs", "text"),
    [
        ([np.ones(5)], None, "Task size 5 is larger than maximum input batch size 4"),
        ([np.ones(2), np.ones(3)], None, "Batching Run() input tensors must have equal 0th-dimension size"),
        ([np.array(1.0)], None, "Batching Run() input tensors must have at least one dimension"),
        ([np.ones(2)], np.array(1.0), "Batched output tensor has 0 dimensions"),
        ([np.ones(2)], np.ones(3), "Batched output tensor's 0th dimension does not equal the sum of"),
    ],
)
def test_what_can_not_be_batched_is_refused(arrays: Sequence[Array], outputs: Array | None, text: str) -> None:
    with pytest.raises(RequestError) as refused:
        Scheduler(1).run("m", arrays, lambda _: [outputs], FOUR)  # type: ignore[list-item]
    assert text in refused.value.text


def test_a_request_without_rows_is_answered() -> None:
    assert ask(Scheduler(1), Doubler(), np.empty(0)).tolist() == []


def large(value: float, rows: int = 1) -> Array:
    """Rows that are copied when they arrive."""
    return np.full((rows, LARGE_ROW_BYTES // 8), value)


def test_large_rows_run_together_in_aligned_memory_and_are_padded_with_real_ones() -> None:
    runs: list[Array] = []

    class Noted(Doubler):
        def __call__(self, arrays: Sequence[Array]) -> list[Array]:
            runs.append(arrays[0].copy())
            assert len(arrays[0]) == 1 or arrays[0].ctypes.data % ALIGNMENT == 0
            return super().__call__(arrays)

    sizes = Parameters(8, max_enqueued_batches=100, allowed_batch_sizes=(1, 2, 4, 8))
    answers = together(Noted(), [large(1), large(2, 2), large(3), large(4)], sizes)
    assert [answer[:, 0].tolist() for answer in answers if isinstance(answer, np.ndarray)] == [[2], [4, 4], [6], [8]]
    assert [run[:, 0].tolist() for run in runs[1:]] == [[1, 2, 2, 3, 4, 1, 1, 1]]


def test_a_bad_large_request_does_not_fail_the_others() -> None:
    execute = Doubler()
    one, bad, two = together(execute, [large(1), large(-1), large(2)])
    assert isinstance(one, np.ndarray)
    assert isinstance(two, np.ndarray)
    assert isinstance(bad, RequestError)
    assert (one[0, 0], two[0, 0], bad.text) == (2, 4, "negative")


def test_a_large_request_that_is_too_late_takes_nothing_from_the_others() -> None:
    execute = Doubler()
    scheduler = Scheduler(1)
    execute.gate.clear()

    def late() -> Array:
        deadline.until = time.monotonic() + 0.05
        try:
            return ask(scheduler, execute, large(2))
        finally:
            deadline.until = None

    with ThreadPoolExecutor(4) as pool:
        busy = pool.submit(ask, scheduler, execute, large(0))
        execute.running.acquire()
        waiting = []
        for call in (lambda: ask(scheduler, execute, large(1)), late, lambda: ask(scheduler, execute, large(3))):
            waiting.append(pool.submit(call))
            while scheduler.waiting < len(waiting):
                pass
        with pytest.raises(RequestError) as refused:
            waiting[1].result(10)
        execute.gate.set()
        busy.result()
        assert [waiting[index].result()[0, 0] for index in (0, 2)] == [2, 6]
    assert refused.value.code is Code.DEADLINE_EXCEEDED


def test_when_all_requests_of_a_batch_are_too_late_the_next_ones_run() -> None:
    execute = Doubler()
    scheduler = Scheduler(1)
    execute.gate.clear()

    def late(rows: Array) -> RequestError:
        deadline.until = time.monotonic() + 0.05
        with pytest.raises(RequestError) as refused:
            ask(scheduler, execute, rows)
        return refused.value

    with ThreadPoolExecutor(4) as pool:
        busy = pool.submit(ask, scheduler, execute, np.zeros(1))
        execute.running.acquire()
        refused = [pool.submit(late, rows) for rows in (large(1), large(2), np.ones(1))]
        assert {one.result(10).code for one in refused} == {Code.DEADLINE_EXCEEDED}
        execute.gate.set()
        busy.result()
    deadline.until = None
    assert scheduler.waiting == 0
    assert ask(scheduler, execute, large(3))[0, 0] == 6


class TestFilling:
    """A scheduler for a GPU."""

    def test_a_batch_starts_beside_another_when_it_has_as_many_rows(self) -> None:
        execute = Doubler()
        scheduler = Scheduler(2, fills=True)
        execute.gate.clear()
        with ThreadPoolExecutor(5) as pool:
            first = pool.submit(ask, scheduler, execute, np.zeros(2))
            execute.running.acquire()
            one = pool.submit(ask, scheduler, execute, np.ones(1))
            while scheduler.waiting < 1:
                pass
            assert execute.sizes == [2]
            # Another model doesn't wait for this one.
            other = pool.submit(ask, scheduler, execute, np.ones(1), FOUR, "other")
            execute.running.acquire()
            assert execute.sizes == [2, 1]
            execute.gate.set()
            assert [call.result(10).tolist() for call in (first, one, other)] == [[0, 0], [2], [2]]
        assert execute.sizes == [2, 1, 1]

    def test_a_second_request_makes_it_start(self) -> None:
        execute = Doubler()
        scheduler = Scheduler(2, fills=True)
        execute.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(ask, scheduler, execute, np.zeros(2))]
            execute.running.acquire()
            calls += [pool.submit(ask, scheduler, execute, np.ones(1)) for _ in range(2)]
            # It runs although the first one isn't complete.
            assert execute.running.acquire(timeout=30)
            assert execute.sizes == [2, 2]
            execute.gate.set()
            assert [call.result(10).tolist() for call in calls] == [[0, 0], [2], [2]]


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_that_are_the_inputs_memory_stay_as_they_are(tmp_path: Path, threads: int) -> None:
    """TensorFlow returns the memory of its inputs from an identity, and batches reuse theirs."""
    columns = LARGE_ROW_BYTES // 4
    same = saved_models.function(lambda x: {"y": tf.identity(x)}, x=(tf.float32, [None, columns]))
    path = saved_models.save(tmp_path / "same", 1, tf.Module(), {"serving_default": same})
    parameters = Parameters(8, max_enqueued_batches=10_000, allowed_batch_sizes=(1, 2, 4, 8))
    scheduler = Scheduler(threads, fills=True)
    servable = load("same", 1, path, Runtime(batching=Batching(scheduler, scheduler, parameters)))
    signature = servable.signatures["serving_default"]

    def values(number: int) -> list[Array]:
        """The results of a client, of which it keeps the last ones."""
        kept = []
        for count in range(60):
            sent = np.full((1 + count % 3, columns), number * 1000 + count, np.float32)
            kept.append((sent, servable.run(signature, [sent], ("y",))[0]))
            for wanted, got in kept[-4:]:
                if not np.array_equal(wanted, got):
                    return [wanted, got]
            del kept[:-4]
        return []

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(values, range(12))) == [[]] * 12
    # The memory is kept, and is not more for each batch.
    assert 1 <= len(scheduler._memory._blocks) <= 60
    servable.close()


def test_under_load_every_answer_is_ones_own(models: Path) -> None:
    """Two models, two versions of one, and mixed shapes, all through one scheduler."""
    batching = Batching(
        Scheduler(2), Scheduler(2, aside=True), Parameters(max_batch_size=16, max_enqueued_batches=10_000)
    )
    runtime = Runtime(batching=batching)
    one, two = (load("scale", version, models / "scale" / str(version), runtime) for version in (1, 2))
    other = load("other", 1, models / "scale" / "1", runtime)
    plain = {name: load(name, 1, models / "scale" / path, Runtime()) for name, path in (("one", "1"), ("two", "2"))}
    servables = [(one, plain["one"]), (two, plain["two"]), (other, plain["one"])]
    random = np.random.default_rng(5)
    asked = [
        (servables[number % 3], random.normal(size=(int(random.integers(1, 6)), 3)).astype(np.float32))
        for number in range(1500)
    ]

    def check(request: tuple[tuple[object, object], Array]) -> bool:
        (batched, alone), rows = request
        answers = []
        for servable in (batched, alone):
            signature = servable.signatures["serving_default"]  # type: ignore[attr-defined]
            answers.append(servable.run(signature, [rows], signature.output_names))  # type: ignore[attr-defined]
        return all(np.array_equal(mine, wanted) for mine, wanted in zip(*answers, strict=True))

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(check, asked))
    for servable in (one, two, other, *plain.values()):
        servable.close()


def test_signatures_without_a_batch_run_one_by_one_beside_others(tmp_path: Path) -> None:
    """By their shapes three values and where two rows end could be a batch of 3."""
    module = tf.Module()

    def sums(values: Any, row_splits: Any) -> dict[str, Any]:
        return {"total": tf.reduce_sum(tf.RaggedTensor.from_row_splits(values, row_splits), axis=1)}

    signatures = {
        "parts": saved_models.function(sums, values=(tf.float32, [None]), row_splits=(tf.int64, [None])),
        "scaled": saved_models.function(
            lambda x, factor: {"y": x * factor}, x=(tf.float32, [None]), factor=(tf.float32, [])
        ),
        "doubled": saved_models.function(lambda x: {"y": x * 2}, x=(tf.float32, [None])),
    }
    path = saved_models.save(tmp_path / "ragged", 1, module, signatures)
    (path / MANIFEST).parent.mkdir()
    (path / MANIFEST).write_text(json.dumps({"unbatched": ["parts"]}))
    patient = Parameters(max_batch_size=64, batch_timeout_micros=1000, max_enqueued_batches=10_000)
    scheduler = Scheduler(1)
    servable = load("ragged", 1, path, Runtime(batching=Batching(scheduler, scheduler, patient)))
    numbers = np.array([1, 2, 3], np.float32)
    inputs = {"values": numbers, "row_splits": np.array([0, 1, 3]), "x": numbers, "factor": np.array(2, np.float32)}

    def run(name: str) -> list[float]:
        signature = servable.signatures[name]
        (output,) = servable.run(signature, [inputs[key] for key in signature.inputs], signature.output_names)
        return output.tolist()  # type: ignore[no-any-return]

    batched = metrics.WRAPPED_RUNS.counted().get((), 0)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(run, ["parts", "scaled", "doubled"] * 20))
    assert answers == [[1, 5], [2, 4, 6], [2, 4, 6]] * 20
    assert metrics.WRAPPED_RUNS.counted()[()] - batched == 20
    servable.close()


def parameters(folder: Path, text: str) -> Parameters:
    (folder / "batch.conf").write_text(text)
    return read_parameters(folder / "batch.conf")[0]


def test_parameters_are_read_as_tensorflow_serving_reads_them(tmp_path: Path) -> None:
    assert parameters(tmp_path, "") == Parameters()
    (tmp_path / "batch.conf").write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 5 } max_enqueued_batches { value: 3 }"
        "num_batch_threads { value: 7 } allowed_batch_sizes: [2, 8] pad_variable_length_inputs: true"
    )
    assert read_parameters(tmp_path / "batch.conf") == (Parameters(8, 5, 3, (2, 8), True), 7)
    splits = "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }"
    assert parameters(tmp_path, splits).max_execution_batch_size == 4


@pytest.mark.parametrize(
    ("text", "sizes", "split"),
    [
        ("", (1, 2, 4, 8, 16, 32), 32),
        ("max_batch_size { value: 24 }", (1, 2, 4, 8, 16, 24), 24),
        ("max_batch_size { value: 300 }", (1, 2, 4, 8, 16, 32), 32),
        ("enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }", (1, 2, 4), 4),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [2, 8]", (2, 8), None),
    ],
)
def test_on_a_gpu_batches_have_few_sizes_unless_the_file_has_others(
    tmp_path: Path, text: str, sizes: tuple[int, ...], split: int | None
) -> None:
    found = parameters(tmp_path, text).on_a_gpu()
    assert found.allowed_batch_sizes == sizes
    assert found.max_execution_batch_size == split


def test_a_version_has_parameters_of_its_own_or_none(tmp_path: Path) -> None:
    assert own_parameters(tmp_path) is None
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size { value: 8 }")
    assert own_parameters(tmp_path) == Parameters(8)
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size: 8")
    with pytest.raises(StartError, match=r"batching_params\.pbtxt"):
        own_parameters(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_batch_size: 8", "line 1"),
        ("max_batch_size { value: 0 }", "max_batch_size is 0; it must be at least 1"),
        ("allowed_batch_sizes: [4, 2]", "allowed_batch_sizes [4, 2] must increase"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]", "[2, 4] must be max_batch_size, 8"),
        ("max_batch_size { value: 8 } max_execution_batch_size { value: 9 }", "9 is larger than max_batch_size 8"),
    ],
)
def test_parameters_that_can_not_work_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(StartError) as refused:
        parameters(tmp_path, text)
    assert problem in str(refused.value)
    assert str(refused.value).startswith(f"--batching_parameters_file={tmp_path}/batch.conf: ")
