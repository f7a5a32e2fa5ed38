"""Changing the labels in models.yaml. Everything else stays as it is written, comments included."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tfserving.foundation.files import read_text, written_whole
from tfserving.serving.models_yaml.errors import FleetError
from tfserving.serving.models_yaml.yaml_file import LARGEST_BYTES


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock for reading and replacing the file, which rollouts of several models take in turn.

    The lock is on the current file. If the file was replaced during the wait, wait for the lock of the new one.
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
    """Raise FleetError when the file `path` can't be replaced."""
    folder = path.resolve().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FleetError(f"{path}: labels can't be written: you have no write permission for {folder}")


def write_labels(path: Path, name: str, labels: Mapping[str, int], before: Mapping[str, int] | None = None) -> None:
    """Write the labels of model `name` to the file `path`.

    Raises FleetError when it can't be written, or when the file doesn't have the labels `before` any more.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    try:
        with _alone(path):
            content = yaml.load(read_text(path, LARGEST_BYTES))
            model = content["models"][name]
            if before is not None and dict(model.get("labels") or {}) != dict(before):
                raise FleetError(f"{path}: the labels of {name} were changed by another program. Run the command again")
            if labels:
                model["labels"] = dict(labels)
            else:
                model.pop("labels", None)
            text = io.StringIO()
            yaml.dump(content, text)
            with written_whole(path) as file:
                file.write(text.getvalue().encode())
    except OSError as error:
        raise FleetError(f"{path}: labels can't be written: {error.strerror}") from None
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise FleetError(
            f"{path}: labels can't be written: another program changed the file, and it has no model {name!r} now"
        ) from None
