"""What guards the machine that tests of Docker and Kubernetes run on."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docker.machine import restore_null


def null_device(path: Path) -> bool:
    there = path.lstat()
    return stat.filemode(there.st_mode) == "crw-rw-rw-" and there.st_rdev == os.makedev(1, 3)


@pytest.mark.skipif(os.getuid() != 0, reason="devices are made by root")
def test_what_is_instead_of_the_null_device_is_told_and_replaced_by_it(tmp_path: Path) -> None:
    null = tmp_path / "null"

    def file() -> None:
        null.write_text("said\n")
        null.chmod(0o644)

    def device(minor: int, mode: int) -> None:
        os.mknod(null, stat.S_IFCHR | mode, os.makedev(1, minor))
        null.chmod(mode)

    cases: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a symbolic link to pipe:[12345]": lambda: null.symlink_to("pipe:[12345]"),
        "-rw-r--r--, 5 bytes": file,
        "crw-rw-rw-, device 1:5": lambda: device(5, 0o666),
        "crw-r-----, device 1:3": lambda: device(3, 0o640),
    }
    for said, make in cases.items():
        null.unlink(missing_ok=True)
        make()
        assert restore_null(null) == said
        assert null_device(null), said
        assert restore_null(null) is None, said
