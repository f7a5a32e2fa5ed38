"""`python -m tfserving.k8s.sync URL FOLDER`: copy complete versions from an object store to a server's folder.

It runs in the toolkit's image (k8s/Dockerfile), beside the server, without TensorFlow. `k8s/copying.py` describes a
pass.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from tfserving.foundation.golden import is_version
from tfserving.foundation.store import MODEL, Limits, Store, StoreError
from tfserving.foundation.trust import TrustError, check_trust
from tfserving.k8s.copying import Refused, Wanted, remove_unaccepted, sync
from tfserving.k8s.trust_files import TrustFileError, read_trust

_LONGEST_LINE = 2000
_FAILED, _WRONG = 1, 2


def _log(text: str) -> None:
    """Print one line; names from the store can't break it."""
    line = "".join(char if char.isprintable() else "?" for char in text)
    with contextlib.suppress(OSError):
        print(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…", file=sys.stderr, flush=True)


def _count(least: int) -> Callable[[str], int]:
    def number(given: str) -> int:
        if (found := int(given)) < least:
            raise ValueError
        return found

    number.__name__ = f"number of at least {least}"
    return number


def _seconds(given: str) -> float:
    if not 0 <= (found := float(given)) < math.inf:
        raise ValueError
    return found


_seconds.__name__ = "number of seconds"


def _paths(given: str) -> tuple[tuple[str, int], ...]:
    found = [PurePosixPath(one) for one in given.split()]
    if not found or not all(MODEL.fullmatch(one.parent.name) and is_version(one.name) for one in found):
        raise ValueError
    return tuple((one.parent.name, int(one.name)) for one in found)


_paths.__name__ = "list of FOLDER/MODEL/VERSION"


def main(words: Sequence[str] | None = None) -> int:
    """Run passes; return the exit code.

    It is 1 when a served version is missing after `--once`, and 2 when nobody is known who is trusted.
    """
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m tfserving.k8s.sync", description="Copy complete versions from an object store."
    )
    parser.add_argument("url", help="The folder above MODEL/VERSION: s3://bucket/prefix, gs://… or another fsspec URL.")
    parser.add_argument("folder", type=Path, help="The folder of models of a server.")
    parser.add_argument("--config", type=Path, help="The server's models.config: its models and versions are copied.")
    parser.add_argument(
        "--paths", type=_paths, help="Copy these versions instead: their paths in FOLDER, separated by spaces."
    )
    parser.add_argument(
        "--trust",
        type=Path,
        help="A folder with public keys (key-*), root certificates (certificate-*) and identities.json: only versions "
        "that one of them signed are copied.",
    )
    parser.add_argument(
        "--newest", type=_count(0), default=2, help="How many of the newest versions to copy. [default: %(default)s]"
    )
    parser.add_argument(
        "--max-bytes",
        type=_count(1),
        default=limits.size,
        help="Limit of all bytes in FOLDER; a version that doesn't fit is skipped. [default: %(default)s]",
    )
    parser.add_argument(
        "--max-files",
        type=_count(1),
        default=limits.files,
        help="Limit of the number of files in a version; one with more is skipped. [default: %(default)s]",
    )
    parser.add_argument(
        "--interval", type=_seconds, default=30.0, help="Seconds between two passes. [default: %(default)s]"
    )
    parser.add_argument("--once", action="store_true", help="Run one pass.")
    parser.add_argument("--alive", type=Path, help="A file to touch after every pass.")
    options = parser.parse_args(words)
    try:
        trust = read_trust(options.trust) if options.trust else None
        if trust:
            check_trust(trust)
            remove_unaccepted(options.folder, trust, _log)
    except (TrustFileError, TrustError, OSError) as error:
        # Nothing may be served by mistake.
        _log(f"Error: {error}")
        return _WRONG
    limits = Limits(options.max_bytes, options.max_files)
    wanted = Wanted(options.newest, options.config, limits, options.paths, trust)
    reported: list[str] = []
    refused: Refused = {}
    while True:
        try:
            problems = sync(Store(options.url), options.folder, wanted, _log, refused)
        except StoreError as error:
            problems = [str(error)]
        if problems != reported:
            for problem in problems:
                _log(f"Error: {problem}")
        reported = problems
        if options.once:
            return _once(wanted, options.folder, problems)
        if options.alive:
            with contextlib.suppress(OSError):
                options.alive.touch()
        time.sleep(options.interval)


def _once(wanted: Wanted, folder: Path, problems: list[str]) -> int:
    """Return 0 when a server can start: all versions in its configuration are here. Newer ones don't matter."""
    try:
        named = wanted.named()
    except StoreError:
        return _FAILED
    if named is None:
        return int(bool(problems))
    missing = [
        f"{name}/{one}"
        for name, versions in named.items()
        for one in versions
        if not (folder / name / str(one)).is_dir()
    ]
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
