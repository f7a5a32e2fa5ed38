"""Changing models.yaml as a person would: what isn't changed stays as it is written, comments included."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tfserving.foundation.files import read_text, written_whole
from tfserving.serving.models_yaml.fleet import LARGEST_BYTES, FleetError


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The right to read the file and write it anew, which rollouts of several models have one after the other.

    It is a lock of the file that is there now: whoever waited for one that was replaced meanwhile waits again.
    """
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Some file systems have no locks.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), path.stat()):
                yield
                return
        finally:
            os.close(handle)


def check_writable(path: Path) -> None:
    """Raises FleetError when the file `path` can't be replaced by another."""
    folder = path.resolve().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FleetError(f"{path}: the labels can't be written: nothing can be written to {folder}")


def write_labels(path: Path, name: str, labels: Mapping[str, int], before: Mapping[str, int] | None = None) -> None:
    """Writes the labels of model `name` into the file `path`.

    Raises FleetError when it can't be written, or `before` are given and the file has other labels by now.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    try:
        with _alone(path):
            said = yaml.load(read_text(path, LARGEST_BYTES))
            model = said["models"][name]
            if before is not None and dict(model.get("labels") or {}) != dict(before):
                raise FleetError(
                    f"{path}: somebody else has changed the labels of {name} meanwhile; run the command again"
                )
            if labels:
                model["labels"] = dict(labels)
            else:
                model.pop("labels", None)
            text = io.StringIO()
            yaml.dump(said, text)
            with written_whole(path) as file:
                file.write(text.getvalue().encode())
    except OSError as error:
        raise FleetError(f"{path}: the labels can't be written: {error.strerror}") from None
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise FleetError(
            f"{path}: the labels can't be written: the file was changed meanwhile, and has no model {name!r} any more"
        ) from None
