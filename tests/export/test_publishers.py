"""Many publishers of one number, killed at any moment: one version wins, and no file of another is in it."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.export.publishers import SMALL, Ended, Job, Publishers
from tests.object_stores import Store, fake_gcs, moto, started
from tfserving.export.manifest import hash_files, read_manifest
from tfserving.foundation.manifest import MANIFEST, SAVED_MODEL

MANY = 20
# Some have the same content.
CONTENTS = 15
ROUNDS = int(os.environ.get("PUBLISH_ROUNDS", "1"))
SEED = int(os.environ.get("PUBLISH_SEED", "0"))
ANOTHER = r"Error: {0}/scale/1 is another version, of digest {1}, and was not changed\."


def different(version: Path, folder: Path, number: int) -> Path:
    """A version of the same name and number with other content: a small file and a large one."""
    copy = folder / str(number) / "scale/1"
    for name in (MANIFEST, SAVED_MODEL):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(version / name, copy / name)
    for name, size in (("assets/small ä #+%20.txt", 100), ("variables/large", SMALL + 1000)):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(f"{number} ".encode() * (size // len(f"{number} ")))
    manifest = read_manifest(copy).model_copy(update={"files": hash_files(copy)})
    (copy / MANIFEST).write_text(manifest.text())
    return copy


@pytest.fixture(scope="module")
def versions(version: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Versions of one name and number, each with other content."""
    folder = tmp_path_factory.mktemp("contents")
    return [different(version, folder, number) for number in range(CONTENTS)]


def content(version: Path) -> dict[str, bytes]:
    return {str(path.relative_to(version)): path.read_bytes() for path in version.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Place:
    """Where versions are published: its URL, all that is there by path, and what a command needs to be told of it."""

    url: str
    env: dict[str, str]
    files: Callable[[], dict[str, bytes]]


def in_store(store: Store) -> Place:
    def files() -> dict[str, bytes]:
        store.system.invalidate_cache()
        return {name.partition("/")[2]: store.system.cat_file(name) for name in store.system.find("many")}

    store.system.mkdir("many")
    return Place(f"{store.protocol}://many", store.env, files)


KINDS: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "seaweedfs": started,
    "moto": moto,
    "gcs": fake_gcs,
}


@pytest.fixture(scope="module", params=["folder", *KINDS])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "folder":
        yield Place(str(folder), {}, lambda: content(folder))
    else:
        with KINDS[request.param](folder) as store:
            yield in_store(store)


# The build of fake-gcs-server.
@pytest.mark.timeout(900)
def test_of_20_publishers_that_are_killed_at_any_moment_one_wins_and_nothing_is_mixed(
    place: Place, versions: list[Path]
) -> None:
    manifests = [read_manifest(version).digest for version in versions]
    rng = random.Random(SEED)  # noqa: S311 - it is to be the same again
    with Publishers(place.env) as publishers:
        for number in range(ROUNDS):
            url = f"{place.url}/round-{number}"
            jobs = [Job(arguments(versions[index % CONTENTS], url), **moment(rng)) for index in range(MANY)]
            print("seed", SEED, "round", number, [(job.after, job.operation) for job in jobs])
            ended = publishers.run(jobs)
            # One more publisher is not killed.
            last = rng.randrange(CONTENTS)
            jobs.append(Job(arguments(versions[last], url)))
            ended += publishers.run(jobs[-1:])
            prefix = f"round-{number}/scale/"
            there = {name.removeprefix(prefix): data for name, data in place.files().items() if prefix in name}
            check(url, jobs, ended, there, versions, manifests)


def moment(rng: random.Random) -> dict[str, Any]:
    """When a publisher is killed, if it is: after some seconds, or before or after one of its operations."""
    return rng.choice([{}, {"after": rng.uniform(0, 5)}, {"operation": rng.randrange(1, 80)}])


def arguments(version: Path, url: str) -> list[str]:
    return [str(version), url, "--fleet", str(version / "none.yaml")]


def check(
    url: str,
    jobs: list[Job],
    ended: list[Ended],
    there: dict[str, bytes],
    versions: list[Path],
    digests: list[str],
) -> None:
    final = {name.removeprefix("1/"): data for name, data in there.items() if name.startswith("1/")}
    (winner,) = [index for index, version in enumerate(versions) if content(version) == final]
    created = 0
    for job, one in zip(jobs, ended, strict=True):
        index = versions.index(Path(job.arguments[0]))
        assert "Traceback" not in one.stderr, one.stderr
        if one.returncode == -9:
            assert job.killed
        elif index == winner:
            assert one.returncode == 0, one.stderr
            created += "exists already" not in one.stdout
        else:
            assert one.returncode == 1, one
            assert re.search(ANOTHER.format(url, digests[winner]), one.stderr), one.stderr
            assert "publish a new number" in one.stderr
    if not any(job.killed for job in jobs):
        assert created >= 1
    # Only publishers that were killed leave an upload.
    left = {name.split("/")[1] for name in there if name.startswith(".publishing/")}
    assert len(left) <= sum(one.returncode == -9 for one in ended)
    assert {name.split("/")[0] for name in there} <= {"1", ".publishing"} | {
        name.split("/")[0] for name in there if name.startswith(".tmp-")
    }


def test_a_large_file_is_large_for_these_tests(versions: list[Path]) -> None:
    sizes = {name: len(data) for name, data in content(versions[0]).items()}
    assert sizes["variables/large"] > SMALL > sizes[SAVED_MODEL]
    assert len({hashlib.sha256(content(version)[SAVED_MODEL]).digest() for version in versions}) == 1
