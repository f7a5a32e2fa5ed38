"""Changing models.yaml as a person would: what isn't changed stays as it is written, comments included."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from tfserving.foundation.files import written_whole
from tfserving.serving.models_yaml.fleet import FleetError


def write_labels(path: Path, name: str, labels: Mapping[str, int]) -> None:
    """Writes the labels of model `name` into the file `path`. Raises FleetError when it can't be written."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    try:
        said = yaml.load(path.read_text())
        model = said["models"][name]
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
