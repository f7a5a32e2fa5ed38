"""Publishers of one number step by step: at each request to the store, another one goes on, or one is killed."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.export.publishers import SMALL
from tests.export.test_publishers import content, different
from tfserving.export import publish_objects
from tfserving.export.objects import Objects
from tfserving.export.outgoing import Outgoing, PublishError, outgoing
from tfserving.export.publish_objects import ObjectPublisher
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL
from tfserving.foundation.store import Store

SCHEDULES = int(os.environ.get("PUBLISH_SCHEDULES", "40"))
SEED = int(os.environ.get("PUBLISH_SEED", "0"))
REQUESTS = ("find", "open", "cat_file", "pipe_file", "put_file", "exists", "cp_file", "rm_file")


class KilledError(BaseException):
    """The process has ended: nothing of it runs any more."""


class Process:
    """A publisher that runs up to its next request to the store, each time that it is told to."""

    def __init__(self, own: Outgoing, system: MemoryFileSystem) -> None:
        self.own, self.ended, self.killed = own, False, False
        self.result: bool | PublishError | None = None
        self._go, self._paused, self._inside = threading.Semaphore(0), threading.Semaphore(0), False
        watched = _Watched(system, self._request)
        self._publisher = ObjectPublisher(own, Objects(watched), "/store", "memory://store/scale/1", lambda _: None)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def step(self) -> None:
        """Runs to the next request, or to the end."""
        self._go.release()
        self._paused.acquire()

    def kill(self) -> None:
        self.killed = True
        while not self.ended:
            self.step()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.killed:
                self.result = self._publisher.run()
        except PublishError as error:
            self.result = error
        except KilledError:
            pass
        finally:
            self.ended = True
            self._paused.release()

    def _request(self, request: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        # A request may consist of others.
        if self._inside:
            return request(*arguments, **more)
        self._paused.release()
        self._go.acquire()
        if self.killed:
            raise KilledError
        self._inside = True
        try:
            return request(*arguments, **more)
        finally:
            self._inside = False


class _Watched:
    """A file system that reports each request before it does it."""

    def __init__(self, system: MemoryFileSystem, report: Callable[..., Any]) -> None:
        self._system, self._report = system, report

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._system, name)
        return (lambda *given, **more: self._report(found, *given, **more)) if name in REQUESTS else found


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    monkeypatch.setattr(publish_objects, "SMALL", SMALL)
    made = MemoryFileSystem(skip_instance_cache=True)
    made.store.clear()
    made.pseudo_dirs[:] = [""]
    yield made
    made.store.clear()


@pytest.fixture(scope="module")
def versions(version: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outgoing]:
    """Two versions of one name and number."""
    folder = tmp_path_factory.mktemp("contents")
    return [outgoing(different(version, folder, number), "scale", 1, None) for number in range(2)]


def final(system: MemoryFileSystem) -> dict[str, bytes]:
    start = "/store/scale/1/"
    return {name.removeprefix(start): file.getvalue() for name, file in system.store.items() if name.startswith(start)}


def check_step(there: dict[str, bytes], decided: bytes | None, contents: dict[bytes, dict[str, bytes]]) -> bytes | None:
    """Whatever a reader finds at any moment is of one version, and whole when it has saved_model.pb."""
    found = there.get(MANIFEST)
    assert decided in (None, found), "a decided version changed"
    if found is None:
        assert not there
        return None
    wanted = contents[found]
    assert all(wanted[name] == data for name, data in there.items())
    if SAVED_MODEL in there:
        assert there == wanted
    return found


@pytest.mark.parametrize("seed", range(SEED, SEED + SCHEDULES))
def test_in_any_order_of_requests_a_reader_finds_nothing_or_all_of_one_version(
    system: MemoryFileSystem, versions: list[Outgoing], seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 - it is to be the same again
    contents = {own.data: content(own.folder) for own in versions}
    running = [Process(rng.choice(versions), system) for _ in range(3)]
    everybody, decided, kills = [*running], None, rng.choice([0, 0.01, 0.04])
    try:
        # Some are quick, and some sleep for long.
        weights = [rng.choice([1, 1, 20]) for _ in running]
        while running:
            one = rng.choices(running, [weights[everybody.index(other)] for other in running])[0]
            if rng.random() < kills:
                one.kill()
            else:
                one.step()
            decided = check_step(final(system), decided, contents)
            running = [other for other in running if not other.ended]
        everybody.append(last := Process(versions[0], system))
        while not last.ended:
            last.step()
            decided = check_step(final(system), decided, contents)
    finally:
        for one in everybody:
            one.kill()
    assert final(system) == contents[decided or b""]
    for one in everybody:
        if one.own.data == decided:
            assert one.result is not None or one.killed
            assert not isinstance(one.result, PublishError), one.result
        elif one.result is not None:
            assert "is another version, of digest" in str(one.result)
    if not kills:
        assert True in [one.result for one in everybody]
        assert not [name for name in system.store if ".publishing" in name]


def test_each_request_may_be_the_last_and_another_publisher_completes_the_version(
    system: MemoryFileSystem, versions: list[Outgoing]
) -> None:
    first, other = versions
    requests, decided_at = 0, None
    while True:
        system.store.clear()
        # Folders of objects that are gone.
        system.pseudo_dirs[:] = [""]
        process = Process(first, system)
        for _ in range(requests + 1):
            if not process.ended:
                process.step()
        ended, decided = process.ended, MANIFEST in final(system)
        process.kill()
        if decided and decided_at is None:
            decided_at = requests
        store = Store("memory://store")
        assert store.complete("scale", 1) == (SAVED_MODEL in final(system))
        assert store.versions("scale") == [1] * decided, "an upload is no version"
        last = ObjectPublisher(other, Objects(system), "/store", "memory://store/scale/1", lambda _: None)
        if decided:
            with pytest.raises(PublishError, match=f"is another version, of digest {first.digest}"):
                last.run()
            assert final(system) == content(first.folder)
        else:
            assert last.run()
            assert final(system) == content(other.folder)
        if ended:
            break
        requests += 1
    assert decided_at is not None
    assert 0 < decided_at < requests


def test_a_large_file_of_an_interrupted_upload_is_not_sent_again(
    system: MemoryFileSystem, versions: list[Outgoing]
) -> None:
    own = versions[0]
    process = Process(own, system)
    while not any(name.endswith(SAVED_MODEL) for name in system.store):
        process.step()
    process.kill()
    (left,) = {name.split("/")[4] for name in system.store}
    again = ObjectPublisher(own, Objects(system), "/store", "memory://store/scale/1", lambda _: None)
    assert again.run()
    assert own.files.keys() - again.sent.keys() == {"variables/large"}
    # It belongs to a publisher that may only be slow.
    assert {name.split("/")[4] for name in system.store if ".publishing" in name} == {left}


def test_ctrl_c_removes_the_own_upload_unless_others_may_need_it(
    system: MemoryFileSystem, versions: list[Outgoing], monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = ObjectPublisher(versions[0], Objects(system), "/store", "memory://store/scale/1", lambda _: None)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    def run(owner: object, name: str, replacement: Callable[..., object]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, replacement)
            publisher.run()

    with pytest.raises(KeyboardInterrupt):
        run(publisher, "_decide", interrupted)
    assert not system.store
    # The write of the manifest was sent, and nobody knows whether it arrived.
    create = Objects.create
    with pytest.raises(KeyboardInterrupt):
        run(Objects, "create", lambda *given: ("/scale/1/" in given[1] and interrupted()) or create(*given))
    assert [name for name in system.store if ".publishing" in name]
    assert MANIFEST not in final(system)
