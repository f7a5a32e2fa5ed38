"""Object stores that tests start: SeaweedFS and moto for S3, fake-gcs-server for GCS."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions
import gcsfs
import pytest
import s3fs

from tests.cluster.binaries import FAKE_GCS, build_one
from tests.servers import free_ports, wait_for

KEY, SECRET = "a-key", "a-secret-that-no-log-may-have"
_MOTO = "from moto.server import main; import sys; main(sys.argv[1:])"
# It has no buckets with folders, and looks for them with gRPC, which emulators don't have.
_GCS = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "FSSPEC_GS_TOKEN": "anon"}


@dataclass(frozen=True)
class Store:
    """An object store, and what a command needs to be told of it."""

    url: str
    env: dict[str, str]
    system: Any
    protocol: str = "s3"

    def files(self, bucket: str) -> set[str]:
        """Every object in `bucket`."""
        self.system.invalidate_cache()
        return {name.removeprefix(f"{bucket}/") for name in self.system.find(bucket)}


@contextlib.contextmanager
def started(folder: Path, address: str = "127.0.0.1") -> Iterator[Store]:
    """SeaweedFS, from its package."""
    who = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [who]}))
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [str(Path(sys.executable).parent / "weed"), "server", f"-dir={folder}", "-filer", "-s3"]
    command += [f"-ip={address}", f"-ip.bind={address}", f"-s3.config={folder / 's3.json'}", "-volume.max=30"]
    command += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [*(f"-{name}={port}" for name, port in ports.items())]
    url = f"http://{address}:{ports['s3.port']}"
    # One volume for a bucket, not seven: the server has 30 in all.
    with _running(command, folder, {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}) as ready:
        yield _s3(url, ready)


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Store]:
    """moto's S3 server, in a process of its own."""
    (port,) = free_ports(1)
    with _running([sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port)], folder, {}) as ready:
        yield _s3(f"http://127.0.0.1:{port}", ready)


@contextlib.contextmanager
def fake_gcs(folder: Path) -> Iterator[Store]:
    """fake-gcs-server, built with Go. Skips the test where Go isn't installed and nothing was built."""
    if not FAKE_GCS.folder.exists():
        if subprocess.run(["go", "version"], check=False, capture_output=True).returncode:
            pytest.skip("fake-gcs-server is built with Go, which isn't installed")
        build_one(FAKE_GCS)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [str(FAKE_GCS.path("fake-gcs-server")), "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    command += ["-backend=memory", f"-external-url={url}", f"-public-host=127.0.0.1:{port}", "-log-level=error"]
    with _running(command, folder, {}) as ready:
        system = gcsfs.core.GCSFileSystem(endpoint_url=url, token="anon", project="tests", use_listings_cache=False)  # noqa: S106
        ready(lambda: system.mkdir("ready"))
        yield Store(url, {"STORAGE_EMULATOR_HOST": url, **_GCS}, system, "gs")


def _s3(url: str, ready: Callable[[Callable[[], object]], None]) -> Store:
    system = s3fs.S3FileSystem(key=KEY, secret=SECRET, client_kwargs={"endpoint_url": url})

    def probe() -> None:
        if not system.exists("ready"):
            system.mkdir("ready")
        system.pipe_file("ready/probe", b"1")

    ready(probe)
    env = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": url}
    return Store(url, env, system)


@contextlib.contextmanager
def _running(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Runs a server; the context is a function that waits until a probe of it succeeds."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **env})

    def wait(probe: Callable[[], object]) -> None:
        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()[-1000:]
            try:
                probe()
            except (OSError, botocore.exceptions.BotoCoreError):
                return False
            return True

        wait_for(ready, what=f"the server {command[0]}")

    try:
        yield wait
    finally:
        process.kill()
        process.wait(60)
