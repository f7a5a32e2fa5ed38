"""What a model was trained on, as its builder reports it: a digest by the name of each data set."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfserving.foundation.version_files import sha256_of

if TYPE_CHECKING:
    from importlib.abc import Traversable

MOST = 1000
LONGEST_NAME = 200
_BARE_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
DIGEST = r"[A-Za-z][A-Za-z0-9_]{1,31}:[0-9a-f]{16,256}"
# The digits of those whose length is known. `git` is the hash of a commit, in a repository of SHA-1 or SHA-256.
_DIGITS = {"dirHash": (64,), "git": (40, 64), "md5": (32,), "sha1": (40,), "sha256": (64,), "sha512": (128,)}


def problems(training_data: Any) -> Iterator[str]:
    """Yield a sentence for everything that is wrong with the `training_data` of a servable."""
    if not isinstance(training_data, Mapping):
        yield f"training_data: got a {type(training_data).__name__}, expected a dict of digests by name"
        return
    if len(training_data) > MOST:
        yield f"training_data: got {len(training_data)} names, expected at most {MOST}. Give a digest of their folder."
        return
    for name, digest in training_data.items():
        if not isinstance(name, str):
            yield f"training_data: the name {_short(name)} is a {type(name).__name__}, expected a text"
        elif not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            yield (
                f"training_data: the name {_short(name)} must have 1 to {LONGEST_NAME} characters, and be of one line"
            )
        elif not isinstance(digest, str) or not is_digest(digest):
            yield (
                f"training_data[{_short(name)}]: got {_short(digest)}, expected a SHA-256 or ALGORITHM:DIGITS in "
                "lower case, such as 'sha256:9f86…', 'git:1d0c…' for a commit, or "
                "tfserving.export.training_data.digest_of(path)"
            )


def is_digest(text: str) -> bool:
    """Return whether `text` is a SHA-256, or `ALGORITHM:DIGITS` with the number of digits of that algorithm."""
    if _BARE_SHA256.fullmatch(text):
        return True
    algorithm, _, digits = text.partition(":")
    return bool(re.fullmatch(DIGEST, text, re.ASCII)) and len(digits) in _DIGITS.get(algorithm, (len(digits),))


def with_algorithms(training_data: Mapping[str, str]) -> dict[str, str]:
    """Return valid `training_data` sorted by name, each digest with its algorithm."""
    return {name: digest if ":" in digest else f"sha256:{digest}" for name, digest in sorted(training_data.items())}


def digest_of(path: Path | Traversable) -> str:
    """Return the digest of a file (`sha256:…`) or of a folder with all files below it (`dirHash:…`).

    The digest of a folder is that of the list of its files as `sha256sum` prints them, sorted by path
    (https://github.com/in-toto/attestation/blob/main/spec/v1/digest_set.md). Raises OSError, and ValueError for a
    folder without files, with a link to a folder, or with a line break in a name.
    """
    folder = Path(str(path))
    if not folder.is_dir():
        return f"sha256:{sha256_of(folder)}"
    names: list[str] = []
    for here, folders, files in os.walk(folder):
        names += [(Path(here) / file).relative_to(folder).as_posix() for file in files]
        for below in folders:
            if (Path(here) / below).is_symlink():
                raise ValueError(f"{Path(here) / below} is a link to a folder")
    if not names:
        raise ValueError(f"{folder} has no files")
    if wrong := [name for name in names if "\n" in name]:
        raise ValueError(f"{folder}: the name {wrong[0]!r} has a line break")
    found = hashlib.sha256()
    for name in sorted(names, key=os.fsencode):
        found.update(f"{sha256_of(folder / name)}  ".encode() + os.fsencode(name) + b"\n")
    return f"dirHash:{found.hexdigest()}"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:79]}…"  # noqa: PLR2004 - an error's line
